package verify

import "bytes"

const (
	mostAttributes = 64
	mostNesting    = 32 // of constants, and steps from the root of the index
	mostStack      = 128
	mostGathered   = 128 // by one set or record of an expression
)

// What a word can be that is no index of a table: that of one with so many elements.
var (
	zero     = table{name: "operand", n: 1}
	truth    = table{name: "truth value", n: 2}
	scope    = table{name: "scope", n: 3}
	types    = table{name: "type", n: 8}
	gathered = table{name: "set or record of", n: mostGathered + 1}
	anything = table{n: none + 1}
)

// A section is authz while it is verified.
type section struct {
	*reader
	text                                                                                             []byte
	strings, head, attributes, entities, lists, constants, code, rules, nodes, groups, slots, routes table

	stack int // the most values that code has on it
}

func authorization(r *reader) map[string]int {
	s := &section{reader: r, strings: r.table("string", 2)}
	s.text = r.blob()
	s.head = table{r: r, name: "head", at: r.at, n: 1, width: 3}
	r.bytes(12)
	r.within(0, 1)
	r.bytes(r.count(1))
	r.bytes(r.count(1))
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
		s.strings.span(i, 0, table{name: "bytes", n: len(s.text)})
		s.strings.want(i == 0 || bytes.Compare(s.str(i-1), s.str(i)) < 0, i, 0, "it does not come after the one before")
	}
	for col, of := range []table{s.strings, s.strings, s.entities} {
		if s.head.word(0, col) != none {
			s.head.indices(0, col, of)
		}
	}
	s.checkConstants()
	for i := range s.entities.n {
		s.entity(i)
	}
	for i := range s.code.n {
		s.operands(i)
	}
	for i := range s.rules.n {
		s.rules.indices(i, 0, s.strings, s.strings, truth)
		first, end := s.rules.span(i, 3, s.code)
		s.run(first, end, 0)
	}
	deepest := s.tree()
	for i := range s.routes.n {
		s.routes.indices(i, 0, s.strings, s.entities)
		s.routes.want(i == 0 || s.routes.less(i-1, i, 0), i, 0, "it does not come after the one before")
		reads := uint64(s.routes.word(i, 3))<<32 | uint64(s.routes.word(i, 2))
		s.routes.want(reads>>s.attributes.n == 0, i, 2, "it reads attributes that there are not")
	}
	return map[string]int{"strings": s.strings.n, "attributes": s.attributes.n, "entities": s.entities.n, "constants": s.constants.n, "instructions": s.code.n,
		"rules": s.rules.n, "nodes": s.nodes.n, "groups": s.groups.n, "slots": s.slots.n, "routes": s.routes.n, "deepest stack": s.stack, "deepest node": deepest}
}

// str returns the bytes of a string.
func (s *section) str(i int) []byte { return s.text[s.strings.word(i, 0):][:s.strings.word(i, 1)] }

// ascending holds list elements, one in so many, to rising, and to being indices of a table.
func (s *section) ascending(first, end, step int, of table) {
	for i := first; i < end; i += step {
		s.lists.indices(i, 0, of)
		s.lists.want(i == first || s.lists.less(i-step, i, 0), i, 0, "it does not come after the one before")
	}
}

func (s *section) checkConstants() {
	c, depth := s.constants, make([]int, s.constants.n)
	operands := [][]table{1: {truth, zero}, 2: nil, 3: nil, 4: nil, 5: nil, 6: {s.strings, zero}, 7: {s.entities, zero}, 8: {s.strings}, 9: nil, 10: nil}
	for i := range c.n {
		kind, a, b := c.word(i, 0), c.word(i, 1), int(c.word(i, 2))
		c.want(kind >= 1 && kind <= 10, i, 0, "%d is no kind of constant", kind)
		c.indices(i, 1, operands[kind]...)
		first, end, step := 0, 0, 1 // the list elements that are constants in it
		switch kind {
		case 8:
			n := len(s.str(int(a)))
			c.want((n == 4 || n == 16) && b <= 8*n, i, 1, "%d bytes with a prefix of %d are no address", n, b)
		case 9:
			first, end = c.span(i, 1, s.lists)
		case 10:
			first, end, step = int(a)+1, int(a)+1+2*b, 2
			c.want(end-1 <= s.lists.n, i, 1, "there are no %d pairs from list element %d on", b, a)
			s.ascending(first-1, end-1, 2, s.strings)
		}
		for at := first; at < end; at += step {
			s.lists.indices(at, 0, c)
			e := int(s.lists.word(at, 0))
			s.lists.want(e < i, at, 0, "constant %d is not before constant %d, which holds it", e, i)
			depth[i] = max(depth[i], depth[e]+1)
			s.lists.want(step == 2 || at == first || c.less(int(s.lists.word(at-1, 0)), e, 0, 2, 1), at, 0, "constant %d does not come after the one before in a set", e)
		}
		c.want(depth[i] <= mostNesting, i, 0, "it is nested more than %d deep", mostNesting)
	}
}

func (s *section) entity(i int) {
	e := s.entities
	e.indices(i, 0, s.strings, s.strings)
	e.want(i == 0 || e.less(i-1, i, 0, 1), i, 0, "it does not come after the one before")
	for col := 2; col <= 3; col++ {
		if record := e.word(i, col); record != none {
			e.indices(i, col, s.constants)
			e.want(s.constants.word(int(record), 0) == 10, i, col, "constant %d is no record", record)
		}
	}
	first, end := e.span(i, 4, s.lists)
	s.ascending(first, end, 1, e)
	for at := first; at < end; at++ {
		s.lists.want(int(s.lists.word(at, 0)) != i, at, 0, "entity %d is in itself", i)
	}
}

// operands checks an instruction by itself: what its two words are.
func (s *section) operands(i int) {
	c, op, a, b := s.code, s.code.word(i, 0), s.code.word(i, 1), s.code.word(i, 2)
	c.want(op >= 1 && op <= 63, i, 0, "there is no operation %d", op)
	kinds, special := map[uint32][2]table{2: {s.constants, zero}, 7: {s.attributes, zero}, 8: {s.attributes, zero}, 9: {s.strings, zero}, 10: {s.strings, zero},
		15: {s.strings, zero}, 16: {s.strings, zero}, 17: {types, zero}, 51: {gathered, zero}, 52: {anything, gathered}, 55: {anything, zero}, 56: {anything, zero},
		57: {anything, zero}, 58: {anything, zero}, 60: {scope, s.entities}, 61: {scope, s.entities}, 62: {scope, s.constants}, 63: {scope, s.strings}}[op]
	if !special {
		kinds = [2]table{zero, zero}
	}
	c.indices(i, 1, kinds[:]...)
	c.want(op != 17 || a >= 4, i, 1, "type %d has no extension function", a)
	if op == 52 {
		names, end := c.span(i, 1, s.lists)
		s.ascending(names, end, 1, s.strings)
	}
	if op == 62 {
		c.want(s.constants.word(int(b), 0) == 9, i, 2, "constant %d is no set", b)
		for at, end := s.constants.span(int(b), 1, s.lists); at < end; at++ {
			c.want(s.constants.word(int(s.lists.word(at, 0)), 0) == 7, i, 2, "constant %d, in a set, is no entity", s.lists.word(at, 0))
		}
	}
}

// effects are how many values operations take and leave, up to the last of those that
// are alike.
var effects = []struct{ last, takes, leaves uint32 }{{8, 0, 1}, {28, 1, 1}, {50, 2, 1}, {52, none, 1}, {53, 1, 2}, {54, 1, 0}, {55, 0, 0}, {59, 1, 0}, {63, 0, 0}}

// run goes through a span of code as if it ran, with the height of the stack for all
// values. Jumps lead forward only: when it comes to an instruction, it has seen every
// way there. The code of rules leaves nothing, that of groups a value.
func (s *section) run(first, end, leaves int) {
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
		op, a, e := c.word(i, 0), c.word(i, 1), effects[0]
		for _, e = range effects {
			if op <= e.last {
				break
			}
		}
		if e.takes == none {
			e.takes = c.word(i, int(op-50)) // a set says it in A, a record in B
		}
		want(h >= int(e.takes), "too few values")
		want(op < 59 || leaves == 0 && h == int(e.takes), "only in the code of rules, with nothing below")
		if op >= 55 && op <= 58 {
			c.want(int64(a) > int64(pc) && int64(a) <= int64(end-first), i, 1, "it jumps to %d, and not forward in its span of %d", a, end-first)
			if op == 56 {
				reach(int(a), h-1)
			} else {
				reach(int(a), h)
			}
		}
		if op != 55 {
			reach(pc+1, h-int(e.takes)+int(e.leaves))
		}
	}
	s.want(height[end-first]-1 == leaves, c.at+4*c.width*first, "the code from instruction %d on ends with %d values", first, height[end-first]-1)
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
			if to := t.word(i, col); to != none {
				t.indices(i, col, s.nodes)
				t.want(int(to) > node && steps[to] == 0, i, col, "node %d is not after node %d, or is led to already", to, node)
				t.want(steps[node] <= mostNesting, i, col, "node %d is more than %d steps from the root", to, mostNesting)
				steps[to] = steps[node] + 1
			}
		}
		first, end := s.nodes.span(node, 0, s.lists)
		s.ascending(first, end, 1, s.rules)
		first, end = s.nodes.span(node, 2, s.groups)
		s.nodes.want(first == groups, node, 2, "its groups do not follow those of the node before, which end at %d", groups)
		groups = end
		for g := first; g < end; g++ {
			begin, end := s.groups.span(g, 1, s.code)
			s.run(begin, end, 1)
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
	keys, known := map[uint32]table{1: s.strings, 2: s.entities, 3: anything, 4: s.entities, 5: s.strings}[s.groups.word(group, 0)]
	s.groups.want(known, group, 0, "no kind of group")
	taken, seen := 0, map[uint32]bool{} // taken: slots before this one, without a free one between
	for round := range 2 * count {
		i := begin + round%count
		key := s.slots.word(i, 0)
		if s.slots.word(i, 1) == none {
			s.slots.indices(i, 0, zero)
			taken = 0
			continue
		}
		s.slots.indices(i, 0, keys)
		s.slots.want(round >= count || !seen[key], i, 0, "a second slot for key %d", key)
		s.slots.want(round < count || (i-begin-int(key*0x9e3779b1>>7))&(count-1) <= taken, i, 0, "key %d is not found there: a slot before is free", key)
		seen[key] = true
		taken++
	}
}
