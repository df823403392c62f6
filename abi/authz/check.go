package authz

func (c *checker) isValue(i uint32) bool { return uint64(i) < uint64(len(c.v.values)/valueSize) }

// values checks the constants: kinds, indices, that elements come first and in order, and
// how deep they are nested.
func (c *checker) values() {
	v := c.v
	v.values = c.table(valueSize)
	n := uint32(len(v.values) / valueSize)
	depth := make([]uint8, n)
	for i := range n {
		if c.r.Err() != nil {
			return
		}
		x := v.Value(i)
		ok := word(v.values, 3*i) < uint32(valueEnd)
		switch x.Kind {
		case ValueBool:
			ok = ok && x.A <= 1 && x.B == 0
		case ValueLong, ValueDecimal, ValueDatetime, ValueDuration:
		case ValueString:
			ok = ok && c.isString(x.A) && x.B == 0
		case ValueEntity:
			ok = ok && c.isEntity(x.A) && x.B == 0
		case ValueIP:
			ok = ok && c.isString(x.A)
			if ok {
				size := len(v.String(x.A))
				ok = (size == 4 || size == 16) && x.B <= uint32(8*size)
			}
		case ValueSet:
			ok = ok && c.isList(x.A, x.B)
			for k := uint32(0); ok && k < x.B; k++ {
				e := v.List(x.A + k)
				ok = e < i && depth[e] < MaxNesting && (k == 0 || CompareValues(v.Value(v.List(x.A+k-1)), v.Value(e)) < 0)
				if ok {
					depth[i] = max(depth[i], depth[e]+1)
				}
			}
		case ValueRecord:
			ok = ok && x.B <= ^uint32(0)/2 && c.isList(x.A, 2*x.B)
			for k := uint32(0); ok && k < x.B; k++ {
				name, e := v.List(x.A+2*k), v.List(x.A+2*k+1)
				ok = c.isString(name) && e < i && depth[e] < MaxNesting && (k == 0 || v.List(x.A+2*k-2) < name)
				if ok {
					depth[i] = max(depth[i], depth[e]+1)
				}
			}
		default:
			ok = false
		}
		if !ok {
			c.fail("constant %d (kind %d) is malformed", i, x.Kind)
		}
	}
}

// code checks every instruction for itself; isCode checks what they do together.
func (c *checker) code() {
	v := c.v
	v.code = c.table(instructionSize)
	for i := range uint32(len(v.code) / instructionSize) {
		x := v.Code(Span{i, 1}).At(0)
		if word(v.code, 3*i) >= uint32(opEnd) || !c.operands(x) {
			c.fail("instruction %d (operation %d) is malformed", i, word(v.code, 3*i))
			return
		}
	}
}

func (c *checker) operands(x Instruction) bool {
	v := c.v
	switch x.Op {
	case OpValue:
		return c.isValue(x.A) && x.B == 0
	case OpAttr, OpHasAttr:
		return uint64(x.A) < uint64(len(v.Attributes)) && x.B == 0
	case OpGet, OpHas, OpIs, OpLike:
		return c.isString(x.A) && x.B == 0
	case OpParse:
		switch Type(x.A) {
		case TypeIP, TypeDecimal, TypeDatetime, TypeDuration:
			return x.A <= 255 && x.B == 0
		}
		return false
	case OpSet:
		return x.A <= MaxElements && x.B == 0
	case OpRecord:
		return x.B <= MaxElements && c.ascends(Span{x.A, x.B}, v.Strings())
	case OpJump, OpIf, OpAnd, OpOr:
		return x.B == 0
	case OpScopeEq, OpScopeIn:
		return x.A <= ScopeResource && c.isEntity(x.B)
	case OpScopeIs:
		return x.A <= ScopeResource && c.isString(x.B)
	case OpScopeAny:
		if x.A > ScopeResource || !c.isValue(x.B) || v.Value(x.B).Kind != ValueSet {
			return false
		}
		set := v.Value(x.B)
		for k := range set.B {
			if v.Value(v.List(set.A+k)).Kind != ValueEntity {
				return false
			}
		}
		return true
	}
	_, _, ok := x.effect()
	return ok && x.A|x.B == 0
}

// isCode reports whether a span is code that keeps within its stack and its length,
// whichever way it goes, can reach all of its instructions, and leaves so many values.
func (c *checker) isCode(s Span, leaves int) bool {
	v := c.v
	if uint64(s.First)+uint64(s.Count) > uint64(len(v.code)/instructionSize) {
		return false
	}
	const unreached = -1
	code, elements := v.Code(s), 0
	heights := make([]int, s.Count+1)
	for i := range heights {
		heights[i] = unreached
	}
	heights[0] = 0
	reach := func(at uint32, height int) bool {
		if at > s.Count || height < 0 || height > MaxStack || heights[at] != unreached && heights[at] != height {
			return false
		}
		heights[at] = height
		return true
	}
	for i := range s.Count {
		x, h := code.At(i), heights[i]
		pops, pushes, ok := x.effect()
		if !ok || h == unreached || h < pops {
			return false
		}
		switch x.Op {
		case OpJump, OpIf, OpAnd, OpOr:
			there := h
			if x.Op == OpIf {
				there = h - 1
			}
			if x.A <= i || !reach(x.A, there) {
				return false
			}
		case OpEnsure, OpScopeEq, OpScopeIn, OpScopeAny, OpScopeIs:
			if leaves != 0 || h != pops {
				return false
			}
		case OpSet:
			elements += int(x.A)
		case OpRecord:
			elements += 2 * int(x.B)
		case OpContext:
			elements += 2 * len(v.Attributes)
		}
		if x.Op != OpJump && !reach(i+1, h-pops+pushes) {
			return false
		}
	}
	v.Elements = max(v.Elements, elements)
	return heights[s.Count] == leaves
}

// nodes checks that the index is a tree whose nodes come before those that they lead to,
// and that a table has each of its keys where a search finds it.
func (c *checker) nodes() {
	v := c.v
	v.nodes, v.groups, v.slots = c.table(nodeSize), c.table(groupSize), c.table(slotSize)
	v.keys = make([]uint64, len(v.entities)/entitySize/64+1)
	if c.r.Err() != nil {
		return
	}
	n := uint32(v.Nodes())
	t := tree{c: c, depth: make([]uint8, n)}
	if n == 0 {
		c.fail("the index has no root")
		return
	}
	t.depth[0] = 1
	for i := range n {
		if !t.node(i) {
			c.fail("node %d of the index is malformed", i)
			return
		}
	}
	if uint64(t.groups) != uint64(len(v.groups)/groupSize) || uint64(t.slots) != uint64(len(v.slots)/slotSize) {
		c.fail("the index has parts that no node leads to")
	}
}

// A tree is what was seen of the index: how deep nodes are, zero for those that nothing
// leads to, and how many groups and slots, which come in the order of their nodes.
type tree struct {
	c             *checker
	depth         []uint8
	groups, slots uint32
}

func (t *tree) node(i uint32) bool {
	v, x := t.c.v, t.c.v.Node(i)
	if t.depth[i] == 0 || !t.c.ascends(x.Rules, len(v.rules)/ruleSize) || x.Groups.First != t.groups ||
		uint64(x.Groups.First)+uint64(x.Groups.Count) > uint64(len(v.groups)/groupSize) {
		return false
	}
	t.groups += x.Groups.Count
	for k := range x.Groups.Count {
		if !t.group(i, x.Groups.First+k) {
			return false
		}
	}
	return true
}

func (t *tree) group(node, i uint32) bool {
	v, g := t.c.v, t.c.v.Group(i)
	n := g.Slots.Count
	if k := word(v.groups, 6*i); k == 0 || k >= uint32(groupEnd) || !t.c.isCode(g.Code, 1) || g.Fault != None && !t.leads(node, g.Fault) ||
		g.Slots.First != t.slots || n == 0 || n&(n-1) != 0 || uint64(g.Slots.First)+uint64(n) > uint64(len(v.slots)/slotSize) {
		return false
	}
	t.slots += n
	for k := range n {
		key, to := word(v.slots, 2*(g.Slots.First+k)), word(v.slots, 2*(g.Slots.First+k)+1)
		switch {
		case to == None:
			if key != 0 {
				return false
			}
		case !t.leads(node, to) || v.Lead(&g, key) != to:
			return false
		case (g.Kind == GroupString || g.Kind == GroupIs) && !t.c.isString(key), (g.Kind == GroupEntity || g.Kind == GroupIn) && !t.c.isEntity(key):
			return false
		case g.Kind == GroupIn:
			v.keys[key/64] |= 1 << (key % 64)
		}
	}
	return true
}

// leads notes that one node leads to another, which nothing else does.
func (t *tree) leads(from, to uint32) bool {
	if to <= from || uint64(to) >= uint64(len(t.depth)) || t.depth[to] != 0 || t.depth[from] > MaxNesting {
		return false
	}
	t.depth[to] = t.depth[from] + 1
	return true
}
