package authz

import (
	"encoding/binary"
	"math/bits"
)

// names lead from what requests bring to the places in the section: every request looks up
// its route, its principal and their groups among the strings of all rules. They are made
// when the section is opened.
type names struct {
	strings  []spot   // by their text
	entities []spot   // by type and id
	routes   []uint32 // by string; None: there is none of that name
}

// A spot is a place in a table: which string or entity is there, and what its text is, at
// hand so that a look at another one ends here. A key lies in the first spot from its hash
// on, around the end, that was free when it came; a table is at most three quarters full.
type spot struct {
	tag      uint32 // of the hash
	index    uint32 // None: free
	at, size uint32 // of the text
}

// PrincipalType returns the type of every principal, a string; None where requests name
// any entity.
func (v *View) PrincipalType() uint32 { return v.principal }

// Principal returns the entity of the principal with this name, or None where
// no policy names it.
func (v *View) Principal(name string) uint32 { return v.Find(v.principal, name) }

// Parent returns the entity of the group with this name, or None where no policy
// names it.
func (v *View) Parent(name string) uint32 { return v.Find(v.group, name) }

// Find returns the entity of a type, a string or None, and a name, or None.
func (v *View) Find(kind uint32, name string) uint32 {
	h := hash(uint64(kind), name)
	for i := h; ; i++ {
		x := &v.names.entities[i&uint64(len(v.names.entities)-1)]
		switch {
		case x.index == None:
			return None
		case x.tag == tag(h) && v.EntityType(x.index) == kind && string(v.text[x.at:][:x.size]) == name:
			return x.index
		}
	}
}

// Intern returns the index of text, or None.
func (v *View) Intern(text []byte) uint32 { return intern(v, text) }

// Index is Intern of a string.
func (v *View) Index(text string) uint32 { return intern(v, text) }

func intern[T string | []byte](v *View, text T) uint32 {
	h := hash(0, text)
	for i := h; ; i++ {
		x := &v.names.strings[i&uint64(len(v.names.strings)-1)]
		if x.index == None || x.tag == tag(h) && string(v.text[x.at:][:x.size]) == string(text) { // does not allocate
			return x.index
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

func (v *View) index() {
	strings, entities := len(v.spans)/spanSize, len(v.entities)/entitySize
	v.names = names{strings: spots(strings), entities: spots(entities), routes: make([]uint32, strings)}
	for s := range uint32(strings) {
		v.names.routes[s] = None
		v.place(v.names.strings, hash(0, v.String(s)), s, s)
	}
	for e := range uint32(entities) {
		name := word(v.entities, 6*e+1)
		v.place(v.names.entities, hash(uint64(v.EntityType(e)), v.String(name)), e, name)
	}
	for r := range uint32(len(v.routes) / routeSize) {
		v.names.routes[word(v.routes, 4*r)] = r
	}
}

// place puts what has a name, a string, into a table.
func (v *View) place(table []spot, h uint64, index, name uint32) {
	i := h & uint64(len(table)-1)
	for table[i].index != None {
		i = (i + 1) & uint64(len(table)-1)
	}
	table[i] = spot{tag(h), index, word(v.spans, 2*name), word(v.spans, 2*name+1)}
}

// spots returns a table that has room for n.
func spots(n int) []spot {
	table := make([]spot, 1<<bits.Len(uint(n+n/3)))
	for i := range table {
		table[i].index = None
	}
	return table
}

// hash spreads texts, over tables that clients put nothing in: names that they choose can at
// worst all go through the longest row of taken spots, and need no secret.
func hash[T string | []byte](seed uint64, s T) uint64 {
	h := mix(seed ^ uint64(len(s)))
	for ; len(s) > 8; s = s[8:] {
		h = mix(h ^ (half(s) | half(s[4:])<<32))
	}
	switch n := len(s); {
	case n >= 4:
		return mix(h ^ (half(s) | half(s[n-4:])<<32))
	case n > 0:
		return mix(h ^ (uint64(s[0]) | uint64(s[n/2])<<8 | uint64(s[n-1])<<16))
	}
	return h
}

func half[T string | []byte](s T) uint64 {
	_ = s[3]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24
}

func mix(x uint64) uint64 {
	hi, lo := bits.Mul64(x^0x9e3779b97f4a7c15, 0xd6e8feb86659fd93)
	return hi ^ lo
}

// tag is what a spot has of a hash: not the part that says where it is.
func tag(h uint64) uint32 { return uint32(h >> 32) }
