package authz

import (
	"sync/atomic"

	"lorica.dev/lorica/pep"
)

// Bounds of a memo: at most memoSlots decisions, none with a longer key.
const (
	memoSlots = 1024
	memoKey   = 1024
)

// A memo remembers decisions by everything that went into them. A slot holds the
// latest decision whose key hashes there; a lookup compares the whole key, so
// that a collision costs time and never changes a decision. The zero memo is
// empty and safe for concurrent use.
type memo struct{ slots [memoSlots]slot }

type slot struct{ p atomic.Pointer[remembered] }

type remembered struct {
	key string
	d   pep.Decision
}

func (m *memo) slot(hash uint64) *slot { return &m.slots[hash%memoSlots] }

func (s *slot) get(key []byte) (pep.Decision, bool) {
	if r := s.p.Load(); r != nil && r.key == string(key) {
		return r.d, true
	}
	return pep.Decision{}, false
}

func (s *slot) put(key []byte, d pep.Decision) {
	if len(key) <= memoKey {
		s.p.Store(&remembered{string(key), d})
	}
}
