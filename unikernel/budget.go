package unikernel

import (
	"net"
	"os"
	"sync"
	"time"
)

// A budget is memory that connections share.
type budget struct {
	most int64

	mu    sync.Mutex
	used  int64
	freed chan struct{} // closed when memory is given back; nil: nobody waits
}

// try takes n if there is room for it now; in half of the budget, if so asked.
func (b *budget) try(n int64, half bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	most := b.most
	if half {
		most /= 2
	}
	if b.used+n > most {
		return false
	}
	b.used += n
	return true
}

func (b *budget) give(n int64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	if b.freed != nil {
		close(b.freed)
		b.freed = nil
	}
}

// take waits until there is room for n, in half of the budget if so asked, at most
// for d or until gone is closed. What is larger than the whole fits when nothing
// else is there.
func (b *budget) take(n int64, half bool, d time.Duration, gone <-chan struct{}) error {
	most := b.most
	if half {
		most /= 2
	}
	var timer *time.Timer
	for {
		b.mu.Lock()
		if b.used+n <= most || b.used == 0 {
			b.used += n
			b.mu.Unlock()
			return nil
		}
		if b.freed == nil {
			b.freed = make(chan struct{})
		}
		freed := b.freed
		b.mu.Unlock()
		if timer == nil {
			timer = time.NewTimer(d)
			defer timer.Stop()
		}
		select {
		case <-freed:
		case <-timer.C:
			return os.ErrDeadlineExceeded
		case <-gone:
			return net.ErrClosed
		}
	}
}
