package tender

import (
	"sync"
	"time"
)

// A throttle counts events by the second. Safe for concurrent use.
type throttle struct {
	limit int // events in a second that are not too many

	mu    sync.Mutex
	start time.Time // of the second that is counted
	count int
}

// add counts n events at once. excess is how many of this second are too many so
// far, rest is how long the second lasts, and past, with the first event of a
// second, is how many were too many in the one before.
func (t *throttle) add(now time.Time, n int) (excess int, rest time.Duration, past int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if since := now.Sub(t.start); since < 0 || since >= time.Second {
		past = max(0, t.count-t.limit)
		t.start, t.count = now, 0
	}
	t.count += n
	return max(0, t.count-t.limit), t.start.Add(time.Second).Sub(now), past
}
