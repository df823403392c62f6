package direct

import (
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// A clock is the stack's, which asks for the time more than ten times for each segment
// and needs no better answer than that of the event that it works on: something arrived,
// a timer is over, somebody writes. Each of these moves the clock. In between it gives
// no time twice: what happens later is later.
type clock struct {
	tcpip.Clock
	now atomic.Int64 // in ns
}

func newClock() *clock {
	c := &clock{Clock: tcpip.NewStdClock()}
	c.move()
	return c
}

// move moves the clock to the time. It never goes back.
func (c *clock) move() {
	now := int64(c.Clock.NowMonotonic().Sub(tcpip.MonotonicTime{}))
	for was := c.now.Load(); was < now; was = c.now.Load() {
		if c.now.CompareAndSwap(was, now) {
			return
		}
	}
}

// NowMonotonic implements tcpip.Clock.
func (c *clock) NowMonotonic() tcpip.MonotonicTime {
	return tcpip.MonotonicTime{}.Add(time.Duration(c.now.Add(1)))
}

// AfterFunc implements tcpip.Clock.
func (c *clock) AfterFunc(d time.Duration, f func()) tcpip.Timer {
	return c.Clock.AfterFunc(d, func() {
		c.move()
		f()
	})
}
