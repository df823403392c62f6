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
	Action     uint32     // entity
	SetSize    int        // no evaluation of one rule makes more set elements

	names            names
	principal, group uint32
	spans, text      []byte
	entities         []byte
	lists            []byte
	nodes            []byte
	rules            []byte
	routes           []byte
	buckets          []byte
}

func word(b []byte, i uint32) uint32 { return binary.LittleEndian.Uint32(b[4*i:]) }

// String returns string i, aliasing the section.
func (v *View) String(i uint32) []byte {
	at, n := word(v.spans, 2*i), word(v.spans, 2*i+1)
	return v.text[at : at+n : at+n]
}

// Node returns node i.
func (v *View) Node(i uint32) Node {
	b := v.nodes[nodeSize*i:][:nodeSize]
	return Node{Op: Op(b[0]), A: binary.LittleEndian.Uint32(b[4:]), B: binary.LittleEndian.Uint32(b[8:]), C: binary.LittleEndian.Uint32(b[12:])}
}

// List returns element i of the lists.
func (v *View) List(i uint32) uint32 { return word(v.lists, i) }

// Condition returns the node of rule i, or None, and whether it forbids.
func (v *View) Condition(i uint32) (node uint32, forbid bool) {
	return word(v.rules, 4*i+2), word(v.rules, 4*i+3) == 1
}

// EntityType returns the type of entity i, a string.
func (v *View) EntityType(i uint32) uint32 { return word(v.entities, 2*i) }

// PrincipalType returns the type of every principal, a string.
func (v *View) PrincipalType() uint32 { return v.principal }

// Principal returns the entity of the principal with this name, or None where
// no policy names it.
func (v *View) Principal(name string) uint32 {
	if s := v.find(name); s != None {
		return v.names.principals[s]
	}
	return None
}

// Group returns the entity of the group with this name, or None where no policy
// names it.
func (v *View) Group(name string) uint32 {
	if s := v.find(name); s != None {
		return v.names.groups[s]
	}
	return None
}

// Route returns the named route.
func (v *View) Route(name string) (Route, bool) {
	s := v.find(name)
	if s == None || v.names.routes[s] == None {
		return Route{}, false
	}
	return v.route(v.names.routes[s]), true
}

func (v *View) route(i uint32) Route {
	b := v.routes[routeSize*i : routeSize*i+routeSize]
	return Route{Name: word(b, 0), Resource: word(b, 1), Parent: word(b, 2),
		Reads: binary.LittleEndian.Uint64(b[12:]), first: word(b, 5), count: word(b, 6)}
}

// Bucket returns the bucket of r for exactly this key, which may be None. The
// zero Bucket has no rules.
func (v *View) Bucket(r Route, key uint32) Bucket {
	i := search(int(r.count), func(i uint32) bool { return word(v.buckets, 3*(r.first+i)) >= key })
	if i == None {
		return Bucket{}
	}
	if b := v.bucket(r.first + i); b.Key == key {
		return b
	}
	return Bucket{}
}

func (v *View) bucket(i uint32) Bucket {
	b := v.buckets[bucketSize*i : bucketSize*i+bucketSize]
	return Bucket{Key: word(b, 0), First: word(b, 1), Count: word(b, 2)}
}

// find returns the index of text, or None.
func (v *View) find(text string) uint32 {
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

	principals, groups, routes []uint32 // by string; None: there is none of that name
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
	n.principals, n.groups, n.routes = free(strings), free(strings), free(strings)
	for e := range uint32(len(v.entities) / entitySize) {
		of, name := word(v.entities, 2*e), word(v.entities, 2*e+1)
		if of == v.principal {
			n.principals[name] = e
		}
		if of == v.group {
			n.groups[name] = e
		}
	}
	for r := range uint32(len(v.routes) / routeSize) {
		n.routes[word(v.routes, 7*r)] = r
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
