package verify

import "bytes"

const (
	mostAttributes = 64
	mostNesting    = 32
	mostStack      = 128
	mostGathered   = 128 // by one set or record of an expression
	mostSteps      = 32  // from the root of the index
)

// Authz says what is in a section authz.
type Authz struct {
	Default      string `json:"default"`
	Strings      int    `json:"strings"`
	Attributes   int    `json:"attributes"`
	Entities     int    `json:"entities"`
	Constants    int    `json:"constants"`
	Instructions int    `json:"instructions"`
	Rules        int    `json:"rules"`
	Forbid       int    `json:"forbid"` // rules that do
	Nodes        int    `json:"nodes"`
	Groups       int    `json:"groups"`
	Slots        int    `json:"slots"`
	Routes       int    `json:"routes"`
	Stack        int    `json:"stack"` // the most values that code has on it
	Steps        int    `json:"steps"` // from the root of the index to its deepest node
}

// A section is authz while it is verified.
type section struct {
	*reader
	text                                                                                []byte
	strings, head, entities, lists, constants, code, rules, nodes, groups, slots, route table
	attributes                                                                          int
	stack, steps                                                                        int
}

func authorization(r *reader) *Authz {
	s := &section{reader: r}
	s.strings = r.table("string", 2)
	s.text = r.blob()
	s.head = table{r: r, name: "head", at: r.at, n: 1, width: 3}
	r.bytes(12)
	allow := r.truth()
	r.text()
	r.text()
	s.attributeList()
	s.entities = r.table("entity", 6)
	s.lists = r.table("list element", 1)
	s.constants = r.table("constant", 3)
	s.code = r.table("instruction", 3)
	s.rules = r.table("rule", 5)
	s.nodes = r.table("node", 4)
	s.groups = r.table("group", 6)
	s.slots = r.table("slot", 2)
	s.route = r.table("route", 4)
	r.end()

	s.stringTable()
	s.head.optional(0, 0, s.strings)
	s.head.optional(0, 1, s.strings)
	s.head.optional(0, 2, s.entities)
	s.constantTable()
	s.entityTable()
	forbid := 0
	for i := range s.rules.n {
		s.rules.index(i, 0, s.strings)
		s.rules.index(i, 1, s.strings)
		switch s.rules.word(i, 2) {
		case 0:
		case 1:
			forbid++
		default:
			s.rules.fail(i, 2, "it neither permits nor forbids")
		}
		first, n := s.rules.span(i, 3, s.code)
		s.run(first, n, true)
	}
	s.index()
	s.routes()
	rep := &Authz{"deny", s.strings.n, s.attributes, s.entities.n, s.constants.n, s.code.n, s.rules.n, forbid, s.nodes.n, s.groups.n, s.slots.n, s.route.n, s.stack, s.steps}
	if allow {
		rep.Default = "allow"
	}
	return rep
}

func (s *section) attributeList() {
	at := s.at
	s.attributes = s.count(15) // three strings and four bytes... each
	if s.attributes > mostAttributes {
		s.fail(at, "%d attributes, and at most %d may be", s.attributes, mostAttributes)
	}
	for range s.attributes {
		s.reader.text()
		s.within(1, 7)
		s.truth()
		s.truth()
		s.within(1, 15)
		s.reader.text()
		s.reader.text()
	}
}

// str returns the bytes of a string.
func (s *section) str(i int) []byte {
	first := s.strings.word(i, 0)
	return s.text[first : first+s.strings.word(i, 1)]
}

func (s *section) stringTable() {
	for i := range s.strings.n {
		if int64(s.strings.word(i, 0))+int64(s.strings.word(i, 1)) > int64(len(s.text)) {
			s.strings.fail(i, 0, "it lies outside of the blob")
		}
		if i > 0 && bytes.Compare(s.str(i-1), s.str(i)) >= 0 {
			s.strings.fail(i, 0, "it does not come after the one before")
		}
	}
}

// ascending holds list elements to rising, and to being below the length of a table.
func (s *section) ascending(first, n int, of table) {
	for i := first; i < first+n; i++ {
		if s.lists.index(i, 0, of); i > first && s.lists.word(i, 0) <= s.lists.word(i-1, 0) {
			s.lists.fail(i, 0, "it does not come after the one before")
		}
	}
}

func (s *section) constantTable() {
	c, depth := s.constants, make([]int, s.constants.n)
	for i := range c.n {
		inner := func(at int) int { // an element of constant i
			e := s.lists.index(at, 0, c)
			if e >= i {
				s.lists.fail(at, 0, "constant %d is not before constant %d, which holds it", e, i)
			}
			depth[i] = max(depth[i], depth[e]+1)
			return e
		}
		switch c.word(i, 0) {
		case 1:
			if c.word(i, 1) > 1 {
				c.fail(i, 1, "%d is no truth value", c.word(i, 1))
			}
			c.zero(i, 2)
		case 2, 3, 4, 5:
		case 6:
			c.index(i, 1, s.strings)
			c.zero(i, 2)
		case 7:
			c.index(i, 1, s.entities)
			c.zero(i, 2)
		case 8:
			n := len(s.str(c.index(i, 1, s.strings)))
			if n != 4 && n != 16 || int64(c.word(i, 2)) > int64(8*n) {
				c.fail(i, 1, "%d bytes and a prefix of %d are no address", n, c.word(i, 2))
			}
		case 9:
			first, n := c.span(i, 1, s.lists)
			before := -1
			depth[i] = 1
			for at := first; at < first+n; at++ {
				e := inner(at)
				if before >= 0 && !s.less(before, e) {
					s.lists.fail(at, 0, "constant %d does not come after constant %d in a set", e, before)
				}
				before = e
			}
		case 10:
			first, n := int64(c.word(i, 1)), int64(c.word(i, 2))
			depth[i] = 1
			if first+2*n > int64(s.lists.n) {
				c.fail(i, 1, "there are no %d pairs from list element %d on", n, first)
			}
			for at := int(first); at < int(first+2*n); at += 2 {
				if s.lists.index(at, 0, s.strings); at > int(first) && s.lists.word(at, 0) <= s.lists.word(at-2, 0) {
					s.lists.fail(at, 0, "the name does not come after the one before")
				}
				inner(at + 1)
			}
		default:
			c.fail(i, 0, "%d is no kind of constant", c.word(i, 0))
		}
		if depth[i] > mostNesting {
			c.fail(i, 0, "it is nested more than %d deep", mostNesting)
		}
	}
}

// less orders the elements of a set: by kind, then by B and A as one number.
func (s *section) less(i, j int) bool {
	for _, col := range []int{0, 2, 1} {
		if a, b := s.constants.word(i, col), s.constants.word(j, col); a != b {
			return a < b
		}
	}
	return false
}

func (s *section) entityTable() {
	e := s.entities
	for i := range e.n {
		kind, id := e.index(i, 0, s.strings), e.index(i, 1, s.strings)
		if i > 0 && (kind < int(e.word(i-1, 0)) || kind == int(e.word(i-1, 0)) && id <= int(e.word(i-1, 1))) {
			e.fail(i, 0, "it does not come after the one before")
		}
		for _, col := range []int{2, 3} {
			if record := e.optional(i, col, s.constants); record >= 0 && s.constants.word(record, 0) != 10 {
				e.fail(i, col, "constant %d is no record", record)
			}
		}
		first, n := e.span(i, 4, s.lists)
		s.ascending(first, n, e)
		for at := first; at < first+n; at++ {
			if int(s.lists.word(at, 0)) == i {
				s.lists.fail(at, 0, "entity %d is in itself", i)
			}
		}
	}
}

// operation returns how many values an operation takes and leaves, and the table that
// its operand A is an index of; the operations that are more than that are in run.
func (s *section) operation(op uint32) (takes, leaves int, a *table, ok bool) {
	attributes := table{name: "attribute", n: s.attributes}
	switch {
	case op == 1, op >= 3 && op <= 6:
		return 0, 1, nil, true
	case op == 2:
		return 0, 1, &s.constants, true
	case op == 7, op == 8:
		return 0, 1, &attributes, true
	case op == 9, op == 10, op == 15, op == 16:
		return 1, 1, &s.strings, true
	case op >= 11 && op <= 14, op >= 18 && op <= 28:
		return 1, 1, nil, true
	case op >= 29 && op <= 50:
		return 2, 1, nil, true
	case op == 53:
		return 1, 2, nil, true
	case op == 54:
		return 1, 0, nil, true
	}
	return 0, 0, nil, false
}

// run goes through a span of code as if it ran, with the height of the stack for all
// values. Jumps lead forward only: one pass sees every way to an instruction first.
func (s *section) run(first, n int, rule bool) {
	c, height := s.code, make([]int, n+1) // by place in the span, one more than it is: 0 is not reached
	height[0] = 1
	for pc := range n {
		i, h := first+pc, height[pc]-1
		if h < 0 {
			c.fail(i, 0, "nothing leads there")
		}
		op, a, b := c.word(i, 0), c.word(i, 1), c.word(i, 2)
		reach := func(to, h int) {
			if height[to] > 0 && height[to]-1 != h {
				c.fail(i, 0, "it leads on to %d of its span with %d values, another way with %d", to, h, height[to]-1)
			}
			height[to] = h + 1
		}
		target := func() int {
			if int64(a) <= int64(pc) || int64(a) > int64(n) {
				c.fail(i, 1, "it jumps to %d, and not forward in its span of %d", a, n)
			}
			return int(a)
		}
		needs := func(ok bool, what string) {
			if !ok {
				c.fail(i, 0, "operation %d: %s", op, what)
			}
		}
		takes, leaves, operand, simple := s.operation(op)
		switch {
		case simple:
			c.zero(i, 2)
			if operand != nil {
				c.index(i, 1, *operand)
			} else {
				c.zero(i, 1)
			}
		case op == 17:
			takes, leaves = 1, 1
			needs(a >= 4 && a <= 7, "no extension type")
			c.zero(i, 2)
		case op == 51:
			needs(a <= mostGathered, "too many elements")
			takes, leaves = int(a), 1
			c.zero(i, 2)
		case op == 52:
			needs(b <= mostGathered, "too many members")
			takes, leaves = int(b), 1
			names, _ := c.span(i, 1, s.lists)
			s.ascending(names, int(b), s.strings)
		case op >= 55 && op <= 58:
			if op > 55 {
				takes = 1
			}
			needs(h >= takes, "too few values")
			switch op {
			case 55, 56:
				reach(target(), h-takes)
			default:
				reach(target(), h)
			}
			c.zero(i, 2)
		case op == 59:
			takes = 1
			needs(rule && h == 1, "only in the code of rules, with one value")
			c.zero(i, 1, 2)
		case op >= 60 && op <= 63:
			needs(rule && h == 0, "only in the code of rules, with no value")
			needs(a <= 2, "neither principal nor action nor resource")
			switch op {
			case 60, 61:
				c.index(i, 2, s.entities)
			case 62:
				s.setOfEntities(i, c.index(i, 2, s.constants))
			case 63:
				c.index(i, 2, s.strings)
			}
		default:
			c.fail(i, 0, "there is no operation %d", op)
		}
		needs(h >= takes, "too few values")
		h += leaves - takes
		needs(h <= mostStack, "too many values")
		s.stack = max(s.stack, h)
		if op != 55 {
			reach(pc+1, h)
		}
	}
	want := 1
	if rule {
		want = 0
	}
	if height[n]-1 != want {
		s.fail(c.at+4*c.width*(first+n), "the span of code from %d on ends with %d values, and not %d", first, height[n]-1, want)
	}
}

func (s *section) setOfEntities(i, set int) {
	if s.constants.word(set, 0) != 9 {
		s.code.fail(i, 2, "constant %d is no set", set)
	}
	first, n := s.constants.span(set, 1, s.lists)
	for at := first; at < first+n; at++ {
		if e := s.lists.word(at, 0); s.constants.word(int(e), 0) != 7 {
			s.code.fail(i, 2, "constant %d, in the set %d, is no entity", e, set)
		}
	}
}

// index walks the tree: groups and slots in the order of nodes and groups, each node
// but the root led to once, from before it.
func (s *section) index() {
	if s.nodes.n == 0 {
		s.fail(s.nodes.at, "the index has no root")
	}
	steps := make([]int, s.nodes.n) // one more than it is: 0 is not led to
	steps[0] = 1
	groups, slots := 0, 0
	for node := range s.nodes.n {
		if steps[node] == 0 {
			s.nodes.fail(node, 0, "no slot and no fault of a node before leads to it")
		}
		s.steps = max(s.steps, steps[node]-1)
		lead := func(t table, i, col int) {
			to := t.optional(i, col, s.nodes)
			switch {
			case to < 0:
			case to <= node || steps[to] != 0:
				t.fail(i, col, "it leads to node %d, which is not after node %d, or is led to already", to, node)
			case steps[node] > mostSteps:
				t.fail(i, col, "node %d is more than %d steps from the root", to, mostSteps)
			default:
				steps[to] = steps[node] + 1
			}
		}
		rule, asked := s.nodes.span(node, 0, s.lists)
		s.ascending(rule, asked, s.rules)
		first, n := s.nodes.span(node, 2, s.groups)
		if first != groups {
			s.nodes.fail(node, 2, "its groups do not follow those of the node before, which end at %d", groups)
		}
		groups += n
		for g := first; g < groups; g++ {
			code, length := s.groups.span(g, 1, s.code)
			s.run(code, length, false)
			lead(s.groups, g, 3)
			begin, count := s.groups.span(g, 4, s.slots)
			if begin != slots || count == 0 || count&(count-1) != 0 {
				s.groups.fail(g, 4, "its slots do not follow those of the group before, which end at %d, or are no power of two", slots)
			}
			slots += count
			s.search(s.groups.word(g, 0), g, begin, count)
			for at := begin; at < slots; at++ {
				lead(s.slots, at, 1)
			}
		}
	}
	if groups != s.groups.n || slots != s.slots.n {
		s.fail(s.groups.at, "%d groups and %d slots belong to nothing", s.groups.n-groups, s.slots.n-slots)
	}
}

// search holds the slots of a group to being found: between the home of a key and its
// slot no slot is free, and none has the same key.
func (s *section) search(kind uint32, group, begin, count int) {
	keys, known := map[uint32]table{1: s.strings, 2: s.entities, 3: {n: none + 1}, 4: s.entities, 5: s.strings}[kind]
	if !known {
		s.groups.fail(group, 0, "%d is no kind of group", kind)
	}
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
			if seen[key] {
				s.slots.fail(i, 0, "a second slot for key %d", key)
			}
			seen[key] = true
		} else if home := int(key * 0x9e3779b1 >> 7); (i-begin-home)&(count-1) > taken {
			s.slots.fail(i, 0, "key %d is not found there: a slot before is free", key)
		}
		taken++
	}
}

func (s *section) routes() {
	for i := range s.route.n {
		if name := s.route.index(i, 0, s.strings); i > 0 && name <= int(s.route.word(i-1, 0)) {
			s.route.fail(i, 0, "it does not come after the one before")
		}
		s.route.index(i, 1, s.entities)
		reads := uint64(s.route.word(i, 3))<<32 | uint64(s.route.word(i, 2))
		if reads>>s.attributes != 0 {
			s.route.fail(i, 2, "it reads attributes that there are not")
		}
	}
}
