package unikernel

import (
	"context"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lorica.dev/lorica/abi/route"
)

// retireGrace is how long a front with outdated limits answers with Connection:
// close before it is shut down.
const retireGrace = time.Second

// A front is an http.Server with one set of limits, fed with connections that
// the gates admitted.
type front struct {
	http    *http.Server
	limits  route.Limits
	in      chan net.Conn
	gone    chan struct{}
	once    sync.Once
	closing atomic.Bool   // responses say Connection: close
	heads   chan struct{} // one place for each large head that may be held
}

type connKey struct{}

// newFront starts a front with the given limits. The caller holds s.mu.
func (s *server) newFront(l route.Limits) *front {
	f := &front{limits: l, in: make(chan net.Conn), gone: make(chan struct{}),
		heads: make(chan struct{}, largeHeads(s.memory, l.MaxHeaderBytes))}
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
		ConnState: s.follow,
		Protocols: new(http.Protocols),
	}
	f.http.Protocols.SetHTTP1(true)
	s.fronts[f] = struct{}{}
	go f.http.Serve(f)
	return f
}

// follow keeps count of what net/http does with a connection by itself.
func (s *server) follow(nc net.Conn, state http.ConnState) {
	c := nc.(*conn)
	switch state {
	case http.StateIdle:
		c.idle()
	case http.StateClosed:
		c.ended()
	}
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
		c.(*conn).front = f
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

// retire ends a front as drain says. It may be called again with less patience.
func (s *server) retire(f *front, grace, limit time.Duration) {
	f.closing.Store(true)
	time.Sleep(grace)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if f.http.Shutdown(ctx) != nil {
		f.http.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.fronts, f)
}

// lines turns what net/http logs into log frames.
type lines struct{ out *outbox }

func (l lines) Write(b []byte) (int, error) {
	l.out.log(strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}
