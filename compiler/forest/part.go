package forest

import (
	"slices"

	"lorica.dev/lorica/abi/flow"
)

// Rules are boxes in few places: of each field only the places matter where a rule begins
// or ends. What lies between two is a step, and a box has a first and a last step of each
// field. This is the same for addresses of either family and ports.

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

// A grower has the rules of one tree.
type grower struct {
	v6     bool
	starts [fieldCount][]number // the first value of each step
	all    box
	boxes  []box // by rule

	begins, ends []int32 // scratch of choose, and of table
}

func newGrower(v6 bool, all []flow.Rule, of []int32) *grower {
	g := &grower{v6: v6, boxes: make([]box, len(of))}
	for f := range fieldCount {
		field := flow.Field(f + 1)
		last := ones(width(field, v6))
		c := []number{{}}
		for _, r := range of {
			lo, hi := values(&all[r], field, last)
			if c = append(c, lo); hi != last {
				c = append(c, hi.next())
			}
		}
		slices.SortFunc(c, number.compare)
		c = slices.Clip(slices.Compact(c))
		g.starts[f] = c
		g.all[f].last = int32(len(c)) - 1
		for i, r := range of {
			lo, hi := values(&all[r], field, last)
			g.boxes[i][f] = span{step(c, lo), step(c, hi)}
		}
	}
	return g
}

// step returns which one a value is in.
func step(starts []number, n number) int32 {
	at, found := slices.BinarySearchFunc(starts, n, number.compare)
	if !found {
		at--
	}
	return int32(at)
}

// node returns a node that parts behind a step.
func (g *grower) node(f int, cut int32) flow.Node {
	n, last := flow.Node{Field: flow.Field(f + 1)}, g.starts[f][cut+1].before()
	if f < 2 {
		n.Addr = last.addr(g.v6)
	} else {
		n.Value = uint32(last.lo)
	}
	return n
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
	n.field, n.cut, n.children = f, cut, []*node{l, r}
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
