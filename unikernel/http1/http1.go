// Package http1 serves HTTP/1.0 and HTTP/1.1 on connections (RFC 9110, RFC 9112).
//
// It is the first that reads what a client sends, and therefore strict: one way to
// end a line, one way to say a length, no folded fields. What could be read in
// another way by another program is refused before anybody judges it. It holds
// FreeHead bytes for a connection; a larger head has to be allowed one by one.
//
// Where net/http reads ahead during every request, to notice that a client went
// away, this package does when somebody asks for Done of the request's context; and
// it leaves deadlines that are little too late. That is most of what it saves
// (docs/performance.md, seal-tax).
package http1

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// FreeHead is how many bytes of a head every connection may hold.
	FreeHead = 2 << 10
	// maxSkip is how much of a body is read that nobody wanted, rather than
	// close the connection.
	maxSkip = 256 << 10
	// lingering is how long a client may take to read the answer to what was
	// not read to its end: a reset would take it away.
	lingering = 500 * time.Millisecond
	// young is how long a connection is not taken for idle before its first
	// request.
	young = 5 * time.Second
	// slack is the part of a time-out by which it may be late, so that it need
	// not be set for every request.
	slack = 8
)

// Limits bound what a client can hold. All must be positive.
type Limits struct {
	Head   int           // bytes of a request line and its fields
	Header time.Duration // first byte to end of head
	Body   time.Duration // end of head to end of body
	Write  time.Duration // end of head to end of response; it may end an eighth later
	Idle   time.Duration // between requests; it may end an eighth later
}

// An Owner is who a connection belongs to. Its methods are called by the goroutine
// of Serve.
type Owner interface {
	// ServeHTTP1 answers r on w before it returns.
	ServeHTTP1(w *Response, r *http.Request)
	// Enlarge waits until a head may hold more than FreeHead bytes; Shrink
	// follows when it does no longer. An error, ErrStarved where the wait was too
	// long, ends the connection.
	Enlarge() error
	Shrink()
	// Refuse records a request that could not be read, and returns what the
	// client is told; nil, as where status is 0: it is told nothing.
	Refuse(status int, reason string) *http.Response
	// Failed is told of a panic. The connection is closed.
	Failed(v any)
}

// A Server is connections with the same limits. It is safe for concurrent use.
type Server struct {
	limits  Limits
	closing atomic.Bool

	mu    sync.Mutex
	conns map[*conn]struct{}
}

// NewServer returns a server without connections.
func NewServer(l Limits) *Server { return &Server{limits: l, conns: make(map[*conn]struct{})} }

// ErrStarved reports that others hold what a request needs.
var ErrStarved = errors.New("http1: too many large heads are held")

// States of a connection.
const (
	idle int32 = iota
	active
	closed
)

// A conn is a connection and what was read of it: buf[r:w].
type conn struct {
	server  *Server
	owner   Owner
	nc      net.Conn
	remote  string
	born    time.Time
	used    bool // had a request; guarded by server.mu
	state   atomic.Int32
	large   bool // has a place for a large head
	buf     []byte
	r, w    int
	head    string    // of the last request
	kept    *kept     // what its owner made of it
	readBy  time.Time // the read deadline; zero: unknown
	writeBy time.Time
}

// Serve serves nc until it ends, and closes it, unless a handler took it over.
func (s *Server) Serve(nc net.Conn, o Owner) {
	c := &conn{server: s, owner: o, nc: nc, born: time.Now(), buf: make([]byte, FreeHead)}
	if a := nc.RemoteAddr(); a != nil {
		c.remote = a.String()
	}
	s.mu.Lock()
	s.conns[c] = struct{}{}
	s.mu.Unlock()
	taken := false
	defer func() {
		if c.large {
			o.Shrink()
		}
		if !taken {
			nc.Close()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	}()
	taken = c.serve()
}

// serve reports whether a handler took the connection over.
func (c *conn) serve() (taken bool) {
	for {
		x, err := c.next()
		if err != nil {
			c.refuse(err)
			return false
		}
		again := x.serve()
		if x.w.hijacked {
			return true
		}
		if !again || !c.rest() {
			return false
		}
	}
}

// next waits for a request and reads its head.
func (c *conn) next() (*exchange, error) {
	now := time.Now()
	if !c.used {
		c.until(now.Add(c.server.limits.Header))
	} else {
		c.lazily(&c.readBy, now, c.server.limits.Idle, c.nc.SetReadDeadline)
	}
	var s scan
	for begun, timed := false, false; ; {
		if c.w > c.r && !begun {
			begun = true
			if !c.begin() {
				return nil, net.ErrClosed
			}
		}
		n, err := s.end(c.buf[c.r:c.w])
		switch {
		case n > c.server.limits.Head || n == 0 && c.w-c.r >= c.server.limits.Head:
			return nil, &Refusal{http.StatusRequestHeaderFieldsTooLarge, "the head is too large"}
		case err != nil:
			return nil, err
		case n > 0:
			head := c.buf[c.r : c.r+n]
			if c.r += n; c.r == c.w {
				c.r, c.w = 0, 0
			}
			return newExchange(c, head)
		case begun && !timed && c.used: // a first head has had its time from the start
			timed = true
			c.until(time.Now().Add(c.server.limits.Header))
		}
		if err := c.room(); err != nil {
			return nil, err
		}
		if err := c.fill(); err != nil {
			return nil, cut(err)
		}
	}
}

// begin notes that a request has begun; false where Shutdown was first.
func (c *conn) begin() bool { return c.state.CompareAndSwap(idle, active) || c.state.Load() == active }

// room makes place in the buffer for more of a head.
func (c *conn) room() error {
	switch {
	case c.w < len(c.buf):
		return nil
	case c.r > 0:
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
		return nil
	case !c.large:
		if err := c.owner.Enlarge(); err != nil {
			return err
		}
		c.large = true
	}
	c.buf = append(make([]byte, 0, min(2*len(c.buf), c.server.limits.Head)), c.buf...)
	c.buf = c.buf[:cap(c.buf)]
	return nil
}

// forget drops what an idle connection should not hold.
func (c *conn) forget() {
	if len(c.head) > FreeHead {
		c.head = ""
	}
}

// shrink gives the place of a large head back, once what is left is small.
func (c *conn) shrink() {
	if c.large && c.w-c.r <= FreeHead {
		c.buf = append(make([]byte, 0, FreeHead), c.buf[c.r:c.w]...)[:FreeHead]
		c.r, c.w = 0, c.w-c.r
		c.large = false
		c.owner.Shrink()
	}
}

// fill reads once.
func (c *conn) fill() error {
	n, err := c.nc.Read(c.buf[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	return err
}

// more reads more of a body, or of its framing, into the buffer.
func (c *conn) more(b *body) error {
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.w == len(c.buf) {
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
	}
	b.deadline()
	return c.fill()
}

// take reads a part of a body.
func (c *conn) take(p []byte, b *body) (int, error) {
	if c.r < c.w {
		n := copy(p, c.buf[c.r:c.w])
		c.r += n
		return n, nil
	}
	b.deadline()
	return c.nc.Read(p)
}

// until sets the read deadline.
func (c *conn) until(t time.Time) {
	c.readBy = t
	c.nc.SetReadDeadline(t)
}

// lazily sets a deadline of at least d from now, and leaves one that is little
// later.
func (c *conn) lazily(have *time.Time, now time.Time, d time.Duration, set func(time.Time) error) {
	if least := now.Add(d); have.Before(least) || have.After(least.Add(d/slack)) {
		*have = least.Add(d / slack)
		set(*have)
	}
}

// rest reports whether another request may follow, and waits for it as an idle
// connection.
func (c *conn) rest() bool {
	c.shrink()
	c.forget()
	c.server.mu.Lock()
	c.used = true
	c.server.mu.Unlock()
	return c.state.CompareAndSwap(active, idle) && !c.server.closing.Load()
}

// refuse answers a request that could not be read, if it had begun.
func (c *conn) refuse(err error) {
	if c.state.Load() != active { // it said nothing, or Shutdown closed it
		return
	}
	r := &Refusal{0, "the head is cut short"}
	switch {
	case errors.As(err, &r):
	case errors.Is(err, ErrStarved):
		r = &Refusal{http.StatusServiceUnavailable, "too many large heads were held by others"}
	case errors.Is(err, os.ErrDeadlineExceeded):
		r = &Refusal{http.StatusRequestTimeout, "the head was too slow"}
	case errors.Is(err, io.ErrUnexpectedEOF):
		r.Status = http.StatusBadRequest
	}
	resp := c.owner.Refuse(r.Status, r.Reason)
	if resp == nil || r.Status == 0 {
		return
	}
	c.lazily(&c.writeBy, time.Now(), c.server.limits.Write, c.nc.SetWriteDeadline)
	if resp.Write(c.nc) == nil {
		c.linger()
	}
}

// linger ends the connection without a reset.
func (c *conn) linger() {
	w, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || w.CloseWrite() != nil {
		return
	}
	late := time.Now().Add(lingering)
	c.until(late)
	if _, err := io.CopyN(io.Discard, c.nc, maxSkip); err == nil {
		time.Sleep(time.Until(late)) // it sends on: the rest waits with the client
	}
}

// Shutdown closes connections that are idle and waits for the others, until ctx
// ends.
func (s *Server) Shutdown(ctx context.Context) error {
	s.closing.Store(true)
	for pause := time.Millisecond; s.closeIdle() > 0; pause = min(2*pause, 100*time.Millisecond) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
	return nil
}

// closeIdle closes idle connections and returns how many are left.
func (s *Server) closeIdle() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if (c.used || time.Since(c.born) > young) && c.state.CompareAndSwap(idle, closed) {
			go c.nc.Close() // may have a goodbye to say
		}
	}
	return len(s.conns)
}

// Close closes every connection.
func (s *Server) Close() {
	s.closing.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.state.Store(closed)
		go c.nc.Close()
	}
}
