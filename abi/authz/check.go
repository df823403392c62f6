package authz

// nodes checks the code: shapes, indices, that operands come first and are used
// once, depth, and for each node the attributes that it reads and the number of
// set elements that it makes.
func (c *checker) nodes() {
	v := c.v
	v.nodes = c.table(nodeSize)
	n := len(v.nodes) / nodeSize
	t := tree{c: c, used: make([]bool, n), depth: make([]uint8, n), sets: make([]int, n)}
	c.reads = make([]uint64, n)
	for i := range uint32(n) {
		b := v.nodes[nodeSize*i:]
		if word(b, 0) >= uint32(opEnd) || !t.check(i, v.Node(i)) {
			c.fail("node %d (operation %d) is malformed", i, word(b, 0))
			return
		}
		v.SetSize = max(v.SetSize, t.sets[i])
	}
}

type tree struct {
	c     *checker
	used  []bool
	depth []uint8
	sets  []int
}

func (t *tree) check(i uint32, n Node) bool {
	c := t.c
	switch n.Op.shape() {
	case shapePlain:
		return n.A|n.B|n.C == 0
	case shapeBool:
		return n.A <= 1 && n.B|n.C == 0
	case shapeNumber:
		return n.C == 0
	case shapeString:
		return c.isString(n.A) && n.B|n.C == 0
	case shapeEntity:
		return c.isEntity(n.A) && n.B|n.C == 0
	case shapeIP:
		if !c.isString(n.A) || n.C != 0 {
			return false
		}
		size := len(c.v.String(n.A))
		return (size == 4 || size == 16) && n.B <= uint32(8*size)
	case shapeAttr:
		if uint64(n.A) >= uint64(len(c.v.Attributes)) || n.B|n.C != 0 {
			return false
		}
		c.reads[i] = 1 << n.A
		return true
	case shapeList:
		if !c.isList(n.A, n.B) || n.C != 0 {
			return false
		}
		for k := range n.B {
			if !t.operand(i, c.v.List(n.A+k)) {
				return false
			}
		}
		if n.Op == OpSet {
			t.sets[i] += int(n.B)
		}
		return true
	case shapeUnary:
		return t.operand(i, n.A) && n.B|n.C == 0
	case shapeUnaryText:
		return t.operand(i, n.A) && c.isString(n.B) && n.C == 0
	case shapeBinary:
		return t.operand(i, n.A) && t.operand(i, n.B) && n.C == 0
	case shapeBinaryText:
		return t.operand(i, n.A) && t.operand(i, n.B) && c.isString(n.C)
	case shapeTernary:
		return t.operand(i, n.A) && t.operand(i, n.B) && t.operand(i, n.C)
	}
	return false
}

// operand notes that node i uses node k.
func (t *tree) operand(i, k uint32) bool {
	if k >= i || t.used[k] || t.depth[k] >= MaxDepth {
		return false
	}
	t.used[k] = true
	t.depth[i] = max(t.depth[i], t.depth[k]+1)
	t.sets[i] += t.sets[k]
	t.c.reads[i] |= t.c.reads[k]
	return true
}
