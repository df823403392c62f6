package unikernel

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/pep"
)

// Heads of requests. What net/http makes of a head can take many times its
// bytes (measured with lines of five bytes: up to 15 held for each byte), so that
// a bound on bytes alone would let clients, who need not be known to anybody,
// exhaust the memory.
const (
	freeHead   = 2 << 10 // bytes that every connection may send of a head
	headGrowth = 16      // memory for a byte of a head, at most
)

// largeHeads returns how many heads beyond freeHead may be held at once: those
// that fit a quarter of the memory.
func largeHeads(memory int64, maxHeaderBytes uint32) int {
	const enough = 1 << 16
	return int(min(max(memory/4/headGrowth/max(int64(maxHeaderBytes), 1), 4), enough))
}

// A conn is an accepted connection. It offers net/http no more than what it
// wraps is meant for: in particular no ReadFrom, hence no sendfile or splice.
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

	serving  atomic.Bool  // a request has reached the chain and is not finished
	head     atomic.Int64 // bytes of the next request that were read before that
	large    atomic.Bool  // holds a place in front.heads
	deadline atomic.Int64 // of reads, Unix nanoseconds; 0: none
	starved  atomic.Bool  // no place, or no memory, was free in time
	told     atomic.Bool  // what could not be read is recorded

	admitted atomic.Uint64 // the revision whose gates last admitted it
	refused  atomic.Bool   // by later gates, and recorded
}

// Read counts the bytes of heads. A large one waits for its place, as long as
// the client may take to send it.
func (c *conn) Read(p []byte) (int, error) {
	if c.h2 != nil {
		return c.h2.read(p)
	}
	if c.serving.Load() {
		return c.Conn.Read(p)
	}
	if !c.large.Load() {
		left := freeHead - c.head.Load()
		if left <= 0 {
			if err := c.enlarge(); err != nil {
				return 0, err
			}
		} else {
			p = p[:min(int64(len(p)), left)]
		}
	}
	n, err := c.Conn.Read(p)
	c.head.Add(int64(n))
	return n, err
}

// enlarge takes a place for a large head.
func (c *conn) enlarge() error {
	var late <-chan time.Time
	if d := c.deadline.Load(); d != 0 {
		timer := time.NewTimer(time.Until(time.Unix(0, d)))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case c.front.heads <- struct{}{}:
	case <-late:
		c.starved.Store(true)
		return os.ErrDeadlineExceeded
	case <-c.gone:
		return net.ErrClosed
	}
	c.large.Store(true)
	select {
	case <-c.gone: // Close may have come before the place was ours
		c.shrink()
		return net.ErrClosed
	default:
		return nil
	}
}

func (c *conn) shrink() {
	if c.large.CompareAndSwap(true, false) {
		<-c.front.heads
	}
}

// SetReadDeadline bounds the wait for a place as well.
func (c *conn) SetReadDeadline(t time.Time) error {
	d := int64(0)
	if !t.IsZero() {
		d = t.UnixNano()
	}
	c.deadline.Store(d)
	return c.Conn.SetReadDeadline(t)
}

// Write records first what net/http answers by itself: a request that it could
// not read, and that no guard has seen.
func (c *conn) Write(p []byte) (int, error) {
	if c.h2 != nil {
		return c.h2.write(p)
	}
	if !c.serving.Load() {
		c.unread()
	}
	return c.Conn.Write(p)
}

// unread records that a request of HTTP/1 could not be read.
func (c *conn) unread() {
	reason := "malformed, cut short, too large or too slow to be read"
	if c.starved.Load() {
		reason = "too many large heads were held by others"
	}
	c.unreadable(reason)
}

// begin notes that a request has reached the chain.
func (c *conn) begin() { c.serving.Store(true) }

// idle notes that a request is finished and another may follow.
func (c *conn) idle() {
	c.shrink()
	c.head.Store(0)
	c.serving.Store(false)
}

// ended notes that nothing follows: a request that had begun was cut short, or
// took too long.
func (c *conn) ended() {
	if !c.serving.Load() && c.head.Load() > 0 {
		c.unread()
	}
}

// unreadable records, once, that the connection ends for a reason.
func (c *conn) unreadable(reason string) {
	if !c.told.Swap(true) {
		c.server.unreadable(c, reason)
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
		c.shrink()
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

// CloseWrite lets net/http end a connection without a reset.
func (c *conn) CloseWrite() error {
	return closeWrite(c.Conn)
}
