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

// A memo remembers decisions by everything that went into them. A slot holds one
// decision whose key hashes there; a lookup compares the whole key, so that a
// collision costs time and never changes a decision. A decision is stored when
// its key comes for the second time in a row, so that facts that differ with
// every request cost nothing but a word. The zero memo is empty and safe for
// concurrent use.
type memo struct{ slots [memoSlots]slot }

type slot struct {
	last atomic.Uint64 // hash of the key that came last and was not stored
	p    atomic.Pointer[remembered]
}

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

func (s *slot) put(hash uint64, key []byte, d pep.Decision) {
	if s.last.Swap(hash) == hash && len(key) <= memoKey {
		s.p.Store(&remembered{string(key), d})
	}
}
