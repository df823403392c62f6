package packets

import (
	"math/rand/v2"
	"net/netip"

	"lorica.dev/lorica/abi/flow"
)

// Flows returns a source of flows that the rules of a section are about, or that are
// just beside them: each field is at an end of a rule's, one off it, or within it. Some
// have fields of two rules, no destination, one of the other family, or an address in
// another form.
func Flows(seed uint64, s *flow.Section) func() flow.Flow {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 3))}
	for i := range s.Lists {
		g.rules = append(g.rules, s.Lists[i].Rules...)
	}
	return g.flow
}

func (g *generator) flow() flow.Flow {
	r := &flow.Rule{Src: netip.PrefixFrom(netip.IPv4Unspecified(), 0), FromHi: 65535, PortHi: 65535}
	if g.IntN(4) == 0 {
		r.Src = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	if len(g.rules) > 0 && g.IntN(16) > 0 {
		r = &g.rules[g.IntN(len(g.rules))]
	}
	f := flow.Flow{Src: g.about(r.Src, r.Src), Dst: g.about(r.Dst, r.Src), SrcPort: g.between(r.FromLo, r.FromHi), DstPort: g.between(r.PortLo, r.PortHi),
		Protocol: r.Protocol}
	if f.Protocol == flow.AnyProtocol {
		f.Protocol = []flow.Protocol{flow.AnyProtocol, flow.ICMP, flow.TCP, flow.UDP, flow.ICMPv6, 255}[g.IntN(6)]
	}
	if len(g.rules) > 0 && g.IntN(4) == 0 {
		switch x := &g.rules[g.IntN(len(g.rules))]; g.IntN(4) {
		case 0:
			f.Dst = g.about(x.Dst, x.Src)
		case 1:
			f.SrcPort = g.between(x.FromLo, x.FromHi)
		case 2:
			f.DstPort = g.between(x.PortLo, x.PortHi)
		case 3:
			f.Protocol = x.Protocol
		}
	}
	switch g.IntN(16) {
	case 0:
		f.Dst = netip.Addr{}
	case 1:
		f.Src, f.Dst = otherForm(f.Src), otherForm(f.Dst)
	case 2:
		f.Protocol ^= 1 << g.IntN(8)
	}
	return f
}

// about is an address at an end of a network, beside it or in it; of one of that family
// where the network is every one.
func (g *generator) about(p, family netip.Prefix) netip.Addr {
	if p.Bits() <= 0 {
		p = netip.PrefixFrom(family.Addr(), 0).Masked()
	}
	ends := func(bit byte) netip.Addr {
		b := p.Addr().AsSlice()
		for i := p.Bits(); i < 8*len(b); i++ {
			b[i/8] |= bit << (7 - i%8)
		}
		a, _ := netip.AddrFromSlice(b)
		return a
	}
	a := g.within(p)
	switch g.IntN(8) {
	case 0, 1:
		a = ends(0)
	case 2, 3:
		a = ends(1)
	case 4:
		a = ends(0).Prev()
	case 5:
		a = ends(1).Next()
	}
	if !a.IsValid() {
		return ends(1)
	}
	return a
}

func (g *generator) between(lo, hi uint16) uint16 {
	return []uint16{lo, hi, lo - 1, hi + 1, lo + uint16(g.IntN(int(hi-lo)+1))}[g.IntN(5)]
}

// otherForm is an address in another form that rules do not see.
func otherForm(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.AddrFrom16(a.As16())
	}
	return a.WithZone("eth0")
}
