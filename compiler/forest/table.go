package forest

import (
	"math"
	"sort"

	"lorica.dev/lorica/abi/flow"
)

// A table parts a node by some bits of a field at once, where nodes that halve would look
// into memory once for each. Bits before those, which all rules of the node have in common,
// are passed over: who has others meets rules that do not match.

const (
	tabled  = 4   // rules; nodes with no more get no table
	slots   = 2   // children of a table, at most, for each rule
	repeats = 1.5 // rules of all the children, at most, for each rule
	gained  = 1.5 // levels of nodes that halve, at least, in whose place a table stands
)

// table makes a node one where that is worth it, and reports whether it is.
func (g *grower) table(n *node) bool {
	if len(n.rules) <= tabled {
		return false
	}
	best := 0.0
	for f := range fieldCount {
		block := g.block(n, f)
		most := min(block.length, flow.MaxBits)
		for most > 0 && 1<<most > slots*len(n.rules) {
			most--
		}
		if most == 0 {
			continue
		}
		g.places(n, f, block.length-most, most)
		for bits := most; bits > 0; bits-- {
			gain, copies := g.gain(most, bits)
			if copies > repeats {
				continue
			}
			if gain -= 2 * (copies - 1); gain >= gained && gain > best {
				best, n.field, n.bits, n.shift = gain, f, uint8(bits), uint8(block.length-bits)
			}
		}
	}
	if n.bits == 0 {
		return false
	}
	g.fill(n)
	return true
}

// A block is all values that have the same bits but for the last few.
type block struct {
	first  number
	length int // in bits
}

// block returns the least block that all rules of a node have their values of a field in,
// as far as the node goes.
func (g *grower) block(n *node, f int) block {
	first, last := n.box[f].last, n.box[f].first
	for _, r := range n.rules {
		s := g.boxes[r][f]
		first, last = min(first, s.first), max(last, s.last)
	}
	lo, hi := g.starts[f][max(first, n.box[f].first)], g.end(f, min(last, n.box[f].last))
	length := number{lo.hi ^ hi.hi, lo.lo ^ hi.lo}.length()
	return block{lo.right(length).left(length), length}
}

// end returns the last value of a step.
func (g *grower) end(f int, step int32) number {
	if int(step)+1 == len(g.starts[f]) {
		return ones(width(flow.Field(f+1), g.v6))
	}
	return g.starts[f][step+1].before()
}

// places notes the first and the last child that each rule of a node would be in.
func (g *grower) places(n *node, f, shift, bits int) {
	g.begins, g.ends = g.begins[:0], g.ends[:0]
	mask := uint64(1)<<bits - 1
	for _, r := range n.rules {
		s := g.boxes[r][f]
		lo, hi := g.starts[f][max(s.first, n.box[f].first)], g.end(f, min(s.last, n.box[f].last))
		g.begins, g.ends = append(g.begins, int32(lo.right(shift).lo&mask)), append(g.ends, int32(hi.right(shift).lo&mask))
	}
}

// gain returns how many levels of nodes that halve a table of so many bits saves the
// rules whose places are noted by so many bits, and how often it has each.
func (g *grower) gain(noted, bits int) (levels, copies float64) {
	counts := make([]int32, 1<<bits+1)
	for i := range g.begins {
		counts[g.begins[i]>>(noted-bits)]++
		counts[g.ends[i]>>(noted-bits)+1]--
	}
	all, squares, now := 0.0, 0.0, int32(0)
	for _, c := range counts {
		now += c
		all += float64(now)
		squares += float64(now) * float64(now)
	}
	rules := float64(len(g.begins))
	return math.Log2(rules * all / squares), all / rules
}

// fill gives a table its children.
func (g *grower) fill(n *node) {
	f, b := n.field, g.block(n, n.field)
	g.places(n, f, int(n.shift), int(n.bits))
	many := make([]int32, 1<<n.bits)
	for i := range g.begins {
		for c := g.begins[i]; c <= g.ends[i]; c++ {
			many[c]++
		}
	}
	from, end := n.box[f].first, n.box[f].last
	for c := range many {
		child := &node{box: n.box, depth: n.depth + 1, rules: make([]int32, 0, many[c])}
		lo := b.first.or(number{lo: uint64(c)}.left(int(n.shift)))
		hi := lo.or(ones(int(n.shift)))
		within := func(last number) int32 { // the last step that begins there or before
			return from + int32(sort.Search(int(end-from), func(i int) bool { return g.starts[f][from+int32(i)+1].compare(last) > 0 }))
		}
		from = within(lo)
		child.box[f].first = from
		from = within(hi)
		child.box[f].last = from
		n.children = append(n.children, child)
	}
	for i, r := range n.rules {
		for c := g.begins[i]; c <= g.ends[i]; c++ {
			n.children[c].rules = append(n.children[c].rules, r)
		}
	}
	for _, c := range n.children {
		g.prune(c)
	}
}
