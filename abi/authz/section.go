package authz

import (
	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/wire"
)

// Bounds that Open holds a section to.
const (
	MaxAttributes = 64  // an attribute set is one word
	MaxDepth      = 200 // of a condition
)

// None stands for "no entity", "no string" and "no node".
const None = ^uint32(0)

// A Section is what the compiler fills in. Strings, entities, attributes, nodes
// and rules are named by their index in these lists.
//
// Scopes are gone: the action and the type of the principal are constants of a
// policy, and each route is a known resource, so that what is left of a scope
// is one entity that the principal must be or be a member of. Routes hold the
// rules that can match there, in buckets by that entity.
type Section struct {
	Strings    []string    // ascending, so that equal text has one index
	Principal  uint32      // string: the type of principals
	Group      uint32      // string: the type of their parents, or None
	Action     uint32      // entity
	Default    abi.Verdict // where no rule matches
	Rule       abi.Rule    // named when the default decides
	Attributes []Attribute
	Entities   []Entity // ascending by type, then id
	Nodes      []Node
	Lists      []uint32 // operands of nodes, rules of buckets
	Rules      []Rule   // in file order
	Routes     []Route  // ascending by name
}

// An Entity is a Cedar entity that the policy names, as strings.
type Entity struct{ Type, ID uint32 }

// A Rule is one Cedar policy: its name, place, effect and condition.
type Rule struct {
	ID, Line  uint32 // strings
	Forbid    bool
	Condition uint32 // node, or None
}

// A Route is a resource: what it is, what it is in, and which rules apply.
type Route struct {
	Name     uint32 // string
	Resource uint32 // entity
	Parent   uint32 // entity, or None
	Reads    uint64 // set of attributes, bit n for attribute n
	Buckets  []Bucket

	first, count uint32 // the buckets, in a View
}

// A Bucket holds the rules for principals that are Key or in Key; None: for
// every principal. Buckets of a route ascend by Key. First and Count delimit
// the rules, ascending, in Section.Lists.
type Bucket struct {
	Key          uint32
	First, Count uint32
}

// Sizes of the fixed records.
const (
	spanSize   = 8
	entitySize = 8
	nodeSize   = 16
	ruleSize   = 16
	routeSize  = 28
	bucketSize = 12
)

// Encode returns the section's bytes.
func (s *Section) Encode() []byte {
	var w wire.Writer
	w.U32(uint32(len(s.Strings)))
	at := 0
	for _, t := range s.Strings {
		w.U32(uint32(at))
		w.U32(uint32(len(t)))
		at += len(t)
	}
	w.U32(uint32(at))
	for _, t := range s.Strings {
		w.Fixed([]byte(t))
	}
	for _, v := range []uint32{s.Principal, s.Group, s.Action} {
		w.U32(v)
	}
	w.U8(uint8(s.Default))
	w.String(s.Rule.ID)
	w.String(s.Rule.Line)
	w.U32(uint32(len(s.Attributes)))
	for _, a := range s.Attributes {
		w.String(a.Name)
		w.U8(uint8(a.Type))
		w.Bool(a.Optional)
		w.U8(uint8(a.Source.Kind))
		w.String(a.Source.Arg)
		w.String(a.Source.Has)
	}
	w.U32(uint32(len(s.Entities)))
	for _, e := range s.Entities {
		w.U32(e.Type)
		w.U32(e.ID)
	}
	w.U32(uint32(len(s.Lists)))
	for _, v := range s.Lists {
		w.U32(v)
	}
	w.U32(uint32(len(s.Nodes)))
	for _, n := range s.Nodes {
		for _, v := range []uint32{uint32(n.Op), n.A, n.B, n.C} {
			w.U32(v)
		}
	}
	w.U32(uint32(len(s.Rules)))
	for _, r := range s.Rules {
		w.U32(r.ID)
		w.U32(r.Line)
		w.U32(r.Condition)
		w.U32(flag(r.Forbid))
	}
	w.U32(uint32(len(s.Routes)))
	buckets := 0
	for _, r := range s.Routes {
		for _, v := range []uint32{r.Name, r.Resource, r.Parent} {
			w.U32(v)
		}
		w.U64(r.Reads)
		w.U32(uint32(buckets))
		w.U32(uint32(len(r.Buckets)))
		buckets += len(r.Buckets)
	}
	w.U32(uint32(buckets))
	for _, r := range s.Routes {
		for _, b := range r.Buckets {
			w.U32(b.Key)
			w.U32(b.First)
			w.U32(b.Count)
		}
	}
	return w.Bytes()
}

func flag(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}
