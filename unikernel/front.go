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
	"lorica.dev/lorica/unikernel/http1"
)

// retireGrace is how long a front with outdated limits answers with Connection:
// close before it is shut down.
const retireGrace = time.Second

// A front serves connections that the gates admitted, with one set of limits. It
// is one server for each protocol: what was negotiated is what is spoken.
type front struct {
	http1   *http1.Server
	http2   *http.Server // nil without TLS
	limits  route.Limits
	in2     chan net.Conn // for http2
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
	f := &front{limits: l, in2: make(chan net.Conn), gone: make(chan struct{}),
		heads: make(chan struct{}, largeHeads(s.memory, l.MaxHeaderBytes)),
		// With securedMemory for as many connections as there may be, this is all of it.
		blocks: &budget{most: s.memory / 8}, streams: &budget{most: s.memory / 4}, bodies: &budget{most: s.memory / 8}}
	f.http1 = http1.NewServer(http1.Limits{Head: int(l.MaxHeaderBytes), Header: l.HeaderTimeout, Body: l.BodyTimeout,
		Write: l.WriteTimeout, Idle: l.IdleTimeout})
	s.fronts[f] = struct{}{}
	if secured {
		f.http2 = s.newHTTP2(f)
		go f.http2.Serve(door{f})
	}
	return f
}

func (s *server) newHTTP2(f *front) *http.Server {
	l := f.limits
	h := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.serveHTTP2(r.Context().Value(connKey{}).(*conn), w, r)
		}),
		MaxHeaderBytes:               int(l.MaxHeaderBytes),
		ReadHeaderTimeout:            l.HeaderTimeout,
		WriteTimeout:                 l.WriteTimeout,
		IdleTimeout:                  l.IdleTimeout,
		DisableGeneralOptionsHandler: true, // guards judge "OPTIONS *" as well
		ErrorLog:                     log.New(lines{s.out}, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		Protocols: new(http.Protocols),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          int(l.MaxStreams),
			MaxDecoderHeaderTableSize:     4 << 10,
			MaxEncoderHeaderTableSize:     4 << 10,
			MaxReadFrameSize:              frameLarge,
			MaxReceiveBufferPerConnection: bodyWindow,
			MaxReceiveBufferPerStream:     bodyWindow,
			SendPingTimeout:               l.IdleTimeout,
			PingTimeout:                   l.HeaderTimeout,
			WriteByteTimeout:              l.WriteTimeout,
		},
	}
	h.Protocols.SetUnencryptedHTTP2(true) // TLS ends before it
	return h
}

// deliver hands c to the front; false when it is gone.
func (f *front) deliver(c *conn) bool {
	if c.h2 == nil {
		return f.serve(c)
	}
	select {
	case f.in2 <- c:
		return true
	case <-f.gone:
		return false
	}
}

// serve has c served over HTTP/1; false when the front is gone.
func (f *front) serve(c *conn) bool {
	select {
	case <-f.gone:
		return false
	default:
		c.front = f
		go f.http1.Serve(c, c)
		return true
	}
}

// leave has the front take no more connections.
func (f *front) leave() { f.once.Do(func() { close(f.gone) }) }

// A door is the listener of the server of HTTP/2 of a front.
type door struct{ *front }

func (d door) Accept() (net.Conn, error) {
	select {
	case c := <-d.in2:
		c.(*conn).front = d.front
		return c, nil
	case <-d.gone:
		return nil, net.ErrClosed
	}
}

func (d door) Close() error {
	d.leave()
	return nil
}

func (d door) Addr() net.Addr { return &net.TCPAddr{} }

// retire ends a front as drain says. It may be called again with less patience.
func (s *server) retire(f *front, grace, limit time.Duration) {
	f.closing.Store(true)
	time.Sleep(grace)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	f.leave()
	var wg sync.WaitGroup
	wg.Go(func() {
		if f.http1.Shutdown(ctx) != nil {
			f.http1.Close()
		}
	})
	if f.http2 != nil {
		wg.Go(func() {
			if f.http2.Shutdown(ctx) != nil {
				f.http2.Close()
			}
		})
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
