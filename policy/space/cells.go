package space

import (
	"net/netip"
	"slices"
	"sort"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// Packets are points of a plane: where they come from, and what they ask for. Only the
// places matter where a rule begins or ends: what lies between two is a step, and a rule is
// boxes of steps. Cells of the plane are halved until every rule covers its cell or is not
// in it, as in package forest of the compiler.

// What is asked for, in one line: the ports of TCP, those of UDP, and ICMP.
const (
	ports  = 65535
	icmp   = 2 * ports
	asked  = icmp + 1
	noRule = -1 // stands for the default
)

type box struct{ s0, s1, p0, p1 int32 } // first and last steps of sources and of what is asked for

func (b *box) meets(c *box) bool {
	return b.s0 <= c.s1 && c.s0 <= b.s1 && b.p0 <= c.p1 && c.p0 <= b.p1
}

func (b *box) covers(c *box) bool {
	return b.s0 <= c.s0 && c.s1 <= b.s1 && b.p0 <= c.p0 && c.p1 <= b.p1
}

func (b *box) and(c *box) box {
	return box{max(b.s0, c.s0), min(b.s1, c.s1), max(b.p0, c.p0), min(b.p1, c.p1)}
}

// A plane has the steps.
type plane struct {
	addrs []netip.Addr // where steps begin: IPv4 before IPv6
	asks  []int32
	six   int32 // the first step of IPv6
	hole  int32 // IPv4-mapped addresses are judged as IPv4: nobody comes from here
}

var (
	four, six = netip.IPv4Unspecified(), netip.IPv6Unspecified()
	mapped    = netip.MustParsePrefix("::ffff:0.0.0.0/96")
)

// beyond returns the address behind the last one of p, which is not valid behind the last
// one of all.
func beyond(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a.Next()
}

// within reports whether p is in the hole, where nobody comes from.
func within(p netip.Prefix) bool {
	return p.Addr().Is4In6() && p.Bits() >= mapped.Bits()
}

// askedFor returns the spans of a rule's ports.
func askedFor(ps []api.Port) [][2]int32 {
	if len(ps) == 0 {
		return [][2]int32{{0, asked}}
	}
	var out [][2]int32
	for _, p := range ps {
		lo, hi := int32(max(p.Lo, 1))-1, int32(p.Hi)
		if p.Protocol == "TCP" || p.Protocol == "any" {
			out = append(out, [2]int32{lo, hi})
		}
		if p.Protocol == "UDP" || p.Protocol == "any" {
			out = append(out, [2]int32{ports + lo, ports + hi})
		}
		if p.Protocol == api.ICMP || p.Protocol == "any" && p.Lo == 0 {
			out = append(out, [2]int32{icmp, icmp + 1})
		}
	}
	return joined(out)
}

// joined joins spans that touch.
func joined(spans [][2]int32) [][2]int32 {
	slices.SortFunc(spans, func(a, b [2]int32) int { return int(a[0] - b[0]) })
	var out [][2]int32
	for _, s := range spans {
		if s[0] >= s[1] {
			continue
		}
		if n := len(out); n > 0 && s[0] <= out[n-1][1] {
			out[n-1][1] = max(out[n-1][1], s[1])
			continue
		}
		out = append(out, s)
	}
	return out
}

// A netRule is a rule of one of the policies that are looked at.
type netRule struct {
	side   int
	index  int    // in the ingress of its policy
	deny   bool   //
	levels uint32 // at which it exists
	like   int32  // equal for rules that say the same
	from   []netip.Prefix
	asks   [][2]int32
	boxes  []box
	bounds box // around them
}

// sources returns the networks of a rule.
func sources(p *api.SecurityPolicy, r *api.IngressRule) []netip.Prefix {
	if slices.Contains(r.From, api.AnyEndpoint) {
		return []netip.Prefix{netip.PrefixFrom(four, 0), netip.PrefixFrom(six, 0)}
	}
	var out []netip.Prefix
	for _, e := range p.Endpoints {
		if slices.Contains(r.From, e.Name) {
			for _, x := range e.CIDRs {
				if !within(x) {
					out = append(out, x.Masked())
				}
			}
		}
	}
	// Networks within networks of the same rule say nothing.
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	kept := out[:0]
	for _, x := range out {
		if n := len(kept); n > 0 && kept[n-1].Overlaps(x) {
			continue
		}
		kept = append(kept, x)
	}
	return kept
}

// A side is one policy.
type side struct {
	p      *api.SecurityPolicy
	levels uint32
	deny   bool // the default
}

// A field is the rules of one policy, or of two, in their plane.
type field struct {
	plane
	sides []side
	rules []netRule
	items [2][]item // of each side, in the order of rules
}

func newField(list ...*policy.Deployment) *field {
	f := &field{}
	for s, d := range list {
		p := d.Policy
		f.sides = append(f.sides, side{p, 1<<len(p.Levels.Names) - 1, p.Default.Network == abi.Deny})
		if p.Network == nil {
			continue
		}
		for i := range p.Network.Ingress {
			r := &p.Network.Ingress[i]
			n := netRule{side: s, index: i, deny: r.Action == abi.Deny, from: sources(p, r), asks: askedFor(r.Ports)}
			for l := range p.Levels.Names {
				if policy.Applies(p, r, l) {
					n.levels |= 1 << l
				}
			}
			f.rules = append(f.rules, n)
		}
	}
	f.addrs = []netip.Addr{four, six, mapped.Addr(), beyond(mapped)}
	f.asks = []int32{0, ports, icmp}
	for i := range f.rules {
		for _, x := range f.rules[i].from {
			f.addrs = append(f.addrs, x.Addr())
			if b := beyond(x); b.IsValid() {
				f.addrs = append(f.addrs, b)
			}
		}
		for _, a := range f.rules[i].asks {
			f.asks = append(f.asks, a[0])
			if a[1] < asked {
				f.asks = append(f.asks, a[1])
			}
		}
	}
	slices.SortFunc(f.addrs, netip.Addr.Compare)
	f.addrs = slices.Compact(f.addrs)
	slices.Sort(f.asks)
	f.asks = slices.Compact(f.asks)
	f.six, f.hole = f.source(six), f.source(mapped.Addr())
	kinds := make(map[string]int32)
	for i := range f.rules {
		r := &f.rules[i]
		for _, x := range r.from {
			first, last := f.source(x.Addr()), int32(len(f.addrs))-1
			if b := beyond(x); b.IsValid() {
				last = f.source(b) - 1
			} else if x.Addr().Is4() {
				last = f.six - 1
			}
			for _, a := range r.asks {
				r.boxes = append(r.boxes, box{first, last, f.ask(a[0]), f.ask(a[1]) - 1})
			}
		}
		key := r.key()
		if _, ok := kinds[key]; !ok {
			kinds[key] = int32(len(kinds))
		}
		r.like = kinds[key]
		r.bounds = box{s0: 1, s1: 0, p0: 1, p1: 0} // meets nothing
		for n, b := range r.boxes {
			if n == 0 {
				r.bounds = b
			}
			r.bounds = box{min(r.bounds.s0, b.s0), max(r.bounds.s1, b.s1), min(r.bounds.p0, b.p0), max(r.bounds.p1, b.p1)}
			f.items[r.side] = append(f.items[r.side], item{box: b, rule: int32(i)})
		}
	}
	return f
}

// key is what a rule says, without its name.
func (r *netRule) key() string {
	b := []byte{byte(r.levels), byte(r.levels >> 8), 0}
	if r.deny {
		b[2] = 1
	}
	for _, x := range r.boxes {
		for _, v := range []int32{x.s0, x.s1, x.p0, x.p1} {
			b = append(b, byte(v), byte(v>>8), byte(v>>16))
		}
	}
	return string(b)
}

// source returns the step that an address is in.
func (p *plane) source(a netip.Addr) int32 {
	return int32(sort.Search(len(p.addrs), func(i int) bool { return p.addrs[i].Compare(a) > 0 })) - 1
}

// ask returns the step that begins at v or holds it; the one behind all for the end.
func (p *plane) ask(v int32) int32 {
	if v >= asked {
		return int32(len(p.asks))
	}
	return int32(sort.Search(len(p.asks), func(i int) bool { return p.asks[i] > v })) - 1
}

// holed returns a box without the hole.
func (p *plane) holed(b box) []box {
	var out []box
	l, r := b, b
	l.s1, r.s0 = min(b.s1, p.hole-1), max(b.s0, p.hole+1)
	for _, x := range []box{l, r} {
		if x.s0 <= x.s1 {
			out = append(out, x)
		}
	}
	return out
}

// Addresses and ports that people know at a glance; the first that is in a cell is its packet's.
var (
	known = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("198.51.100.1"),
		netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("127.0.0.1")}
	usual = []int32{443, 80, 8443, 8080, 22, 53}
)

// packet returns one of a cell.
func (p *plane) packet(b *box) api.Packet {
	from := p.addrs[b.s0]
	if n := from.Next(); n.IsValid() && (int(b.s0)+1 == len(p.addrs) || n.Less(p.addrs[b.s0+1])) {
		from = n // the first of a network is seldom somebody
	}
	for _, a := range known {
		if s := p.source(a); b.s0 <= s && s <= b.s1 {
			from = a
			break
		}
	}
	v := p.asks[b.p0]
	for _, u := range usual {
		if s := p.ask(u - 1); b.p0 <= s && s <= b.p1 {
			v = u - 1
			break
		}
	}
	switch {
	case v == icmp:
		return api.Packet{From: from, Protocol: api.ICMP}
	case v >= ports:
		return api.Packet{From: from, Protocol: "UDP", Port: uint16(v - ports + 1)}
	}
	return api.Packet{From: from, Protocol: "TCP", Port: uint16(v + 1)}
}
