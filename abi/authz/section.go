package authz

import (
	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/wire"
)

// Bounds that Open holds a section to.
const (
	MaxAttributes = 64  // an attribute set is one word
	MaxStack      = 128 // values that code has on its stack
	MaxElements   = 128 // of a set or record that is made while deciding
	MaxNesting    = 32  // of sets and records in a constant, and of tests in the index
)

// None stands for "no entity", "no string", "no constant" and "no node".
const None = ^uint32(0)

// A Section is what the compiler fills in. Strings, entities, attributes, constants,
// instructions, rules and nodes are named by their index in these lists.
//
// Each rule has its own code, which decides alone whether it applies. Which rules are
// asked is said by the index: a tree of nodes whose groups look at one thing each (who
// asks, what for, an attribute) and lead on by what they see.
type Section struct {
	Strings    []string    // ascending, so that equal text has one index
	Principal  uint32      // string: the type of principals; None where requests name any entity
	Group      uint32      // string: the type of the parents that requests give principals, or None
	Action     uint32      // entity, or None
	Default    abi.Verdict // where no rule applies
	Rule       abi.Rule    // named when the default decides
	Attributes []Attribute
	Entities   []Entity // ascending by type, then id
	Lists      []uint32
	Values     []Value
	Code       []Instruction
	Rules      []Rule // in file order
	Nodes      []Node // the first is the root; a node comes before those that it leads to
	Groups     []Group
	Slots      []Slot
	Routes     []Route // ascending by name
}

// An Entity is one that the policies name or that was given to them.
type Entity struct {
	Type, ID       uint32 // strings
	Members, Tags  uint32 // constants that are records, or None: an entity that does not exist
	First, Parents uint32 // list elements: all that it is in, ascending, without itself
}

// A Rule is one Cedar policy: its name, place, effect, scope and conditions. The code of
// one that applies comes to its end, with nothing on the stack.
type Rule struct {
	ID, Line uint32 // strings
	Forbid   bool
	Sure     bool // it cannot fault, whatever a request says
	Code     Span
}

// A Span delimits elements of another list.
type Span struct{ First, Count uint32 }

// A Node holds rules that are asked in any case, and groups.
type Node struct {
	Rules  Span // list elements, ascending
	Groups Span
}

// A GroupKind says how a group leads on.
type GroupKind uint8

const (
	GroupString GroupKind = 1 + iota // by the string that the value is
	GroupEntity                      // by the entity that it is
	GroupLong                        // by the number that it is, from 0 to 1<<32 - 1
	GroupIn                          // by each entity that it is or is in
	GroupIs                          // by its type, a string
	groupEnd
)

// A Group leads to the node of the key that the value of its code gives. Where the code
// faults, or the value has another type where that is a fault, it leads to Fault.
type Group struct {
	Kind  GroupKind
	Code  Span   // leaves one value
	Fault uint32 // node, or None
	Slots Span   // a power of two
}

// A Slot leads from a key to a node; None: it is free. A key lies in the first slot from
// its home on, around the end, that was free when it came; see Home.
type Slot struct{ Key, Node uint32 }

// Home is where a table of so many slots, a power of two, has its key at best.
func Home(key, slots uint32) uint32 { return key * 0x9e3779b1 >> 7 & (slots - 1) }

// A Route is a resource, and the attributes that the rules read that can apply to it.
type Route struct {
	Name     uint32 // string
	Resource uint32 // entity
	Reads    uint64 // set of attributes, bit n for attribute n
}

// Sizes of the fixed records.
const (
	spanSize        = 8
	entitySize      = 24
	valueSize       = 12
	instructionSize = 12
	ruleSize        = 20
	nodeSize        = 16
	groupSize       = 24
	slotSize        = 8
	routeSize       = 16
)

// Encode returns the section's bytes.
func (s *Section) Encode() []byte {
	var w wire.Writer
	w.U32(uint32(len(s.Strings)))
	at := 0
	for _, t := range s.Strings {
		words(&w, uint32(at), uint32(len(t)))
		at += len(t)
	}
	w.U32(uint32(at))
	for _, t := range s.Strings {
		w.Fixed([]byte(t))
	}
	words(&w, s.Principal, s.Group, s.Action)
	w.U8(uint8(s.Default))
	w.String(s.Rule.ID)
	w.String(s.Rule.Line)
	w.U32(uint32(len(s.Attributes)))
	for _, a := range s.Attributes {
		w.String(a.Name)
		w.U8(uint8(a.Type))
		w.Bool(a.Set)
		w.Bool(a.Optional)
		w.U8(uint8(a.Source.Kind))
		w.String(a.Source.Arg)
		w.String(a.Source.Has)
	}
	table(&w, s.Entities, func(e Entity) { words(&w, e.Type, e.ID, e.Members, e.Tags, e.First, e.Parents) })
	table(&w, s.Lists, func(v uint32) { w.U32(v) })
	table(&w, s.Values, func(v Value) { words(&w, uint32(v.Kind), v.A, v.B) })
	table(&w, s.Code, func(i Instruction) { words(&w, uint32(i.Op), i.A, i.B) })
	table(&w, s.Rules, func(r Rule) { words(&w, r.ID, r.Line, flag(r.Forbid)|flag(r.Sure)<<1, r.Code.First, r.Code.Count) })
	table(&w, s.Nodes, func(n Node) { words(&w, n.Rules.First, n.Rules.Count, n.Groups.First, n.Groups.Count) })
	table(&w, s.Groups, func(g Group) {
		words(&w, uint32(g.Kind), g.Code.First, g.Code.Count, g.Fault, g.Slots.First, g.Slots.Count)
	})
	table(&w, s.Slots, func(x Slot) { words(&w, x.Key, x.Node) })
	table(&w, s.Routes, func(r Route) {
		words(&w, r.Name, r.Resource)
		w.U64(r.Reads)
	})
	return w.Bytes()
}

func table[T any](w *wire.Writer, list []T, write func(T)) {
	w.U32(uint32(len(list)))
	for _, x := range list {
		write(x)
	}
}

func words(w *wire.Writer, list ...uint32) {
	for _, v := range list {
		w.U32(v)
	}
}

func flag(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}
