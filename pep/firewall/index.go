package firewall

import (
	"cmp"
	"container/heap"
	"math"
	"net/netip"
	"slices"
	"sort"

	"lorica.dev/lorica/abi/flow"
)

// A list is a rule list with an index: a tuple space (Srinivasan, Suri and
// Varghese, SIGCOMM 1999) over prefix length and protocol, in which the ports of
// the rules of one source are resolved to intervals beforehand. A flow asks one
// map for each length and protocol that occurs, at most 33 x 2 for IPv4,
// starting with those that hold the earliest rules, and stops where no earlier
// rule can follow.
type list struct {
	flow.List
	v4, v6 []tuple // ordered by first
}

// A tuple holds the rules of one prefix length and protocol.
type tuple struct {
	bits     int
	protocol flow.Protocol
	first    int // index of the earliest rule in it
	ports    map[netip.Addr]intervals
}

// Intervals are consecutive ranges of ports; each one's rule is the earliest
// that matches its ports. The first starts at port 0.
type intervals []interval

type interval struct {
	lo   uint16
	rule int // none where no rule matches
}

const none = math.MaxInt

func newList(l *flow.List) list {
	type key struct {
		src      netip.Prefix
		protocol flow.Protocol
	}
	groups := map[key][]int{}
	for i := range l.Rules {
		k := key{l.Rules[i].Src, l.Rules[i].Protocol}
		groups[k] = append(groups[k], i)
	}
	type class struct {
		v4       bool
		bits     int
		protocol flow.Protocol
	}
	tuples := map[class]*tuple{}
	for k, rules := range groups {
		c := class{k.src.Addr().Is4(), k.src.Bits(), k.protocol}
		t := tuples[c]
		if t == nil {
			t = &tuple{bits: c.bits, protocol: c.protocol, first: none, ports: map[netip.Addr]intervals{}}
			tuples[c] = t
		}
		t.first = min(t.first, rules[0])
		t.ports[k.src.Addr()] = newIntervals(l.Rules, rules)
	}
	x := list{List: *l}
	for c, t := range tuples {
		if c.v4 {
			x.v4 = append(x.v4, *t)
		} else {
			x.v6 = append(x.v6, *t)
		}
	}
	byFirst := func(a, b tuple) int { return cmp.Compare(a.first, b.first) }
	slices.SortFunc(x.v4, byFirst)
	slices.SortFunc(x.v6, byFirst)
	return x
}

// match returns the first rule that matches f, which must be plain, or none.
func (l *list) match(f flow.Flow) int {
	tuples := l.v6
	if f.Src.Is4() {
		tuples = l.v4
	}
	best := none
	for i := range tuples {
		t := &tuples[i]
		if t.first >= best {
			break
		}
		if t.protocol != flow.AnyProtocol && t.protocol != f.Protocol {
			continue
		}
		src, err := f.Src.Prefix(t.bits)
		if err != nil {
			continue // cannot be: a tuple's length fits its family
		}
		best = min(best, t.ports[src.Addr()].at(f.DstPort))
	}
	return best
}

func (v intervals) at(port uint16) int {
	i := sort.Search(len(v), func(i int) bool { return v[i].lo > port })
	if i == 0 {
		return none
	}
	return v[i-1].rule
}

// newIntervals sweeps the ports from 0 upwards. The rules that are open at a
// port lie in a heap with the earliest on top; those that ended leave it when
// they come up.
func newIntervals(rules []flow.Rule, members []int) intervals {
	edges := []int{0}
	for _, i := range members {
		edges = append(edges, int(rules[i].PortLo), int(rules[i].PortHi)+1)
	}
	slices.Sort(edges)
	edges = slices.Compact(edges)
	byStart := slices.Clone(members)
	slices.SortStableFunc(byStart, func(a, b int) int { return cmp.Compare(rules[a].PortLo, rules[b].PortLo) })

	var out intervals
	var open ints
	for _, port := range edges {
		if port > math.MaxUint16 {
			break
		}
		for len(byStart) > 0 && int(rules[byStart[0]].PortLo) == port {
			heap.Push(&open, byStart[0])
			byStart = byStart[1:]
		}
		for len(open) > 0 && int(rules[open[0]].PortHi) < port {
			heap.Pop(&open)
		}
		winner := none
		if len(open) > 0 {
			winner = open[0]
		}
		if len(out) == 0 || out[len(out)-1].rule != winner {
			out = append(out, interval{uint16(port), winner})
		}
	}
	return out
}

// ints is a heap of rule indices, the least on top.
type ints []int

func (h ints) Len() int           { return len(h) }
func (h ints) Less(i, j int) bool { return h[i] < h[j] }
func (h ints) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *ints) Push(x any)        { *h = append(*h, x.(int)) }
func (h *ints) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
