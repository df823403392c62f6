package usernet

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"lorica.dev/lorica/abi/link"
)

var (
	guest = netip.MustParsePrefix("10.127.0.2/30")
	host  = netip.MustParseAddr("10.127.0.1")
)

const (
	guestAddress = "\x02\x01\x02\x03\x04\x05"
	everybody    = "\xff\xff\xff\xff\xff\xff"
	mtu          = 1500
)

// A machine is a guest that a test plays, with QEMU around it.
type machine struct {
	sock  net.Conn
	link  *Link
	sent  chan []byte   // frames of the tender
	heard atomic.Uint32 // the sequence number of its last segment with SYN
}

func boot(t testing.TB) *machine {
	t.Helper()
	near, far := net.Pipe()
	m := &machine{sock: far, sent: make(chan []byte, 1024)}
	var err error
	if m.link, err = New(near, guest, host, mtu); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.link.Close() })
	go func() {
		defer close(m.sent)
		for r := bufio.NewReader(far); ; {
			var n [4]byte
			if _, err := io.ReadFull(r, n[:]); err != nil {
				return
			}
			f := make([]byte, binary.BigEndian.Uint32(n[:]))
			if _, err := io.ReadFull(r, f); err != nil {
				return
			}
			if len(f) >= 54 && f[12] == 8 && f[47]&2 != 0 {
				m.heard.Store(binary.BigEndian.Uint32(f[38:]))
			}
			select {
			case m.sent <- f:
			default:
			}
		}
	}()
	return m
}

// say sends a frame, as QEMU does.
func (m *machine) say(f []byte) error {
	_, err := m.sock.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(f))), f...))
	return err
}

func ethernet(to string, kind uint16, payload []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte(to+guestAddress), kind), payload...)
}

// ip is a packet of the guest, with its checksum.
func ip(protocol byte, payload []byte) []byte {
	b := make([]byte, 20)
	b[0], b[8], b[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	copy(b[12:], guest.Addr().AsSlice())
	copy(b[16:], host.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^checksum.Checksum(b, 0))
	return append(b, payload...)
}

func arpFrom(sender, target netip.Addr, op uint16) []byte {
	b := make([]byte, header.ARPSize)
	a := header.ARP(b)
	a.SetIPv4OverEthernet()
	a.SetOp(header.ARPOp(op))
	copy(a.HardwareAddressSender(), guestAddress)
	copy(a.ProtocolAddressSender(), sender.AsSlice())
	copy(a.ProtocolAddressTarget(), target.AsSlice())
	return b
}

// alive asks the tender for its hardware address.
func (m *machine) alive(t testing.TB) {
	t.Helper()
	if err := m.say(ethernet(everybody, 0x0806, arpFrom(guest.Addr(), host, 1))); err != nil {
		t.Fatal(err)
	}
	late := time.After(20 * time.Second)
	for {
		select {
		case f := <-m.sent:
			if f == nil {
				t.Fatal("the link has ended")
			}
			if a := header.ARP(f[14:]); f[13] == 6 && a.IsValid() && a.Op() == header.ARPReply && string(a.HardwareAddressSender()) == string(hardware) {
				return
			}
		case <-late:
			t.Fatal("the tender does not answer")
		}
	}
}

// A guest that breaks the rules is not heard; it cannot end the link, nor be taken for
// somebody else.
func TestFramesOfOthersAreDropped(t *testing.T) {
	other := netip.MustParseAddr("10.127.0.3")
	segment := make([]byte, 20)
	segment[12] = 5 << 4
	with := func(b []byte, at int, v byte) []byte {
		b[at] = v
		return b
	}
	us := string(hardware)
	for name, f := range map[string][]byte{
		"nothing":                 {},
		"a part of a header":      make([]byte, 13),
		"longer than the MTU":     ethernet(us, 0x0800, ip(6, make([]byte, mtu-19))),
		"much longer":             make([]byte, 1<<20),
		"another type":            ethernet(us, 0x86dd, make([]byte, 60)),
		"for another card":        ethernet("\x02\x09\x09\x09\x09\x09", 0x0800, ip(6, segment)),
		"for every card":          ethernet(everybody, 0x0800, ip(6, segment)),
		"from another":            ethernet(us, 0x0800, with(ip(6, segment), 15, 9)),
		"for another":             ethernet(us, 0x0800, with(ip(6, segment), 19, 9)),
		"options":                 ethernet(us, 0x0800, with(ip(6, segment), 0, 0x46)),
		"a first fragment":        ethernet(us, 0x0800, with(ip(6, segment), 6, 0x20)),
		"a later fragment":        ethernet(us, 0x0800, with(ip(6, segment), 7, 1)),
		"a part of a segment":     ethernet(us, 0x0800, ip(6, segment[:19])),
		"UDP":                     ethernet(us, 0x0800, ip(17, segment)),
		"an echo request":         ethernet(us, 0x0800, ip(1, segment)),
		"ARP as another":          ethernet(everybody, 0x0806, arpFrom(other, host, 1)),
		"ARP as the tender":       ethernet(everybody, 0x0806, arpFrom(host, host, 1)),
		"ARP for another":         ethernet(everybody, 0x0806, arpFrom(guest.Addr(), other, 1)),
		"ARP for another card":    ethernet("\x02\x09\x09\x09\x09\x09", 0x0806, arpFrom(guest.Addr(), host, 1)),
		"ARP that is none":        ethernet(us, 0x0806, make([]byte, 28)),
		"ARP from nobody at all":  ethernet(everybody, 0x0806, arpFrom(netip.IPv4Unspecified(), host, 1)),
		"ARP that is only a part": ethernet(us, 0x0806, arpFrom(guest.Addr(), host, 1)[:27]),
	} {
		t.Run(name, func(t *testing.T) {
			m := boot(t)
			if err := m.say(f); err != nil {
				t.Fatal(err)
			}
			m.alive(t)
			if got := m.link.wire.dropped.Load(); got != 1 {
				t.Errorf("%d frames were dropped", got)
			}
		})
	}
}

func TestLinksThatAreNone(t *testing.T) {
	for name, c := range map[string]struct {
		guest, host string
		mtu         int
	}{
		"IPv6":                 {"2001:db8::2/64", "2001:db8::1", 1500},
		"a host that is away":  {"10.127.0.2/30", "10.127.0.9", 1500},
		"a host that is it":    {"10.127.0.2/30", "10.127.0.2", 1500},
		"an MTU of nothing":    {"10.127.0.2/30", "10.127.0.1", 67},
		"an MTU of everything": {"10.127.0.2/30", "10.127.0.1", 65536},
	} {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		if _, err := New(a, netip.MustParsePrefix(c.guest), netip.MustParseAddr(c.host), c.mtu); err == nil || !strings.HasPrefix(err.Error(), "link: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A guest that takes no frames makes the tender drop them, and wait for nothing.
func TestAQueueThatNobodyEmpties(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	l, err := New(near, guest, host, mtu)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 3 * cap(l.wire.queue) {
		f := ethernet(everybody, 0x0806, arpFrom(guest.Addr(), host, 1))
		if err := (&machine{sock: far}).say(f); err != nil { // each is answered
			t.Fatal(err)
		}
	}
	if got := l.wire.dropped.Load(); got == 0 {
		t.Error("it queues whatever there is")
	}
}

// Long frames are bounded by what they hold, and not by how many they are.
func TestAQueueOfLongFrames(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	l, err := New(near, guest, host, mtu)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const size = 60 << 10
	for range 2 * maxQueued / size {
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(make([]byte, size))})
		var list stack.PacketBufferList
		list.PushBack(pkt)
		l.wire.WritePackets(list)
		pkt.DecRef()
	}
	if got := l.wire.queued.Load(); got > maxQueued || got < maxQueued/2 {
		t.Errorf("%d bytes are queued; %d may be", got, maxQueued)
	}
}

// What ends at the other end of the socket ends here.
func TestTheMachineEnds(t *testing.T) {
	m := boot(t)
	m.alive(t)
	failed := make(chan error)
	go func() {
		_, err := m.link.Dial(context.Background(), link.ForwardPort)
		failed <- err
	}()
	ln, err := m.link.Listen()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := ln.Accept()
		failed <- err
	}()
	m.sock.Close()
	for range 2 {
		if err := <-failed; !errors.Is(err, net.ErrClosed) {
			t.Errorf("who waits is told %v", err)
		}
	}
}

// A guest that does not confirm the end of a connection does not keep it.
func TestEndsThatAreNotConfirmed(t *testing.T) {
	m := boot(t)
	m.link.patience = 20 * time.Millisecond
	ln, err := m.link.Listen()
	if err != nil {
		t.Fatal(err)
	}
	m.alive(t)
	had := len(m.link.stack.RegisteredEndpoints())
	segment := func(flags byte, seq, ack uint32) {
		b := make([]byte, 20)
		binary.BigEndian.PutUint16(b, 40000)
		binary.BigEndian.PutUint16(b[2:], link.DialPort)
		binary.BigEndian.PutUint32(b[4:], seq)
		binary.BigEndian.PutUint32(b[8:], ack)
		b[12], b[13], b[14] = 5<<4, flags, 255
		if err := m.say(ethernet(string(hardware), 0x0800, ip(6, b))); err != nil {
			t.Fatal(err)
		}
	}
	segment(2, 100, 0)
	for m.heard.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	segment(16, 101, m.heard.Load()+1)
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got := len(m.link.accepted); got != 1 {
		t.Errorf("%d connections have a slot", got)
	}
	c.Close()
	late := time.After(20 * time.Second)
	for len(m.link.accepted) > 0 || len(m.link.stack.RegisteredEndpoints()) > had {
		select {
		case <-late:
			t.Fatalf("%d slots and %d endpoints are left", len(m.link.accepted), len(m.link.stack.RegisteredEndpoints())-had)
		case <-time.After(time.Millisecond):
		}
	}
}

// sentence makes frames of what is left of data: its first byte says how much of the
// next frame is put right, its second how long it is.
func (m *machine) sentence(data []byte) (frame, rest []byte) {
	kind, size := data[0], min(int(data[1]), len(data)-2)
	body, rest := bytes.Clone(data[2:2+size]), data[2+size:]
	switch kind % 4 {
	case 0:
		return body, rest
	case 1:
		return ethernet(string(hardware), 0x0806, body), rest
	}
	// A segment for the listener, that agrees with what was heard.
	if len(body) < 20 {
		body = append(body, make([]byte, 20-len(body))...)
	}
	binary.BigEndian.PutUint16(body[2:], link.DialPort)
	if kind%4 == 3 {
		binary.BigEndian.PutUint32(body[8:], m.heard.Load()+1+uint32(body[11]))
		binary.BigEndian.PutUint16(body, 40000)
		body[12] = max(body[12], 5<<4)
	}
	return ethernet(string(hardware), 0x0800, ip(6, body)), rest
}

// Whatever a guest sends, the tender goes on, and holds few connections.
func FuzzFrames(f *testing.F) {
	seg := func(flags byte, seq uint32, payload string) string {
		b := make([]byte, 20)
		binary.BigEndian.PutUint32(b[4:], seq)
		b[12], b[13], b[14] = 5<<4, flags, 255
		return string([]byte{3, byte(20 + len(payload))}) + string(b) + payload
	}
	f.Add([]byte(seg(2, 100, "") + seg(16, 101, "hello") + seg(17, 106, "")))
	f.Add([]byte(seg(2, 100, "") + seg(16, 101, "") + seg(4, 101, "")))
	f.Add([]byte{1, 28, 0, 1, 8, 0, 6, 4, 0, 2})
	f.Fuzz(func(t *testing.T, data []byte) {
		m := boot(t)
		ln, err := m.link.Listen()
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		go func() {
			for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
				io.Copy(c, c)
				c.Close()
			}
		}()
		m.alive(t)
		for len(data) > 2 {
			var frame []byte
			frame, data = m.sentence(data)
			if err := m.say(frame); err != nil {
				t.Fatal(err)
			}
		}
		m.alive(t)
		if got := len(m.link.stack.RegisteredEndpoints()); got > backlog+maxAccepted+2 {
			t.Errorf("%d connections", got)
		}
	})
}

// Whatever comes over the socket, it is read without growing.
func FuzzStream(f *testing.F) {
	f.Add([]byte{0, 0, 0, 14, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 8, 0})
	f.Add([]byte{255, 255, 255, 255, 0})
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 9})
	f.Fuzz(func(t *testing.T, data []byte) {
		near, far := net.Pipe()
		go io.Copy(io.Discard, far)
		l, err := New(near, guest, host, mtu)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if _, err := far.Write(data); err != nil {
			t.Errorf("it does not take %x: %v", data, err)
		}
		far.Close()
		<-l.wire.alive.Done()
	})
}
