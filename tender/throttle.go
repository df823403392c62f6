package tender

import (
	"sync"
	"time"
)

// A throttle lets a number of events pass at once and then so many a second.
// Safe for concurrent use.
type throttle struct {
	perSecond, burst float64

	mu      sync.Mutex
	tokens  float64
	last    time.Time
	dropped uint64
}

func newThrottle(perSecond, burst float64) *throttle {
	return &throttle{perSecond: perSecond, burst: burst, tokens: burst}
}

// allow reports whether an event may pass now, and, with the first one that may
// after some that might not, how many those were.
func (t *throttle) allow(now time.Time) (ok bool, dropped uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refill(now)
	if t.tokens < 1 {
		t.dropped++
		return false, 0
	}
	t.tokens--
	dropped, t.dropped = t.dropped, 0
	return true, dropped
}

// spend lets n events pass and returns how long to wait before the next ones.
func (t *throttle) spend(now time.Time, n int) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refill(now)
	t.tokens -= float64(n)
	return time.Duration(max(0, -t.tokens/t.perSecond) * float64(time.Second))
}

func (t *throttle) refill(now time.Time) {
	if !t.last.IsZero() {
		t.tokens = min(t.burst, t.tokens+now.Sub(t.last).Seconds()*t.perSecond)
	}
	t.last = now
}
