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

// A front serves connections that the gates admitted, with one set of limits. It
// is one http.Server for each protocol: what was negotiated is what is spoken.
type front struct {
	http    *http.Server
	http2   *http.Server // nil without TLS
	limits  route.Limits
	in, in2 chan net.Conn
	gone    chan struct{}
	once    sync.Once
	blocks  *budget       // for header blocks of HTTP/2 until their requests are known
	streams *budget       // for requests of HTTP/2 until their responses have gone
	bodies  *budget       // for what is read ahead of HTTP/2 bodies
	closing atomic.Bool   // responses say Connection: close
	heads   chan struct{} // one place for each large head that may be held
}

type connKey struct{}

// newFront starts a front with the given limits. The caller holds s.mu.
func (s *server) newFront(l route.Limits, secured bool) *front {
	f := &front{limits: l, in: make(chan net.Conn), in2: make(chan net.Conn), gone: make(chan struct{}),
		heads: make(chan struct{}, largeHeads(s.memory, l.MaxHeaderBytes)),
		// With securedMemory for as many connections as there may be, this is all of it.
		blocks: &budget{most: s.memory / 8}, streams: &budget{most: s.memory / 4}, bodies: &budget{most: s.memory / 8}}
	f.http = s.newServer(f)
	f.http.Protocols.SetHTTP1(true)
	// net/http allows 4096 bytes more than it is told.
	f.http.MaxHeaderBytes = max(1, int(l.MaxHeaderBytes)-4096)
	s.fronts[f] = struct{}{}
	go f.http.Serve(door{f, f.in})
	if secured {
		f.http2 = s.newServer(f)
		f.http2.Protocols.SetUnencryptedHTTP2(true) // TLS ends before it
		f.http2.MaxHeaderBytes = int(l.MaxHeaderBytes)
		f.http2.HTTP2 = &http.HTTP2Config{
			MaxConcurrentStreams:          int(l.MaxStreams),
			MaxDecoderHeaderTableSize:     4 << 10,
			MaxEncoderHeaderTableSize:     4 << 10,
			MaxReadFrameSize:              frameLarge,
			MaxReceiveBufferPerConnection: bodyWindow,
			MaxReceiveBufferPerStream:     bodyWindow,
			SendPingTimeout:               l.IdleTimeout,
			PingTimeout:                   l.HeaderTimeout,
			WriteByteTimeout:              l.WriteTimeout,
		}
		go f.http2.Serve(door{f, f.in2})
	}
	return f
}

func (s *server) newServer(f *front) *http.Server {
	return &http.Server{
		Handler:                      http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(f, w, r) }),
		ReadHeaderTimeout:            f.limits.HeaderTimeout,
		WriteTimeout:                 f.limits.WriteTimeout,
		IdleTimeout:                  f.limits.IdleTimeout,
		DisableGeneralOptionsHandler: true, // guards judge "OPTIONS *" as well
		ErrorLog:                     log.New(lines{s.out}, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		ConnState: s.follow,
		Protocols: new(http.Protocols),
	}
}

// follow keeps count of what net/http does with a connection by itself.
func (s *server) follow(nc net.Conn, state http.ConnState) {
	c := nc.(*conn)
	if c.h2 != nil {
		return // its frames are counted as they pass
	}
	switch state {
	case http.StateIdle:
		c.idle()
	case http.StateClosed:
		c.ended()
	}
}

// deliver hands c to the front; false when it is gone.
func (f *front) deliver(c *conn) bool {
	in := f.in
	if c.h2 != nil {
		in = f.in2
	}
	select {
	case in <- c:
		return true
	case <-f.gone:
		return false
	}
}

// A door is the listener of one http.Server of a front.
type door struct {
	*front
	in chan net.Conn
}

func (d door) Accept() (net.Conn, error) {
	select {
	case c := <-d.in:
		c.(*conn).front = d.front
		return c, nil
	case <-d.gone:
		return nil, net.ErrClosed
	}
}

func (d door) Close() error {
	d.once.Do(func() { close(d.gone) })
	return nil
}

func (d door) Addr() net.Addr { return &net.TCPAddr{} }

// retire ends a front as drain says. It may be called again with less patience.
func (s *server) retire(f *front, grace, limit time.Duration) {
	f.closing.Store(true)
	time.Sleep(grace)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var wg sync.WaitGroup
	for _, h := range []*http.Server{f.http, f.http2} {
		if h != nil {
			wg.Go(func() {
				if h.Shutdown(ctx) != nil {
					h.Close()
				}
			})
		}
	}
	wg.Wait()
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
