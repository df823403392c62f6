package obligations

import (
	"container/heap"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// maxSources is how many sources one obligation has acted on at a time.
const maxSources = 4096

// sources are those that an obligation has acted on, each until a time. When all
// places are taken, the one that ends first makes room: whoever wants to push a
// block out needs as many sources as there are places, and with each of them as
// many denials as the obligation counts. It is safe for concurrent use.
type sources struct {
	some atomic.Bool // is held; false: nobody need look

	mu   sync.RWMutex
	held map[netip.Prefix]hold
	ends ends
}

type hold struct {
	until   time.Time
	blocked bool // or reported only
}

func newSources() *sources { return &sources{held: map[netip.Prefix]hold{}} }

func (s *sources) get(p netip.Prefix, now time.Time) (hold, bool) {
	if !s.some.Load() {
		return hold{}, false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	h, ok := s.held[p]
	return h, ok && now.Before(h.until)
}

// blocked reports whether p is to be refused.
func (s *sources) blocked(p netip.Prefix, now time.Time) bool {
	h, ok := s.get(p, now)
	return ok && h.blocked
}

// known reports whether p was acted on and that has not passed.
func (s *sources) known(p netip.Prefix, now time.Time) bool {
	_, ok := s.get(p, now)
	return ok
}

// add takes a place for p. It reports false where another denial of the same
// moment came first.
func (s *sources) add(p netip.Prefix, now, until time.Time, blocked bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.ends) > 0 && !now.Before(s.ends[0].at) {
		s.drop()
	}
	if _, ok := s.held[p]; ok {
		return false
	}
	if len(s.ends) == maxSources {
		s.drop()
	}
	s.held[p] = hold{until, blocked}
	s.some.Store(true)
	heap.Push(&s.ends, end{p, until})
	return true
}

// drop forgets the source that ends first.
func (s *sources) drop() { delete(s.held, heap.Pop(&s.ends).(end).source) }

// ends has the end of every source that is held, the first at its root.
type ends []end

type end struct {
	source netip.Prefix
	at     time.Time
}

func (e ends) Len() int           { return len(e) }
func (e ends) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e ends) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *ends) Push(x any)        { *e = append(*e, x.(end)) }
func (e *ends) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	*e = (*e)[:last]
	return x
}
