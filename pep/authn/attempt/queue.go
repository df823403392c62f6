// Package attempt bounds what credentials cost that are not known yet: how often
// a source may fail, and how many are verified at once.
package attempt

import (
	"errors"
	"sync"
)

// MaxWaiting bounds the credentials that wait to be verified.
const MaxWaiting = 64

// ErrOverload reports that the queue is full.
var ErrOverload = errors.New("too many credentials wait to be verified")

// A Mac stands for a credential and what it is verified with, under a key of this
// process.
type Mac [32]byte

// A Queue verifies credentials, a few at a time and each once: who comes with the
// same one meanwhile waits for the same answer.
type Queue struct {
	mu      sync.Mutex
	calls   map[Mac]*call
	running int
	limit   int             // of running, as the newest caller knows it
	waiting []chan struct{} // first come, first served; closed when a slot is theirs
}

type call struct {
	done chan struct{}
	ok   bool // read after done is closed
}

// NewQueue returns an empty queue.
func NewQueue() *Queue { return &Queue{calls: map[Mac]*call{}} }

// Verify returns what matches says about the credential that key stands for. It
// asks admit first, whose error it returns, unless the same credential is being
// verified already. Its own error is ErrOverload.
func (q *Queue) Verify(key Mac, concurrency int, admit func() error, matches func() bool) (bool, error) {
	q.mu.Lock()
	if c := q.calls[key]; c != nil {
		q.mu.Unlock()
		<-c.done
		return c.ok, nil
	}
	if q.running >= concurrency && len(q.waiting) >= MaxWaiting {
		q.mu.Unlock()
		return false, ErrOverload
	}
	if err := admit(); err != nil {
		q.mu.Unlock()
		return false, err
	}
	c := &call{done: make(chan struct{})}
	q.calls[key] = c
	slot := q.enter(concurrency)
	q.mu.Unlock()

	defer func() { // also when matches panics: then ok is false
		q.mu.Lock()
		delete(q.calls, key)
		q.leave()
		q.mu.Unlock()
		close(c.done)
	}()
	<-slot
	c.ok = matches()
	return c.ok, nil
}

// enter takes a slot or a place in the queue; the channel is closed when the
// slot is there. The caller holds mu.
func (q *Queue) enter(concurrency int) <-chan struct{} {
	slot := make(chan struct{})
	q.limit = concurrency
	if q.running < q.limit {
		q.running++
		close(slot)
	} else {
		q.waiting = append(q.waiting, slot)
	}
	return slot
}

// leave passes the slot on, unless a new program allows fewer. The caller holds
// mu.
func (q *Queue) leave() {
	if len(q.waiting) == 0 || q.running > q.limit {
		q.running--
		return
	}
	close(q.waiting[0])
	q.waiting = q.waiting[1:]
}
