package unikernel

import (
	"errors"
	"net"
	"net/http"
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

// An h2 is the HTTP/2 side of a connection: net/http serves it, and the bytes
// that pass are counted here.
type h2 struct {
	conn *conn

	mu        sync.Mutex
	account   *accountant
	heads     []int64 // memory of blocks that no request came of yet
	bodies    int64   // memory taken for bodies
	begun     int     // requests that reached the chain
	told      int     // records about requests that did not
	headWants int64   // to take before the next read
	bodyWants int64
	more      bool // headWants belongs to the last of heads
	slow      bool // the read deadline is that of a frame
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
	whole := a.in.within() && !(a.in.have == 0 && a.in.head[3] == frameData) || a.open
	if a.preface == len(preface) {
		if n := int(a.in.left); n > 0 {
			p = p[:min(len(p), n)]
		} else {
			p = p[:min(len(p), frameHead-min(a.in.have, frameHead-1))]
		}
		if whole != h.slow {
			h.slow = whole
			var t time.Time
			if whole {
				t = time.Now().Add(a.limits.HeaderTimeout)
			}
			h.conn.Conn.SetReadDeadline(t)
		}
	}
	h.mu.Unlock()
	n, err := h.conn.Conn.Read(p)
	h.mu.Lock()
	e := a.receive(p[:n])
	if h.closed { // by Close, meanwhile
		e = effect{}
	}
	h.bodyWants += e.body
	if e.head > 0 {
		h.headWants, h.more = h.headWants+h.worst(e.head), e.more
	}
	cut := h.slow || a.preface > 0 && a.preface < len(preface)
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

// worst is the most memory that n bytes of a header block can take.
func (h *h2) worst(n uint32) int64 {
	fields := min(int64(n), int64(h.account.limits.MaxHeaderBytes)/(fieldOverIts+1)+1)
	return textGrowth*int64(n) + fieldMemory*fields
}

// afford waits for the memory of the frame that comes next. While one connection
// waits, nothing of it is read; those that hold the memory end in time.
func (h *h2) afford() error {
	h.mu.Lock()
	head, body := h.headWants, h.bodyWants
	h.headWants, h.bodyWants = 0, 0
	l := h.account.limits
	h.mu.Unlock()
	f := h.conn.front
	if head > 0 {
		if err := f.streams.take(head, l.HeaderTimeout, h.conn.gone); err != nil {
			h.starved(err, "no memory is free for its head")
			return err
		}
	}
	if body > 0 {
		if err := f.bodies.take(body, l.BodyTimeout, h.conn.gone); err != nil {
			f.streams.give(head)
			h.starved(err, "no memory is free for its body")
			return err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		f.streams.give(head)
		f.bodies.give(body)
		return nil // the read fails
	}
	if n := len(h.heads); head > 0 && h.more && n > 0 {
		h.heads[n-1] += head
	} else if head > 0 {
		h.heads = append(h.heads, head)
	}
	h.bodies += body
	return nil
}

// starved records a wait that nobody ended by closing the connection.
func (h *h2) starved(err error, reason string) {
	if !errors.Is(err, net.ErrClosed) {
		h.conn.unreadable(reason)
	}
}

// settle gives back what e has freed. The caller holds h.mu.
func (h *h2) settle(e effect) {
	if n := min(e.freed, h.bodies); n > 0 { // where nothing was taken there may be no front yet
		h.bodies -= n
		h.conn.front.bodies.give(n)
	}
	if e.undone {
		h.known()
	}
}

// known gives back what was taken for a block, now that its request is known or
// will never be. The caller holds h.mu.
func (h *h2) known() {
	if len(h.heads) > 0 {
		h.conn.front.streams.give(h.heads[0])
		h.heads = h.heads[1:]
	}
}

// write counts what the server sends.
func (h *h2) write(p []byte) (int, error) {
	h.mu.Lock()
	e := h.account.send(p)
	h.settle(e)
	// More was answered than has reached the chain: net/http refused the rest by
	// itself. What has begun and is not answered may hide as many, for a while.
	unread := h.account.answered - h.begun - h.told
	h.told += max(unread, 0)
	h.mu.Unlock()
	for ; unread > 0; unread-- {
		h.conn.server.unreadable(h.conn, "a request that is malformed, too large, or one too many")
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
	defer h.mu.Unlock()
	h.begun++
	room = h.conn.front.streams.add(memory)
	h.known()
	return memory, room
}

func (h *h2) finish(memory int64) { h.conn.front.streams.give(memory) }

// close gives everything back.
func (h *h2) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for len(h.heads) > 0 {
		h.known()
	}
	h.settle(effect{freed: h.bodies})
}
