package attempt

import (
	"net/netip"
	"sync"
	"time"
)

// A Limit is a number of attempts that a source may fail in a window. Both are
// above zero.
type Limit struct {
	Attempts uint32
	Window   time.Duration
}

// cost is the time after which one failure is forgotten.
func (l Limit) cost() time.Duration { return l.Window / time.Duration(l.Attempts) }

// Failures counts with the generic cell rate algorithm (ITU-T I.371): one time
// for each key, at which its last failure will be forgotten. A key may fail
// attempts times at once; then it may fail again every window/attempts.
//
// The table is bounded. A key that finds it full takes the place of the one that
// has least to wait among a few picked at random: whoever comes from many
// addresses, or with many names, pushes out its own, not those that failed often.
type Failures struct {
	mu    sync.Mutex
	until map[Key]time.Time
}

// A Key is what failures are counted by: a source, or a source and the name it
// claims.
type Key struct {
	Source netip.Prefix
	Name   uint64 // keyed hash; 0 for the source as a whole
}

const (
	maxAttempts = 32768
	candidates  = 16
)

// NewFailures returns an empty table.
func NewFailures() *Failures { return &Failures{until: map[Key]time.Time{}} }

// Wait says how long a must wait before it may fail once more; 0: not at all.
func (f *Failures) Wait(a Key, l Limit, now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, wait := f.next(a, l, now)
	return wait
}

// next returns until when one more failure would count, and how long to wait for
// it.
func (f *Failures) next(a Key, l Limit, now time.Time) (time.Time, time.Duration) {
	until := f.until[a]
	if until.Before(now) {
		until = now
	}
	until = until.Add(l.cost())
	return until, max(0, until.Sub(now)-l.Window)
}

// Charge counts one failure in advance, or says how long to wait.
func (f *Failures) Charge(a Key, l Limit, now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	until, wait := f.next(a, l, now)
	if wait > 0 {
		return wait
	}
	if _, there := f.until[a]; !there && len(f.until) >= maxAttempts {
		f.evict(now)
	}
	f.until[a] = until
	return 0
}

// Refund takes a charge back.
func (f *Failures) Refund(a Key, l Limit) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if until, there := f.until[a]; there {
		f.until[a] = until.Add(-l.cost())
	}
}

// evict makes room: for all that is forgotten among the candidates, or else for
// the one with least to wait.
func (f *Failures) evict(now time.Time) {
	var victim Key
	var least time.Time
	n := 0
	for a, until := range f.until { // in random order
		switch {
		case !until.After(now):
			delete(f.until, a)
		case least.IsZero() || until.Before(least):
			victim, least = a, until
		}
		if n++; n == candidates {
			break
		}
	}
	if len(f.until) >= maxAttempts {
		delete(f.until, victim)
	}
}
