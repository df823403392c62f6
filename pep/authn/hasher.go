package authn

import (
	"errors"
	"sync"
)

// maxWaiting bounds the credentials that wait for a hash.
const maxWaiting = 64

var errOverload = errors.New("too many credentials wait to be verified")

// A hasher verifies passwords, a few at a time and each credential once: who
// comes with the same one meanwhile waits for the same answer.
type hasher struct {
	mu      sync.Mutex
	calls   map[mac]*call
	running int
	limit   int             // of running, as the newest caller knows it
	waiting []chan struct{} // first come, first served; closed when a slot is theirs
}

type call struct {
	done chan struct{}
	ok   bool // read after done is closed
}

func newHasher() *hasher { return &hasher{calls: map[mac]*call{}} }

// verify returns what matches says about the credential that key stands for. It
// asks admit first, whose error it returns, unless the same credential is being
// verified already. Its own error is errOverload.
func (h *hasher) verify(key mac, concurrency int, admit func() error, matches func() bool) (bool, error) {
	h.mu.Lock()
	if c := h.calls[key]; c != nil {
		h.mu.Unlock()
		<-c.done
		return c.ok, nil
	}
	if h.running >= concurrency && len(h.waiting) >= maxWaiting {
		h.mu.Unlock()
		return false, errOverload
	}
	if err := admit(); err != nil {
		h.mu.Unlock()
		return false, err
	}
	c := &call{done: make(chan struct{})}
	h.calls[key] = c
	slot := h.enter(concurrency)
	h.mu.Unlock()

	defer func() { // also when matches panics: then ok is false
		h.mu.Lock()
		delete(h.calls, key)
		h.leave()
		h.mu.Unlock()
		close(c.done)
	}()
	<-slot
	c.ok = matches()
	return c.ok, nil
}

// enter takes a slot or a place in the queue; the channel is closed when the
// slot is there. The caller holds mu.
func (h *hasher) enter(concurrency int) <-chan struct{} {
	slot := make(chan struct{})
	h.limit = concurrency
	if h.running < h.limit {
		h.running++
		close(slot)
	} else {
		h.waiting = append(h.waiting, slot)
	}
	return slot
}

// leave passes the slot on, unless a new program allows fewer. The caller holds
// mu.
func (h *hasher) leave() {
	if len(h.waiting) == 0 || h.running > h.limit {
		h.running--
		return
	}
	close(h.waiting[0])
	h.waiting = h.waiting[1:]
}
