package direct

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/pep"
)

var (
	mine4, theirs4 = netip.MustParsePrefix("169.254.76.2/30"), netip.MustParseAddr("169.254.76.1")
	mine6, theirs6 = netip.MustParsePrefix("fd00::2/126"), netip.MustParseAddr("fd00::1")
	client4        = netip.MustParseAddr("192.0.2.7")
	client6        = netip.MustParseAddr("2001:db8::7")
)

const (
	myAddress    = "\x02\x01\x02\x03\x04\x05"
	theirAddress = "\x02LORIC"
	everybody    = "\xff\xff\xff\xff\xff\xff"

	typeARP, type4, type6         = 0x0806, 0x0800, 0x86dd
	ofTCP, ofUDP, ofICMP, ofICMP6 = 6, 17, 1, 58
)

func theLink() launch.Link {
	return launch.Link{Addrs: []netip.Prefix{mine4, mine6}, Hosts: []netip.Addr{theirs4, theirs6}}
}

// IPv6 is package ip6.
var IPv6 Option

// A families is what a network speaks.
type families struct {
	six bool // besides IPv4
}

// onEach runs a test with a network of both families, and with one of IPv4 alone.
func onEach(t *testing.T, test func(*testing.T, families)) {
	t.Run("both families", func(t *testing.T) { test(t, families{six: true}) })
	t.Run("IPv4 alone", func(t *testing.T) { test(t, families{}) })
}

func (f families) link() launch.Link {
	l := theLink()
	if !f.six {
		l.Addrs, l.Hosts = l.Addrs[:1], l.Hosts[:1]
	}
	return l
}

func (f families) options() []Option {
	if f.six {
		return []Option{IPv6}
	}
	return nil
}

// clients are one of each family.
func (f families) clients() []netip.Addr {
	if f.six {
		return []netip.Addr{client4, client6}
	}
	return []netip.Addr{client4}
}

// A deck is a device whose frames a test makes up and looks at. It stands for the
// tender, and answers who looks for its hardware address.
type deck struct {
	traits     Traits
	unverified bool        // checksums are to be verified by the stack
	sent       chan []byte // frames, when there is room
	end        chan struct{}
	ready      chan struct{}

	mu     sync.Mutex
	take   func(Packet)
	heard  uint32   // the sequence number of the last segment with SYN that was sent
	sought []string // addresses that ARP asked for
	marks  []Frame
}

func newDeck() *deck {
	return &deck{traits: Traits{MAC: [6]byte([]byte(myAddress)), MTU: 1500}, sent: make(chan []byte, 1024), end: make(chan struct{}), ready: make(chan struct{})}
}

func (d *deck) Traits() Traits { return d.traits }

func (d *deck) Send(f *Frame) error {
	b := bytes.Join(f.Parts, nil)
	d.mu.Lock()
	defer d.mu.Unlock()
	if at := tcpAt(b); at > 0 && b[at+13]&2 != 0 {
		d.heard = binary.BigEndian.Uint32(b[at+4:])
	}
	if sought := d.answer(b); sought != "" {
		d.sought = append(d.sought, sought)
		return nil
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

// answer answers ARP and neighbour solicitations that the image sends, and returns
// what they ask for.
func (d *deck) answer(b []byte) string {
	switch {
	case binary.BigEndian.Uint16(b[12:]) == typeARP && b[21] == 1 && string(b[28:32]) != string(b[38:42]):
		sought, _ := netip.AddrFromSlice(b[38:42])
		go d.give(frameOf(ethernet(myAddress, typeARP, arpFrom(sought, mine4.Addr(), 2))))
		return sought.String()
	case binary.BigEndian.Uint16(b[12:]) == type6 && b[20] == ofICMP6 && b[54] == 135 && [16]byte(b[22:38]) != [16]byte{}:
		sought, _ := netip.AddrFromSlice(b[62:78])
		body := append([]byte{136, 0, 0, 0, 0x60, 0, 0, 0}, b[62:78]...)
		body = append(body, 2, 1)
		body = append(body, theirAddress...)
		go d.give(frameOf(ethernet(myAddress, type6, ip6(sought, mine6.Addr(), ofICMP6, 255, body))))
		return sought.String()
	}
	return ""
}

func (d *deck) give(p Packet) {
	d.mu.Lock()
	take := d.take
	d.mu.Unlock()
	take(p)
}

// tcpAt returns where in a frame TCP begins.
func tcpAt(b []byte) int {
	switch {
	case len(b) >= 54 && binary.BigEndian.Uint16(b[12:]) == type4 && b[23] == ofTCP:
		return 34
	case len(b) >= 74 && binary.BigEndian.Uint16(b[12:]) == type6 && b[20] == ofTCP:
		return 54
	}
	return 0
}

func (d *deck) Receive(take func(Packet)) error {
	d.mu.Lock()
	d.take = func(p Packet) {
		if d.unverified {
			p = doubtful{p}
		}
		take(p)
	}
	d.mu.Unlock()
	close(d.ready)
	<-d.end
	return errors.New("the test is over")
}

type frameOf []byte

func (f frameOf) Len() int               { return len(f) }
func (f frameOf) CopyTo(b []byte) int    { return copy(b, f) }
func (f frameOf) ChecksumVerified() bool { return true }

type doubtful struct{ Packet }

func (doubtful) ChecksumVerified() bool { return false }

// next returns the next frame that is sent and is of a type.
func (d *deck) next(t testing.TB, kind uint16) []byte {
	t.Helper()
	for late := time.After(20 * time.Second); ; {
		select {
		case b := <-d.sent:
			if binary.BigEndian.Uint16(b[12:]) == kind {
				return b
			}
		case <-late:
			t.Fatalf("it sends nothing of type %#x", kind)
		}
	}
}

// up brings a network of both families up on d, and has heard it announce itself.
func up(t testing.TB, d *deck, filter pep.PacketFilter) *Net {
	t.Helper()
	return families{six: true}.up(t, d, filter)
}

func (f families) up(t testing.TB, d *deck, filter pep.PacketFilter) *Net {
	t.Helper()
	n := New(func(*launch.Params) (Device, error) { return d, nil }, f.options()...)
	if filter != nil {
		n.Packets(filter)
	}
	if err := n.Open(&launch.Params{Link: f.link(), MemoryLimit: 16 << 20}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(d.end) })
	<-d.ready
	if a := header.ARP(d.next(t, typeARP)[14:]); !a.IsValid() || string(a.ProtocolAddressSender()) != string(mine4.Addr().AsSlice()) {
		t.Fatalf("it announces itself with %x", a)
	}
	if filter == nil && f.six {
		b := d.next(t, type6)
		if p := header.ICMPv6(b[54:]); string(b[:6]) != "\x33\x33\x00\x00\x00\x01" || p.Type() != header.ICMPv6NeighborAdvert || !sums(b[14:]) ||
			header.NDPNeighborAdvert(p.MessageBody()).TargetAddress() != addr(mine6.Addr()) || string(b[80:86]) != myAddress {
			t.Fatalf("it announces itself with %x", b)
		}
	}
	return n
}

func ethernet(to string, kind uint16, payload []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte(to+theirAddress), kind), payload...)
}

// ip4 is a packet with its checksums.
func ip4(src, dst netip.Addr, protocol byte, payload []byte) []byte {
	b := make([]byte, 20)
	b[0], b[8], b[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^checksum.Checksum(b, 0))
	return seal(append(b, payload...))
}

func ip6(src, dst netip.Addr, next, hops byte, payload []byte) []byte {
	b := make([]byte, 40)
	b[0], b[6], b[7] = 0x60, next, hops
	binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return seal(append(b, payload...))
}

// ipOf is a packet of the family of its addresses.
func ipOf(src, dst netip.Addr, protocol byte, payload []byte) []byte {
	if src.Is4() {
		return ip4(src, dst, protocol, payload)
	}
	return ip6(src, dst, protocol, 64, payload)
}

// checksumOf returns where the checksum of a packet's content is, and what the packet
// sums up to, which is 0xffff if it is right.
func checksumOf(p []byte) (field []byte, sum uint16) {
	protocol, at, src, dst := p[9], 20, p[12:16], p[16:20]
	if p[0]>>4 == 6 {
		protocol, at, src, dst = p[6], 40, p[8:24], p[24:40]
	}
	body := p[at:]
	field = body[map[byte]int{ofTCP: 16, ofUDP: 6, ofICMP: 2, ofICMP6: 2}[protocol]:][:2]
	if protocol != ofICMP {
		sum = header.PseudoHeaderChecksum(tcpip.TransportProtocolNumber(protocol), tcpip.AddrFromSlice(src), tcpip.AddrFromSlice(dst), uint16(len(body)))
	}
	return field, checksum.Checksum(body, sum)
}

// seal writes the checksum of a packet's content, if it has one.
func seal(p []byte) []byte {
	at, protocol := 20, p[9]
	if p[0]>>4 == 6 {
		at, protocol = 40, p[6]
	}
	if least := map[byte]int{ofTCP: 20, ofUDP: 8, ofICMP: 8, ofICMP6: 8}[protocol]; least == 0 || len(p) < at+least {
		return p
	}
	field, _ := checksumOf(p)
	copy(field, "\x00\x00")
	_, sum := checksumOf(p)
	binary.BigEndian.PutUint16(field, ^sum)
	return p
}

// sums reports whether the checksums of a packet are right.
func sums(p []byte) bool {
	_, sum := checksumOf(p)
	return sum == 0xffff && (p[0]>>4 == 6 || checksum.Checksum(p[:20], 0) == 0xffff)
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

// solicit asks for the hardware address that target has.
func solicit(src, target netip.Addr, hops byte) []byte {
	body := append(make([]byte, 8), target.AsSlice()...)
	body[0] = 135
	body = append(body, 1, 1)
	body = append(body, theirAddress...)
	to := target.As16()
	group := netip.AddrFrom16([16]byte{0xff, 2, 11: 1, 12: 0xff, 13: to[13], 14: to[14], 15: to[15]})
	return ip6(src, group, ofICMP6, hops, body)
}

// solicited is the Ethernet address of the group that mine6 is solicited in.
const solicited = "\x33\x33\xff\x00\x00\x02"

func echo(kind byte) []byte { return []byte{kind, 0, 0, 0, 1, 2, 3, 4, 'h', 'i'} }

// datagram is one of UDP to a port that nobody has.
func datagram() []byte { return []byte{0x9c, 0x40, 4, 1, 0, 12, 0, 0, 'w', 'o', 'r', 'd'} }

// segment is a TCP segment without options.
func segment(from, to uint16, flags byte, seq, ack uint32, payload string) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, from)
	binary.BigEndian.PutUint16(b[2:], to)
	binary.BigEndian.PutUint32(b[4:], seq)
	binary.BigEndian.PutUint32(b[8:], ack)
	b[12], b[13] = 5<<4, flags
	binary.BigEndian.PutUint16(b[14:], 65535)
	return append(b, payload...)
}

// withOptions puts options of TCP, of a multiple of four bytes, behind a segment's header.
func withOptions(segment []byte, options string) []byte {
	segment[12] = byte(20+len(options)) / 4 << 4
	return append(segment[:20:20], options+string(segment[20:])...)
}

// alive asks for the hardware address, as the tender would.
func alive(t testing.TB, d *deck) {
	t.Helper()
	for len(d.sent) > 0 {
		<-d.sent
	}
	d.give(frameOf(ethernet(everybody, typeARP, arpFrom(theirs4, mine4.Addr(), 1))))
	if a := header.ARP(d.next(t, typeARP)[14:]); string(a.HardwareAddressSender()) != myAddress {
		t.Fatalf("the answer is %x", a)
	}
}

// family returns what frames and packets of an address are.
func family(a netip.Addr) (mine netip.Addr, kind uint16, at int) {
	if a.Is4() {
		return mine4.Addr(), type4, 34
	}
	return mine6.Addr(), type6, 54
}
