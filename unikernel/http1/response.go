package http1

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	outSize  = 8 << 10 // what is written at once
	bodySize = 4 << 10 // of a response, before its length is given up
	direct   = outSize // what is larger is not copied
)

// Buffers of responses, while they are made.
type buffers struct{ out, body []byte }

var pool = sync.Pool{New: func() any {
	return &buffers{make([]byte, 0, outSize), make([]byte, 0, bodySize)}
}}

var errDone = errors.New("http1: the response has ended")

// A Response is written by a handler. What fits a few kilobytes goes in one piece
// and with its length. Its methods are safe for concurrent use, but for the map
// that Header returns.
type Response struct {
	Arrived time.Time // when the head of the request had arrived
	Again   bool      // the head is, byte for byte, that of the request before
	Note    any       // what Keep was given then; the request is the one that it kept

	x      *exchange
	header http.Header

	mu        sync.Mutex
	buf       *buffers // out: what is to be written next; body: until committed
	status    int      // 0: not yet written
	length    int64    // as the handler said; -1: it did not
	written   int64    // of the body
	bodyless  bool
	dated     bool
	typed     bool
	trailers  []string
	committed bool // the head is complete
	chunked   bool
	last      bool // of its connection
	hijacked  bool
	done      bool
	err       error
}

// Keep has the next request, where its head is the same, begin as r is now, with a
// note of the owner's. What belongs to one request, its body above all, is not
// kept; nor is what would take much memory of an idle connection.
func (w *Response) Keep(r *http.Request, note any) {
	x := w.x
	if x.body.chunked || len(x.c.head) > FreeHead || strings.Count(x.c.head, "\n") > maxKept+2 { // two lines are no fields
		return
	}
	u := *r.URL
	x.c.kept = &kept{note: note, r: http.Request{Method: r.Method, URL: &u, Proto: r.Proto, ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor,
		Header: r.Header.Clone(), ContentLength: x.size, Host: r.Host, RequestURI: r.RequestURI, TLS: r.TLS}}
}

// Anew forgets what was kept and returns the request as it was sent.
func (w *Response) Anew() *http.Request {
	x := w.x
	x.c.kept, w.Note = nil, nil
	r, err := parse(x.c.head)
	if err != nil { // it was parsed before
		panic(http.ErrAbortHandler)
	}
	x.r = x.bind(r)
	return x.r
}

// Header implements http.ResponseWriter.
func (w *Response) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header)
	}
	return w.header
}

// WriteHeader implements http.ResponseWriter.
func (w *Response) WriteHeader(status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHead(status)
}

func (w *Response) writeHead(status int) {
	if w.status != 0 || w.done || w.hijacked {
		return
	}
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("http1: %d is no status", status))
	}
	if w.buf == nil {
		w.buf = pool.Get().(*buffers)
	}
	if status < 200 && status != http.StatusSwitchingProtocols {
		if w.x.r.ProtoMinor > 0 { // HTTP/1.0 has none
			w.begin(status)
			w.fields(false)
			w.buf.out = append(w.buf.out, "\r\n"...)
			w.flush()
		}
		return
	}
	w.status = status
	w.last = w.last || status == http.StatusSwitchingProtocols // what follows would be no request
	w.bodyless = w.x.r.Method == http.MethodHead || !hasBody(status)
	w.begin(status)
	w.fields(true)
}

func hasBody(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

func (w *Response) begin(status int) {
	b := append(w.buf.out, "HTTP/1."...)
	b = append(b, byte('0'+w.x.r.ProtoMinor), ' ')
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(status)...)
	w.buf.out = append(b, "\r\n"...)
}

// fields appends the fields of the header, in order, and notes what they say about
// the message where that is the final one.
func (w *Response) fields(final bool) {
	names := make([]string, 0, 16)
	for name := range w.header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		values := w.header[name]
		key := http.CanonicalHeaderKey(name) // in whatever case the handler wrote it
		switch key {
		case "Content-Length":
			if final && len(values) > 0 && w.status != http.StatusNoContent {
				if n, ok := decimal(values[0]); ok {
					w.length = n
				}
			}
			continue
		case "Transfer-Encoding":
			continue
		case "Connection":
			if says(values, "close") {
				w.last = w.last || final
				continue
			}
		case "Date":
			w.dated = w.dated || final
		case "Content-Type", "Content-Encoding":
			w.typed = w.typed || final && (key == "Content-Type" || len(values) > 0 && values[0] != "")
		case "Trailer":
			if w.x.r.ProtoMinor == 0 {
				continue
			}
			if final {
				w.trailers = values
			}
		}
		if !strings.HasPrefix(name, http.TrailerPrefix) {
			w.buf.out = field(w.buf.out, name, values)
		}
	}
}

// field appends a field, unless it has no name. Line ends in a value become spaces.
func field(b []byte, name string, values []string) []byte {
	if !token(name) {
		return b
	}
	for _, v := range values {
		b = append(append(b, name...), ": "...)
		at := len(b)
		b = append(b, trim(v)...)
		for i, c := range b[at:] {
			if c == '\r' || c == '\n' {
				b[at+i] = ' '
			}
		}
		b = append(b, "\r\n"...)
	}
	return b
}

// commit completes the head. done: the body is, too. begin is how it begins, for its
// type.
func (w *Response) commit(done bool, begin []byte) {
	w.committed = true
	body, b := w.buf.body, w.buf.out
	switch {
	case w.length >= 0:
	case !hasBody(w.status):
	case done && len(w.trailers) == 0 && !w.trails():
		if !w.bodyless || len(body) > 0 {
			w.length = int64(len(body))
		}
	case w.bodyless:
	case w.x.r.ProtoMinor == 0:
		w.last = true
	default:
		w.chunked = true
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	if w.length >= 0 {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, w.length, 10)
		b = append(b, "\r\n"...)
	}
	if !w.typed && len(begin) > 0 && hasBody(w.status) {
		b = field(b, "Content-Type", []string{http.DetectContentType(begin)})
	}
	if !w.dated {
		b = append(append(append(b, "Date: "...), date(time.Now())...), "\r\n"...)
	}
	if x := w.x; x.body.x != nil && !x.body.skippable() {
		w.last = true
	}
	switch {
	case w.last:
		b = append(b, "Connection: close\r\n"...)
	case w.x.r.ProtoMinor == 0:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	w.buf.out = append(b, "\r\n"...)
	if len(body) > 0 {
		w.stream(body)
		w.buf.body = body[:0]
	}
}

// trails reports whether the handler has set trailers that it did not announce.
func (w *Response) trails() bool {
	for name := range w.header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			return true
		}
	}
	return false
}

// Write implements http.ResponseWriter.
func (w *Response) Write(p []byte) (int, error) { return write(w, p) }

// WriteString implements io.StringWriter.
func (w *Response) WriteString(s string) (int, error) { return write(w, s) }

func write[T string | []byte](w *Response, p T) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHead(http.StatusOK)
	switch {
	case w.hijacked:
		return 0, http.ErrHijacked
	case w.done:
		return 0, errDone
	case w.err != nil:
		return 0, w.err
	case !hasBody(w.status):
		return 0, http.ErrBodyNotAllowed
	}
	if w.length >= 0 && w.written+int64(len(p)) > w.length {
		return 0, http.ErrContentLength
	}
	w.written += int64(len(p))
	if !w.committed {
		room := cap(w.buf.body) - len(w.buf.body)
		if len(p) <= room {
			w.buf.body = append(w.buf.body, p...)
			return len(p), nil
		}
		w.commit(false, append(w.buf.body, p[:room]...))
	}
	w.stream([]byte(p))
	if w.err != nil {
		return 0, w.err
	}
	return len(p), nil
}

// stream puts a part of the body on its way.
func (w *Response) stream(p []byte) {
	if w.bodyless || len(p) == 0 {
		return
	}
	const frame = 20 // of a chunk, at most
	if len(w.buf.out)+len(p)+frame > outSize {
		w.flush()
	}
	if w.chunked {
		w.buf.out = append(strconv.AppendUint(w.buf.out, uint64(len(p)), 16), "\r\n"...)
	}
	if len(p)+frame > outSize {
		w.flush()
		w.put(p)
	} else {
		w.buf.out = append(w.buf.out, p...)
	}
	if w.chunked {
		w.buf.out = append(w.buf.out, "\r\n"...)
	}
}

// flush writes what waits.
func (w *Response) flush() {
	if len(w.buf.out) > 0 {
		w.put(w.buf.out)
		w.buf.out = w.buf.out[:0]
	}
}

// put writes. Handlers that do not look for errors see their context end.
func (w *Response) put(p []byte) {
	if w.err != nil {
		return
	}
	if _, w.err = w.x.c.nc.Write(p); w.err != nil {
		w.x.stop()
	}
}

// Flush implements http.Flusher.
func (w *Response) Flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHead(http.StatusOK)
	if w.done || w.hijacked {
		return
	}
	if !w.committed {
		w.commit(false, w.buf.body)
	}
	w.flush()
}

// finish completes the response and reports whether another may follow it.
func (w *Response) finish() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHead(http.StatusOK)
	if w.hijacked { // by a goroutine that outlives the handler
		return false
	}
	if !w.committed {
		w.commit(true, w.buf.body)
	}
	if w.chunked {
		w.buf.out = append(w.buf.out, "0\r\n"...)
		w.buf.out = w.trailer(w.buf.out)
		w.buf.out = append(w.buf.out, "\r\n"...)
	}
	w.flush()
	w.done = true
	short := w.length >= 0 && !w.bodyless && w.written != w.length
	return w.err == nil && !w.last && !short
}

// trailer appends the fields that follow the body.
func (w *Response) trailer(b []byte) []byte {
	for name, values := range w.header {
		if after, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			b = field(b, http.CanonicalHeaderKey(after), values)
		}
	}
	for _, v := range w.trailers {
		for name := range strings.SplitSeq(v, ",") {
			name = http.CanonicalHeaderKey(trim(name))
			b = field(b, name, w.header[name])
		}
	}
	return b
}

// release gives the buffers back. Whoever still has the response can write to it
// no more.
func (w *Response) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = true
	if b := w.buf; b != nil {
		w.buf = nil
		b.out, b.body = b.out[:0], b.body[:0]
		pool.Put(b)
	}
}

// proceed tells a client that waits to send its body.
func (w *Response) proceed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status == 0 && !w.done {
		w.put([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
	}
}

// Hijack hands the connection over to the handler, without deadlines, and with
// what the client has sent already.
func (w *Response) Hijack() (nc net.Conn, early []byte, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.x
	if w.status != 0 || w.done || w.hijacked || x.body.x != nil {
		return nil, nil, errDone
	}
	x.unwatch()
	w.hijacked = true
	early = append(early, x.c.buf[x.c.r:x.c.w]...)
	x.c.r, x.c.w = 0, 0
	x.c.shrink()
	x.c.nc.SetDeadline(time.Time{})
	return x.c.nc, early, nil
}

// A stamp is a second in words.
type stamp struct {
	second int64
	text   string
}

var lately atomic.Pointer[stamp]

// date is t as fields have it.
func date(t time.Time) string {
	second := t.Unix()
	if s := lately.Load(); s != nil && s.second == second {
		return s.text
	}
	s := &stamp{second, t.UTC().Format(http.TimeFormat)}
	lately.Store(s)
	return s.text
}

// says reports whether a list of values holds a word.
func says(values []string, word string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if is(trim(t), word) {
				return true
			}
		}
	}
	return false
}
