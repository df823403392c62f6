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
	limit   int // of running, as the newest caller knows it
	waiting []chan struct{} // first come, first served; closed when a slot is theirs
}

type call struct {
	done chan struct{}
	ok   bool
	err  error
}

func newHasher() *hasher { return &hasher{calls: map[mac]*call{}} }

// verify reports whether the password is the user's. key stands for both. Its
// only error is errOverload.
func (h *hasher) verify(key mac, u *user, password []byte, concurrency int) (bool, error) {
	h.mu.Lock()
	if c := h.calls[key]; c != nil {
		h.mu.Unlock()
		<-c.done
		return c.ok, c.err
	}
	c := &call{done: make(chan struct{})}
	h.calls[key] = c
	ready, err := h.enter(concurrency)
	h.mu.Unlock()

	defer func() { // also when hashing panics: then ok is false
		h.mu.Lock()
		delete(h.calls, key)
		if err == nil {
			h.leave()
		}
		h.mu.Unlock()
		close(c.done)
	}()
	if c.err = err; err != nil {
		return false, err
	}
	<-ready
	c.ok = u.matches(password)
	return c.ok, nil
}

// enter takes a slot or a place in the queue; the channel is closed when the
// slot is there. The caller holds mu.
func (h *hasher) enter(concurrency int) (<-chan struct{}, error) {
	slot := make(chan struct{})
	h.limit = concurrency
	switch {
	case h.running < h.limit:
		h.running++
		close(slot)
	case len(h.waiting) >= maxWaiting:
		return nil, errOverload
	default:
		h.waiting = append(h.waiting, slot)
	}
	return slot, nil
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
