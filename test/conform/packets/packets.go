// Package packets generates IP packets and rules to judge them by, with what both mean:
// whatever judges packets is held to it.
package packets

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"lorica.dev/lorica/abi/flow"
)

// A Target is who the packets are for.
type Target struct {
	V4, V6 netip.Addr // an address that is not valid: no packets of that family
	Ports  []uint16   // that some of the packets go to, besides those of the rules
}

// A Packet is one that arrives at the target.
type Packet struct {
	Bytes []byte
	Flow  flow.Flow // what rules are asked about it; without a source: nobody should ask them, it is not to be let in
	Opens bool      // it asks for a TCP connection
	Form  string    // in words
}

// Generate returns n packets from sources, and to ports, that the rules of the section
// are about, or that are just beside them. Checksums are good. One of eight is not to
// be let in, whatever the rules say.
func Generate(seed uint64, n int, at Target, s *flow.Section) []Packet {
	g := &generator{rand.New(rand.NewPCG(seed, 1)), at, nil}
	for i := range s.Lists {
		g.rules = append(g.rules, s.Lists[i].Rules...)
	}
	list := make([]Packet, n)
	for i := range list {
		list[i] = g.packet()
	}
	return list
}

type generator struct {
	*rand.Rand
	at    Target
	rules []flow.Rule
}

// header is a packet before it is bytes.
type header struct {
	src, dst   netip.Addr
	protocol   uint8
	extensions []extension // of IPv6
	body       []byte
	trailing   int // bytes of padding by the link
}

type extension struct {
	kind uint8
	data []byte // without the next header and the length
}

const tcp, udp, icmp, icmp6 = 6, 17, 1, 58

func (g *generator) packet() Packet {
	h := header{src: g.source()}
	h.dst = g.at.V6
	if h.src.Is4() {
		h.dst = g.at.V4
	}
	p := Packet{Flow: flow.Flow{Src: h.src, Dst: h.dst}}
	if impossible(h.src) || h.src == h.dst {
		p.Flow.Src = netip.Addr{}
	}
	g.fill(&h, &p)
	if h.src.Is6() && g.IntN(4) == 0 {
		h.extensions = append(h.extensions, extension{60, []byte{1, 4, 0, 0, 0, 0}})
		if g.IntN(2) == 0 {
			h.extensions = append([]extension{{0, []byte{0, 5, 3, 0, 0, 0}}}, h.extensions...)
		}
	}
	if g.IntN(4) == 0 {
		h.trailing = g.IntN(9)
	}
	if g.IntN(8) == 0 {
		g.spoil(&h, &p)
	} else {
		p.Bytes = h.bytes()
	}
	p.Bytes = append(p.Bytes, make([]byte, h.trailing)...)
	return p
}

// fill makes what the packet carries.
func (g *generator) fill(h *header, p *Packet) {
	sport, dport, payload := g.sport(), g.port(), g.IntN(32)
	switch g.IntN(8) {
	default:
		flags := []uint8{2, 2, 2, 2, 2 | 0x40 | 0x80, 0x10, 0x18, 0x11, 0x12, 4, 0x14}[g.IntN(11)]
		p.Flow.Protocol, p.Flow.SrcPort, p.Flow.DstPort, p.Opens, p.Form = flow.TCP, sport, dport, flags&0x12 == 2, "TCP"
		h.protocol, h.body = tcp, segment(sport, dport, flags, g.Uint32(), g.Uint32(), payload)
	case 0, 1:
		p.Flow.Protocol, p.Flow.SrcPort, p.Flow.DstPort, p.Form = flow.UDP, sport, dport, "UDP"
		h.protocol, h.body = udp, datagram(sport, dport, payload)
	case 2:
		p.Flow.Protocol, p.Form = flow.ICMP, "echo"
		h.protocol, h.body = icmp, message(8, uint16(g.IntN(1<<16)), payload)
		if h.src.Is6() {
			h.protocol, h.body[0] = icmp6, 128
		}
	}
}

// source is an address of a rule, or beside one, or of nobody in particular.
func (g *generator) source() netip.Addr {
	for {
		var a netip.Addr
		if len(g.rules) > 0 && g.IntN(8) > 0 {
			a = g.within(g.rules[g.IntN(len(g.rules))].Src)
			if g.IntN(4) == 0 {
				a = []netip.Addr{a.Next(), a.Prev()}[g.IntN(2)]
			}
		} else if a = netip.AddrFrom4([4]byte(g.bytes(4))); g.IntN(2) == 0 {
			b := [16]byte(g.bytes(16))
			b[0] = 0x20
			a = netip.AddrFrom16(b)
		}
		if a.Is4() && g.at.V4.IsValid() || a.Is6() && !a.Is4In6() && g.at.V6.IsValid() {
			return a
		}
	}
}

// within is an address of a network.
func (g *generator) within(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= uint8(g.IntN(2)) << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func (g *generator) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = uint8(g.IntN(256))
	}
	return b
}

func (g *generator) port() uint16 {
	var port uint16
	switch {
	case len(g.rules) > 0 && g.IntN(4) > 0:
		r := &g.rules[g.IntN(len(g.rules))]
		port = g.between(r.PortLo, r.PortHi)
	case len(g.at.Ports) > 0:
		port = g.at.Ports[g.IntN(len(g.at.Ports))]
	default:
		port = uint16(g.IntN(1 << 16))
	}
	return max(port, 1)
}

// nobodys is a source port that no packet has.
const nobodys = 7

// sport is a source port, of which few rules say something.
func (g *generator) sport() uint16 {
	port := uint16(1 + g.IntN(65535))
	if len(g.rules) > 0 {
		if r := &g.rules[g.IntN(len(g.rules))]; r.FromLo > 0 || r.FromHi < 65535 {
			port = max(g.between(r.FromLo, r.FromHi), 1)
		}
	}
	if port == nobodys {
		port++
	}
	return port
}

// impossible reports an address that nobody else can have on the link of an image.
func impossible(a netip.Addr) bool {
	if a.Is4() {
		return a.As4()[0] == 0 || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}
	low := netip.PrefixFrom(netip.IPv6Unspecified(), 96) // ::, ::1, and what is compatible with IPv4
	return a.IsMulticast() || low.Contains(a)
}

// spoil makes a packet that is not to be let in.
func (g *generator) spoil(h *header, p *Packet) {
	p.Flow, p.Opens = flow.Flow{}, false
	v6 := h.src.Is6()
	spoilt := func(form string) { p.Form += ", " + form }
	switch g.IntN(9) {
	case 0:
		spoilt("a fragment")
		if v6 {
			h.extensions = append(h.extensions, extension{44, []byte{0, 1, 0, 0, 0, 9}})
		}
		if p.Bytes = h.bytes(); !v6 {
			binary.BigEndian.PutUint16(p.Bytes[6:], []uint16{0x2000, 1, 0x2001}[g.IntN(3)])
			checkHeader(p.Bytes)
		}
	case 1:
		spoilt("for somebody else")
		h.dst = h.dst.Next()
		p.Bytes = h.bytes()
	case 2:
		spoilt("from nobody")
		h.src = []netip.Addr{netip.MustParseAddr("224.0.0.5"), netip.IPv4Unspecified(), netip.MustParseAddr("255.255.255.255"), h.dst}[g.IntN(4)]
		if v6 {
			h.src = []netip.Addr{netip.MustParseAddr("ff0e::1"), netip.IPv6Unspecified(), netip.IPv6Loopback(), netip.MustParseAddr("::ffff:192.0.2.1"), h.dst}[g.IntN(5)]
		} else if h.src.Is6() {
			h.src = netip.IPv4Unspecified()
		}
		p.Bytes = h.bytes()
	case 3:
		spoilt("cut")
		p.Bytes = h.bytes()
		p.Bytes, h.trailing = p.Bytes[:g.IntN(len(p.Bytes))], 0
	case 4:
		spoilt("of another protocol")
		h.protocol = []uint8{0x32, 47, 132, 33, 59, 41}[g.IntN(6)]
		p.Bytes = h.bytes()
	case 5:
		spoilt("TCP of flags that mean nothing")
		h.protocol = tcp
		h.body = segment(uint16(1+g.IntN(65535)), g.port(), []uint8{0, 1, 3, 6, 7, 8, 0x20, 0x29, 0x13, 0x16, 0x3f, 0x15}[g.IntN(12)], 1, 1, 0)
		p.Bytes = h.bytes()
	case 6:
		spoilt("with options")
		if v6 {
			h.extensions = append(h.extensions, extension{43, []byte{0, 0, 0, 0, 0, 0}})
			p.Bytes = h.bytes()
			return
		}
		p.Bytes = h.bytes()
		p.Bytes = append(p.Bytes[:20:20], append([]byte{1, 1, 1, 0}, p.Bytes[20:]...)...)
		p.Bytes[0]++
		binary.BigEndian.PutUint16(p.Bytes[2:], uint16(len(p.Bytes)))
		checkHeader(p.Bytes)
	case 7:
		spoilt("an ICMP message that nobody asked for")
		kinds := []uint8{0, 3, 4, 5, 9, 10, 11, 12, 13, 17, 40}
		h.protocol = icmp
		if v6 {
			h.protocol, kinds = icmp6, []uint8{1, 2, 3, 4, 129, 130, 131, 132, 133, 137, 138, 143}
		}
		about := header{src: h.dst, dst: h.src, protocol: tcp, body: segment(g.port(), nobodys, 0x10, 1, 1, 0)}
		h.body = append(message(kinds[g.IntN(len(kinds))], 0, 0), about.bytes()...)
		p.Bytes = h.bytes()
	default:
		spoilt("UDP of another length")
		h.protocol, h.body = udp, datagram(uint16(1+g.IntN(65535)), g.port(), 8)
		binary.BigEndian.PutUint16(h.body[4:], []uint16{0, 7, 15, 17}[g.IntN(4)])
		p.Bytes = h.bytes()
	}
}
