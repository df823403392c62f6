package unikernel

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/unikernel/linux"
)

// A server accepts connections, asks the gates about them, and hands them to
// the front that has the limits in force.
type server struct {
	out   *outbox
	ports []port
	app   http.Handler

	generation atomic.Pointer[generation]
	requests   atomic.Uint64
	allowed    atomic.Uint64
	denied     atomic.Uint64
	refused    atomic.Uint64

	mu       sync.Mutex
	room     sync.Cond // waits for MaxConnections
	conns    map[*conn]struct{}
	front    *front
	draining bool
}

func newServer(out *outbox) *server {
	s := &server{out: out, conns: make(map[*conn]struct{})}
	s.room.L = &s.mu
	return s
}

func (s *server) current() *generation { return s.generation.Load() }

// pin returns the generation in force, pinned.
func (s *server) pin() *generation {
	for {
		if g := s.current(); g.pin() {
			return g
		}
	}
}

// install puts g in force and returns the generation before it, whose pin the
// caller takes over.
func (s *server) install(g *generation) *generation {
	old := s.generation.Swap(g)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room.Broadcast()
	if s.front != nil && s.front.limits != g.limits && !s.draining {
		go s.front.retire(retireGrace, s.front.limits.WriteTimeout)
		s.front = s.open(g.limits)
	}
	return old
}

// start accepts on every port. fail is told what ends the service.
func (s *server) start(fail func(error)) {
	s.mu.Lock()
	s.front = s.open(s.current().limits)
	s.mu.Unlock()
	for _, p := range s.ports {
		go func() {
			if err := s.accept(p); err != nil {
				fail(err)
			}
		}()
	}
}

func (s *server) accept(p port) error {
	var pause time.Duration
	for {
		c, err := p.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil && linux.Exhausted(err):
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			time.Sleep(pause)
			continue
		case err != nil:
			return fmt.Errorf("port %d: %w", p.number, err)
		}
		pause = 0
		if err := s.welcome(c, p.number); err != nil {
			return err
		}
	}
}

// welcome judges a connection and serves it, or closes it unread.
func (s *server) welcome(nc net.Conn, number uint16) error {
	c := &conn{Conn: nc, server: s, flow: flow.Flow{DstPort: number, Protocol: flow.TCP}}
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		c.flow.Src = a.AddrPort().Addr().Unmap()
	}
	g := s.pin()
	ok, err := s.admit(g, c)
	g.unpin()
	if !ok || err != nil {
		nc.Close()
		return err
	}
	s.register(c)
	// A program that came into force between the judgement and the registration
	// has not seen this connection.
	if s.current() != g {
		s.rejudge()
	}
	s.mu.Lock()
	f := s.front
	s.mu.Unlock()
	for !f.deliver(c) {
		s.mu.Lock()
		next := s.front
		s.mu.Unlock()
		if next == f {
			return c.Close()
		}
		f = next
	}
	return nil
}

// admit asks the gates of g about c and records what is to be recorded.
func (s *server) admit(g *generation, c *conn) (bool, error) {
	d := g.admit(c.flow)
	if d.Verdict != abi.Allow {
		s.refused.Add(1)
	} else if !d.Record {
		return true, nil
	}
	x := &pep.Exchange{ID: newID(), Flow: c.flow, Now: time.Now()}
	r, keep, err := record(g.audit, x, d)
	if err == nil && keep {
		err = s.out.post(r)
	}
	return d.Verdict == abi.Allow && err == nil, err
}

// register waits until one more connection may be open.
func (s *server) register(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.conns) >= int(s.current().limits.MaxConnections) && !s.draining {
		s.room.Wait()
	}
	s.conns[c] = struct{}{}
}

func (s *server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.room.Broadcast()
}

// rejudge asks the gates in force about every open connection and closes those
// that they refuse now.
func (s *server) rejudge() {
	s.mu.Lock()
	open := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		open = append(open, c)
	}
	s.mu.Unlock()
	g := s.pin()
	defer g.unpin()
	for _, c := range open {
		if g.admit(c.flow).Verdict == abi.Allow {
			continue
		}
		if ok, _ := s.admit(g, c); !ok {
			c.Close()
		}
	}
}

// drain stops accepting, answers with Connection: close for grace, then waits
// for open requests up to limit. The order loses no request: what waits in the
// backlog belongs to the successor, and a client that is told to close does not
// send another request into a closing connection.
func (s *server) drain(grace, limit time.Duration) {
	s.mu.Lock()
	s.draining = true
	f := s.front
	s.room.Broadcast()
	s.mu.Unlock()
	for _, p := range s.ports {
		p.Close()
	}
	f.retire(grace, limit)
	s.mu.Lock()
	open := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
}

func (s *server) counters() control.Stats {
	s.mu.Lock()
	open := len(s.conns)
	s.mu.Unlock()
	return control.Stats{Requests: s.requests.Load(), Allowed: s.allowed.Load(), Denied: s.denied.Load(),
		Refused: s.refused.Load(), Connections: uint64(open)}
}

// A conn is an accepted connection. It offers net/http no more than what it
// wraps is meant for: in particular no ReadFrom, hence no sendfile or splice.
type conn struct {
	net.Conn
	server *server
	flow   flow.Flow
	once   sync.Once
}

func (c *conn) Close() error {
	c.once.Do(func() { c.server.forget(c) })
	return c.Conn.Close()
}

// CloseWrite lets net/http end a connection without a reset.
func (c *conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return nil
}

// A front is an http.Server with one set of limits, fed with connections that
// the gates admitted.
type front struct {
	http    *http.Server
	limits  route.Limits
	in      chan net.Conn
	gone    chan struct{}
	once    sync.Once
	closing atomic.Bool // responses say Connection: close
}

type connKey struct{}

// open starts a front with the given limits.
func (s *server) open(l route.Limits) *front {
	f := &front{limits: l, in: make(chan net.Conn), gone: make(chan struct{})}
	f.http = &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(f, w, r) }),
		ReadHeaderTimeout: l.HeaderTimeout,
		WriteTimeout:      l.WriteTimeout,
		IdleTimeout:       l.IdleTimeout,
		// net/http allows 4096 bytes more than it is told.
		MaxHeaderBytes:               max(1, int(l.MaxHeaderBytes)-4096),
		DisableGeneralOptionsHandler: true, // guards judge "OPTIONS *" as well
		ErrorLog:                     log.New(lines{s.out}, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		Protocols: new(http.Protocols),
	}
	f.http.Protocols.SetHTTP1(true)
	go f.http.Serve(f)
	return f
}

// deliver hands c to the front; false when it is gone.
func (f *front) deliver(c net.Conn) bool {
	select {
	case f.in <- c:
		return true
	case <-f.gone:
		return false
	}
}

// Accept, Close and Addr make the front the listener of its http.Server.
func (f *front) Accept() (net.Conn, error) {
	select {
	case c := <-f.in:
		return c, nil
	case <-f.gone:
		return nil, net.ErrClosed
	}
}

func (f *front) Close() error {
	f.once.Do(func() { close(f.gone) })
	return nil
}

func (f *front) Addr() net.Addr { return &net.TCPAddr{} }

// retire ends the front: see drain.
func (f *front) retire(grace, limit time.Duration) {
	f.closing.Store(true)
	time.Sleep(grace)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if f.http.Shutdown(ctx) != nil {
		f.http.Close()
	}
}

// lines turns what net/http logs into log frames.
type lines struct{ out *outbox }

func (l lines) Write(b []byte) (int, error) {
	l.out.log(strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}
