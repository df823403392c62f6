package verify

import "bytes"

const (
	mostAttributes = 64
	mostNesting    = 32 // of constants, and steps from the root of the index
	mostStack      = 128
	mostGathered   = 128 // by one set or record of an expression
)

// A section is authz while it is verified.
type section struct {
	*reader
	text                                                                                             []byte
	strings, head, attributes, entities, lists, constants, code, rules, nodes, groups, slots, routes table
	stack                                                                                            int // the most values that code has on it
}

func authorization(r *reader) map[string]int {
	s := &section{reader: r, strings: r.table("string", 2)}
	s.text = r.blob()
	s.head = table{r: r, name: "head", at: r.at, n: 1, width: 3}
	r.bytes(12)
	r.within(0, 1)
	r.blob()
	r.blob()
	s.attributes = table{name: "attribute", n: r.count(16)}
	r.want(s.attributes.n <= mostAttributes, r.at-4, "%d attributes, and at most %d may be", s.attributes.n, mostAttributes)
	for range s.attributes.n {
		r.blob()
		for _, field := range [][2]byte{{1, 7}, {0, 1}, {0, 1}, {1, 15}} { // type, set, optional, source
			r.within(field[0], field[1])
		}
		r.blob()
		r.blob()
	}
	s.entities, s.lists, s.constants = r.table("entity", 6), r.table("list element", 1), r.table("constant", 3)
	s.code, s.rules, s.nodes = r.table("instruction", 3), r.table("rule", 5), r.table("node", 4)
	s.groups, s.slots, s.routes = r.table("group", 6), r.table("slot", 2), r.table("route", 4)
	r.end()

	for i := range s.strings.n {
		s.strings.span(i, 0, table{name: "the blob's bytes", n: len(s.text)})
		s.strings.want(i == 0 || bytes.Compare(s.str(i-1), s.str(i)) < 0, i, 0, "it does not come after the one before")
	}
	for col, of := range []table{s.strings, s.strings, s.entities} {
		if s.head.word(0, col) != none {
			s.head.index(0, col, of)
		}
	}
	s.checkConstants()
	s.checkEntities()
	for i := range s.code.n {
		s.operands(i)
	}
	for i := range s.rules.n {
		s.rules.index(i, 0, s.strings)
		s.rules.index(i, 1, s.strings)
		s.rules.want(s.rules.word(i, 2) <= 1, i, 2, "it neither permits nor forbids")
		first, end := s.rules.span(i, 3, s.code)
		s.run(first, end, true)
	}
	deepest := s.tree()
	for i := range s.routes.n {
		s.routes.index(i, 0, s.strings)
		s.routes.after(i, 0)
		s.routes.index(i, 1, s.entities)
		reads := uint64(s.routes.word(i, 3))<<32 | uint64(s.routes.word(i, 2))
		s.routes.want(reads>>s.attributes.n == 0, i, 2, "it reads attributes that there are not")
	}
	return map[string]int{"strings": s.strings.n, "attributes": s.attributes.n, "entities": s.entities.n, "constants": s.constants.n, "instructions": s.code.n,
		"rules": s.rules.n, "nodes": s.nodes.n, "groups": s.groups.n, "slots": s.slots.n, "routes": s.routes.n, "deepest stack": s.stack, "deepest node": deepest}
}

// str returns the bytes of a string.
func (s *section) str(i int) []byte { return s.text[s.strings.word(i, 0):][:s.strings.word(i, 1)] }

// ascending holds list elements to rising, and to being indices of a table.
func (s *section) ascending(first, end int, of table) {
	for i := first; i < end; i++ {
		s.lists.index(i, 0, of)
		s.lists.want(i == first || s.lists.less(i-1, i, 0), i, 0, "it does not come after the one before")
	}
}

func (s *section) checkConstants() {
	c, depth := s.constants, make([]int, s.constants.n)
	for i := range c.n {
		inner := func(at int) int { // an element of constant i
			e := s.lists.index(at, 0, c)
			s.lists.want(e < i, at, 0, "constant %d is not before constant %d, which holds it", e, i)
			depth[i] = max(depth[i], depth[e]+1)
			return e
		}
		a, b := c.word(i, 1), c.word(i, 2)
		switch c.word(i, 0) {
		case 1:
			c.want(a <= 1 && b == 0, i, 1, "no truth value")
		case 2, 3, 4, 5:
		case 6:
			c.index(i, 1, s.strings)
			c.zero(i, 2)
		case 7:
			c.index(i, 1, s.entities)
			c.zero(i, 2)
		case 8:
			n := len(s.str(c.index(i, 1, s.strings)))
			c.want((n == 4 || n == 16) && int64(b) <= int64(8*n), i, 1, "%d bytes with a prefix of %d are no address", n, b)
		case 9:
			first, end := c.span(i, 1, s.lists)
			for at, before := first, 0; at < end; at++ {
				e := inner(at)
				s.lists.want(at == first || c.less(before, e, 0, 2, 1), at, 0, "constant %d does not come after constant %d in a set", e, before)
				before = e
			}
		case 10:
			c.want(int64(a)+2*int64(b) <= int64(s.lists.n), i, 1, "there are no %d pairs from list element %d on", b, a)
			for at := int(a); at < int(a)+2*int(b); at += 2 {
				s.lists.index(at, 0, s.strings)
				s.lists.want(at == int(a) || s.lists.less(at-2, at, 0), at, 0, "the name does not come after the one before")
				inner(at + 1)
			}
		default:
			c.want(false, i, 0, "%d is no kind of constant", c.word(i, 0))
		}
		c.want(depth[i] <= mostNesting, i, 0, "it is nested more than %d deep", mostNesting)
	}
}

func (s *section) checkEntities() {
	e := s.entities
	for i := range e.n {
		e.index(i, 0, s.strings)
		e.index(i, 1, s.strings)
		e.after(i, 0, 1)
		for _, col := range []int{2, 3} {
			if e.word(i, col) != none {
				e.want(s.constants.word(e.index(i, col, s.constants), 0) == 10, i, col, "constant %d is no record", e.word(i, col))
			}
		}
		first, end := e.span(i, 4, s.lists)
		s.ascending(first, end, e)
		for at := first; at < end; at++ {
			s.lists.want(int(s.lists.word(at, 0)) != i, at, 0, "entity %d is in itself", i)
		}
	}
}

// effects are how many values operations take and leave, by the first operation of
// those that are alike; what others do depends on their operands.
var effects = []struct{ first, last, takes, leaves uint32 }{
	{1, 8, 0, 1}, {9, 28, 1, 1}, {29, 50, 2, 1}, {51, 52, none, 1}, {53, 53, 1, 2}, {54, 54, 1, 0}, {55, 55, 0, 0}, {56, 59, 1, 0}, {60, 63, 0, 0},
}

// operands checks an instruction by itself: what is behind its two words.
func (s *section) operands(i int) {
	c, op, a, b := s.code, s.code.word(i, 0), s.code.word(i, 1), s.code.word(i, 2)
	c.want(op >= 1 && op <= 63, i, 0, "there is no operation %d", op)
	if op >= 60 {
		c.want(a <= 2, i, 1, "neither principal nor action nor resource")
		c.index(i, 2, map[uint32]table{60: s.entities, 61: s.entities, 62: s.constants, 63: s.strings}[op])
		if op == 62 {
			s.setOfEntities(i, int(b))
		}
		return
	}
	if op == 52 {
		c.want(b <= mostGathered, i, 2, "too many members")
		first, end := c.span(i, 1, s.lists)
		s.ascending(first, end, s.strings)
		return
	}
	c.zero(i, 2)
	switch op {
	case 2:
		c.index(i, 1, s.constants)
	case 7, 8:
		c.index(i, 1, s.attributes)
	case 9, 10, 15, 16:
		c.index(i, 1, s.strings)
	case 17:
		c.want(a >= 4 && a <= 7, i, 1, "type %d has no extension function", a)
	case 51:
		c.want(a <= mostGathered, i, 1, "too many elements")
	case 55, 56, 57, 58: // jumps: run knows where to
	default:
		c.zero(i, 1)
	}
}

func (s *section) setOfEntities(i, set int) {
	s.code.want(s.constants.word(set, 0) == 9, i, 2, "constant %d is no set", set)
	for at, end := s.constants.span(set, 1, s.lists); at < end; at++ {
		e := s.lists.word(at, 0)
		s.code.want(s.constants.word(int(e), 0) == 7, i, 2, "constant %d, in the set %d, is no entity", e, set)
	}
}

// run goes through a span of code as if it ran, with the height of the stack for all
// values. Jumps lead forward only: when it comes to an instruction, it has seen every
// way there.
func (s *section) run(first, end int, rule bool) {
	c, height := s.code, make([]int, end-first+1) // one more than it is: 0 is not reached
	height[0] = 1
	for pc := range end - first {
		i, h := first+pc, height[pc]-1
		want := func(ok bool, what string) { c.want(ok, i, 0, "%s", what) }
		want(h >= 0, "nothing leads there")
		reach := func(to, h int) {
			want(height[to] == 0 || height[to] == h+1, "it leads on with another number of values than another way")
			want(h <= mostStack, "too many values")
			height[to], s.stack = h+1, max(s.stack, h)
		}
		op, a := c.word(i, 0), c.word(i, 1)
		takes, leaves := 0, 0
		for _, e := range effects {
			if op >= e.first && op <= e.last {
				takes, leaves = int(e.takes), int(e.leaves)
			}
		}
		if op == 51 || op == 52 {
			takes = int(c.word(i, int(op-50))) // a set says it in A, a record in B
		}
		want(h >= takes, "too few values")
		if op >= 59 {
			want(rule && h == takes, "only in the code of rules, with nothing below")
		}
		if op >= 55 && op <= 58 {
			c.want(int64(a) > int64(pc) && int64(a) <= int64(end-first), i, 1, "it jumps to %d, and not forward in its span of %d", a, end-first)
			there := h
			if op == 56 {
				there--
			}
			reach(int(a), there)
		}
		if op != 55 {
			reach(pc+1, h-takes+leaves)
		}
	}
	left := height[end-first] - 1
	s.want(rule && left == 0 || !rule && left == 1, c.at+4*c.width*first, "the code from instruction %d on ends with %d values", first, left)
}

// tree walks the index: groups and slots in the order of nodes and groups, each node
// but the root led to once, from before it. It returns the steps to the deepest.
func (s *section) tree() (deepest int) {
	s.want(s.nodes.n > 0, s.nodes.at, "the index has no root")
	steps := make([]int, s.nodes.n) // one more than it is: 0 is not led to
	steps[0] = 1
	groups, slots := 0, 0
	for node := range s.nodes.n {
		s.nodes.want(steps[node] > 0, node, 0, "no slot and no fault of a node before leads to it")
		deepest = max(deepest, steps[node]-1)
		lead := func(t table, i, col int) {
			if t.word(i, col) == none {
				return
			}
			to := t.index(i, col, s.nodes)
			t.want(to > node && steps[to] == 0, i, col, "node %d is not after node %d, or is led to already", to, node)
			t.want(steps[node] <= mostNesting, i, col, "node %d is more than %d steps from the root", to, mostNesting)
			steps[to] = steps[node] + 1
		}
		first, end := s.nodes.span(node, 0, s.lists)
		s.ascending(first, end, s.rules)
		first, end = s.nodes.span(node, 2, s.groups)
		s.nodes.want(first == groups, node, 2, "its groups do not follow those of the node before, which end at %d", groups)
		groups = end
		for g := first; g < end; g++ {
			begin, end := s.groups.span(g, 1, s.code)
			s.run(begin, end, false)
			lead(s.groups, g, 3)
			begin, end = s.groups.span(g, 4, s.slots)
			s.groups.want(begin == slots, g, 4, "its slots do not follow those of the group before, which end at %d", slots)
			slots = end
			s.search(g, begin, end-begin)
			for at := begin; at < end; at++ {
				lead(s.slots, at, 1)
			}
		}
	}
	s.want(groups == s.groups.n && slots == s.slots.n, s.groups.at, "%d groups and %d slots belong to nothing", s.groups.n-groups, s.slots.n-slots)
	return deepest
}

// search holds the slots of a group to being found: from the home of a key to its slot
// none is free, and none has the same key.
func (s *section) search(group, begin, count int) {
	s.groups.want(count > 0 && count&(count-1) == 0, group, 5, "%d slots are no power of two", count)
	keys, known := map[uint32]table{1: s.strings, 2: s.entities, 3: {n: none + 1}, 4: s.entities, 5: s.strings}[s.groups.word(group, 0)]
	s.groups.want(known, group, 0, "no kind of group")
	taken, seen := 0, map[uint32]bool{} // taken: slots before this one, without a free one between
	for round := range 2 * count {
		i := begin + round%count
		key := s.slots.word(i, 0)
		if s.slots.word(i, 1) == none {
			s.slots.zero(i, 0)
			taken = 0
			continue
		}
		if round < count {
			s.slots.index(i, 0, keys)
			s.slots.want(!seen[key], i, 0, "a second slot for key %d", key)
			seen[key] = true
		} else {
			s.slots.want((i-begin-int(key*0x9e3779b1>>7))&(count-1) <= taken, i, 0, "key %d is not found there: a slot before is free", key)
		}
		taken++
	}
}
