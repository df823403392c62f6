package flow

import (
	"encoding/binary"
	"errors"
	"fmt"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/wire"
)

// Open checks a section and returns its View, which aliases b. After it every index of
// the section is good, every tree is one, ends within MaxDepth and parts its rules by
// fields alone that rules have, and every rule of a list with trees is of the class of
// one of them. It takes time in proportion to the section. That a forest finds the rule that
// the definition finds is for who makes the program to see to.
func Open(b []byte) (*View, error) {
	if len(b) == 0 {
		return nil, errors.New("flow: no section")
	}
	c := checker{r: wire.NewReader(b), v: &View{}}
	v := c.v
	v.names = c.table(nameSize)
	v.text = c.r.String()
	c.text()
	v.rules = c.table(ruleSize)
	c.rules()
	v.splits, v.entries, v.nodes = c.table(splitSize), c.table(entrySize), c.table(nodeSize)
	c.lists()
	if err := c.r.Close(); err != nil {
		return nil, fmt.Errorf("flow: %w", err)
	}
	return v, nil
}

// A checker reads a section front to back; each part refers to earlier ones.
type checker struct {
	r *wire.Reader
	v *View

	rule, node, entry int // the next that no list, tree or leaf has yet
}

func (c *checker) fail(format string, args ...any) { c.r.Fail(fmt.Errorf(format, args...)) }

func (c *checker) table(size int) []byte { return c.r.Fixed(size * c.r.Count(size)) }

// text checks that the names are all of the text, one after the other.
func (c *checker) text() {
	end := uint64(0)
	for b := c.v.names; len(b) > 0; b = b[nameSize:] {
		if uint64(binary.LittleEndian.Uint32(b)) != end {
			c.fail("a name begins where the one before it does not end")
			return
		}
		end += uint64(binary.LittleEndian.Uint32(b[4:])) + uint64(binary.LittleEndian.Uint32(b[8:]))
		if end > uint64(len(c.v.text)) {
			break
		}
	}
	if c.r.Err() == nil && end != uint64(len(c.v.text)) {
		c.fail("the names and the text differ in length")
	}
}

func (c *checker) isName(i uint32) bool { return uint64(i) < uint64(len(c.v.names)/nameSize) }

func (c *checker) rules() {
	v := c.v
	for r := range len(v.rules) / ruleSize {
		b := v.record(r)
		flags := b[atFlags]
		v6 := flags&flagV6 != 0
		switch {
		case flags >= flagsEnd || !c.isName(binary.LittleEndian.Uint32(b[atName:])):
			c.fail("rule %d: flags or name", r)
		case !isPrefix(b[:], b[atSrcBits], v6) || !isPrefix(b[atDst:], b[atDstBits], v6):
			c.fail("rule %q: the source or the destination is not a prefix", v.Name(r).ID)
		case !isRange(b[atFrom:]) || !isRange(b[atPort:]):
			c.fail("rule %q: ports in the wrong order", v.Name(r).ID)
		}
		if c.r.Err() != nil {
			return
		}
	}
}

func isRange(b []byte) bool {
	return binary.LittleEndian.Uint16(b) <= binary.LittleEndian.Uint16(b[2:])
}

// isPrefix reports whether what is behind so many bits of an address is zero, and it is
// of the family: no prefix of IPv6 is one of addresses that stand for IPv4.
func isPrefix(b []byte, length uint8, v6 bool) bool {
	n, bits := numberAt(b), int(length)
	if !v6 {
		return bits <= 32 && n.hi == 0 && n.lo<<(32+bits) == 0 && n.lo>>32 == 0
	}
	if bits > 128 || bits >= 96 && n.hi == 0 && n.lo>>32 == 0xffff {
		return false
	}
	return bits >= 64 && n.lo<<(bits-64) == 0 || bits < 64 && n.lo == 0 && n.hi<<bits == 0
}

func (c *checker) lists() {
	v := c.v
	for i := range c.r.Count(17) {
		l := Table{Level: c.r.String(), Default: abi.Verdict(c.r.U8()), First: c.rule}
		name := c.r.U32()
		l.Rules = int(c.r.U32())
		trees := c.r.Count(treeSize)
		switch {
		case c.r.Err() != nil:
		case l.Default > abi.Allow || !c.isName(name):
			c.fail("list %d: default or name", i)
		case l.Rules > len(v.rules)/ruleSize-c.rule || trees > MaxTrees:
			c.fail("list %d: %d rules and %d trees", i, l.Rules, trees)
		default:
			l.Rule = v.name(name)
			c.rule += l.Rules
			c.trees(&l, trees)
		}
		if c.r.Err() != nil {
			return
		}
		v.Lists = append(v.Lists, l)
	}
	if c.r.Err() == nil && (c.rule != len(v.rules)/ruleSize || c.node != len(v.nodes)/nodeSize || c.entry != len(v.entries)/entrySize) {
		c.fail("rules, nodes or entries that no list has")
	}
}

// trees reads the trees of a list.
func (c *checker) trees(l *Table, n int) {
	list, sizes := make([]Tree, n), make([]int, n)
	for i := range list {
		t, at := &list[i], root{node: c.r.U32()}
		sizes[i] = int(c.r.U32())
		family := c.r.U8()
		t.V6 = family == 6
		t.Src, t.Dst = [2]uint8{c.r.U8(), c.r.U8()}, [2]uint8{c.r.U8(), c.r.U8()}
		t.From = Sources(c.r.U8())
		if rest := c.r.U16(); family != 4 && family != 6 || t.From >= sources || rest != 0 || t.Dst[0] == 0 && t.Dst[1] > 0 {
			c.fail("tree at node %d: its class", at.node)
		}
		at.v6, at.directed = t.V6, t.Dst[0] > 0
		l.trees = append(l.trees, at)
	}
	if c.r.Err() != nil || n == 0 {
		return
	}
	c.classes(l, list)
	for i := range list {
		c.tree(l, &list[i], int(l.trees[i].node), sizes[i])
	}
}

// classes checks that each rule is of the class of one tree, and that the trees are
// ordered by their first rules.
func (c *checker) classes(l *Table, trees []Tree) {
	seen := make([]bool, len(trees))
	next := 0
	for r := l.First; r < l.First+l.Rules; r++ {
		of := -1
		for i := range trees {
			if !c.has(&trees[i], r) {
				continue
			}
			if of >= 0 {
				c.fail("rule %q is of the classes of two trees", c.v.Name(r).ID)
				return
			}
			of = i
		}
		if of < 0 || !seen[of] && of != next {
			c.fail("rule %q is of no tree, or its tree is out of order", c.v.Name(r).ID)
			return
		}
		if !seen[of] {
			seen[of] = true
			next++
		}
	}
	if next != len(trees) {
		c.fail("a tree without a rule")
	}
}

// tree checks the nodes of a tree: each but the root is the child of one node before it.
func (c *checker) tree(l *Table, t *Tree, root, size int) {
	v := c.v
	if c.r.Err() != nil {
		return
	}
	if root != c.node || size < 1 || size > len(v.nodes)/nodeSize-c.node {
		c.fail("tree at node %d of %d nodes", root, size)
		return
	}
	depths := make([]uint8, size) // and 1; 0: nobody's child
	depths[0] = 1
	for i, depth := range depths {
		n := binary.LittleEndian.Uint64(v.nodes[nodeSize*(c.node+i):])
		value, field, link := uint32(n), Field(n>>32&7), int(n>>35)
		if depth == 0 {
			c.fail("node %d is the child of none", c.node+i)
			return
		}
		if field == FieldNone {
			if !c.leaf(l, t, int(value), link) {
				c.fail("node %d: the rules of the leaf", c.node+i)
				return
			}
			continue
		}
		child, many := link-c.node, c.children(t, field, value)
		ok := many > 0 && child > i && many <= size-child && depth <= MaxDepth
		for j := child; ok && j < child+many; j++ {
			ok, depths[j] = depths[j] == 0, depth+1
		}
		if !ok {
			c.fail("node %d is malformed", c.node+i)
			return
		}
	}
	c.node += size
}

// children returns how many a node has that parts by so much of a field; 0: no node of
// the tree can.
func (c *checker) children(t *Tree, f Field, value uint32) int {
	table := f == tabled
	if table {
		f = Field(value & 7)
	}
	if f == FieldNone || f >= tabled || f == FieldDst && t.Dst[1] == 0 {
		return 0
	}
	width := f.width(t.V6)
	switch shift, bits := value>>3&127, value>>10; {
	case table && (bits < 1 || bits > MaxBits || shift+bits > width):
		return 0
	case table:
		return 1 << bits
	case width == 128 && uint64(value) >= uint64(len(c.v.splits)/splitSize), width < 32 && value >= 1<<width-1:
		return 0
	}
	return 2
}

// leaf checks the rules of a leaf: in order, and of the tree.
func (c *checker) leaf(l *Table, t *Tree, at, n int) bool {
	if n == 1 {
		return at >= l.First && at < l.First+l.Rules && c.has(t, at)
	}
	if at != c.entry || n > len(c.v.entries)/entrySize-c.entry {
		return false
	}
	c.entry += n
	last := l.First - 1
	for i := at; i < at+n; i++ {
		r := int(binary.LittleEndian.Uint32(c.v.entries[entrySize*i:]))
		if r <= last || r >= l.First+l.Rules || !c.has(t, r) {
			return false
		}
		last = r
	}
	return true
}

// has reports whether a rule is of the class of a tree.
func (c *checker) has(t *Tree, r int) bool {
	b := c.v.record(r)
	all := binary.LittleEndian.Uint16(b[atFrom:]) == 0 && binary.LittleEndian.Uint16(b[atFrom+2:]) == 1<<16-1
	return t.has(b[atFlags]&flagV6 != 0, b[atSrcBits], b[atDstBits], all)
}
