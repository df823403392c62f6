package unikernel

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/unikernel/http1"
)

// What is made of a head can take many times its bytes (measured with lines of
// five bytes: up to 17 held for each byte, and the byte itself), so that a bound on
// bytes alone would let clients, who need not be known to anybody, exhaust the
// memory.
const headGrowth = 18 // memory for a byte of a head, at most

// largeHeads returns how many heads beyond http1.FreeHead may be held at once: those
// that fit a quarter of the memory.
func largeHeads(memory int64, maxHeaderBytes uint32) int {
	const enough = 1 << 16
	return int(min(max(memory/4/headGrowth/max(int64(maxHeaderBytes), 1), 4), enough))
}

// A conn is an accepted connection. It offers the servers no more than what it
// wraps is meant for: in particular no ReadFrom, hence no sendfile or splice. It is
// the owner of what HTTP/1 makes of it.
type conn struct {
	net.Conn          // plain text; where there is TLS, nil before the handshake
	raw      net.Conn // what was accepted
	hello    *hello   // of it, where there is TLS
	secure   atomic.Pointer[pep.Secured]
	h2       *h2 // nil: HTTP/1
	server   *server
	front    *front
	flow     flow.Flow
	once     sync.Once
	gone     chan struct{} // closed by Close

	starved atomic.Bool // no place, or no memory, was free in time
	told    atomic.Bool // what could not be read is recorded

	admitted atomic.Uint64 // the serial of the generation whose gates last admitted it
	refused  atomic.Bool   // by later gates, and recorded
}

// Read counts the frames of HTTP/2.
func (c *conn) Read(p []byte) (int, error) {
	if c.h2 != nil {
		return c.h2.read(p)
	}
	return c.Conn.Read(p)
}

// Write counts them, too.
func (c *conn) Write(p []byte) (int, error) {
	if c.h2 != nil {
		return c.h2.write(p)
	}
	return c.Conn.Write(p)
}

// Enlarge implements http1.Owner: it takes a place for a large head, and waits for
// it as long as a client may take to send one.
func (c *conn) Enlarge() error {
	late := time.NewTimer(c.front.limits.HeaderTimeout)
	defer late.Stop()
	select {
	case c.front.heads <- struct{}{}:
		return nil
	case <-late.C:
		return http1.ErrStarved
	case <-c.gone:
		return net.ErrClosed
	}
}

// Shrink implements http1.Owner.
func (c *conn) Shrink() { <-c.front.heads }

// Refuse implements http1.Owner: what cannot be read is recorded before it is
// answered.
func (c *conn) Refuse(status int, reason string) *http.Response {
	silent := status == 0
	if silent {
		status = http.StatusBadRequest
	}
	id, err := c.server.unreadable(c, status, reason)
	if err != nil || silent {
		return nil
	}
	body := "denied\n" + id + "\n"
	return &http.Response{StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Close: true, ContentLength: int64(len(body)),
		Body: io.NopCloser(strings.NewReader(body)), Header: http.Header{
			pep.HeaderDecision: {id}, "Content-Type": {plainText}, "X-Content-Type-Options": {"nosniff"}, "Cache-Control": {"no-store"},
			"Date": {time.Now().UTC().Format(http.TimeFormat)}}}
}

// ServeHTTP1 implements http1.Owner.
func (c *conn) ServeHTTP1(w *http1.Response, r *http.Request) {
	c.server.serveHTTP1(c, w, r)
}

// Failed implements http1.Owner.
func (c *conn) Failed(v any) { c.server.out.log(fmt.Sprintf("a request panicked: %v", v)) }

// unreadable records, once, that the connection ends for a reason.
func (c *conn) unreadable(reason string) {
	if !c.told.Swap(true) {
		c.server.unreadable(c, http.StatusBadRequest, reason)
	}
}

// Close says goodbye where there is TLS.
func (c *conn) Close() error {
	c.leave()
	if s := c.secure.Load(); s != nil {
		c.hello.leaving.Store(true)
		return s.Conn.Close()
	}
	return c.raw.Close()
}

// cut is Close without a word.
func (c *conn) cut() {
	c.leave()
	c.raw.Close()
}

func (c *conn) leave() {
	c.once.Do(func() {
		close(c.gone)
		if c.secure.Load() != nil && c.h2 != nil { // before that it is the handshake's
			c.h2.close()
		}
		c.server.forget(c)
	})
}

// peer is the verified certificate of the client; nil: it showed none.
func (c *conn) peer() *pep.Peer {
	if s := c.secure.Load(); s != nil {
		return s.Peer
	}
	return nil
}

// expired reports whether the certificate of the client was valid once and is
// not any more.
func (c *conn) expired(now time.Time) bool {
	p := c.peer()
	return p != nil && now.After(p.NotAfter)
}

// CloseWrite ends a connection without a reset.
func (c *conn) CloseWrite() error {
	return closeWrite(c.Conn)
}
