package space

import "slices"

// An item is a box of a rule in a cell: the levels at which no earlier rule has decided there.
type item struct {
	box
	rule  int32
	alive uint32
	full  bool // it covers the cell
}

// A visitor is shown cells.
type visitor interface {
	// done reports whether nothing new can be found in a cell.
	done(c *cell) bool
	// leaf is shown a cell where the same rules decide everywhere.
	leaf(c *cell)
}

// A cell is a box with the rules that can decide in it, by side, in their order.
type cell struct {
	box
	f       *field
	items   [2][]item
	covered [2]uint32 // levels at which rules decide all of it
}

// A walker divides cells.
type walker struct {
	f            *field
	b            *Budget
	v            visitor
	stack        []item
	begins, ends []int32
}

// walk shows v the cells of a box, where of each side the given items can decide. It
// reports whether the budget sufficed.
func (f *field) walk(b *Budget, v visitor, in box, items [2][]item) bool {
	w := &walker{f: f, b: b, v: v}
	for _, part := range f.holed(in) {
		c := &cell{box: part, f: f}
		for s := range f.sides {
			seen := w.keep(c, s, items[s])
			if !b.spend(seen / 8) { // these were only compared
				return false
			}
		}
		if !w.divide(c) {
			return false
		}
	}
	return true
}

// keep gives a cell those of a side's items that can decide in it, and returns how many it
// looked at.
func (w *walker) keep(c *cell, s int, from []item) (seen int) {
	start := len(w.stack)
	all := w.f.sides[s].levels
	covered, touched := uint32(0), uint32(0)
	for i := range from {
		x := &from[i]
		seen++
		if !x.meets(&c.box) {
			continue
		}
		r := &w.f.rules[x.rule]
		alive := r.levels &^ covered
		if alive == 0 {
			continue
		}
		full := x.covers(&c.box)
		w.stack = append(w.stack, item{x.box, x.rule, alive, full})
		if !full {
			touched |= alive
			continue
		}
		covered |= alive
		if first := alive &^ touched; r.deny && first != 0 { // denied here at all higher levels, too
			lowest := first & -first
			covered |= all &^ (lowest - 1)
		}
		if covered == all {
			break
		}
	}
	c.items[s], c.covered[s] = w.stack[start:len(w.stack):len(w.stack)], covered
	return seen
}

func (w *walker) divide(c *cell) bool {
	n, partial := 0, false
	for s := range c.items {
		n += len(c.items[s])
		partial = partial || slices.ContainsFunc(c.items[s], func(x item) bool { return !x.full })
	}
	if !w.b.spend(n + 1) {
		return false
	}
	if !partial {
		w.v.leaf(c)
		return true
	}
	if w.v.done(c) {
		return true
	}
	bySource, cut := w.choose(c)
	for half := range 2 {
		h := cell{box: c.box, f: c.f}
		switch {
		case bySource && half == 0:
			h.s1 = cut
		case bySource:
			h.s0 = cut + 1
		case half == 0:
			h.p1 = cut
		default:
			h.p0 = cut + 1
		}
		mark := len(w.stack)
		for s := range w.f.sides {
			w.keep(&h, s, c.items[s])
		}
		ok := w.divide(&h)
		w.stack = w.stack[:mark]
		if !ok {
			return false
		}
	}
	return true
}

// sampled are how many items of a cell say where to halve it.
const sampled = 256

// choose returns the last step of the first half: where the larger half has few rules, and
// few are in both.
func (w *walker) choose(c *cell) (bySource bool, cut int32) {
	found, best := false, 0
	every := 1 + (len(c.items[0])+len(c.items[1]))/sampled
	for {
		for _, src := range []bool{true, false} {
			w.begins, w.ends = w.begins[:0], w.ends[:0]
			lo, hi := c.s0, c.s1
			if !src {
				lo, hi = c.p0, c.p1
			}
			all := 0
			for s := range c.items {
				for i := 0; i < len(c.items[s]); i += every {
					x := &c.items[s][i]
					all++
					if x.full {
						continue
					}
					a, z := x.s0, x.s1
					if !src {
						a, z = x.p0, x.p1
					}
					if a > lo {
						w.begins = append(w.begins, a-1)
					}
					if z < hi {
						w.ends = append(w.ends, z)
					}
				}
			}
			slices.Sort(w.begins)
			slices.Sort(w.ends)
			for b, e := 0, 0; b < len(w.begins) || e < len(w.ends); {
				var at int32
				if e == len(w.ends) || b < len(w.begins) && w.begins[b] <= w.ends[e] {
					at = w.begins[b]
				} else {
					at = w.ends[e]
				}
				for e < len(w.ends) && w.ends[e] <= at {
					e++
				}
				left, right := all-(len(w.begins)-b), all-e
				for b < len(w.begins) && w.begins[b] <= at {
					b++
				}
				// Rules that end where the cut is are in both halves, or else cover one.
				score := 10*max(left, right) + 3*(left+right-all)
				if !found || score < best {
					found, best, bySource, cut = true, score, src, at
				}
			}
		}
		if found || every == 1 {
			return bySource, cut
		}
		every = 1
	}
}

// deciders returns, for each level, the rule that is cited when packets of a leaf are
// classified there: that of the lowest level that denies them, else the level's own.
func (c *cell) deciders(s int, out []int32) []int32 {
	side := &c.f.sides[s]
	out = out[:0]
	denied := false
	for l := range side.p.Levels.Names {
		if denied {
			out = append(out, out[l-1])
			continue
		}
		d, deny := int32(noRule), side.deny
		for i := range c.items[s] {
			x := &c.items[s][i]
			if r := &c.f.rules[x.rule]; r.levels>>l&1 == 1 {
				d, deny = x.rule, r.deny
				break
			}
		}
		out, denied = append(out, d), deny
	}
	return out
}

// possible are the levels at which an item may be cited in its cell: a denial counts at all
// that are higher.
func (c *cell) possible(s int, x *item) uint32 {
	if !c.f.rules[x.rule].deny {
		return x.alive
	}
	return c.f.sides[s].levels &^ (x.alive&-x.alive - 1)
}
