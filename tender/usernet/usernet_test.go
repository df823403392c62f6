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
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"lorica.dev/lorica/abi/link"
	"lorica.dev/lorica/tender/way"
)

var (
	image4 = netip.MustParseAddr("169.254.76.2")
	host4  = netip.MustParseAddr("169.254.76.1")
	image6 = netip.MustParseAddr("fd6c:6f72:6963:62::2")
	host6  = netip.MustParseAddr("fd6c:6f72:6963:62::1")
)

const (
	imageAddress = "\x02L\x00\x00\x00\x02"
	everybody    = "\xff\xff\xff\xff\xff\xff"
	mtu          = 1500
)

// A machine is an image that a test plays, with QEMU around it.
type machine struct {
	sock  net.Conn
	link  *Net
	sent  chan []byte   // frames of the tender
	heard atomic.Uint32 // the sequence number of its last segment with SYN
}

func boot(t testing.TB) *machine { return bootAs(t, way.Spec{MTU: mtu}) }

func bootAs(t testing.TB, s way.Spec) *machine {
	t.Helper()
	near, far := net.Pipe()
	m := &machine{sock: far, sent: make(chan []byte, 1024)}
	var err error
	if m.link, err = join(near, streamOf, s); err != nil {
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
	return append(binary.BigEndian.AppendUint16([]byte(to+imageAddress), kind), payload...)
}

// packet is one of the image for the tender, with its checksum.
func packet(protocol byte, payload []byte) []byte {
	b := make([]byte, 20)
	b[0], b[8], b[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	copy(b[12:], image4.AsSlice())
	copy(b[16:], host4.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^checksum.Checksum(b, 0))
	return append(b, payload...)
}

func arpFrom(sender, target netip.Addr, op uint16) []byte {
	b := make([]byte, header.ARPSize)
	a := header.ARP(b)
	a.SetIPv4OverEthernet()
	a.SetOp(header.ARPOp(op))
	copy(a.HardwareAddressSender(), imageAddress)
	copy(a.ProtocolAddressSender(), sender.AsSlice())
	copy(a.ProtocolAddressTarget(), target.AsSlice())
	return b
}

// alive asks the tender for its hardware address.
func (m *machine) alive(t testing.TB) {
	t.Helper()
	if err := m.say(ethernet(everybody, 0x0806, arpFrom(image4, host4, 1))); err != nil {
		t.Fatal(err)
	}
	m.next(t, func(f []byte) bool {
		a := header.ARP(f[14:])
		return f[13] == 6 && a.IsValid() && a.Op() == header.ARPReply && string(a.HardwareAddressSender()) == string(hardware)
	})
}

// next returns the next frame of the tender that is one.
func (m *machine) next(t testing.TB, one func([]byte) bool) []byte {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		select {
		case f := <-m.sent:
			if f == nil {
				t.Fatal("the link has ended")
			}
			if one(f) {
				return f
			}
		case <-late:
			t.Fatal("the tender does not answer")
		}
	}
}

// An image that breaks the rules is not heard; it cannot end the link, nor be taken for
// somebody else.
func TestFramesOfOthersAreDropped(t *testing.T) {
	other := netip.MustParseAddr("169.254.76.3")
	segment := make([]byte, 20)
	segment[12] = 5 << 4
	with := func(b []byte, at int, v byte) []byte {
		b[at] = v
		return b
	}
	us := string(hardware)
	for name, f := range map[string][]byte{
		"nothing":                   {},
		"a part of a header":        make([]byte, 13),
		"longer than the MTU":       ethernet(us, 0x0800, packet(6, make([]byte, mtu-19))),
		"much longer":               make([]byte, 1<<20),
		"another type":              ethernet(us, 0x8035, make([]byte, 60)),
		"for another card":          ethernet("\x02\x09\x09\x09\x09\x09", 0x0800, packet(6, segment)),
		"for every card":            ethernet(everybody, 0x0800, packet(6, segment)),
		"from another":              ethernet(us, 0x0800, with(packet(6, segment), 15, 9)),
		"options":                   ethernet(us, 0x0800, with(packet(6, segment), 0, 0x46)),
		"a first fragment":          ethernet(us, 0x0800, with(packet(6, segment), 6, 0x20)),
		"a later fragment":          ethernet(us, 0x0800, with(packet(6, segment), 7, 1)),
		"a part of a segment":       ethernet(us, 0x0800, packet(6, segment[:19])),
		"UDP":                       ethernet(us, 0x0800, packet(17, segment)),
		"an echo request":           ethernet(us, 0x0800, packet(1, segment)),
		"ARP as another":            ethernet(everybody, 0x0806, arpFrom(other, host4, 1)),
		"ARP as the tender":         ethernet(everybody, 0x0806, arpFrom(host4, host4, 1)),
		"ARP for another":           ethernet(everybody, 0x0806, arpFrom(image4, other, 1)),
		"ARP for another card":      ethernet("\x02\x09\x09\x09\x09\x09", 0x0806, arpFrom(image4, host4, 1)),
		"ARP that is none":          ethernet(us, 0x0806, make([]byte, 28)),
		"ARP from nobody at all":    ethernet(everybody, 0x0806, arpFrom(netip.IPv4Unspecified(), host4, 1)),
		"ARP that is only a part":   ethernet(us, 0x0806, arpFrom(image4, host4, 1)[:27]),
		"IPv6, from another":        ethernet(us, 0x86dd, packet6(host6, host6, 6, segment)),
		"IPv6, for every card":      ethernet(everybody, 0x86dd, packet6(image6, host6, 6, segment)),
		"IPv6, a part of a header":  ethernet(us, 0x86dd, packet6(image6, host6, 6, segment)[:39]),
		"IPv6, a part of a segment": ethernet(us, 0x86dd, packet6(image6, host6, 6, segment[:19])),
		"IPv6, another version":     ethernet(us, 0x86dd, with(packet6(image6, host6, 6, segment), 0, 0x40)),
		"IPv6, an extension":        ethernet(us, 0x86dd, packet6(image6, host6, 0, segment)),
		"an advertisement":          ethernet(us, 0x86dd, packet6(image6, host6, 58, neighbor(136, host6))),
		"a router's":                ethernet(us, 0x86dd, packet6(image6, host6, 58, neighbor(134, host6))),
		"who is another":            ethernet(us, 0x86dd, packet6(image6, host6, 58, neighbor(135, image6))),
		"another asks":              ethernet(us, 0x86dd, packet6(host6, host6, 58, neighbor(135, host6))),
		"who is, in part":           ethernet(us, 0x86dd, packet6(image6, host6, 58, neighbor(135, host6)[:23])),
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

// Where the image has IPv4 alone, nobody looks into what it says is IPv6, and no client of
// it is connected.
func TestIPv4Alone(t *testing.T) {
	m := bootAs(t, way.Spec{MTU: mtu, IPv4: true})
	if l := m.link.Link(); len(l.Addrs) != 1 || l.Addrs[0].Addr() != image4 || len(l.Hosts) != 1 {
		t.Errorf("the image is told of %v, by %v", l.Addrs, l.Hosts)
	}
	segment := make([]byte, 20)
	segment[12] = 5 << 4
	frames := [][]byte{packet6(image6, host6, 6, segment), packet6(image6, host6, 58, neighbor(135, host6)), packet6(netip.IPv6Unspecified(), netip.IPv6Unspecified(), 6, segment)}
	for _, p := range frames {
		if err := m.say(ethernet(string(hardware), 0x86dd, p)); err != nil {
			t.Fatal(err)
		}
	}
	m.alive(t)
	if got := m.link.wire.dropped.Load(); got != uint64(len(frames)) {
		t.Errorf("%d frames were dropped of %d", got, len(frames))
	}
	for _, c := range []string{"[2001:db8::1]:5000", "[::1]:5000"} {
		if _, err := m.link.Dial(t.Context(), netip.MustParseAddrPort(c), 80); err == nil || !strings.Contains(err.Error(), "IPv4 alone") {
			t.Errorf("a client at %s: %v", c, err)
		}
	}
}

// packet6 is one of IPv6.
func packet6(from, to netip.Addr, protocol byte, payload []byte) []byte {
	b := make([]byte, 40)
	b[0], b[6], b[7] = 0x60, protocol, 255
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], from.AsSlice())
	copy(b[24:], to.AsSlice())
	return append(b, payload...)
}

// neighbor is a message of neighbor discovery about an address.
func neighbor(kind byte, target netip.Addr) []byte {
	return append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, target.AsSlice()...)
}

// The image learns where the tender is, whichever address it asks for.
func TestTheTenderIsFound(t *testing.T) {
	m := boot(t)
	ask := packet6(image6, netip.MustParseAddr("ff02::1:ff00:1"), 58, append(neighbor(135, host6), "\x01\x01"+imageAddress...))
	b := ask[40:]
	binary.BigEndian.PutUint16(b[2:], header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: b, Src: address(image6), Dst: address(netip.MustParseAddr("ff02::1:ff00:1"))}))
	if err := m.say(ethernet("\x33\x33\xff\x00\x00\x01", 0x86dd, ask)); err != nil {
		t.Fatal(err)
	}
	f := m.next(t, func(f []byte) bool { return f[12] == 0x86 && f[54] == 136 })
	if string(f[:6]) != imageAddress || string(f[6:12]) != string(hardware) || ip(f[62:78]) != host6 {
		t.Errorf("it answers %x", f)
	}
	m.alive(t)
}

// A client whose connection the image prohibits is told so, and another is not.
func TestProhibitedConnections(t *testing.T) {
	for name, c := range map[string]struct {
		client string
		ip     int // length of its header
		answer func(syn []byte) []byte
	}{
		"IPv4": {"127.0.0.1:40000", 20, func(syn []byte) []byte {
			return ethernet(string(hardware), 0x0800, packet(1, append([]byte{3, 13, 0, 0, 0, 0, 0, 0}, syn[:28]...)))
		}},
		"IPv6": {"[::1]:40000", 40, func(syn []byte) []byte {
			return ethernet(string(hardware), 0x86dd, packet6(image6, link.Loopback6, 58, append([]byte{1, 1, 0, 0, 0, 0, 0, 0}, syn[:48]...)))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m := boot(t)
			failed := make(chan error)
			go func() {
				_, err := m.link.Dial(t.Context(), netip.MustParseAddrPort(c.client), 8443)
				failed <- err
			}()
			syn := m.next(t, func(f []byte) bool { return len(f) >= 14+c.ip+20 && f[14+c.ip+13] == 2 })[14:]
			if p := binary.BigEndian.Uint16(syn[c.ip:]); p != 40000 {
				t.Errorf("it comes from port %d", p)
			}
			for _, at := range []int{c.ip + 1, c.ip + 3, c.ip - 1} { // another client's port, another port of the image, another server
				quoted := slices.Clone(syn)
				quoted[at] ^= 1
				m.say(c.answer(quoted))
			}
			select {
			case err := <-failed:
				t.Fatalf("what was said of others ends it: %v", err)
			case <-time.After(50 * time.Millisecond):
			}
			if err := m.say(c.answer(syn)); err != nil {
				t.Fatal(err)
			}
			if err := <-failed; !errors.Is(err, syscall.EHOSTUNREACH) {
				t.Errorf("it is told %v", err)
			}
			if n := len(m.link.flows.all); n > 0 {
				t.Errorf("%d flows are left", n)
			}
		})
	}
}

// A flow is one client's until nothing is left of it.
func TestFlowsAreUsedOnce(t *testing.T) {
	m := boot(t)
	ctx, cancel := context.WithCancel(t.Context())
	client := netip.MustParseAddrPort("192.0.2.1:5000")
	first := make(chan error)
	go func() {
		_, err := m.link.Dial(ctx, client, 80)
		first <- err
	}()
	m.next(t, func(f []byte) bool { return len(f) >= 54 && f[47] == 2 })
	if _, err := m.link.Dial(t.Context(), client, 80); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("the same again: %v", err)
	}
	second := make(chan error)
	go func() {
		_, err := m.link.Dial(ctx, client, 81) // another port
		second <- err
	}()
	m.next(t, func(f []byte) bool { return len(f) >= 54 && f[47] == 2 && f[37] == 81 })
	cancel()
	for _, c := range []chan error{first, second} {
		if err := <-c; !errors.Is(err, context.Canceled) {
			t.Errorf("one that was given up: %v", err)
		}
	}
	ctx, cancel = context.WithCancel(t.Context())
	go func() {
		_, err := m.link.Dial(ctx, client, 80)
		first <- err
	}()
	m.next(t, func(f []byte) bool { return len(f) >= 54 && f[47] == 2 && f[37] == 80 })
	cancel()
	<-first
}

func TestClientsThatAreNone(t *testing.T) {
	m := boot(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	for _, c := range []string{"0.0.0.0:1", "[::]:1", "224.0.0.1:1", "[fd6c:6f72:6963:61::1]:1", "[ff02::1]:1", "192.0.2.1:0", "169.254.76.2:1", "169.254.76.1:1", "169.254.76.3:1",
		"[fd6c:6f72:6963:62::2]:1"} {
		// An image that is asked does not answer here.
		if _, err := m.link.Dial(ctx, netip.MustParseAddrPort(c), 80); err == nil || !strings.HasPrefix(err.Error(), "link: ") || ctx.Err() != nil {
			t.Fatalf("%s: %v", c, err)
		}
	}
	if _, err := m.link.Dial(t.Context(), netip.AddrPort{}, 80); err == nil {
		t.Error("nobody connects")
	}
}

func TestLinksThatAreNone(t *testing.T) {
	for _, mtu := range []int{leastMTU - 1, mostMTU + 1} {
		if n, err := Open(way.Spec{MTU: mtu, Raw: true}); err == nil || !strings.HasPrefix(err.Error(), "link: ") {
			t.Errorf("packets of %d bytes: %v, %v", mtu, n, err)
		}
	}
}

// An image that takes no frames makes the tender drop them, and wait for nothing.
func TestAQueueThatNobodyEmpties(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	l, err := join(near, streamOf, way.Spec{MTU: mtu})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 3 * cap(l.wire.queue) {
		f := ethernet(everybody, 0x0806, arpFrom(image4, host4, 1))
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
	l, err := join(near, streamOf, way.Spec{MTU: mtu})
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
		_, err := m.link.Dial(context.Background(), netip.MustParseAddrPort("192.0.2.1:5000"), 80)
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

// An image that does not confirm the end of a connection does not keep it.
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
		if err := m.say(ethernet(string(hardware), 0x0800, packet(6, b))); err != nil {
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
	return ethernet(string(hardware), 0x0800, packet(6, body)), rest
}

// Whatever an image sends, the tender goes on, and holds few connections.
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
		l, err := join(near, streamOf, way.Spec{MTU: mtu})
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
