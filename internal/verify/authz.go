package verify

import "slices"

// Bounds of attributes, of nesting in constants and steps in the index, of the stack, and
// of what a set or record of an expression gathers.
const mostAttributes, mostNesting, mostStack, mostGathered = 64, 32, 128, 128

// A section is authz while it is verified.
type section struct {
	*reader
	text  []byte
	kinds map[string]table // of operands

	strings, head, attributes, entities, lists, constants, code, rules, nodes, groups, slots, routes table
}

func authorization(r *reader) map[string]int {
	s := &section{reader: r, strings: r.table("string", 2), text: r.blob(), head: r.records("head", 3, 1)}
	r.within(0, 1)
	_, _ = r.blob(), r.blob() // what the default is called
	s.attributes = table{name: "attribute", n: r.count(16)}
	r.want(s.attributes.n <= mostAttributes, r.at-4, "%d attributes, and at most %d may be", s.attributes.n, mostAttributes)
	for range s.attributes.n {
		r.blob()
		for _, field := range [][2]byte{{1, 7}, {0, 1}, {0, 1}, {1, 15}} { // type, set, optional, source
			r.within(field[0], field[1])
		}
		_, _ = r.blob(), r.blob()
	}
	s.entities, s.lists, s.constants = r.table("entity", 6), r.table("list element", 1), r.table("constant", 3)
	s.code, s.rules, s.nodes = r.table("instruction", 3), r.table("rule", 5), r.table("node", 4)
	s.groups, s.slots, s.routes = r.table("group", 6), r.table("slot", 2), r.table("route", 4)
	r.end()

	for i := range s.strings.n {
		s.strings.span(i, 0, table{name: "bytes", n: len(s.text)})
		s.strings.want(i == 0 || string(s.str(i-1)) < string(s.str(i)), i, 0, "it does not come after the one before")
	}
	for col, of := range []table{s.strings, s.strings, s.entities} {
		w := s.head.word(0, col)
		s.head.want(w == none || int64(w) < int64(of.n), 0, col, "there is no %s %d", of.name, w)
	}
	s.kinds = map[string]table{"": upTo(0), "type": upTo(7), "number": upTo(mostGathered), "scope": upTo(2), "any": upTo(none),
		"string": s.strings, "attribute": s.attributes, "entity": s.entities, "constant": s.constants}
	s.checkConstants()
	s.checkEntities()
	for i := range s.code.n {
		s.operands(i)
	}
	for i := range s.rules.n {
		s.rules.indices(i, 0, s.strings, s.strings, upTo(3))
		first, end := s.rules.span(i, 3, s.code)
		s.run(first, end, true)
	}
	s.tree()
	for i := range s.routes.n {
		s.routes.indices(i, 0, s.strings, s.entities)
		s.routes.want(i == 0 || s.routes.less(i-1, i, 0, 0), i, 0, "it does not come after the one before")
		reads := uint64(s.routes.word(i, 3))<<32 | uint64(s.routes.word(i, 2))
		s.routes.want(reads>>s.attributes.n == 0, i, 2, "it reads attributes that there are not")
	}
	return map[string]int{"strings": s.strings.n, "attributes": s.attributes.n, "entities": s.entities.n, "constants": s.constants.n, "instructions": s.code.n,
		"rules": s.rules.n, "nodes": s.nodes.n, "groups": s.groups.n, "slots": s.slots.n, "routes": s.routes.n}
}

// str returns the bytes of a string.
func (s *section) str(i int) []byte { return s.text[s.strings.word(i, 0):][:s.strings.word(i, 1)] }

// ascending holds list elements, one in so many, to rising, and to being indices of a table.
func (s *section) ascending(first, end, step int, of table) {
	for i := first; i < end; i += step {
		s.lists.indices(i, 0, of)
		s.lists.want(i == first || s.lists.less(i-step, i, 0, 0), i, 0, "it does not come after the one before")
	}
}

func (s *section) checkConstants() {
	c, depth := s.constants, make([]int, s.constants.n)
	operands := [][]table{1: {upTo(1), upTo(0)}, 2: nil, 3: nil, 4: nil, 5: nil, 6: {s.strings, upTo(0)}, 7: {s.entities, upTo(0)}, 8: {s.strings}, 9: nil, 10: nil}
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
			s.lists.want(step == 2 || at == first || s.precedes(int(s.lists.word(at-1, 0)), e), at, 0, "constant %d does not come after the one before in a set", e)
		}
		c.want(depth[i] <= mostNesting, i, 0, "it is nested more than %d deep", mostNesting)
	}
}

// precedes orders constants: by kind, then by B and A.
func (s *section) precedes(i, j int) bool {
	a, b := s.constants.word(i, 0), s.constants.word(j, 0)
	return a < b || a == b && s.constants.less(i, j, 2, 1)
}

func (s *section) checkEntities() {
	for e, i := s.entities, 0; i < e.n; i++ {
		e.indices(i, 0, s.strings, s.strings)
		e.want(i == 0 || e.less(i-1, i, 0, 1), i, 0, "it does not come after the one before")
		for col := 2; col <= 3; col++ {
			w := e.word(i, col)
			e.want(w == none || int64(w) < int64(s.constants.n) && s.constants.word(int(w), 0) == 10, i, col, "there is no constant %d, or it is no record", w)
		}
		first, end := e.span(i, 4, s.lists)
		s.ascending(first, end, 1, e)
		for at := first; at < end; at++ {
			s.lists.want(int(s.lists.word(at, 0)) != i, at, 0, "entity %d is in itself", i)
		}
	}
}

// An operation stands for those that are alike, up to the last: how many values they take,
// leave, and leave where they jump, and what their operands are.
type operation struct {
	last, takes, leaves, there int
	a, b                       string
}

var operations = []operation{{1, 0, 1, 0, "", ""}, {2, 0, 1, 0, "constant", ""}, {6, 0, 1, 0, "", ""}, {8, 0, 1, 0, "attribute", ""}, {10, 1, 1, 0, "string", ""},
	{14, 1, 1, 0, "", ""}, {16, 1, 1, 0, "string", ""}, {17, 1, 1, 0, "type", ""}, {28, 1, 1, 0, "", ""}, {50, 2, 1, 0, "", ""}, {51, 0, 1, 0, "number", ""},
	{52, 0, 1, 0, "any", "number"}, {53, 1, 2, 0, "", ""}, {54, 1, 0, 0, "", ""}, {55, 0, 0, 0, "any", ""}, {56, 1, 0, 0, "any", ""}, {58, 1, 0, 1, "any", ""}, {59, 1, 0, 0, "", ""},
	{61, 0, 0, 0, "scope", "entity"}, {62, 0, 0, 0, "scope", "constant"}, {63, 0, 0, 0, "scope", "string"}}

// operands checks an instruction by itself: what its two words are.
func (s *section) operands(i int) {
	c, op, a, b := s.code, s.code.word(i, 0), s.code.word(i, 1), s.code.word(i, 2)
	c.want(op >= 1 && op <= 63, i, 0, "there is no operation %d", op)
	o := operations[slices.IndexFunc(operations, func(o operation) bool { return int(op) <= o.last })]
	c.indices(i, 1, s.kinds[o.a], s.kinds[o.b])
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

// run goes through a span of code as if it ran, with the height of the stack for all
// values. Jumps lead forward only: when it comes to an instruction, it has seen every
// way there. The code of rules leaves nothing, that of groups a value.
func (s *section) run(first, end int, rule bool) {
	c, height := s.code, append([]int{1}, make([]int, end-first)...) // one more than it is: 0 is not reached
	for pc := range end - first {
		i, h := first+pc, height[pc]-1
		want := func(ok bool, what string) { c.want(ok, i, 0, "%s", what) }
		want(h >= 0, "nothing leads there")
		reach := func(to, h int) {
			want(h <= mostStack && (height[to] == 0 || height[to] == h+1), "it leads on with too many values, or not as many as another way")
			height[to] = h + 1
		}
		op, a := c.word(i, 0), c.word(i, 1)
		o := operations[slices.IndexFunc(operations, func(o operation) bool { return int(op) <= o.last })]
		if op == 51 || op == 52 {
			o.takes = int(c.word(i, int(op-50))) // a set says it in A, a record in B
		}
		want(h >= o.takes, "too few values")
		want(op < 59 || rule && h == o.takes, "only in the code of rules, with nothing below")
		if op >= 55 && op <= 58 {
			c.want(int64(a) > int64(pc) && int64(a) <= int64(end-first), i, 1, "it jumps to %d, and not forward in its span of %d", a, end-first)
			reach(int(a), h-o.takes+o.there)
		}
		if op != 55 {
			reach(pc+1, h-o.takes+o.leaves)
		}
	}
	s.want(rule && height[end-first] == 1 || !rule && height[end-first] == 2, c.at+4*c.width*first, "the code from instruction %d on ends with %d values", first, height[end-first]-1)
}

// tree walks the index: groups and slots in the order of nodes and groups, each node
// but the root led to once, from before it.
func (s *section) tree() {
	s.want(s.nodes.n > 0, s.nodes.at, "the index has no root")
	groups, slots, steps := 0, 0, append([]int{1}, make([]int, s.nodes.n)...) // steps is one more than it is: 0 is not led to
	for node := range s.nodes.n {
		s.nodes.want(steps[node] > 0, node, 0, "no slot and no fault of a node before leads to it")
		lead := func(t table, i, col int) {
			if to := t.word(i, col); to != none {
				t.indices(i, col, s.nodes)
				t.want(int(to) > node && steps[to] == 0 && steps[node] <= mostNesting, i, col, "node %d is not after node %d, is led to already, or is too deep", to, node)
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
}

// search holds the slots of a group to being found: from the home of a key to its slot
// none is free, and none has the same key.
func (s *section) search(group, begin, count int) {
	s.groups.want(count > 0 && count&(count-1) == 0, group, 5, "%d slots are no power of two", count)
	keys, known := map[uint32]table{1: s.strings, 2: s.entities, 3: upTo(none), 4: s.entities, 5: s.strings}[s.groups.word(group, 0)]
	s.groups.want(known, group, 0, "no kind of group")
	taken, seen := 0, map[uint32]bool{} // taken: slots before this one, without a free one between
	for round := range 2 * count {
		i := begin + round%count
		key := s.slots.word(i, 0)
		if s.slots.word(i, 1) == none {
			s.slots.indices(i, 0, upTo(0))
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
