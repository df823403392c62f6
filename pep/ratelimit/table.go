package ratelimit

import (
	"sync"
	"time"
)

// A Table holds the buckets of one limit, each as the generic cell rate algorithm
// keeps it (ITU-T I.371): the time at which the bucket will be full again. It is
// safe for concurrent use.
//
// Its size is fixed. A key belongs to one set of ways entries. Where it has none
// of them it takes over the one that is full, or fullest, and inherits its time
// (the idea of Space-Saving: Metwally, Agrawal and El Abbadi, ICDT 2005). The
// least time of a set never falls, so that a key that was pushed out finds, when
// it comes back, a bucket at most as full as its own: whatever other keys arrive,
// no key is ever granted more than its limit. What keys arrive can only cost some
// key a refusal, and only while every entry of its set is in use.
type Table struct {
	cost  int64 // nanoseconds for one request
	burst int64 // nanoseconds for all requests that may come at once
	fresh bool  // a key that takes over an entry inherits nothing

	mask uint64 // of the number of a set

	mu    sync.Mutex
	base  time.Time // of the first request; differences are taken on the monotonic clock
	entry []entry
}

// An entry is a bucket. Two keys of one hash would share it, which can only
// refuse more.
type entry struct {
	key   uint64 // keyed hash
	until int64  // when the bucket is full again; 0: it was never used
}

const (
	ways = 16
	sets = 1024 // 16,384 entries, 256 KiB
)

// epoch is the time of base. It is far from zero, the time of unused entries,
// which are full however far a clock is set back.
const epoch = int64(1) << 61

// NewTable returns full buckets that hold the given number of requests and fill
// within per.
func NewTable(requests uint32, per time.Duration) *Table {
	// Rounded up: never more than the limit, and exactly as many at once.
	cost := (int64(per) + int64(requests) - 1) / int64(requests)
	return newTable(cost, cost*int64(requests), false, sets)
}

// NewCounter returns a table whose Take refuses the event of a key that makes
// count of them within the window: buckets hold one less than count and fill as
// those of NewTable do. With fewer than count in any window none is refused; with
// twice as many in one, however they are spread, some are.
//
// A key that finds its set in use takes over the fullest bucket and fills it: no
// key answers for the events of another. What a flood of keys can push out are
// the counts of those that have least of them, and whoever commands that many keys
// gains nothing by it that each of them would not give.
func NewCounter(count uint32, window time.Duration) *Table {
	cost := int64(window) / int64(count) // rounded down: never too early
	return newTable(cost, cost*int64(count-1), true, sets)
}

// NewTotal returns what NewCounter does, for the events of one key: it is small.
func NewTotal(count uint32, window time.Duration) *Table {
	cost := int64(window) / int64(count)
	return newTable(cost, cost*int64(count-1), true, 1)
}

// newTable returns one of n sets, a power of two.
func newTable(cost, burst int64, fresh bool, n int) *Table {
	return &Table{cost: cost, burst: burst, fresh: fresh, mask: uint64(n - 1), entry: make([]entry, ways*n)}
}

// Take takes one request from the bucket of key, or says how long to wait. A
// request that must wait takes nothing.
func (t *Table) Take(key uint64, at time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.base.IsZero() {
		t.base = at
	}
	now := epoch + int64(at.Sub(t.base))
	set := t.entry[(key&t.mask)*ways:][:ways]
	e := &set[0]
	for i := range set {
		if set[i].key == key {
			e = &set[i]
			break
		}
		if set[i].until < e.until {
			e = &set[i]
		}
	}
	// No bucket is emptier than empty: a clock that was set back cannot make
	// anybody wait for longer than an empty bucket does.
	from := e.until
	if t.fresh && e.key != key {
		from = 0
	}
	until := min(max(from, now), now+t.burst) + t.cost
	if wait := until - now - t.burst; wait > 0 {
		return time.Duration(wait)
	}
	*e = entry{key, until}
	return 0
}
