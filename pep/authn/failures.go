package authn

import (
	"net/netip"
	"sync"
	"time"
)

// A limit is a number of attempts that a source may fail in a window.
type limit struct {
	attempts uint32
	window   time.Duration
}

// cost is the time after which one failure is forgotten.
func (l limit) cost() time.Duration { return l.window / time.Duration(l.attempts) }

// failures counts by source with the generic cell rate algorithm (ITU-T I.371):
// one time per source, at which its last failure will be forgotten. A source may
// fail attempts times at once; then it may fail again every window/attempts.
//
// The table is bounded. A source that finds it full takes the place of the one
// that has least to wait among a few picked at random: whoever comes from many
// addresses pushes out its own, not those who failed often.
type failures struct {
	mu    sync.Mutex
	until map[netip.Prefix]time.Time
}

const (
	maxSources = 16384
	candidates = 16
)

func newFailures() *failures { return &failures{until: map[netip.Prefix]time.Time{}} }

// source is what shares one limit: an IPv4 address or an IPv6 /64.
func source(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // no address: all of those share one limit
	}
	return p
}

// charge counts one failure in advance, or says how long the source must wait.
func (f *failures) charge(p netip.Prefix, l limit, now time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	until, there := f.until[p]
	if until.Before(now) {
		until = now
	}
	until = until.Add(l.cost())
	if wait := until.Sub(now) - l.window; wait > 0 {
		return wait
	}
	if !there && len(f.until) >= maxSources {
		f.evict(now)
	}
	f.until[p] = until
	return 0
}

// refund takes a charge back.
func (f *failures) refund(p netip.Prefix, l limit) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if until, there := f.until[p]; there {
		f.until[p] = until.Add(-l.cost())
	}
}

// evict makes room: for all that is forgotten among the candidates, or else for
// the one with least to wait.
func (f *failures) evict(now time.Time) {
	var victim netip.Prefix
	var least time.Time
	n := 0
	for p, until := range f.until { // in random order
		switch {
		case !until.After(now):
			delete(f.until, p)
		case least.IsZero() || until.Before(least):
			victim, least = p, until
		}
		if n++; n == candidates {
			break
		}
	}
	if len(f.until) >= maxSources {
		delete(f.until, victim)
	}
}
