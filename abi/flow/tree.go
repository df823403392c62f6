package flow

import "net/netip"

// A Tree finds the rules of one class: of a family, with prefixes of some lengths. The
// classes of the trees of a list part its rules, and rules on every destination are in no
// class with others. So that rules on wide networks are not copied to everywhere, they
// have trees of their own.
//
// An inner node parts what flows can be by one field. Each leaf is about a box of them
// and lists every rule of the class that is about some of the box, in order, up to the
// first that is about all of it.
type Tree struct {
	V6       bool
	Src, Dst [2]uint8 // the least and the greatest length of prefixes
	Nodes    []Node   // the root first, children after their parents
	Rules    []uint32 // of the leaves, by the order of the nodes: indices into List.Rules
}

// A Node is inner, or a leaf.
type Node struct {
	Field Field
	Addr  netip.Addr // of FieldSrc and FieldDst: flows with this one and lesser ones go to the first child
	Value uint32     // of other fields, the same
	Child uint32     // the first of two children, which are neighbours; of a leaf: how many rules it has
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
	fields
)

// Bounds that Open holds a section to.
const (
	MaxTrees = 16 // of a list
	MaxDepth = 64 // of a tree: inner nodes from its root to a leaf
)

// Has reports whether a rule is of the tree's class.
func (t *Tree) Has(r *Rule) bool {
	return t.has(!r.Src.Addr().Is4(), uint8(r.Src.Bits()), uint8(max(r.Dst.Bits(), 0)))
}

func (t *Tree) has(v6 bool, src, dst uint8) bool {
	return t.V6 == v6 && t.Src[0] <= src && src <= t.Src[1] && t.Dst[0] <= dst && dst <= t.Dst[1]
}
