package unikernel

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"lorica.dev/lorica/abi/route"
)

// Memory of the heads of HTTP/2 requests. HPACK makes a field out of one byte,
// so that the bytes of a block say little: until the fields are known a block is
// taken for the worst that it can be.
const (
	fieldMemory  = 256 // of one field beyond its text: values, slices, the place in a map
	fieldOverIts = 32  // what a field counts beyond its text (RFC 9113, section 6.5.2)
	textGrowth   = 2   // Huffman codes have at least five bits for eight
)

// streamMemory is what a request holds beyond its head until its response has
// gone, which a client can put off for as long as writeTimeout: stacks and buffers
// (measured with files as responses).
const streamMemory = 48 << 10

// An h2 is the HTTP/2 side of a connection: net/http serves it, and the bytes
// that pass are counted here.
type h2 struct {
	conn    *conn
	opening *opening // who reads has it

	mu        sync.Mutex
	account   *accountant
	heads     int64 // memory taken for blocks that no request came of yet, less what was given back
	parked    int64 // of it, for requests that were withdrawn and that net/http may still hold
	bodies    int64 // memory taken for bodies, less what was given back
	reserved  int   // memory taken for this many streams
	pending   int   // requests that wait for that
	begun     int   // requests that reached the chain
	running   int   // of them, those that have not left it
	told      int   // records about requests that did not
	headWants int64 // to take before the next read
	bodyWants int64
	late      time.Time // the read deadline, that of a frame; zero: none
	closed    bool
}

func newH2(c *conn, l route.Limits) *h2 { return &h2{conn: c, account: newAccountant(l)} }

var errFlood = errors.New("the connection costs more than it may")

// read reads what one frame still needs, so that net/http is never ahead of the
// count; a frame that has begun ends in time.
func (h *h2) read(p []byte) (int, error) {
	if err := h.afford(); err != nil {
		return 0, err
	}
	h.mu.Lock()
	a := h.account
	whole := a.in.within() && !(a.in.have == 0 && a.in.head[3] == frameData) || a.within
	if n := len(preface) - a.preface; n > 0 {
		p = p[:min(len(p), n)]
	} else {
		if n := int(a.in.left); n > 0 {
			p = p[:min(len(p), n)]
		} else {
			p = p[:min(len(p), frameHead-min(a.in.have, frameHead-1))]
		}
		if whole == h.late.IsZero() {
			h.late = time.Time{}
			if whole {
				h.late = time.Now().Add(a.limits.HeaderTimeout)
			}
			h.conn.Conn.SetReadDeadline(h.late)
		}
	}
	h.mu.Unlock()
	if h.opening == nil {
		h.opening = open(h.conn.Conn)
	}
	n, err := h.opening.Read(p)
	h.mu.Lock()
	e := a.receive(p[:n])
	if h.closed { // by Close, meanwhile
		e = effect{}
	}
	h.headWants, h.bodyWants = h.headWants+e.head, h.bodyWants+e.body
	cut := !h.late.IsZero() || a.preface > 0 && a.preface < len(preface)
	if err != nil && cut && !h.closed && e.flood == "" {
		e.flood = "a frame is cut short or too slow"
	}
	h.settle(e)
	h.mu.Unlock()
	if e.flood != "" {
		h.conn.unreadable(e.flood)
		if err == nil {
			err = errFlood
		}
		return 0, err
	}
	return n, err
}

// An opening is what a client says first, and what comes behind.
type opening struct {
	net.Conn
	said []byte
	err  error // behind what was said
}

// open reads a preface and the SETTINGS that follow it (RFC 9113, section 3.4), or what
// shows that they do not come. From the preface on, net/http gives a client two seconds for
// them, also where they are here and it is the image that has no time to look: so it gets
// both at once.
func open(c net.Conn) *opening {
	const settings, most = 4, 32 * 6 // more than anybody has to say
	o := &opening{Conn: c, said: make([]byte, 0, len(preface)+frameHead+most)}
	for want := len(preface) + frameHead; len(o.said) < want && o.err == nil; {
		n, err := c.Read(o.said[len(o.said):want])
		o.said, o.err = o.said[:len(o.said)+n], err
		if said := string(o.said[:min(len(o.said), len(preface))]); !strings.HasPrefix(preface, said) {
			break
		}
		if want == len(preface)+frameHead && len(o.said) == want {
			f := o.said[len(preface):]
			if size := int(f[0])<<16 | int(f[1])<<8 | int(f[2]); f[3] == settings && size <= most {
				want += size
			}
		}
	}
	return o
}

// Read implements io.Reader.
func (o *opening) Read(p []byte) (int, error) {
	if len(o.said) > 0 {
		n := copy(p, o.said)
		if o.said = o.said[n:]; len(o.said) == 0 {
			o.said = nil
		}
		return n, nil
	}
	if o.err != nil {
		return 0, o.err
	}
	return o.Conn.Read(p)
}

// afford waits for the memory of the frame that comes next. While one connection
// waits, nothing of it is read; those that hold the memory end in time.
func (h *h2) afford() error {
	h.mu.Lock()
	head, body := h.headWants, h.bodyWants
	h.headWants, h.bodyWants = 0, 0
	l := h.account.limits
	h.mu.Unlock()
	if head == 0 && body == 0 {
		return nil
	}
	f, began := h.conn.front, time.Now()
	if head > 0 {
		if err := f.blocks.take(head, false, l.HeaderTimeout, h.conn.gone); err != nil {
			h.starved(err, "no memory is free for its head")
			return err
		}
	}
	if body > 0 {
		if err := f.bodies.take(body, false, l.BodyTimeout, h.conn.gone); err != nil {
			f.blocks.give(head)
			h.starved(err, "no memory is free for its body")
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		f.blocks.give(head)
		f.bodies.give(body)
		return nil // the read fails
	}
	h.heads, h.bodies = h.heads+head, h.bodies+body
	if !h.late.IsZero() { // the client has its time all the same
		h.late = h.late.Add(time.Since(began))
		h.conn.Conn.SetReadDeadline(h.late)
	}
	return nil
}

// starved records a wait that nobody ended by closing the connection. It is not
// the client's fault.
func (h *h2) starved(err error, reason string) {
	if !errors.Is(err, net.ErrClosed) {
		h.conn.starved.Store(true)
		h.conn.unreadable(reason)
	}
}

// settle gives back what e has freed. That may be before it was taken, where a
// stream ends while its next frame waits for memory. The caller holds h.mu.
func (h *h2) settle(e effect) {
	if e.withdrawn > 0 && h.running >= int(h.account.limits.MaxStreams) {
		h.parked += e.withdrawn // net/http keeps it until an application returns
	} else {
		e.heads += e.withdrawn
	}
	h.give(e.heads, e.bodies, h.reserved-(len(h.account.open)-h.pending))
}

// give gives memory back, all of which close has done. Where nothing was taken
// there may be no front yet. The caller holds h.mu.
func (h *h2) give(heads, bodies int64, streams int) {
	if h.closed {
		return
	}
	if heads != 0 {
		h.heads -= heads
		h.conn.front.blocks.give(heads)
	}
	if bodies != 0 {
		h.bodies -= bodies
		h.conn.front.bodies.give(bodies)
	}
	if streams > 0 {
		h.reserved -= streams
		h.conn.front.streams.give(streamMemory * int64(streams))
	}
}

// admit takes the memory of one more stream and its head, and waits for it half as
// long as a client may take for a head: requests of honest clients end soon.
// Meanwhile the request holds the memory of its block, so that few can wait, and no
// longer than who waits for that memory.
func (h *h2) admit(memory int64, gone <-chan struct{}) bool {
	h.mu.Lock()
	streams, several, patience := h.conn.front.streams, h.reserved > 0, h.account.limits.HeaderTimeout/2
	h.pending++
	h.mu.Unlock()
	// Half of it is for connections that have one request only, so that few
	// connections cannot fill all of it.
	err := streams.take(streamMemory+memory, several, patience, gone)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pending--
	if err != nil {
		return false
	}
	if h.closed {
		streams.give(streamMemory + memory)
		return false
	}
	h.reserved++
	return true
}

// unserved takes the memory for responses that net/http makes by itself and that
// nobody takes, and reports whether there was room. The caller holds h.mu.
func (h *h2) unserved() bool {
	for h.reserved < len(h.account.open)-len(h.account.waiting) {
		if !h.conn.front.streams.try(streamMemory, h.reserved > 0) {
			return false
		}
		h.reserved++
	}
	return true
}

// rest begins the count of requests anew when none is open, so that those which
// were withdrawn hide no others. The caller holds h.mu.
func (h *h2) rest() {
	if h.running == 0 && len(h.account.waiting) == 0 {
		h.begun, h.told, h.account.answered = 0, 0, 0
	}
}

// write counts what the server sends.
func (h *h2) write(p []byte) (int, error) {
	h.mu.Lock()
	e := h.account.send(p)
	h.settle(e)
	if !h.closed && !h.unserved() {
		h.conn.starved.Store(true)
		e.flood = "no memory is free for a response that it does not take"
	}
	// More was answered than has reached the chain: net/http refused the rest by
	// itself. What has begun and is not answered may hide as many, for a while.
	unread := h.account.answered - h.begun - h.told
	h.told += max(unread, 0)
	h.rest()
	h.mu.Unlock()
	for ; unread > 0; unread-- {
		h.conn.server.unreadable(h.conn, http.StatusBadRequest, "a request that is malformed, too large, or one too many")
	}
	if why := e.flood + e.fault; why != "" {
		h.conn.unreadable(why)
	}
	n, err := h.conn.Conn.Write(p)
	if e.flood != "" && err == nil {
		h.conn.cut()
	}
	return n, err
}

// begin notes that a request has reached the chain, and returns the memory of
// its head, for finish, and whether there is room for it.
func (h *h2) begin(r *http.Request) (memory int64, room bool) {
	for k, values := range r.Header {
		memory += int64(len(k)) + fieldMemory
		for _, v := range values {
			memory += int64(len(v)) + fieldOverIts
		}
	}
	memory += int64(len(r.RequestURI)+len(r.Host)) + fieldMemory
	h.mu.Lock()
	h.begun++
	h.running++
	h.mu.Unlock()
	room = h.admit(memory, r.Context().Done())
	h.mu.Lock()
	defer h.mu.Unlock()
	if !room {
		memory = 0
		h.account.resets.earn(1) // it pays for no refusal that is not its fault
	}
	h.give(h.account.begin(), 0, 0)
	return memory, room
}

// finish notes that a request has left the chain.
func (h *h2) finish(memory int64) {
	h.conn.front.streams.give(memory)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running--
	if h.running < int(h.account.limits.MaxStreams) {
		h.give(h.parked, 0, 0)
		h.parked = 0
	}
	h.rest()
}

// close gives everything back.
func (h *h2) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.give(h.heads, h.bodies, h.reserved)
	h.closed = true
}
