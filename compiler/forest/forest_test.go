package forest

import (
	"math/big"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"lorica.dev/lorica/abi/flow"
)

// A place is all flows between two, of one family: in each field from lo to hi.
type place struct {
	addrs  [2][2]netip.Addr // source and destination
	values [6][2]uint32     // by flow.Field
}

func everywhere(v6 bool) place {
	p := place{values: [6][2]uint32{flow.FieldFrom: {0, 65535}, flow.FieldPort: {0, 65535}, flow.FieldProtocol: {0, 255}}}
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if v6 {
		all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	for i := range p.addrs {
		p.addrs[i] = [2]netip.Addr{all.Addr(), last(all)}
	}
	return p
}

func last(p netip.Prefix) netip.Addr {
	a := p.Addr()
	b := a.AsSlice()
	for i := range b {
		for bit := range 8 {
			if 8*i+bit >= p.Bits() {
				b[i] |= 0x80 >> bit
			}
		}
	}
	a, _ = netip.AddrFromSlice(b)
	return a
}

// of is the place that a rule is about.
func of(r *flow.Rule) place {
	p := everywhere(!r.Src.Addr().Is4())
	p.addrs[0] = [2]netip.Addr{r.Src.Addr(), last(r.Src)}
	if r.Dst.IsValid() {
		p.addrs[1] = [2]netip.Addr{r.Dst.Addr(), last(r.Dst)}
	}
	p.values[flow.FieldFrom] = [2]uint32{uint32(r.FromLo), uint32(r.FromHi)}
	p.values[flow.FieldPort] = [2]uint32{uint32(r.PortLo), uint32(r.PortHi)}
	if r.Protocol != flow.AnyProtocol {
		p.values[flow.FieldProtocol] = [2]uint32{uint32(r.Protocol), uint32(r.Protocol)}
	}
	return p
}

// in reports whether p has something of b, and all of it.
func (p *place) in(b *place) (some, all bool) {
	some, all = true, true
	for i := range p.addrs {
		some = some && p.addrs[i][0].Compare(b.addrs[i][1]) <= 0 && b.addrs[i][0].Compare(p.addrs[i][1]) <= 0
		all = all && p.addrs[i][0].Compare(b.addrs[i][0]) <= 0 && b.addrs[i][1].Compare(p.addrs[i][1]) <= 0
	}
	for i := range p.values {
		some = some && p.values[i][0] <= b.values[i][1] && b.values[i][0] <= p.values[i][1]
		all = all && p.values[i][0] <= b.values[i][0] && b.values[i][1] <= p.values[i][1]
	}
	return some, all
}

// part returns what of a place a child of a table has, whose rules are about all places
// of a list. It fails where the bits before those that number children differ.
func (p *place) part(t *testing.T, n *flow.Node, child int, rules []place) place {
	ends := func(x *place) (lo, hi *big.Int) {
		if n.Field > flow.FieldDst {
			return big.NewInt(int64(x.values[n.Field][0])), big.NewInt(int64(x.values[n.Field][1]))
		}
		a := x.addrs[n.Field-1]
		return new(big.Int).SetBytes(a[0].AsSlice()), new(big.Int).SetBytes(a[1].AsSlice())
	}
	least, most := ends(p)
	above := func(x *big.Int) *big.Int { return new(big.Int).Rsh(x, uint(n.Bits+n.Shift)) }
	block := above(least)
	for i := range rules {
		lo, hi := ends(&rules[i])
		if lo.Cmp(least) < 0 {
			lo = least
		}
		if hi.Cmp(most) > 0 {
			hi = most
		}
		if i == 0 {
			block = above(lo)
		}
		if above(lo).Cmp(block) != 0 || above(hi).Cmp(block) != 0 {
			t.Fatalf("%+v: the rules are about more than it tells apart: %v", n, rules)
		}
	}
	block.Lsh(block, uint(n.Bits)).Add(block, big.NewInt(int64(child))).Lsh(block, uint(n.Shift))
	last := new(big.Int).Lsh(big.NewInt(1), uint(n.Shift))
	last.Add(last, block).Sub(last, big.NewInt(1))
	if block.Cmp(least) > 0 {
		least = block
	}
	if last.Cmp(most) < 0 {
		most = last
	}
	c := *p
	if n.Field > flow.FieldDst {
		c.values[n.Field] = [2]uint32{uint32(least.Uint64()), uint32(most.Uint64())}
		return c
	}
	for i, x := range []*big.Int{least, most} {
		a, _ := netip.AddrFromSlice(x.FillBytes(make([]byte, p.addrs[0][0].BitLen()/8)))
		c.addrs[n.Field-1][i] = a
	}
	return c
}

// empty reports whether nothing is in p.
func (p *place) empty() bool {
	some, _ := p.in(p)
	return !some
}

// about returns which rules of some are about a place, up to the first that is about all.
func about(rules []flow.Rule, some []int, b *place) (list []uint32, places []place) {
	for _, r := range some {
		p := of(&rules[r])
		some, all := p.in(b)
		if some {
			list, places = append(list, uint32(r)), append(places, p)
		}
		if all {
			break
		}
	}
	return list, places
}

// right holds the leaves of a list's trees to what makes a forest right.
// It returns how many nodes are tables.
func right(t *testing.T, l *flow.List) (tables int) {
	t.Helper()
	homes := make([]int, len(l.Rules))
	for i := range l.Trees {
		tree := &l.Trees[i]
		var members []int
		for r := range l.Rules {
			if tree.Has(&l.Rules[r]) {
				members = append(members, r)
				homes[r]++
			}
		}
		boxes := make([]place, len(tree.Nodes))
		boxes[0] = everywhere(tree.V6)
		entries := tree.Rules
		for n, x := range tree.Nodes {
			b := &boxes[n]
			if x.Bits > 0 {
				tables++
				var rules []place
				if !b.empty() {
					_, rules = about(l.Rules, members, b)
				}
				for c := range 1 << x.Bits {
					boxes[int(x.Child)+c] = b.part(t, &x, c, rules)
				}
				continue
			}
			if x.Field != flow.FieldNone {
				lo, hi := *b, *b
				if x.Field <= flow.FieldDst {
					lo.addrs[x.Field-1][1], hi.addrs[x.Field-1][0] = x.Addr, x.Addr.Next()
				} else {
					lo.values[x.Field][1], hi.values[x.Field][0] = x.Value, x.Value+1
				}
				boxes[x.Child], boxes[x.Child+1] = lo, hi
				continue
			}
			want, _ := about(l.Rules, members, b)
			if got := entries[:x.Child]; !b.empty() && !slices.Equal(got, want) {
				t.Fatalf("tree %d: the leaf of %+v has %d, and not %d", i, *b, got, want)
			}
			entries = entries[x.Child:]
		}
		if len(entries) > 0 {
			t.Fatalf("tree %d: %d entries of no leaf", i, len(entries))
		}
	}
	for r, n := range homes {
		if n != 1 {
			t.Fatalf("rule %d is of %d trees", r, n)
		}
	}
	s := flow.Section{Lists: []flow.List{*l}}
	if _, err := flow.Open(s.Encode()); err != nil {
		t.Fatal(err)
	}
	return tables
}

// random makes rules of few values, so that they overlap, and repeat each other.
func random(r *rand.Rand, n int) *flow.List {
	pick := func() byte { return []byte{0, 1, 127, 128, 254, 255}[r.IntN(6)] }
	prefix := func(v6 bool) netip.Prefix {
		a := netip.AddrFrom4([4]byte{pick(), pick(), pick(), pick()})
		if v6 {
			var b [16]byte
			for i := range b {
				b[i] = pick()
			}
			b[0] |= 0x20
			a = netip.AddrFrom16(b)
		}
		bits := []int{0, 0, 1, 8, a.BitLen()/2 - 1, a.BitLen() / 2, 24, a.BitLen() - 1, a.BitLen(), r.IntN(a.BitLen() + 1)}[r.IntN(10)]
		p, _ := a.Prefix(bits)
		return p
	}
	ports := func() (lo, hi uint16) {
		switch lo = []uint16{0, 1, 22, 80, 65534, 65535}[r.IntN(6)]; r.IntN(3) {
		case 0:
			return lo, lo
		case 1:
			return lo, lo + uint16(r.IntN(65536-int(lo)))
		}
		return 0, 65535
	}
	l := &flow.List{}
	for range n {
		v6 := r.IntN(3) == 0
		x := flow.Rule{Src: prefix(v6), Protocol: []flow.Protocol{flow.AnyProtocol, flow.ICMP, flow.TCP, flow.UDP, 255}[r.IntN(5)]}
		if r.IntN(2) == 0 {
			x.Dst = prefix(v6)
		}
		x.FromLo, x.FromHi = ports()
		x.PortLo, x.PortHi = ports()
		if r.IntN(8) == 0 && len(l.Rules) > 0 {
			x = l.Rules[r.IntN(len(l.Rules))]
		}
		l.Rules = append(l.Rules, x)
	}
	return l
}

func TestLeavesHaveTheRulesOfTheirBoxes(t *testing.T) {
	trees, leaves, tables := 0, 0, 0
	for seed := range uint64(80) {
		l := random(rand.New(rand.NewPCG(seed, 1)), 1+int(seed)*3)
		Plant(l)
		if (len(l.Trees) == 0) != (len(l.Rules) < fewRules) {
			t.Errorf("%d rules have %d trees", len(l.Rules), len(l.Trees))
		}
		if len(l.Trees) > 0 {
			tables += right(t, l)
		}
		for i := range l.Trees {
			trees++
			leaves += (len(l.Trees[i].Nodes) + 1) / 2
		}
	}
	if trees < 400 || leaves < 10_000 || tables < 150 {
		t.Errorf("only %d trees with %d leaves and %d tables", trees, leaves, tables)
	}
}

// Rule sets that are made to be copied everywhere, or never to be parted.
func hostile(n int) map[string]*flow.List {
	v4, v6 := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")
	sets := map[string]*flow.List{}
	add := func(name string, change func(i int, r *flow.Rule)) {
		l := &flow.List{}
		for i := range n {
			r := flow.Rule{Src: v4, FromHi: 65535, PortHi: 65535}
			change(i, &r)
			l.Rules = append(l.Rules, r)
		}
		sets[name] = l
	}
	add("all the same", func(int, *flow.Rule) {})
	add("a grid of ports", func(i int, r *flow.Rule) {
		if port := uint16(1 + i/2); i%2 == 0 {
			r.FromLo, r.FromHi = port, port
		} else {
			r.PortLo, r.PortHi = port, port
		}
	})
	add("ports within ports", func(i int, r *flow.Rule) { r.PortLo, r.PortHi = 32767-uint16(i%32767), 32768+uint16(i%32767) })
	add("planes of three fields", func(i int, r *flow.Rule) {
		switch port := uint16(1 + i/3); i % 3 {
		case 0:
			r.FromLo, r.FromHi = port, port
		case 1:
			r.PortLo, r.PortHi = port, port
		case 2:
			r.Protocol = flow.Protocol(1 + i%255)
		}
	})
	add("overlapping ranges", func(i int, r *flow.Rule) {
		r.FromLo, r.FromHi = uint16(i), uint16(i)+30_000
		r.PortLo, r.PortHi = uint16(i*7%35_000), uint16(i*7%35_000)+30_000
	})
	add("prefixes within prefixes", func(i int, r *flow.Rule) {
		r.Src, r.Dst = netip.PrefixFrom(v6.Addr(), i%129), netip.PrefixFrom(v6.Addr(), 128-i%128)
		r.PortLo = uint16(i)
	})
	return sets
}

func TestWhatARuleSetCostsIsBounded(t *testing.T) {
	const n = 20_000
	for name, l := range hostile(n) {
		begun := time.Now()
		Plant(l)
		size := 0
		for i := range l.Trees {
			size += len(l.Trees[i].Nodes) + len(l.Trees[i].Rules)
		}
		if size > (copies+1)*n+len(l.Trees)*(spare+n/sparePart) {
			t.Errorf("%s: %d nodes and entries", name, size)
		}
		s := flow.Section{Lists: []flow.List{*l}}
		b := s.Encode()
		v, err := flow.Open(b) // which bounds the depth
		if err != nil || len(v.Lists) != 1 {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s: %d nodes and entries of %d rules, %d bytes, in %v", name, size, n, len(b), time.Since(begun).Round(time.Millisecond))
	}
	for _, l := range hostile(300) {
		Plant(l)
		right(t, l)
	}
}
