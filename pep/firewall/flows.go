package firewall

import (
	"hash/maphash"
	"sync"
)

// Flows are what was let in, and what the image asked for, by their keys. Their number
// is bounded and so is that of each class, so that what anybody can make without end
// (half-open connections, datagrams, all of forged sources) pushes out none but its
// like. The hash has a seed that nobody outside knows. It is safe for concurrent use:
// a shard has a lock of its own.
type flows struct {
	seed   maphash.Seed
	shards [shards]shard
}

const (
	shards = 64
	first  = 64 // entries of a shard, when it has any
)

// A state of a flow. Each has a queue of the flows in it.
type state uint8

const (
	halfOpen state = iota
	datagrams
	established
	closing
	states
)

// lifetimes are how long flows are remembered without a packet, in seconds. What is
// established stays as long as RFC 5382 asks for.
var lifetimes = [states]int32{halfOpen: 60, datagrams: 60, established: 2*3600 + 240, closing: 60}

// limits are how many flows of a state a shard holds. Connections that close count
// among the established, and go before them.
var limits = [states]int{halfOpen: 512, datagrams: 512, established: 2048, closing: 2048}

const maxEntries = 512 + 512 + 2048 + 1

// A shard is a part of the flows. Entries refer to each other by their positions; 0 is
// none.
type shard struct {
	mu      sync.Mutex
	entries []entry
	heads   []int32 // of the chains of entries that share a part of their hash
	free    int32
	lists   [states]queue
	dropped uint64 // before their time, for want of room
	_       [64]byte
}

// A queue has flows by when they were seen.
type queue struct {
	oldest, newest int32
	length         int
}

// An entry is a flow.
type entry struct {
	key
	state      state
	marks      uint8
	generation uint32 // whose rules let it in
	rule       int32  // of them
	seen       uint32 // seconds
	number     uint32 // of TCP: see packets.go
	chain      int32  // the next one of its chain, or of the free ones
	older      int32
	newer      int32
}

// lock returns the shard of k, locked, and the hash of k.
func (t *flows) lock(k *key) (*shard, uint64) {
	h := maphash.Comparable(t.seed, *k)
	s := &t.shards[h%shards]
	s.mu.Lock()
	return s, h
}

func (s *shard) head(h uint64) *int32 { return &s.heads[h/shards&uint64(len(s.heads)-1)] }

// find returns the entry of k, or 0.
func (s *shard) find(k *key, h uint64, now uint32) int32 {
	if len(s.heads) == 0 {
		return 0
	}
	for i := *s.head(h); i != 0; i = s.entries[i].chain {
		if e := &s.entries[i]; e.key == *k {
			if e.late(now) {
				s.remove(i, h)
				return 0
			}
			return i
		}
	}
	return 0
}

// late reports whether the entry was not seen for too long. Who locked the shard before
// may have looked at the clock later.
func (e *entry) late(now uint32) bool { return int32(now-e.seen) > lifetimes[e.state] }

// add makes an entry for k, which has none.
func (t *flows) add(s *shard, k *key, h uint64, st state, now uint32) int32 {
	t.expire(s, now, 2)
	t.room(s, st)
	if s.free == 0 {
		t.grow(s)
	}
	i := s.free
	e := &s.entries[i]
	s.free = e.chain
	head := s.head(h)
	*e = entry{key: *k, state: st, seen: now, chain: *head}
	*head = i
	s.push(i)
	return i
}

// touch notes that the entry was seen.
func (s *shard) touch(i int32, now uint32) {
	if e := &s.entries[i]; int32(now-e.seen) > 0 {
		s.unlist(i)
		e.seen = now
		s.push(i)
	}
}

// turn changes the state of the entry.
func (t *flows) turn(s *shard, i int32, st state) {
	e := &s.entries[i]
	if e.state == st {
		return
	}
	s.unlist(i)
	t.room(s, st)
	e.state = st
	s.push(i)
}

// room makes room for one more flow in a state.
func (t *flows) room(s *shard, st state) {
	victim := s.lists[st].oldest
	switch n := s.lists[st].length; {
	case st == established || st == closing:
		if n = s.lists[established].length + s.lists[closing].length; n < limits[st] {
			return
		}
		if victim = s.lists[closing].oldest; victim == 0 {
			victim = s.lists[established].oldest
		}
	case n < limits[st]:
		return
	}
	s.dropped++
	s.remove(victim, maphash.Comparable(t.seed, s.entries[victim].key))
}

// expire forgets what was not seen for long, at most so many of each state.
func (t *flows) expire(s *shard, now uint32, most int) {
	for st := range s.lists {
		for n := 0; n < most; n++ {
			i := s.lists[st].oldest
			if i == 0 || !s.entries[i].late(now) {
				break
			}
			s.remove(i, maphash.Comparable(t.seed, s.entries[i].key))
		}
	}
}

func (s *shard) remove(i int32, h uint64) {
	at := s.head(h)
	for *at != i {
		at = &s.entries[*at].chain
	}
	*at = s.entries[i].chain
	s.unlist(i)
	s.entries[i].chain = s.free
	s.free = i
}

func (s *shard) push(i int32) {
	e := &s.entries[i]
	l := &s.lists[e.state]
	e.older, e.newer = l.newest, 0
	if l.newest == 0 {
		l.oldest = i
	} else {
		s.entries[l.newest].newer = i
	}
	l.newest = i
	l.length++
}

func (s *shard) unlist(i int32) {
	e := &s.entries[i]
	l := &s.lists[e.state]
	if e.older == 0 {
		l.oldest = e.newer
	} else {
		s.entries[e.older].newer = e.newer
	}
	if e.newer == 0 {
		l.newest = e.older
	} else {
		s.entries[e.newer].older = e.older
	}
	l.length--
}

// grow makes room for as many entries again. All are in use.
func (t *flows) grow(s *shard) {
	old := len(s.entries)
	n := min(max(first, 2*old), maxEntries)
	entries := make([]entry, n)
	copy(entries, s.entries)
	s.entries = entries
	heads := first
	for heads < n {
		heads *= 2
	}
	s.heads = make([]int32, heads)
	for i := range old {
		if i > 0 {
			head := s.head(maphash.Comparable(t.seed, entries[i].key))
			entries[i].chain, *head = *head, int32(i)
		}
	}
	for i := n - 1; i >= max(old, 1); i-- {
		entries[i].chain, s.free = s.free, int32(i)
	}
}

// count returns how many flows are known, and how many were forgotten before their
// time.
func (t *flows) count(now uint32) (known int, dropped uint64) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		t.expire(s, now, maxEntries)
		for _, l := range s.lists {
			known += l.length
		}
		dropped += s.dropped
		s.mu.Unlock()
	}
	return known, dropped
}
