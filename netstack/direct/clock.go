package direct

import (
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// A clock is the stack's, which asks for the time more than ten times for each segment
// and needs no other answer than that of the event that it works on: something arrived,
// a timer is over, somebody writes. Each of these moves the clock.
type clock struct {
	tcpip.Clock
	mu  sync.Mutex
	now atomic.Pointer[tcpip.MonotonicTime]
}

func newClock() *clock {
	c := &clock{Clock: tcpip.NewStdClock()}
	c.move()
	return c
}

// move moves the clock to the time.
func (c *clock) move() {
	c.mu.Lock() // it never goes back
	now := c.Clock.NowMonotonic()
	c.now.Store(&now)
	c.mu.Unlock()
}

// NowMonotonic implements tcpip.Clock.
func (c *clock) NowMonotonic() tcpip.MonotonicTime { return *c.now.Load() }

// AfterFunc implements tcpip.Clock.
func (c *clock) AfterFunc(d time.Duration, f func()) tcpip.Timer {
	return c.Clock.AfterFunc(d, func() {
		c.move()
		f()
	})
}
