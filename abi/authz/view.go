package authz

import (
	"encoding/binary"

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
	keys             []uint64 // set of the entities that are keys of groups which look upwards
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

// Listed returns a span of the lists, to be read with At.
func (v *View) Listed(s Span) List { return v.lists[4*s.First:][:4*s.Count] }

// List is indices in place.
type List []byte

// Len returns their number.
func (l List) Len() uint32 { return uint32(len(l) / 4) }

// At returns index i of them.
func (l List) At(i uint32) uint32 { return word(l, i) }

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
	table := v.slots[slotSize*g.Slots.First:][:slotSize*g.Slots.Count]
	at := Home(key, g.Slots.Count)
	for range g.Slots.Count {
		slot := binary.LittleEndian.Uint64(table[slotSize*at:])
		node := uint32(slot >> 32)
		if node == None || uint32(slot) == key {
			return node
		}
		at = (at + 1) & (g.Slots.Count - 1)
	}
	return None
}

// Leads reports whether a group of the index leads on by an entity that something is in. It
// may say so of one that none does.
func (v *View) Leads(entity uint32) bool { return v.keys[entity/64]>>(entity%64)&1 != 0 }

// Entity returns entity i.
func (v *View) Entity(i uint32) Entity {
	b := v.entities[entitySize*i:][:entitySize]
	return Entity{word(b, 0), word(b, 1), word(b, 2), word(b, 3), word(b, 4), word(b, 5)}
}

// EntityType returns the type of entity i, a string.
func (v *View) EntityType(i uint32) uint32 { return word(v.entities, 6*i) }

// Above returns all that entity i is in.
func (v *View) Above(i uint32) List {
	b := v.entities[entitySize*i:][:entitySize]
	return v.Listed(Span{word(b, 4), word(b, 5)})
}

// In reports whether entity i is in entity j, which is another.
func (v *View) In(i, j uint32) bool {
	up := v.Above(i)
	for up.Len() > 8 { // the half of what ascends
		if mid := up.Len() / 2; up.At(mid) <= j {
			up = up[4*mid:]
		} else {
			up = up[:4*mid]
		}
	}
	for k := range up.Len() {
		if up.At(k) == j {
			return true
		}
	}
	return false
}
