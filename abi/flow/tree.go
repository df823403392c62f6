package flow

import "net/netip"

// A Tree finds the rules of one class: of a family, with prefixes of some lengths, on
// some source ports. The classes of the trees of a list part its rules, and rules on every
// destination are in no class with others. So that rules on wide networks are not copied
// to everywhere, they have trees of their own.
//
// An inner node parts what flows can be by one field, in two or, where it is a table, in
// many. Each leaf is about a box of them and lists every rule of the class that is about
// some of the box, in order, up to the first that is about all of it.
type Tree struct {
	V6       bool
	Src, Dst [2]uint8 // the least and the greatest length of prefixes
	From     Sources
	Nodes    []Node   // the root first, children after their parents
	Rules    []uint32 // of the leaves, by the order of the nodes: indices into List.Rules
}

// Sources are source ports that rules of a class are about.
type Sources uint8

const (
	FromAny  Sources = iota // whichever
	FromAll                 // all of them
	FromSome                // not all of them
	sources
)

// A Node is inner, or a leaf.
type Node struct {
	Field Field
	Addr  netip.Addr // of FieldSrc and FieldDst: flows with this one and lesser ones go to the first child
	Value uint32     // of other fields, the same
	Child uint32     // the first of its children, which are neighbours; of a leaf: how many rules it has

	// So many bits of the field, which lie so far from its last, number the child where
	// flows go; 0: the node has two, and no table. Bits before those do not count: where
	// they matter, no rule can match.
	Bits, Shift uint8
}

// A Field of a flow.
type Field uint8

const (
	FieldNone     Field = iota // the node is a leaf
	FieldSrc                   // source address
	FieldDst                   // destination address
	FieldFrom                  // source port
	FieldPort                  // destination port
	FieldProtocol              // protocol

	tabled // in the bytes of a node: it is a table, and its value says of which field
)

// width is how many bits a field has.
func (f Field) width(v6 bool) uint32 {
	switch {
	case f == FieldProtocol:
		return 8
	case f > FieldDst:
		return 16
	case v6:
		return 128
	}
	return 32
}

// Bounds that Open holds a section to.
const (
	MaxTrees = 16 // of a list
	MaxDepth = 64 // of a tree: inner nodes from its root to a leaf
	MaxBits  = 16 // of a table
)

// Has reports whether a rule is of the tree's class.
func (t *Tree) Has(r *Rule) bool {
	return t.has(!r.Src.Addr().Is4(), uint8(r.Src.Bits()), uint8(max(r.Dst.Bits(), 0)), r.FromLo == 0 && r.FromHi == 1<<16-1)
}

func (t *Tree) has(v6 bool, src, dst uint8, all bool) bool {
	return t.V6 == v6 && t.Src[0] <= src && src <= t.Src[1] && t.Dst[0] <= dst && dst <= t.Dst[1] && (t.From == FromAny || all == (t.From == FromAll))
}
