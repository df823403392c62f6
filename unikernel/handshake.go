package unikernel

import (
	"context"
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/pep"
)

const (
	// maxHandshake is how many bytes a client may send before it is secured: a
	// chain of certificates fits, and as many as there may be connections fit the
	// memory.
	maxHandshake = 16 << 10
	// lingering is how long a refused client may take to read why.
	lingering = 500 * time.Millisecond
	// goodbye is how long a close may take where the client does not read.
	goodbye = 20 * time.Millisecond
)

// A hello is a connection below its transport. During the handshake what it reads
// is bounded, and it computes only when it is its turn, so that requests of
// others are not crowded out however many clients shake hands.
type hello struct {
	net.Conn
	turns   chan struct{}
	ctx     context.Context
	read    int
	done    bool        // afterwards everything passes
	leaving atomic.Bool // a last word is short, whoever does not read
}

// handshakeTurns is how many handshakes compute at once.
func handshakeTurns() chan struct{} { return make(chan struct{}, max(1, runtime.GOMAXPROCS(0))) }

func (h *hello) wait() error {
	select {
	case h.turns <- struct{}{}:
		return nil
	case <-h.ctx.Done():
		return h.ctx.Err()
	}
}

// yield lets others have their turn while the client is awaited.
func (h *hello) yield(await func() (int, error)) (int, error) {
	<-h.turns
	n, err := await()
	if e := h.wait(); e != nil {
		h.turns = make(chan struct{}, 1) // the caller gives a turn back
		h.turns <- struct{}{}
		return n, e
	}
	return n, err
}

func (h *hello) Read(p []byte) (int, error) {
	if h.done {
		return h.Conn.Read(p)
	}
	left := maxHandshake - h.read
	if left <= 0 {
		return 0, errLongHandshake
	}
	n, err := h.yield(func() (int, error) { return h.Conn.Read(p[:min(len(p), left)]) })
	h.read += n
	return n, err
}

func (h *hello) Write(p []byte) (int, error) {
	if h.done {
		return h.Conn.Write(p)
	}
	return h.yield(func() (int, error) { return h.Conn.Write(p) })
}

// SetWriteDeadline keeps crypto/tls from waiting seconds to say goodbye.
func (h *hello) SetWriteDeadline(t time.Time) error {
	if h.leaving.Load() {
		t = time.Now().Add(goodbye)
	}
	return h.Conn.SetWriteDeadline(t)
}

type handshakeError string

func (e handshakeError) Error() string { return string(e) }

const errLongHandshake handshakeError = "the handshake is too long"

func closeWrite(c net.Conn) error {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// secure makes the handshake of an admitted connection and serves it.
func (s *server) secure(c *conn) {
	sec, d, err := s.shake(c)
	switch {
	case err != nil:
		s.out.log(err.Error())
		c.cut()
		return
	case d.Verdict != abi.Allow:
		if c.hello.read > 0 {
			linger(c.raw)
		}
		c.cut()
		return
	}
	c.hello.done = true
	c.raw.SetDeadline(time.Time{})
	c.Conn = sec.Conn
	c.secure.Store(&sec)
	select {
	case <-c.gone: // refused meanwhile
		c.raw.Close()
	default:
		s.hand(c)
	}
}

// shake makes the handshake and records what came of it. It pins the generation
// in force for no longer.
func (s *server) shake(c *conn) (sec pep.Secured, d pep.Decision, err error) {
	g := s.pin()
	defer g.unpin()
	ctx, cancel := context.WithTimeout(context.Background(), g.limits.HandshakeTimeout)
	defer cancel()
	h := c.hello
	h.ctx, h.turns = ctx, s.turns
	d = pep.Decision{Stage: abi.StageTLS, Rule: abi.Rule{ID: abi.RuleTLS}, Reason: "too many handshakes at once"}
	if h.wait() == nil {
		d = pep.Guarded(abi.StageTLS, func(h *hello) (d pep.Decision) {
			sec, d = g.tls.Secure(ctx, h)
			return d
		}, h)
		<-h.turns
	}
	switch {
	case d.Verdict != abi.Allow && h.read == 0: // it said nothing and is nothing
		return sec, d, nil
	case d.Verdict == abi.Allow && (sec.Conn == nil || sec.State == nil):
		d = pep.Decision{Stage: abi.StageTLS, Rule: abi.Rule{ID: abi.RuleError}, Reason: "no connection came of the handshake"}
	case d.Verdict == abi.Allow && sec.HTTP2:
		c.h2 = newH2(c, g.limits)
	}
	d, err = s.note(g, c, d)
	return sec, d, err
}

// linger lets the client read an alert, which a reset would take from it.
func linger(c net.Conn) {
	if closeWrite(c) == nil {
		c.SetReadDeadline(time.Now().Add(lingering))
		io.CopyN(io.Discard, c, 4*maxHandshake)
	}
}
