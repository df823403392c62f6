package direct

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A bucket holds the tokens of one second, at most. The zero bucket is full.
type bucket struct {
	mu   sync.Mutex
	full time.Duration // when it is full
}

// take takes a token, if there is one; so many come each second.
func (b *bucket) take(rate int, at tcpip.MonotonicTime) bool {
	now, each := at.Sub(tcpip.MonotonicTime{}), time.Second/time.Duration(rate)
	b.mu.Lock()
	defer b.mu.Unlock()
	full := max(b.full, now) + each
	if full-now > time.Second {
		return false
	}
	b.full = full
	return true
}

// openings is how many connections may be asked for in a second; the stack does not see
// more. To answer each of a flood would leave nothing for the connections that there
// are: their packets would find no room in the device.
const openings = 8000

// floods reports whether a segment that the filter has let in asks for one connection
// more than there may be. Whoever means it asks again.
func (e *endpoint) floods(t header.TCP) bool {
	return t.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) == header.TCPFlagSyn && !e.openings.take(openings, e.clock.NowMonotonic())
}
