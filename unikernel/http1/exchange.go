package http1

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// past ends reads that wait.
var past = time.Unix(1, 0)

// An exchange is a request and its response, and the context of both.
type exchange struct {
	c    *conn
	r    *http.Request
	w    Response
	body body
	size int64 // of the body, as its head says

	mu       sync.Mutex
	inner    context.Context // from the first Done on
	cancel   context.CancelFunc
	arrived  bool          // all of the request
	blind    bool          // nothing is watched any more
	over     bool          // the owner has answered, or nobody takes the answer
	watching chan struct{} // closed when the watch has ended
}

// maxKept is how many fields a head may have whose request is kept.
const maxKept = 32

// kept is a request as its owner left it, without what belongs to one exchange.
type kept struct {
	r    http.Request
	note any
}

// newExchange makes a request that can be served of a head. One that is, byte for
// byte, the head before is not parsed again where its owner kept what came of it.
func newExchange(c *conn, head []byte) (*exchange, error) {
	x := &exchange{c: c}
	x.w = Response{x: x, Again: string(head) == c.head, Arrived: time.Now(), length: -1}
	if !x.w.Again {
		c.head, c.kept = string(head), nil
	}
	r, err := x.request()
	if err != nil {
		c.head = ""
		return nil, err
	}
	connection := r.Header["Connection"]
	r.Close = says(connection, "close") || r.ProtoMinor == 0 && !says(connection, "keep-alive")
	x.w.last = r.Close
	x.size = r.ContentLength
	if x.arrived = x.size == 0; !x.arrived {
		x.body = body{x: x, left: max(x.size, 0), chunked: x.size < 0,
			expected: r.ProtoMinor > 0 && says(r.Header["Expect"], "100-continue")}
	}
	x.r = x.bind(r)
	c.lazily(&c.writeBy, x.w.Arrived, c.server.limits.Write, c.nc.SetWriteDeadline)
	return x, nil
}

// request returns the request of the head, kept or parsed.
func (x *exchange) request() (*http.Request, error) {
	k := x.c.kept
	if k == nil {
		return parse(x.c.head)
	}
	x.w.Note = k.note
	r, u := k.r, *k.r.URL
	r.URL, r.Header = &u, k.r.Header.Clone()
	return &r, nil
}

// bind makes r the request of x.
func (x *exchange) bind(r *http.Request) *http.Request {
	r.RemoteAddr = x.c.remote
	r.Body = http.NoBody
	if !x.arrived {
		r.Body = &x.body
	}
	return r.WithContext(x)
}

// serve has the owner answer, and reports whether another request may follow.
func (x *exchange) serve() (again bool) {
	if !x.answer() || x.w.hijacked {
		x.end()
		x.w.release()
		return false
	}
	again = x.w.finish()
	x.w.release()
	if x.end() && again {
		return x.arrived || x.body.skip()
	}
	if x.w.err == nil && (!x.arrived || x.c.r < x.c.w) {
		x.c.linger()
	}
	return false
}

// answer reports whether the owner has not given up.
func (x *exchange) answer() (done bool) {
	defer func() {
		if v := recover(); v != nil && v != http.ErrAbortHandler {
			x.c.owner.Failed(v)
		}
	}()
	x.c.owner.ServeHTTP1(&x.w, x.r)
	return true
}

// end ends what may go on beside the owner: reads of the body, the watch, the
// context. It reports whether the connection is still of use.
func (x *exchange) end() bool {
	usable := x.body.x == nil || x.body.end()
	x.unwatch()
	x.stop()
	return usable
}

// stop ends the context.
func (x *exchange) stop() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.over = true
	if x.cancel != nil {
		x.cancel()
	}
}

// whole notes that all of the body has arrived.
func (x *exchange) whole() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.arrived = true
	x.watch()
}

// watch begins to read ahead, to notice that the client goes away, once somebody
// wants to know and nothing of this request is left to read. The caller holds x.mu.
func (x *exchange) watch() {
	c := x.c
	if !x.arrived || x.inner == nil || x.blind || x.watching != nil {
		return
	}
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.w == len(c.buf) {
		return // it is there, and full of requests
	}
	x.watching = make(chan struct{})
	c.until(time.Time{})
	go func() {
		defer close(x.watching)
		err := c.fill()
		x.mu.Lock()
		defer x.mu.Unlock()
		if err != nil && !x.blind { // and not unwatch ended the read
			x.cancel()
		}
	}()
}

// unwatch ends the watch, once: none begins after it, and the connection may be in
// other hands then.
func (x *exchange) unwatch() {
	x.mu.Lock()
	watching, before := x.watching, x.blind
	x.blind = true
	x.mu.Unlock()
	if watching != nil && !before {
		x.c.nc.SetReadDeadline(past)
		<-watching
		x.c.readBy = past
	}
}

// Done implements context.Context. Whoever asks has the connection watched.
func (x *exchange) Done() <-chan struct{} { return x.context().Done() }

// Err implements context.Context.
func (x *exchange) Err() error { return x.context().Err() }

func (x *exchange) context() context.Context {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.inner == nil {
		x.inner, x.cancel = context.WithCancel(context.Background())
		if x.over {
			x.cancel()
		}
		x.watch()
	}
	return x.inner
}

// Deadline implements context.Context.
func (x *exchange) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value implements context.Context. It knows http.LocalAddrContextKey.
func (x *exchange) Value(key any) any {
	if key == http.LocalAddrContextKey {
		return x.c.nc.LocalAddr()
	}
	x.mu.Lock()
	inner := x.inner
	x.mu.Unlock()
	if inner == nil {
		return nil
	}
	return inner.Value(key)
}
