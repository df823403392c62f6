package packets

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
)

// Rules returns a section of up to three lists with n rules in all. Their prefixes and
// ports are drawn from few, so that they overlap, and some names are those of others. Most
// are about every destination; of the rest, half are about one of those named, or around it.
func Rules(seed uint64, n int, to ...netip.Addr) *flow.Section {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 2))}
	s := &flow.Section{}
	for i := range 1 + g.IntN(3) {
		s.Lists = append(s.Lists, flow.List{Level: fmt.Sprint("level-", i), Default: abi.Verdict(g.IntN(2)), Rule: abi.Rule{ID: abi.RuleNetwork, Line: "p.yaml:1"}})
	}
	nets := make([]netip.Addr, 1+n/8)
	for i := range nets {
		b := g.bytes(16)
		b[0] = 0x20
		nets[i] = netip.AddrFrom16([16]byte(b))
		if g.IntN(3) > 0 {
			nets[i] = netip.AddrFrom4([4]byte{byte(1 + g.IntN(223)), b[1], b[2], b[3]})
		}
	}
	length := func(a netip.Addr) int { return a.BitLen() - []int{0, 0, 4, 8, 12, 16, 20, 24, a.BitLen()}[g.IntN(9)] }
	ports := []uint16{22, 53, 80, 443, 1023, 8443, 9000, 65535}
	for i := range n {
		x := flow.Rule{Rule: abi.Rule{ID: fmt.Sprint("rule-", g.IntN(i+1)), Line: fmt.Sprint("p.yaml:", i)}, Verdict: abi.Verdict(g.IntN(2)), Audit: g.IntN(8) == 0,
			Protocol: []flow.Protocol{flow.AnyProtocol, flow.TCP, flow.TCP, flow.UDP, flow.ICMP}[g.IntN(5)], FromHi: 65535, PortHi: 65535}
		a := nets[g.IntN(len(nets))]
		x.Src, _ = a.Prefix(length(a))
		if g.IntN(3) == 0 {
			x.Dst = g.destination(x.Src.Addr().Is4(), append(nets[:len(nets):len(nets)], to...), len(to), length)
		}
		switch {
		case x.Protocol == flow.ICMP || g.IntN(3) == 0: // of every port
		default:
			if g.IntN(4) == 0 {
				x.FromLo = ports[g.IntN(len(ports))]
				x.FromHi = x.FromLo + uint16(g.IntN(int(65535-x.FromLo)+1))
			}
			x.PortLo = ports[g.IntN(len(ports))]
			x.PortHi = x.PortLo
			if g.IntN(3) == 0 {
				x.PortHi += uint16(g.IntN(int(65535-x.PortLo) + 1))
			}
		}
		l := &s.Lists[g.IntN(len(s.Lists))]
		l.Rules = append(l.Rules, x)
	}
	return s
}

// destination is a network of a family, every other time of one of the last so many.
func (g *generator) destination(v4 bool, nets []netip.Addr, last int, length func(netip.Addr) int) netip.Prefix {
	for range 100 {
		a := nets[g.IntN(len(nets))]
		if last > 0 && g.IntN(2) == 0 {
			a = nets[len(nets)-1-g.IntN(last)]
		}
		if bits := length(a); a.Is4() == v4 && bits > 0 {
			p, _ := a.Prefix(bits)
			return p
		}
	}
	return netip.Prefix{}
}

// ClassBench reads the rules of a filter set of ClassBench (Taylor and Turner, INFOCOM
// 2005). Every other one allows.
func ClassBench(r io.Reader) ([]flow.Rule, error) {
	var rules []flow.Rule
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		f := strings.Split(strings.TrimPrefix(sc.Text(), "@"), "\t")
		if len(f) < 5 {
			return nil, fmt.Errorf("line %d: %q", len(rules)+1, sc.Text())
		}
		src, err := netip.ParsePrefix(f[0])
		if err != nil {
			return nil, err
		}
		dst, err := netip.ParsePrefix(f[1])
		if err != nil {
			return nil, err
		}
		x := flow.Rule{Rule: abi.Rule{ID: fmt.Sprint(len(rules))}, Verdict: abi.Verdict(len(rules) % 2), Src: src.Masked()}
		if dst.Bits() > 0 {
			x.Dst = dst.Masked()
		}
		var protocol, mask uint8
		if _, err := fmt.Sscanf(f[2], "%d : %d", &x.FromLo, &x.FromHi); err != nil {
			return nil, err
		}
		if _, err := fmt.Sscanf(f[3], "%d : %d", &x.PortLo, &x.PortHi); err != nil {
			return nil, err
		}
		if _, err := fmt.Sscanf(f[4], "0x%x/0x%x", &protocol, &mask); err != nil {
			return nil, err
		}
		x.Protocol = flow.Protocol(protocol & mask)
		rules = append(rules, x)
	}
	return rules, sc.Err()
}
