package packets

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
)

// Kinds are the forms of rule sets that Like makes: those of ClassBench (access lists,
// firewalls, chains of IP tables), and one in both families as the networks of a cloud
// have them.
var Kinds = []string{"acl", "fw", "ipc", "cloud"}

// A profile is what a kind of rule set is made of. A length, a kind of ports or a protocol
// is as frequent as it is listed.
type profile struct {
	src, dst   []int // lengths of prefixes, of IPv4
	from, port string
	protocols  []flow.Protocol
	v6         int // of 100 rules
}

// Kinds of ports: any, exact, range, from 1024 up.
var profiles = map[string]profile{
	"acl": {[]int{32, 32, 32, 32, 31, 31, 30, 29, 24, 24, 23, 22, 0}, []int{32, 32, 32, 32, 32, 31, 31, 30, 28, 24, 23, 22, 21, 16, 12, 8, 0},
		"a", "eeeeeeerraa", []flow.Protocol{flow.TCP, flow.TCP, flow.TCP, flow.TCP, flow.TCP, flow.TCP, flow.TCP, flow.UDP, flow.AnyProtocol}, 0},
	"fw": {[]int{0, 0, 0, 0, 1, 1, 2, 32, 31, 30, 29, 28, 24, 16, 12}, []int{32, 32, 31, 31, 30, 28, 22, 0, 0, 1, 2},
		"aaaaaeeeu", "eeeeeaaaur", []flow.Protocol{flow.TCP, flow.TCP, flow.TCP, flow.UDP, flow.UDP, 47, flow.ICMP}, 0},
	"ipc": {[]int{32, 32, 31, 27, 26, 25, 24, 24, 23, 23, 22, 20, 17, 16, 15, 1, 0}, []int{32, 32, 32, 31, 27, 26, 25, 24, 24, 23, 16, 16, 15, 0},
		"aaaaaae", "aaaaaeeeeur", []flow.Protocol{flow.TCP, flow.UDP, flow.AnyProtocol}, 0},
	"cloud": {[]int{32, 32, 32, 28, 24, 24, 24, 22, 16, 8, 0, 0}, []int{32, 32, 32, 28, 24, 24, 24, 22, 16, 8, 0, 0},
		"a", "eeeeeeeaur", []flow.Protocol{flow.TCP, flow.TCP, flow.TCP, flow.TCP, flow.TCP, flow.UDP, flow.UDP, flow.AnyProtocol}, 30},
}

// Like returns a section of n rules of a kind. Narrow rules come before wide ones, as
// people write them.
func Like(kind string, seed uint64, n int) *flow.Section {
	p := profiles[kind]
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 4))}
	nets := make([][16]byte, 2+n/12)
	for i := range nets {
		copy(nets[i][:], g.bytes(16))
		nets[i][0] = byte(1 + g.IntN(223))
	}
	l := flow.List{Level: "normal", Rule: abi.Rule{ID: abi.RuleNetwork, Line: "policy.yaml:1"}}
	seen := map[flow.Rule]bool{}
	for tries := 0; len(l.Rules) < n; tries++ {
		v6 := g.IntN(100) < p.v6
		x := flow.Rule{Protocol: p.protocols[g.IntN(len(p.protocols))],
			Src: g.network(nets, p.src, v6), Dst: g.network(nets, p.dst, v6), FromHi: 65535, PortHi: 65535}
		if x.Protocol == flow.TCP || x.Protocol == flow.UDP {
			x.FromLo, x.FromHi = g.ports(p.from)
			x.PortLo, x.PortHi = g.ports(p.port)
		}
		if x.Dst.Bits() == 0 {
			x.Dst = netip.Prefix{}
		}
		if seen[x] && tries < 100*n {
			continue // what it is about is in no other rule
		}
		seen[x] = true
		x.Verdict = abi.Verdict(g.IntN(2))
		l.Rules = append(l.Rules, x)
	}
	slices.SortStableFunc(l.Rules, func(a, b flow.Rule) int { return width(&a) - width(&b) })
	for i := range l.Rules {
		l.Rules[i].Rule = abi.Rule{ID: fmt.Sprint("rule-", i), Line: fmt.Sprint("policy.yaml:", i+2)}
	}
	return &flow.Section{Lists: []flow.List{l}}
}

func width(r *flow.Rule) int { return -r.Src.Bits() - max(r.Dst.Bits(), 0) }

// network is one of some length, in or beside one of those that there are.
func (g *generator) network(nets [][16]byte, lengths []int, v6 bool) netip.Prefix {
	b, bits := nets[g.IntN(len(nets))], lengths[g.IntN(len(lengths))]
	b[2] ^= byte(g.IntN(4))
	b[3] = byte(g.IntN(256))
	a := netip.AddrFrom4([4]byte(b[:4]))
	if v6 {
		b[0], b[7], b[15] = 0x20, byte(g.IntN(16)), byte(g.IntN(256))
		a, bits = netip.AddrFrom16(b), 4*bits
	}
	p, _ := a.Prefix(bits)
	return p
}

func (g *generator) ports(kinds string) (lo, hi uint16) {
	switch kinds[g.IntN(len(kinds))] {
	case 'e':
		lo = []uint16{21, 22, 23, 25, 53, 80, 110, 123, 161, 443, 514, 1433, 1521, 3306, 5432, 8080, 8443, uint16(g.IntN(1 << 16))}[g.IntN(18)]
		return lo, lo
	case 'r':
		lo = uint16(g.IntN(1 << 16))
		return lo, lo + uint16(min(g.IntN(200), 65535-int(lo)))
	case 'u':
		return 1024, 65535
	}
	return 0, 65535
}
