package http1

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	// maxLine is how long the line of a chunk's size may be, extensions included.
	maxLine = 256
	// maxOverhead is how many bytes the lines of chunks may have beyond those
	// that an honest client needs.
	maxOverhead = 16 << 10
	// chunkOverhead is what a chunk may have for its own lines.
	chunkOverhead = 16
)

var (
	errChunk   = errors.New("http1: malformed chunk")
	errTrailer = errors.New("http1: malformed or large trailer")
)

// A body is that of a request. It may be read by a goroutine of the application
// that outlives the handler; once that has returned, reads fail.
type body struct {
	x *exchange

	mu       sync.Mutex
	left     int64 // of the message, or of the chunk
	chunked  bool
	chunk    bool // one has been read, up to its last line
	expected bool // the client waits to be asked for it
	timed    bool // the read deadline is set
	overhead int64
	ending   atomic.Bool // the handler has returned, and somebody still reads
	over     bool        // the handler has returned
	err      error       // why nothing follows; io.EOF at the end
}

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.over && b.err != io.EOF:
		return 0, http.ErrBodyReadAfterClose
	case b.err != nil || len(p) == 0:
		return 0, b.err
	}
	if b.expected {
		b.expected = false
		b.x.w.proceed()
	}
	n, err := b.read(p)
	if err != nil {
		b.err = err
		if err == io.EOF {
			b.x.whole()
		}
	}
	return n, err
}

// Close implements io.Closer. What is left is read or not, as it suits.
func (b *body) Close() error { return nil }

func (b *body) read(p []byte) (int, error) {
	if b.chunked && b.left == 0 {
		if err := b.next(); err != nil {
			return 0, err
		}
	}
	n, err := b.x.c.take(p[:min(int64(len(p)), b.left)], b)
	b.left -= int64(n)
	switch {
	case err != nil:
		err = cut(err)
	case b.left == 0 && !b.chunked:
		err = io.EOF
	}
	return n, err
}

// next reads the line of the next chunk's size; after the last chunk, the trailer.
func (b *body) next() error {
	if b.chunk { // the one before
		if line, err := b.line(); err != nil || line != "" {
			return errors.Join(errChunk, err)
		}
	}
	line, err := b.line()
	if err != nil {
		return err
	}
	size, length := int64(0), 0
	for ; length < len(line); length++ {
		d := hex(line[length])
		if d < 0 {
			break
		}
		if length == 15 { // more does not fit
			return errChunk
		}
		size = size<<4 | int64(d)
	}
	if length == 0 || !extension(line[length:]) {
		return errChunk
	}
	if size == 0 {
		return b.trailer()
	}
	// Chunks of a byte with extensions cost more to read than they bring.
	b.overhead = max(b.overhead+int64(len(line))+4-chunkOverhead-2*size, 0)
	if b.overhead > maxOverhead {
		return errChunk
	}
	b.left, b.chunk = size, true
	return nil
}

// extension reports whether s is nothing, or what begins as an extension of a
// chunk does, which has no meaning here.
func extension(s string) bool {
	s = strings.TrimRight(s, " \t")
	return s == "" || s[0] == ';' && printable(s)
}

// line reads a line, without its end.
func (b *body) line() (string, error) {
	c := b.x.c
	for looked := 0; ; {
		have := c.buf[c.r:c.w]
		for ; looked < len(have); looked++ {
			switch {
			case have[looked] != '\n':
				if looked > 0 && have[looked-1] == '\r' {
					return "", errChunk
				}
				continue
			case looked == 0 || have[looked-1] != '\r' || looked > maxLine: // however its bytes came
				return "", errChunk
			}
			c.r += looked + 1
			return string(have[:looked-1]), nil
		}
		if len(have) > maxLine {
			return "", errChunk
		}
		if err := c.more(b); err != nil {
			return "", cut(err)
		}
	}
}

// trailer reads what follows the last chunk. Fields that were not announced are
// dropped (RFC 9110, section 6.5.1).
func (b *body) trailer() error {
	c := b.x.c
	var s scan
	for {
		have := c.buf[c.r:c.w]
		if len(have) >= 2 && have[0] == '\r' && have[1] == '\n' {
			c.r += 2
			return io.EOF
		}
		n := 0
		if len(have) > 1 || len(have) == 1 && have[0] != '\r' {
			var err error
			if n, err = s.end(have); err != nil {
				return errTrailer
			}
		}
		if n > 0 {
			h, err := fields(string(have[:n]))
			if err != nil {
				return errTrailer
			}
			c.r += n
			for name, values := range h {
				if _, ok := b.x.r.Trailer[name]; ok {
					b.x.r.Trailer[name] = values
				}
			}
			return io.EOF
		}
		if len(have) == len(c.buf) {
			return errTrailer
		}
		if err := c.more(b); err != nil {
			return cut(err)
		}
	}
}

// deadline bounds the wait for the rest of the body, from its first wait on.
func (b *body) deadline() {
	if !b.timed {
		b.timed = true
		b.x.c.until(b.x.w.Arrived.Add(b.x.c.server.limits.Body))
	}
	if b.ending.Load() { // end was first
		b.x.c.until(past)
	}
}

// skippable reports whether what is left is short enough to be read for the sake
// of the next request. While somebody else reads, it is not.
func (b *body) skippable() bool {
	if !b.mu.TryLock() {
		return false
	}
	defer b.mu.Unlock()
	return b.err == io.EOF || b.err == nil && !b.chunked && !b.expected && b.left <= maxSkip
}

// skip reads what is left, and reports whether it came.
func (b *body) skip() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.x.c
	for b.err == nil {
		if c.r == c.w {
			if b.err = c.more(b); b.err != nil {
				break
			}
		}
		n := min(int64(c.w-c.r), b.left)
		c.r += int(n)
		if b.left -= n; b.left == 0 {
			b.err = io.EOF
		}
	}
	return b.err == io.EOF
}

// end has every further read fail, and one that waits: the connection is then of
// no more use.
func (b *body) end() bool {
	usable := b.mu.TryLock()
	if !usable {
		b.ending.Store(true)
		b.x.c.nc.SetReadDeadline(past)
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	b.over = true
	return usable
}

func hex(c byte) int {
	switch {
	case digit(c):
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// cut makes an end inside of a message an error.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
