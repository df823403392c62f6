package forest

import (
	"cmp"
	"net/netip"
	"slices"

	"lorica.dev/lorica/abi/flow"
)

// Rules are boxes in few places: of each field only the places matter where a rule begins
// or ends. Those are the cuts; what lies between two is a step, and a box has a first and
// a last step of each field. This is the same for addresses of either family and ports.

// fieldCount are the fields of a flow; field f here is flow.Field(f + 1).
const fieldCount = 5

type span struct{ first, last int32 }

type box [fieldCount]span

func (b *box) covers(c *box) bool {
	for f := range b {
		if b[f].first > c[f].first || b[f].last < c[f].last {
			return false
		}
	}
	return true
}

// cuts are where rules begin, or end just before, ascending.
type cuts struct {
	addrs  [2][]netip.Addr
	values [fieldCount][]uint32
}

// node returns a node that parts before a cut.
func (c *cuts) node(f int, cut int32) flow.Node {
	n := flow.Node{Field: flow.Field(f + 1)}
	if f < 2 {
		n.Addr = c.addrs[f][cut].Prev()
	} else {
		n.Value = c.values[f][cut] - 1
	}
	return n
}

// A grower has the rules of one tree.
type grower struct {
	cuts  cuts
	all   box
	boxes []box // by rule

	begins, ends []int32 // scratch of choose
}

func newGrower(all []flow.Rule, of []int32) *grower {
	g := &grower{boxes: make([]box, len(of))}
	lo, hi := make([]netip.Addr, len(of)), make([]netip.Addr, len(of))
	for f := range 2 {
		for i, r := range of {
			p := all[r].Src
			if f == 1 {
				if p = all[r].Dst; p.Bits() <= 0 {
					lo[i], hi[i] = netip.Addr{}, netip.Addr{}
					continue
				}
			}
			lo[i], hi[i] = p.Addr(), beyond(p)
		}
		c := ascending(lo, hi, netip.Addr.Compare)
		c = slices.DeleteFunc(c, func(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() })
		g.cuts.addrs[f] = c
		g.all[f].last = int32(len(c))
		for i := range of {
			g.boxes[i][f] = steps(c, lo[i], hi[i], hi[i].IsValid(), netip.Addr.Compare)
		}
	}
	from, to := make([]uint32, len(of)), make([]uint32, len(of))
	for f := 2; f < fieldCount; f++ {
		end := uint32(1 << 16)
		for i, r := range of {
			switch x := &all[r]; {
			case flow.Field(f+1) == flow.FieldFrom:
				from[i], to[i] = uint32(x.FromLo), uint32(x.FromHi)+1
			case flow.Field(f+1) == flow.FieldPort:
				from[i], to[i] = uint32(x.PortLo), uint32(x.PortHi)+1
			case x.Protocol == flow.AnyProtocol:
				from[i], to[i] = 0, 1<<8
			default:
				from[i], to[i] = uint32(x.Protocol), uint32(x.Protocol)+1
			}
		}
		if flow.Field(f+1) == flow.FieldProtocol {
			end = 1 << 8
		}
		c := slices.DeleteFunc(ascending(from, to, cmp.Compare[uint32]), func(v uint32) bool { return v == 0 || v == end })
		g.cuts.values[f] = c
		g.all[f].last = int32(len(c))
		for i := range of {
			g.boxes[i][f] = steps(c, from[i], to[i], to[i] < end, cmp.Compare[uint32])
		}
	}
	return g
}

// beyond returns the address behind the last one of p, which is not valid behind the
// last one of all.
func beyond(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a.Next()
}

func ascending[T comparable](a, b []T, compare func(T, T) int) []T {
	c := append(slices.Clone(a), b...)
	slices.SortFunc(c, compare)
	return slices.Compact(c)
}

// steps returns the span from lo to just before hi, or to the end of all.
func steps[T any](cuts []T, lo, hi T, ends bool, compare func(T, T) int) span {
	s := span{last: int32(len(cuts))}
	at, found := slices.BinarySearchFunc(cuts, lo, compare)
	if s.first = int32(at); found {
		s.first++
	}
	if ends {
		at, _ := slices.BinarySearchFunc(cuts, hi, compare)
		s.last = int32(at)
	}
	return s
}

// prune leaves out the rules behind the first that is about all of the node's box.
func (g *grower) prune(n *node) {
	for i, r := range n.rules {
		if g.boxes[r].covers(&n.box) {
			n.rules = n.rules[:i+1]
			return
		}
	}
}

// part gives a node its children, and reports whether one of them has fewer rules.
func (g *grower) part(n *node) bool {
	f, cut := g.choose(n, 1+(len(n.rules)-1)/sampled)
	if f == none && len(n.rules) > sampled {
		f, cut = g.choose(n, 1)
	}
	if f == none {
		return false
	}
	l, r := &node{box: n.box, depth: n.depth + 1}, &node{box: n.box, depth: n.depth + 1}
	l.box[f].last, r.box[f].first = cut, cut+1
	for _, rule := range n.rules {
		s := &g.boxes[rule][f]
		if s.first <= cut {
			l.rules = append(l.rules, rule)
		}
		if s.last > cut {
			r.rules = append(r.rules, rule)
		}
	}
	g.prune(l)
	g.prune(r)
	if min(len(l.rules), len(r.rules)) == len(n.rules) {
		return false
	}
	n.field, n.cut, n.children = f, cut, [2]*node{l, r}
	return true
}

// choose returns where to part a node, as every so many of its rules say: where the
// larger child has few rules, and few are in both.
func (g *grower) choose(n *node, every int) (field int, cut int32) {
	field = none
	best := 0
	for f := range fieldCount {
		in := n.box[f]
		if in.first == in.last {
			continue
		}
		g.begins, g.ends = g.begins[:0], g.ends[:0]
		all := 0
		for i := 0; i < len(n.rules); i += every {
			s := &g.boxes[n.rules[i]][f]
			if s.first > in.first {
				g.begins = append(g.begins, s.first-1)
			}
			if s.last < in.last {
				g.ends = append(g.ends, s.last)
			}
			all++
		}
		slices.Sort(g.begins)
		slices.Sort(g.ends)
		// Before the cut begin all but those of begins that are not before it; beyond it end
		// all but those of ends that are.
		for b, e := 0, 0; b < len(g.begins) || e < len(g.ends); {
			var at int32
			if e == len(g.ends) || b < len(g.begins) && g.begins[b] <= g.ends[e] {
				at = g.begins[b]
			} else {
				at = g.ends[e]
			}
			for e < len(g.ends) && g.ends[e] <= at {
				e++
			}
			left, right := all-(len(g.begins)-b), all-e
			for b < len(g.begins) && g.begins[b] <= at {
				b++
			}
			score := 10*max(left, right) + 3*(left+right-all)
			if max(left, right) == all { // the last resort: rules within rules. A smaller box is covered by more of them
				if score = 14*all + max(all-2*min(left, right), 2*min(left, right)-all); min(left, right) == all {
					continue
				}
			}
			if field == none || score < best {
				field, cut, best = f, at, score
			}
		}
	}
	return field, cut
}
