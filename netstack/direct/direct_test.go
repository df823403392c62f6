package direct

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/link"
	"lorica.dev/lorica/virtio"
)

var (
	mine   = netip.MustParsePrefix("10.127.0.2/30")
	theirs = netip.MustParseAddr("10.127.0.1")
)

const (
	myAddress    = "\x02\x01\x02\x03\x04\x05"
	theirAddress = "\x02LORIC"
)

// A deck is a device whose frames a test makes up and looks at.
type deck struct {
	traits Traits
	sent   chan []byte // frames, when there is room
	end    chan struct{}
	ready  chan struct{}

	mu    sync.Mutex
	take  func(Packet)
	heard uint32 // the sequence number of the last segment with SYN that was sent
	marks []virtio.Frame
}

func newDeck() *deck {
	return &deck{traits: Traits{MAC: [6]byte([]byte(myAddress)), MTU: 1500}, sent: make(chan []byte, 256), end: make(chan struct{}), ready: make(chan struct{})}
}

func (d *deck) Traits() Traits { return d.traits }

func (d *deck) Send(f *virtio.Frame) error {
	b := bytes.Join(f.Parts, nil)
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(b) >= 54 && b[12] == 8 && b[47]&2 != 0 {
		d.heard = binary.BigEndian.Uint32(b[38:])
	}
	m := *f
	m.Parts = nil
	d.marks = append(d.marks, m)
	select {
	case d.sent <- b:
	default:
	}
	return nil
}

func (d *deck) Receive(take func(Packet)) error {
	d.take = take
	close(d.ready)
	<-d.end
	return errors.New("the test is over")
}

type frameOf []byte

func (f frameOf) Len() int            { return len(f) }
func (f frameOf) CopyTo(b []byte) int { return copy(b, f) }

// next returns the next frame that is sent and is of a type.
func (d *deck) next(t testing.TB, kind uint16) []byte {
	t.Helper()
	for b := range d.sent {
		if binary.BigEndian.Uint16(b[12:]) == kind {
			return b
		}
	}
	return nil
}

func up(t testing.TB, d *deck) *Net {
	t.Helper()
	n := New()
	p := &launch.Params{Link: launch.Link{Addr: mine, Host: theirs}, MemoryLimit: 16 << 20}
	if err := n.Attach(d, p); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(d.end) })
	<-d.ready
	if a := header.ARP(d.next(t, 0x0806)[14:]); !a.IsValid() || string(a.ProtocolAddressSender()) != string(mine.Addr().AsSlice()) {
		t.Fatalf("it announces itself with %x", a)
	}
	return n
}

func ethernet(to string, kind uint16, payload []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte(to+theirAddress), kind), payload...)
}

// ip is a packet from the tender, with its checksum.
func ip(protocol byte, payload []byte) []byte {
	b := make([]byte, 20)
	b[0], b[8], b[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	copy(b[12:], theirs.AsSlice())
	copy(b[16:], mine.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^checksum.Checksum(b, 0))
	return append(b, payload...)
}

func arpFrom(sender, target netip.Addr, op uint16) []byte {
	b := make([]byte, header.ARPSize)
	a := header.ARP(b)
	a.SetIPv4OverEthernet()
	a.SetOp(header.ARPOp(op))
	copy(a.HardwareAddressSender(), theirAddress)
	copy(a.ProtocolAddressSender(), sender.AsSlice())
	copy(a.ProtocolAddressTarget(), target.AsSlice())
	return b
}

func echo() []byte {
	b := []byte{8, 0, 0, 0, 1, 2, 3, 4, 'h', 'i'}
	binary.BigEndian.PutUint16(b[2:], ^checksum.Checksum(b, 0))
	return b
}

// alive asks for the hardware address, as the tender would.
func alive(t testing.TB, d *deck) {
	t.Helper()
	for len(d.sent) > 0 {
		<-d.sent
	}
	d.take(frameOf(ethernet("\xff\xff\xff\xff\xff\xff", 0x0806, arpFrom(theirs, mine.Addr(), 1))))
	if a := header.ARP(d.next(t, 0x0806)[14:]); string(a.HardwareAddressSender()) != myAddress {
		t.Fatalf("the answer is %x", a)
	}
}

func TestItAnswersItsTender(t *testing.T) {
	d := newDeck()
	up(t, d)
	alive(t, d)
	d.take(frameOf(ethernet(myAddress, 0x0800, ip(1, echo()))))
	if b := d.next(t, 0x0800); b[34] != 0 || string(b[42:]) != "hi" {
		t.Errorf("an echo is answered with %x", b)
	}
}

// Nobody else is on the link: what says otherwise never reaches the stack.
func TestFramesOfOthersAreDropped(t *testing.T) {
	other := netip.MustParseAddr("10.127.0.3")
	from := func(a netip.Addr) []byte {
		b := ip(1, echo())
		copy(b[12:], a.AsSlice())
		return b
	}
	with := func(b []byte, at int, v byte) []byte {
		b[at] = v
		return b
	}
	segment := make([]byte, 20)
	for name, f := range map[string][]byte{
		"nothing":                        {},
		"a part of a header":             make([]byte, 13),
		"only a header":                  ethernet(myAddress, 0x0800, nil),
		"another type":                   ethernet(myAddress, 0x86dd, make([]byte, 60)),
		"for another card":               ethernet("\x02\x09\x09\x09\x09\x09", 0x0800, ip(1, echo())),
		"for every card":                 ethernet("\xff\xff\xff\xff\xff\xff", 0x0800, ip(1, echo())),
		"from another":                   ethernet(myAddress, 0x0800, from(other)),
		"from the image itself":          ethernet(myAddress, 0x0800, from(mine.Addr())),
		"for another":                    ethernet(myAddress, 0x0800, with(ip(1, echo()), 19, 9)),
		"another version":                ethernet(myAddress, 0x0800, with(ip(1, echo()), 0, 0x65)),
		"options":                        ethernet(myAddress, 0x0800, with(ip(1, echo()), 0, 0x46)),
		"a first fragment":               ethernet(myAddress, 0x0800, with(ip(6, segment), 6, 0x20)),
		"a later fragment":               ethernet(myAddress, 0x0800, with(ip(6, segment), 7, 1)),
		"another protocol":               ethernet(myAddress, 0x0800, ip(17, segment)),
		"a part of a segment":            ethernet(myAddress, 0x0800, ip(6, segment[:19])),
		"ICMP that asks for nothing":     ethernet(myAddress, 0x0800, ip(1, with(echo(), 0, 3))),
		"a part of an echo":              ethernet(myAddress, 0x0800, ip(1, echo()[:7])),
		"ARP about another":              ethernet(myAddress, 0x0806, arpFrom(other, mine.Addr(), 1)),
		"ARP for another":                ethernet(myAddress, 0x0806, arpFrom(theirs, other, 1)),
		"ARP for another card":           ethernet("\x02\x09\x09\x09\x09\x09", 0x0806, arpFrom(theirs, mine.Addr(), 1)),
		"ARP that is none":               ethernet(myAddress, 0x0806, make([]byte, 28)),
		"longer than a packet can be":    ethernet(myAddress, 0x0800, append(ip(1, echo()), make([]byte, maxPacket)...)),
		"ARP of a sender without a name": ethernet(myAddress, 0x0806, arpFrom(netip.IPv4Unspecified(), mine.Addr(), 1)),
	} {
		t.Run(name, func(t *testing.T) {
			d := newDeck()
			n := up(t, d)
			d.take(frameOf(f))
			if got := n.card.dropped.Load(); got != 1 {
				t.Errorf("%d frames were dropped", got)
			}
			if len(d.sent) > 0 {
				t.Errorf("it is answered with %x", <-d.sent)
			}
			alive(t, d)
		})
	}
}

func TestLinksThatAreNone(t *testing.T) {
	for name, c := range map[string]struct {
		addr, host string
		mtu        int
	}{
		"IPv6":                 {"2001:db8::2/64", "2001:db8::1", 1500},
		"a host that is away":  {"10.127.0.2/30", "10.127.0.9", 1500},
		"a host that is us":    {"10.127.0.2/30", "10.127.0.2", 1500},
		"an MTU of nothing":    {"10.127.0.2/30", "10.127.0.1", 67},
		"an MTU of everything": {"10.127.0.2/30", "10.127.0.1", 65536},
	} {
		d := newDeck()
		d.traits.MTU = c.mtu
		p := &launch.Params{Link: launch.Link{Addr: netip.MustParsePrefix(c.addr), Host: netip.MustParseAddr(c.host)}}
		if err := New().Attach(d, p); err == nil || !strings.HasPrefix(err.Error(), "network: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := New().Attach(newDeck(), &launch.Params{}); err == nil {
		t.Error("no link at all is accepted")
	}
}

// What the device does, the stack leaves to it.
func TestOffloads(t *testing.T) {
	d := newDeck()
	d.traits.Checksums, d.traits.Segments = true, true
	n := up(t, d)
	ln, err := n.Listen(0, launch.Listener{Name: "api"})
	if err != nil {
		t.Fatal(err)
	}
	segment := func(flags byte, seq, ack uint32, payload []byte) {
		b := make([]byte, 20)
		binary.BigEndian.PutUint16(b, 40000)
		binary.BigEndian.PutUint16(b[2:], link.ForwardPort)
		binary.BigEndian.PutUint32(b[4:], seq)
		binary.BigEndian.PutUint32(b[8:], ack)
		b[12], b[13] = 5<<4, flags
		binary.BigEndian.PutUint16(b[14:], 65535)
		d.take(frameOf(ethernet(myAddress, 0x0800, ip(6, append(b, payload...)))))
	}
	alive(t, d) // it knows our address
	segment(2, 100, 0, nil)
	synack := d.next(t, 0x0800)
	seq := binary.BigEndian.Uint32(synack[38:]) + 1
	segment(16, 101, seq, link.Peer{Client: netip.MustParseAddrPort("192.0.2.1:7"), Local: netip.MustParseAddrPort("192.0.2.2:80")}.Encode())
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if c.RemoteAddr().String() != "192.0.2.1:7" {
		t.Errorf("the client is %v", c.RemoteAddr())
	}
	if _, err := c.Write(make([]byte, 5000)); err != nil {
		t.Fatal(err)
	}
	for {
		b := d.next(t, 0x0800)
		if len(b) < 3000 {
			continue
		}
		d.mu.Lock()
		f := d.marks[len(d.marks)-1]
		d.mu.Unlock()
		if !f.Checksum || f.ChecksumStart != 34 || f.ChecksumOffset != 16 || f.Segmentation != virtio.TCP4 || f.SegmentSize == 0 || f.SegmentSize > 1460 || f.HeaderSize < 54 {
			t.Errorf("the device is told %+v of %d bytes", f, len(b))
		}
		return
	}
}

// A device that breaks ends everything.
func TestABrokenDevice(t *testing.T) {
	d := newDeck()
	n := New()
	if err := n.Attach(d, &launch.Params{Link: launch.Link{Addr: mine, Host: theirs}}); err != nil {
		t.Fatal(err)
	}
	ln, err := n.Listen(0, launch.Listener{Name: "api"})
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error)
	go func() {
		_, err := ln.Accept()
		failed <- err
	}()
	close(d.end)
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "the test is over") {
		t.Errorf("the listener says %v", err)
	}
}
