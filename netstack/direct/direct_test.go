package direct

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/pep"
)

func TestItAnswersItsTender(t *testing.T) {
	onEach(t, func(t *testing.T, f families) {
		d := newDeck()
		f.up(t, d, nil)
		alive(t, d)
		d.give(frameOf(ethernet(myAddress, type4, ip4(theirs4, mine4.Addr(), ofICMP, echo(8)))))
		if b := d.next(t, type4); b[34] != 0 || string(b[42:]) != "hi" || !sums(b[14:]) {
			t.Errorf("an echo is answered with %x", b)
		}
	})
}

func TestItAnswersItsTenderByIPv6(t *testing.T) {
	d := newDeck()
	up(t, d, nil)
	d.give(frameOf(ethernet(solicited, type6, solicit(theirs6, mine6.Addr(), 255))))
	if b := d.next(t, type6); b[54] != 136 || string(b[:6]) != theirAddress || string(b[80:86]) != myAddress || b[21] != 255 || !sums(b[14:]) {
		t.Errorf("a solicitation is answered with %x", b)
	}
	// A neighbour may ask from the address that only the link has.
	d.give(frameOf(ethernet(solicited, type6, solicit(netip.MustParseAddr("fe80::1"), mine6.Addr(), 255))))
	if b := d.next(t, type6); b[54] != 136 || string(b[:6]) != theirAddress {
		t.Errorf("a solicitation from fe80::1 is answered with %x", b)
	}
	d.give(frameOf(ethernet(myAddress, type6, ip6(theirs6, mine6.Addr(), ofICMP6, 64, echo(128)))))
	if b := d.next(t, type6); b[54] != 129 || string(b[62:]) != "hi" || !sums(b[14:]) {
		t.Errorf("an echo is answered with %x", b)
	}
}

// Whatever says that it is IPv6 gets nowhere where there is IPv4 alone: the filter is not
// asked either, since nobody may look into it.
func TestIPv6IsIgnoredWhereThereIsIPv4Alone(t *testing.T) {
	d, j := newDeck(), &judge{}
	n := families{}.up(t, d, j)
	if _, err := n.Listen(0, launch.Listener{Name: "api", Bind: 1024}); err != nil {
		t.Fatal(err)
	}
	for action, name := range map[pep.Action]string{pep.Pass: "passes", pep.Refuse: "is refused"} {
		j.set(action, pep.Pass)
		for i, frame := range [][]byte{
			ethernet(myAddress, type6, nil),
			ethernet(myAddress, type6, ip6(client6, mine6.Addr(), ofTCP, 64, segment(40000, 1024, 2, 100, 0, ""))),
			ethernet(myAddress, type6, ip6(client6, netip.MustParseAddr("::ffff:169.254.76.2"), ofTCP, 64, segment(40000, 1024, 2, 100, 0, ""))),
			ethernet(myAddress, type6, ip4(client4, mine4.Addr(), ofTCP, segment(40000, 1024, 2, 100, 0, ""))),
			ethernet(solicited, type6, solicit(theirs6, mine6.Addr(), 255)),
			advertises(prefix7, 1000),
		} {
			before := n.card.dropped.Load()
			d.give(frameOf(frame))
			if in, out := j.heard(); len(in)+len(out)+len(d.sent) > 0 || n.card.dropped.Load() != before+1 {
				t.Errorf("frame %d of what %s: the filter was asked about %x and %x, %d frames were sent, %d dropped", i, name, in, out, len(d.sent), n.card.dropped.Load()-before)
			}
		}
	}
	j.set(pep.Pass, pep.Pass)
	connect(t, d, client4)
}

// An image that cannot have what it is told of its link says so, and does not do without.
func TestAnAddressOfIPv6NeedsIPv6(t *testing.T) {
	alone := families{}.link()
	alone.SLAAC = true
	for name, l := range map[string]launch.Link{"an address": theLink(), "routers": alone} {
		n := New(func(*launch.Params) (Device, error) { return newDeck(), nil })
		if err := n.Open(&launch.Params{Link: l}); err == nil || !strings.Contains(err.Error(), "rebuild the image") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is nobody's business here never reaches the stack.
func TestFramesOfOthersAreDropped(t *testing.T) {
	onEach(t, func(t *testing.T, f families) {
		other4, other6 := netip.MustParseAddr("169.254.76.3"), netip.MustParseAddr("fd00::3")
		with := func(b []byte, at int, v byte) []byte {
			b[at] = v
			return b
		}
		v4 := func(src, dst netip.Addr) []byte { return ip4(src, dst, ofICMP, echo(8)) }
		v6 := func(src, dst netip.Addr) []byte { return ip6(src, dst, ofICMP6, 64, echo(128)) }
		me4, me6 := mine4.Addr(), mine6.Addr()
		seg := segment(1, 2, 2, 3, 0, "")
		all, group := netip.MustParseAddr("ff02::1"), "\x33\x33\x00\x00\x00\x01"
		advert := append([]byte{136, 0, 0, 0, 0x60, 0, 0, 0}, theirs6.AsSlice()...)
		for name, frame := range map[string][]byte{
			"nothing":                      {},
			"a part of a header":           make([]byte, 13),
			"only a header":                ethernet(myAddress, type4, nil),
			"only a header of IPv6":        ethernet(myAddress, type6, make([]byte, 39)),
			"another type":                 ethernet(myAddress, 0x8100, make([]byte, 60)),
			"longer than a packet can be":  ethernet(myAddress, type4, append(v4(client4, me4), make([]byte, maxPacket)...)),
			"for another card":             ethernet("\x02\x09\x09\x09\x09\x09", type4, v4(client4, me4)),
			"for another card, IPv6":       ethernet("\x02\x09\x09\x09\x09\x09", type6, v6(client6, me6)),
			"for every card":               ethernet(everybody, type4, v4(client4, me4)),
			"for every card, IPv6":         ethernet(everybody, type6, v6(client6, me6)),
			"from the image itself":        ethernet(myAddress, type4, v4(me4, me4)),
			"from the image itself, IPv6":  ethernet(myAddress, type6, v6(me6, me6)),
			"from nobody":                  ethernet(myAddress, type4, v4(netip.IPv4Unspecified(), me4)),
			"from nobody, IPv6":            ethernet(myAddress, type6, v6(netip.IPv6Unspecified(), me6)),
			"from a group":                 ethernet(myAddress, type4, v4(netip.MustParseAddr("224.0.0.1"), me4)),
			"from a group, IPv6":           ethernet(myAddress, type6, v6(all, me6)),
			"from everybody":               ethernet(myAddress, type4, v4(netip.MustParseAddr("255.255.255.255"), me4)),
			"from loopback, IPv6":          ethernet(myAddress, type6, v6(netip.IPv6Loopback(), me6)),
			"for another":                  ethernet(myAddress, type4, v4(client4, other4)),
			"for another, IPv6":            ethernet(myAddress, type6, v6(client6, other6)),
			"for loopback":                 ethernet(myAddress, type4, v4(client4, netip.MustParseAddr("127.0.0.1"))),
			"another version":              ethernet(myAddress, type4, with(v4(client4, me4), 0, 0x65)),
			"another version, IPv6":        ethernet(myAddress, type6, with(v6(client6, me6), 0, 0x40)),
			"options":                      ethernet(myAddress, type4, with(v4(client4, me4), 0, 0x46)),
			"options, IPv6":                ethernet(myAddress, type6, with(v6(client6, me6), 6, 0)),
			"a first fragment":             ethernet(myAddress, type4, with(ip4(client4, me4, ofTCP, seg), 6, 0x20)),
			"a later fragment":             ethernet(myAddress, type4, with(ip4(client4, me4, ofTCP, seg), 7, 1)),
			"a fragment, IPv6":             ethernet(myAddress, type6, with(v6(client6, me6), 6, 44)),
			"another protocol":             ethernet(myAddress, type4, ip4(client4, me4, 47, seg)),
			"another protocol, IPv6":       ethernet(myAddress, type6, ip6(client6, me6, 47, 64, seg)),
			"a part of a segment":          ethernet(myAddress, type4, ip4(client4, me4, ofTCP, seg[:19])),
			"a part of a segment, IPv6":    ethernet(myAddress, type6, ip6(client6, me6, ofTCP, 64, seg[:19])),
			"a part of UDP":                ethernet(myAddress, type4, ip4(client4, me4, ofUDP, seg[:7])),
			"a part of UDP, IPv6":          ethernet(myAddress, type6, ip6(client6, me6, ofUDP, 64, seg[:7])),
			"a redirect":                   ethernet(myAddress, type4, ip4(client4, me4, ofICMP, echo(5))),
			"a redirect, IPv6":             ethernet(myAddress, type6, ip6(theirs6, me6, ofICMP6, 255, append(echo(137), make([]byte, 40)...))),
			"a router":                     ethernet(group, type6, ip6(netip.MustParseAddr("fe80::1"), all, ofICMP6, 255, append(echo(134), make([]byte, 40)...))),
			"a part of an echo":            ethernet(myAddress, type4, ip4(client4, me4, ofICMP, echo(8)[:7])),
			"a part of an echo, IPv6":      ethernet(myAddress, type6, ip6(client6, me6, ofICMP6, 64, echo(128)[:3])),
			"an echo for a group":          ethernet(group, type6, v6(client6, all)),
			"a path of few bytes":          ethernet(myAddress, type4, ip4(client4, me4, ofICMP, []byte{3, 4, 0, 0, 0, 0, leastPath >> 8, leastPath&0xff - 1})),
			"a path of few bytes, IPv6":    ethernet(myAddress, type6, ip6(client6, me6, ofICMP6, 64, []byte{2, 0, 0, 0, 0, 0, 4, 0xff})),
			"NDP from afar":                ethernet(solicited, type6, solicit(theirs6, me6, 254)),
			"NDP of a stranger":            ethernet(solicited, type6, solicit(client6, me6, 255)),
			"NDP of a group we are not in": ethernet("\x33\x33\xff\x00\x00\x03", type6, solicit(theirs6, other6, 255)),
			"NDP for another card":         ethernet("\x33\x33\xff\x00\x00\x03", type6, solicit(theirs6, me6, 255)),
			"NDP of ourselves":             ethernet(group, type6, ip6(me6, all, ofICMP6, 255, advert)),
			"ARP about another":            ethernet(myAddress, typeARP, arpFrom(client4, me4, 1)),
			"ARP of ourselves":             ethernet(everybody, typeARP, arpFrom(me4, me4, 1)),
			"ARP for another":              ethernet(myAddress, typeARP, arpFrom(theirs4, other4, 1)),
			"ARP for another card":         ethernet("\x02\x09\x09\x09\x09\x09", typeARP, arpFrom(theirs4, me4, 1)),
			"ARP that is none":             ethernet(myAddress, typeARP, make([]byte, 28)),
			"ARP of nobody":                ethernet(everybody, typeARP, arpFrom(netip.IPv4Unspecified(), me4, 1)),
		} {
			t.Run(name, func(t *testing.T) {
				d := newDeck()
				n := f.up(t, d, nil)
				d.give(frameOf(frame))
				if got := n.card.dropped.Load(); got != 1 {
					t.Errorf("%d frames were dropped", got)
				}
				if len(d.sent) > 0 {
					t.Errorf("it is answered with %x", <-d.sent)
				}
				alive(t, d)
			})
		}
	})
}

func TestLinksThatAreNone(t *testing.T) {
	for name, c := range map[string]struct {
		link launch.Link
		mtu  int
	}{
		"no link":              {launch.Link{}, 1500},
		"an MTU of nothing":    {theLink(), 1279},
		"an MTU of everything": {theLink(), 65536},
	} {
		d := newDeck()
		d.traits.MTU = c.mtu
		n := New(func(*launch.Params) (Device, error) { return d, nil }, IPv6)
		if err := n.Open(&launch.Params{Link: c.link}); err == nil || !strings.HasPrefix(err.Error(), "network: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	n := New(func(*launch.Params) (Device, error) { return nil, errors.New("there is none") }, IPv6)
	if err := n.Open(&launch.Params{Link: theLink()}); err == nil || err.Error() != "network: there is none" {
		t.Error(err)
	}
}

// accepted brings a network up over a deck, and returns the connection of a client.
func (f families) accepted(t *testing.T, d *deck, client netip.Addr) net.Conn {
	t.Helper()
	ln, err := f.up(t, d, nil).Listen(0, launch.Listener{Name: "api", Bind: 1024})
	if err != nil {
		t.Fatal(err)
	}
	connect(t, d, client)
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What the device does, the stack leaves to it.
func TestOffloads(t *testing.T) {
	onEach(t, func(t *testing.T, f families) {
		for _, client := range f.clients() {
			d := newDeck()
			d.traits.Checksums, d.traits.Segments = true, true
			if _, err := f.accepted(t, d, client).Write(make([]byte, 5000)); err != nil {
				t.Fatal(err)
			}
			_, kind, at := family(client)
			want := map[uint16]Segmentation{type4: TCP4, type6: TCP6}[kind]
			for b := d.next(t, kind); ; b = d.next(t, kind) {
				if len(b) < 3000 {
					continue
				}
				d.mu.Lock()
				mark := d.marks[len(d.marks)-1]
				d.mu.Unlock()
				if m := mark; !m.Checksum || int(m.ChecksumStart) != at || m.ChecksumOffset != 16 || m.Segmentation != want || m.SegmentSize == 0 || m.SegmentSize > 1460 || int(m.HeaderSize) < at+20 {
					t.Errorf("the device is told %+v of %d bytes", mark, len(b))
				}
				break
			}
		}
	})
}

// Who is told of a narrow path sends what fits there.
func TestNarrowPaths(t *testing.T) {
	onEach(t, func(t *testing.T, f families) {
		for _, client := range f.clients() {
			d := newDeck()
			if _, err := f.accepted(t, d, client).Write(make([]byte, 2000)); err != nil {
				t.Fatal(err)
			}
			mine, kind, at := family(client)
			sent := d.next(t, kind)
			for len(sent) < 1400 {
				sent = d.next(t, kind)
			}
			least, protocol, is := leastPath, byte(ofICMP), []byte{3, 4}
			if client.Is6() {
				least, protocol, is = 1280, ofICMP6, []byte{2, 0}
			}
			message := binary.BigEndian.AppendUint16(append(is, 0, 0, 0, 0), uint16(least))
			message = append(message, sent[ethernetSize:at+8]...)
			d.give(frameOf(ethernet(myAddress, kind, ipOf(client, mine, protocol, message))))
			again := d.next(t, kind)
			for !bytes.Equal(again[at+4:at+8], sent[at+4:at+8]) {
				again = d.next(t, kind)
			}
			if got := len(again) - ethernetSize; got > least || got < least-64 {
				t.Errorf("%v: a packet of %d bytes on a path of %d", client, got, least)
			}
		}
	})
}

// connect is the handshake of a client, from port 40000 to 1024, that takes 1460 bytes in
// a segment.
func connect(t testing.TB, d *deck, client netip.Addr) (seq uint32) {
	t.Helper()
	return connectWith(t, d, client, "\x02\x04\x05\xb4")
}

// connectWith has options in the client's SYN.
func connectWith(t testing.TB, d *deck, client netip.Addr, options string) (seq uint32) {
	t.Helper()
	mine, kind, at := family(client)
	syn := withOptions(segment(40000, 1024, 2, 100, 0, ""), options)
	d.give(frameOf(ethernet(myAddress, kind, ipOf(client, mine, ofTCP, syn))))
	b := d.next(t, kind)
	for !bytes.Equal(b[at-len(client.AsSlice()):at], client.AsSlice()) { // others may be answered once more
		b = d.next(t, kind)
	}
	if tcpAt(b) != at || b[at+13] != 0x12 {
		t.Fatalf("a SYN of %v is answered with %x", client, b)
	}
	seq = binary.BigEndian.Uint32(b[at+4:]) + 1
	d.give(frameOf(ethernet(myAddress, kind, ipOf(client, mine, ofTCP, segment(40000, 1024, 16, 101, seq, "")))))
	return seq
}

// What the device does not answer for, the stack verifies.
func TestChecksums(t *testing.T) {
	onEach(t, func(t *testing.T, f families) {
		for _, client := range f.clients() {
			for _, unverified := range []bool{false, true} {
				d := newDeck()
				d.unverified = unverified
				n := f.up(t, d, nil)
				ln, err := n.Listen(0, launch.Listener{Name: "api", Bind: 1024})
				if err != nil {
					t.Fatal(err)
				}
				seq := connect(t, d, client)
				c, err := ln.Accept()
				if err != nil {
					t.Fatal(err)
				}
				mine, kind, at := family(client)
				bad := ipOf(client, mine, ofTCP, segment(40000, 1024, 24, 101, seq, "bad"))
				bad[at-14+17] ^= 1
				d.give(frameOf(ethernet(myAddress, kind, bad)))
				d.give(frameOf(ethernet(myAddress, kind, ipOf(client, mine, ofTCP, segment(40000, 1024, 24, 101, seq, "good")))))
				b := make([]byte, 8)
				m, err := c.Read(b)
				if got := string(b[:m]); err != nil || unverified != (got == "good") {
					t.Errorf("%v, to be verified: %t: read %q, %v", client, unverified, got, err)
				}
			}
		}
	})
}

// A device that breaks ends everything.
func TestABrokenDevice(t *testing.T) {
	onEach(t, func(t *testing.T, f families) {
		d := newDeck()
		n := New(func(*launch.Params) (Device, error) { return d, nil }, f.options()...)
		if err := n.Open(&launch.Params{Link: f.link()}); err != nil {
			t.Fatal(err)
		}
		ln, err := n.Listen(0, launch.Listener{Name: "api", Bind: 1024})
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
	})
}
