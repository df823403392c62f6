package direct

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/waiter"
)

// A side is one direction of a connection. Whoever reads or writes there waits on one
// channel for all that may be of interest, and looks again: to wait on several at a
// time would take longer than the rest of a short read.
type side struct {
	mu    sync.Mutex // held by who reads or writes
	queue *waiter.Queue
	entry waiter.Entry
	wake  chan struct{} // has room for one

	deadline atomic.Int64 // in nanoseconds after start, which is no deadline
	at       sync.Mutex   // guards timer
	timer    *time.Timer  // wakes at the deadline
}

func (s *side) watch(wq *waiter.Queue, mask waiter.EventMask) {
	s.queue = wq
	s.entry, s.wake = waiter.NewChannelEntry(mask)
	wq.EventRegister(&s.entry)
}

// nudge has whoever waits look again.
func (s *side) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// set sets the deadline of a connection of n.
func (s *side) set(n *Net, t time.Time) {
	if t.IsZero() {
		s.deadline.Store(0)
		return
	}
	d := t.Sub(n.start)
	if d == 0 {
		d = -1
	}
	s.deadline.Store(int64(d))
	left := time.Until(t)
	if left <= 0 {
		s.nudge()
		return
	}
	s.at.Lock()
	defer s.at.Unlock()
	if s.timer == nil {
		s.timer = time.AfterFunc(left, s.nudge)
	} else {
		s.timer.Reset(left)
	}
}

// late returns an error when the deadline is over.
func (s *side) late(n *Net) error {
	if d := s.deadline.Load(); d != 0 && (d < 0 || time.Since(n.start) >= time.Duration(d)) {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// close ends the events; a reader or a writer looks again.
func (s *side) close() {
	s.queue.EventUnregister(&s.entry)
	s.at.Lock()
	if s.timer != nil {
		s.timer.Stop()
	}
	s.at.Unlock()
	s.nudge()
}
