package authz

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"

	"lorica.dev/lorica/abi"
)

// A View is a section that was checked once and is read in place: whatever
// decides stays in the sealed memory that the section lies in. Only what names
// a decision or says where facts come from is copied. A View is safe for
// concurrent use. Its methods take indices that come from the View.
type View struct {
	Default    abi.Verdict
	Rule       abi.Rule
	Attributes []Attribute
	Rules      []abi.Rule // names and places, by rule
	Level      uint64     // set of the attributes whose source is the level
	Action     uint32     // entity, or None
	Elements   int        // no rule makes more elements of sets and records, names counted

	names            names
	principal, group uint32
	spans, text      []byte
	entities         []byte
	lists            []byte
	values           []byte
	code             []byte
	rules            []byte
	nodes            []byte
	groups           []byte
	slots            []byte
	routes           []byte
}

func word(b []byte, i uint32) uint32 { return binary.LittleEndian.Uint32(b[4*i:]) }

// String returns string i, aliasing the section.
func (v *View) String(i uint32) []byte {
	at, n := word(v.spans, 2*i), word(v.spans, 2*i+1)
	return v.text[at : at+n : at+n]
}

// Strings returns their number.
func (v *View) Strings() int { return len(v.spans) / spanSize }

// Value returns constant i.
func (v *View) Value(i uint32) Value {
	b := v.values[valueSize*i:][:valueSize]
	return Value{Kind: ValueKind(b[0]), A: binary.LittleEndian.Uint32(b[4:]), B: binary.LittleEndian.Uint32(b[8:])}
}

// Code returns the code of a span, to be read with At.
func (v *View) Code(s Span) Code { return v.code[instructionSize*s.First:][:instructionSize*s.Count] }

// Code is instructions in place.
type Code []byte

// Len returns their number.
func (c Code) Len() uint32 { return uint32(len(c) / instructionSize) }

// At returns instruction i.
func (c Code) At(i uint32) Instruction {
	b := c[instructionSize*i:][:instructionSize]
	return Instruction{Op: Op(b[0]), A: binary.LittleEndian.Uint32(b[4:]), B: binary.LittleEndian.Uint32(b[8:])}
}

// List returns element i of the lists.
func (v *View) List(i uint32) uint32 { return word(v.lists, i) }

// Condition returns the code of rule i.
func (v *View) Condition(i uint32) Code {
	b := v.rules[ruleSize*i:][:ruleSize]
	return v.Code(Span{word(b, 3), word(b, 4)})
}

// Effect reports whether rule i forbids, and whether it is sure never to fault.
func (v *View) Effect(i uint32) (forbid, sure bool) {
	effect := word(v.rules[ruleSize*i:][:ruleSize], 2)
	return effect&1 != 0, effect&2 != 0
}

// Node returns node i.
func (v *View) Node(i uint32) Node {
	b := v.nodes[nodeSize*i:][:nodeSize]
	return Node{Rules: Span{word(b, 0), word(b, 1)}, Groups: Span{word(b, 2), word(b, 3)}}
}

// Nodes returns their number.
func (v *View) Nodes() int { return len(v.nodes) / nodeSize }

// Group returns group i.
func (v *View) Group(i uint32) Group {
	b := v.groups[groupSize*i:][:groupSize]
	return Group{Kind: GroupKind(b[0]), Code: Span{word(b, 1), word(b, 2)}, Fault: word(b, 3), Slots: Span{word(b, 4), word(b, 5)}}
}

// Lead returns the node that a group leads to by a key, or None.
func (v *View) Lead(g *Group, key uint32) uint32 {
	for i := range g.Slots.Count {
		at := g.Slots.First + (Home(key, g.Slots.Count)+i)&(g.Slots.Count-1)
		switch node := word(v.slots, 2*at+1); {
		case node == None:
			return None
		case word(v.slots, 2*at) == key:
			return node
		}
	}
	return None
}

// Entity returns entity i.
func (v *View) Entity(i uint32) Entity {
	b := v.entities[entitySize*i:][:entitySize]
	return Entity{word(b, 0), word(b, 1), word(b, 2), word(b, 3), word(b, 4), word(b, 5)}
}

// EntityType returns the type of entity i, a string.
func (v *View) EntityType(i uint32) uint32 { return word(v.entities, 6*i) }

// In reports whether entity i is in entity j, which is another.
func (v *View) In(i, j uint32) bool {
	first, n := word(v.entities, 6*i+4), word(v.entities, 6*i+5)
	at := search(int(n), func(k uint32) bool { return v.List(first+k) >= j })
	return at != None && v.List(first+at) == j
}

// PrincipalType returns the type of every principal, a string; None where requests name
// any entity.
func (v *View) PrincipalType() uint32 { return v.principal }

// Principal returns the entity of the principal with this name, or None where
// no policy names it.
func (v *View) Principal(name string) uint32 {
	return v.named(v.principal, name)
}

// Parent returns the entity of the group with this name, or None where no policy
// names it.
func (v *View) Parent(name string) uint32 {
	return v.named(v.group, name)
}

// Find returns the entity of a type and a name, or None.
func (v *View) Find(kind, name string) uint32 {
	if s := v.Index(name); s != None {
		for e := v.names.entities[s]; e != None; e = v.names.namesakes[e] {
			if string(v.String(v.EntityType(e))) == kind {
				return e
			}
		}
	}
	return None
}

// named is Find where the type is a string of the section, or None.
func (v *View) named(kind uint32, name string) uint32 {
	if s := v.Index(name); s != None {
		for e := v.names.entities[s]; e != None; e = v.names.namesakes[e] {
			if v.EntityType(e) == kind {
				return e
			}
		}
	}
	return None
}

// Intern returns the index of text, or None.
func (v *View) Intern(text []byte) uint32 {
	n := &v.names
	mask := uint64(len(n.slots) - 1)
	for i := maphash.Bytes(n.seed, text) & mask; ; i = (i + 1) & mask {
		s := n.slots[i]
		if s == None || string(v.String(s)) == string(text) { // does not allocate
			return s
		}
	}
}

// Route returns the named route.
func (v *View) Route(name string) (Route, bool) {
	s := v.Index(name)
	if s == None || v.names.routes[s] == None {
		return Route{}, false
	}
	return v.route(v.names.routes[s]), true
}

func (v *View) route(i uint32) Route {
	b := v.routes[routeSize*i:][:routeSize]
	return Route{Name: word(b, 0), Resource: word(b, 1), Reads: binary.LittleEndian.Uint64(b[8:])}
}

// Index is Intern of a string.
func (v *View) Index(text string) uint32 {
	n := &v.names
	mask := uint64(len(n.slots) - 1)
	for i := maphash.String(n.seed, text) & mask; ; i = (i + 1) & mask {
		s := n.slots[i]
		if s == None || string(v.String(s)) == text { // does not allocate
			return s
		}
	}
}

// names lead from what requests bring to the places in the section: every request
// looks up its route, its principal and their groups among the strings of all
// rules. They are made when the section is opened.
type names struct {
	seed  maphash.Seed // names come from clients
	slots []uint32     // strings by hash, at most half full; None: free

	entities, routes []uint32 // by string; None: there is none of that name
	namesakes        []uint32 // by entity: another one of its name, or None
}

func (v *View) index() {
	n := &v.names
	strings := len(v.spans) / spanSize
	n.seed, n.slots = maphash.MakeSeed(), free(2<<bits.Len(uint(strings)))
	mask := uint64(len(n.slots) - 1)
	for s := range uint32(strings) {
		i := maphash.Bytes(n.seed, v.String(s)) & mask
		for n.slots[i] != None {
			i = (i + 1) & mask
		}
		n.slots[i] = s
	}
	n.entities, n.routes, n.namesakes = free(strings), free(strings), free(len(v.entities)/entitySize)
	for e := range uint32(len(n.namesakes)) {
		name := word(v.entities, 6*e+1)
		n.namesakes[e], n.entities[name] = n.entities[name], e
	}
	for r := range uint32(len(v.routes) / routeSize) {
		n.routes[word(v.routes, 4*r)] = r
	}
}

func free(n int) []uint32 {
	list := make([]uint32, n)
	for i := range list {
		list[i] = None
	}
	return list
}

// search returns the first of n indices for which reached holds, or None.
func search(n int, reached func(uint32) bool) uint32 {
	lo, hi := 0, n
	for lo < hi {
		if mid := (lo + hi) / 2; reached(uint32(mid)) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	if lo == n {
		return None
	}
	return uint32(lo)
}
