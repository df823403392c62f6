package unikernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/pep"
)

// A framed is a client of HTTP/2 that can say anything: its frames are written by
// hand, its headers as HPACK literals that no table keeps.
type framed struct {
	t testing.TB
	net.Conn
}

func newFramed(t testing.TB, c net.Conn) *framed {
	f := &framed{t: t, Conn: c}
	c.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(f, preface)
	f.frame(4, 0, 0, nil)
	f.frame(4, 1, 0, nil) // acknowledges what the server will say
	return f
}

func frameBytes(kind, flags byte, stream uint32, payload []byte) []byte {
	b := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

func (f *framed) frame(kind, flags byte, stream uint32, payload []byte) error {
	_, err := f.Write(frameBytes(kind, flags, stream, payload))
	return err
}

// fields encodes name, value, name, value, ...
func fields(list ...string) []byte {
	var b []byte
	text := func(s string) {
		n := len(s)
		if n < 127 {
			b = append(b, byte(n))
		} else {
			b = append(b, 127)
			for n -= 127; n >= 128; n >>= 7 {
				b = append(b, byte(n)|128)
			}
			b = append(b, byte(n))
		}
		b = append(b, s...)
	}
	// A literal without indexing and with a name of its own begins with a zero.
	for i := 0; i < len(list); i += 2 {
		b = append(b, 0)
		text(list[i])
		text(list[i+1])
	}
	return b
}

func head(method, path string, more ...string) []byte {
	return fields(append([]string{":method", method, ":scheme", "https", ":authority", "localhost", ":path", path}, more...)...)
}

// request opens and ends a stream.
func (f *framed) request(stream uint32, method, path string, more ...string) error {
	return f.frame(frameHeaders, flagEndHeaders|flagEndStream, stream, head(method, path, more...))
}

// next reads a frame.
func (f *framed) next() (frame, []byte, error) {
	var h [frameHead]byte
	if _, err := io.ReadFull(f, h[:]); err != nil {
		return frame{}, nil, err
	}
	x := frame{length: uint32(h[0])<<16 | uint32(h[1])<<8 | uint32(h[2]), kind: h[3], flags: h[4], stream: be32(h[5:])}
	b := make([]byte, x.length)
	_, err := io.ReadFull(f, b)
	return x, b, err
}

// answer waits for the response to a stream, its reset, or the end of all.
func (f *framed) answer(stream uint32) (frame, error) {
	for {
		x, b, err := f.next()
		switch {
		case err != nil:
			return x, err
		case x.kind == frameGoAway && be32(b[4:]) != 0:
			return x, fmt.Errorf("GOAWAY %d", be32(b[4:]))
		case x.stream == stream && (x.kind == frameHeaders || x.kind == frameReset):
			if x.kind == frameHeaders {
				x.code = uint32(status(b))
			} else {
				x.code = be32(b)
			}
			return x, nil
		}
	}
}

// status reads the first field of a response, which net/http writes indexed or as
// a literal of the indexed name.
func status(b []byte) int {
	known := map[byte]int{0x88: 200, 0x89: 204, 0x8a: 206, 0x8b: 304, 0x8c: 400, 0x8d: 404, 0x8e: 500}
	if s, ok := known[b[0]]; ok {
		return s
	}
	// A literal value of three digits, in Huffman code: those that are tested.
	codes := map[string]int{"\x48\x82\x68\x02": 401, "\x48\x82\x68\x2f": 405}
	if len(b) >= 4 {
		if s, ok := codes[string(b[:4])]; ok {
			return s
		}
	}
	return -1
}

// over reads until the connection ends, and reports whether it did in time.
func (f *framed) over() bool {
	f.SetReadDeadline(time.Now().Add(time.Minute))
	_, err := io.Copy(io.Discard, f)
	var ne net.Error
	return !(errors.As(err, &ne) && ne.Timeout())
}

func secureH2(t testing.TB, app http.Handler, guards ...pep.Guard) (*secureRig, *framed) {
	t.Helper()
	r := newSecureRig(t, transport.Simple, testLimits(), app, guards...)
	r.run()
	return r, newFramed(t, r.tls(nil, "h2"))
}

// Each flood ends its connection, is recorded once, and leaves others alone.
func TestFloodsEndTheConnection(t *testing.T) {
	block := head("GET", "/app/x")
	for name, c := range map[string]struct {
		flood  func(f *framed) error // until it fails
		reason string
	}{
		"rapid reset": {func(f *framed) error {
			for id := uint32(1); ; id += 2 {
				f.Write(append(frameBytes(frameHeaders, flagEndHeaders|flagEndStream, id, block), frameBytes(frameReset, 0, id, []byte{0, 0, 0, 8})...))
				if id > 100_000 {
					return nil
				}
			}
		}, "too many requests are withdrawn"},
		"resets that the server must make": {func(f *framed) error {
			for id := uint32(1); id < 100_000; id += 2 {
				f.frame(frameHeaders, flagEndHeaders|flagEndStream, id, fields("X", "y"))
			}
			return nil
		}, "too many requests that must be refused, too many requests at once"}, // as fast as it reads
		"CONTINUATION without an end": {func(f *framed) error {
			f.frame(frameHeaders, flagEndStream, 1, block)
			for range 100_000 {
				if err := f.frame(frameContinuation, 0, 1, fields("a", "b")); err != nil {
					return err
				}
			}
			return nil
		}, "a header block has more than 9 frames"},
		"empty CONTINUATION": {func(f *framed) error {
			f.frame(frameHeaders, flagEndStream, 1, block)
			for range 100_000 {
				if err := f.frame(frameContinuation, 0, 1, nil); err != nil {
					return err
				}
			}
			return nil
		}, "a header block has more than 9 frames"},
		"a header block that is too large": {func(f *framed) error {
			f.frame(frameHeaders, flagEndStream, 1, block)
			for range 100 {
				if err := f.frame(frameContinuation, 0, 1, fields("a", strings.Repeat("x", 16_000))); err != nil {
					return err
				}
			}
			return nil
		}, "broken off with error 9 of HTTP/2"}, // net/http gives up before we do
		"a value that is too large": {func(f *framed) error {
			return f.frame(frameHeaders, flagEndHeaders|flagEndStream, 1, head("GET", "/app/x", "x", strings.Repeat("y", 9<<10)))
		}, "broken off with error 9 of HTTP/2"},
		"SETTINGS":      {many(4, 0, 0, nil), "too many frames that are about no request"},
		"PING":          {many(6, 0, 0, make([]byte, 8)), "too many frames that are about no request"},
		"PRIORITY":      {many(2, 0, 3, make([]byte, 5)), "too many frames that are about no request"},
		"unknown":       {many(0x42, 0, 0, nil), "too many frames that are about no request"},
		"WINDOW_UPDATE": {many(frameWindow, 0, 0, []byte{0, 0, 0, 1}), "too many WINDOW_UPDATE frames"},
		"empty DATA": {func(f *framed) error {
			f.frame(frameHeaders, flagEndHeaders, 1, head("POST", "/app/x"))
			return many(frameData, 0, 1, nil)(f)
		}, "too many DATA frames without data"},
		"padded DATA": {func(f *framed) error {
			f.frame(frameHeaders, flagEndHeaders, 1, head("POST", "/app/x"))
			return many(frameData, flagPadded, 1, []byte{1, 0})(f)
		}, "too many DATA frames without data"},
		"a frame that is too large": {func(f *framed) error {
			return f.frame(frameData, 0, 1, make([]byte, 16<<10+1))
		}, "a frame has 16385 bytes"},
		"frames within a header block": {func(f *framed) error {
			f.frame(frameHeaders, flagEndStream, 1, block)
			return f.frame(6, 0, 0, make([]byte, 8))
		}, "frames of a header block are apart from each other"},
	} {
		t.Run(name, func(t *testing.T) {
			r, f := secureH2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
			other := newFramed(t, r.tls(nil, "h2"))
			go c.flood(f)
			if !f.over() {
				t.Fatal("the flood goes on")
			}
			f.Close()
			eventually(t, "it is recorded", func() bool {
				r.mu.Lock()
				defer r.mu.Unlock()
				n := 0
				for _, k := range r.records {
					if k.Reason != "" && strings.Contains(c.reason, k.Reason) && k.Rule.ID == abi.RuleRequest && k.Verdict != abi.Allow {
						n++
					}
				}
				return n == 1
			})
			other.request(1, "GET", "/app/x")
			if x, err := other.answer(1); err != nil || x.code != 200 {
				t.Errorf("another connection: %+v, %v", x, err)
			}
		})
	}
}

func many(kind, flags byte, stream uint32, payload []byte) func(*framed) error {
	return func(f *framed) error {
		b := bytes.Repeat(frameBytes(kind, flags, stream, payload), 100)
		for range 1000 {
			if _, err := f.Write(b); err != nil {
				return err
			}
		}
		return nil
	}
}

// What could be read in two ways, or not at all, reaches nobody and is recorded;
// the connection goes on.
func TestMalformedRequestsOfHTTP2(t *testing.T) {
	const reset = -1
	for name, c := range map[string]struct {
		fields []string
		status int // or reset
	}{
		"fine":                           {fields: []string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/app/x"}, status: 200},
		"an upper case name":             {[]string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/app/x", "X-Y", "z"}, reset},
		"a connection header":            {[]string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/app/x", "connection", "close"}, 400},
		"an upgrade":                     {[]string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/app/x", "upgrade", "h2c"}, 400},
		"a transfer coding":              {[]string{":method", "POST", ":scheme", "https", ":authority", "a", ":path", "/app/x", "transfer-encoding", "chunked"}, 400},
		"te other than trailers":         {[]string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/app/x", "te", "gzip"}, 400},
		"te trailers":                    {[]string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/app/x", "te", "trailers"}, 200},
		"a path without a slash":         {[]string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "app/x"}, reset},
		"an absolute path":               {[]string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "https://a/app/x"}, 400},
		"an empty path":                  {[]string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", ""}, reset},
		"dots":                           {[]string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/app/../x"}, 400},
		"a line end in the path":         {[]string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/app/x HTTP/1.1\r\nX: y"}, reset},
		"a line end in a value":          {[]string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/app/x", "x", "y\r\nz: 1"}, reset},
		"two paths":                      {[]string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/app/x", ":path", "/app/y"}, reset},
		"two methods":                    {[]string{":method", "GET", ":method", "POST", ":scheme", "https", ":authority", "a", ":path", "/app/x"}, reset},
		"a pseudo-header behind":         {[]string{":method", "GET", ":scheme", "https", ":authority", "a", "x", "y", ":path", "/app/x"}, reset},
		"an unknown pseudo-header":       {[]string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/app/x", ":status", "200"}, reset},
		"no method":                      {[]string{":scheme", "https", ":authority", "a", ":path", "/app/x"}, reset},
		"no authority":                   {[]string{":method", "GET", ":scheme", "https", ":path", "/app/x"}, 400},
		"a user in the authority":        {[]string{":method", "GET", ":scheme", "https", ":authority", "u@a", ":path", "/app/x"}, reset},
		"a host that is the authority":   {[]string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/app/x", "host", "a"}, 200},
		"another host":                   {[]string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/app/x", "host", "b"}, 400},
		"two hosts":                      {[]string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/app/x", "host", "a", "host", "a"}, 400},
		"a length without a body":        {[]string{":method", "POST", ":scheme", "https", ":authority", "a", ":path", "/app/x", "content-length", "5"}, 400},
		"two lengths":                    {[]string{":method", "POST", ":scheme", "https", ":authority", "a", ":path", "/app/x", "content-length", "0", "content-length", "0"}, 400},
		"a length that is no number":     {[]string{":method", "POST", ":scheme", "https", ":authority", "a", ":path", "/app/x", "content-length", "+0"}, 400},
		"extended CONNECT":               {[]string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":authority", "a", ":path", "/app/x"}, reset},
		"a header list beyond the limit": {[]string{":method", "GET", ":scheme", "https", ":authority", "a", ":path", "/app/x", "x", strings.Repeat("y", 4<<10), "x", strings.Repeat("y", 4<<10), "x", strings.Repeat("y", 1<<10)}, -3},
	} {
		t.Run(name, func(t *testing.T) {
			r, f := secureH2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
			f.frame(frameHeaders, flagEndHeaders|flagEndStream, 1, fields(c.fields...))
			x, err := f.answer(1)
			switch {
			case err != nil:
				t.Fatal(err)
			case c.status == reset && x.kind != frameReset, c.status > 0 && (x.kind != frameHeaders || x.code != uint32(c.status)):
				t.Errorf("got %+v", x)
			case c.status < reset && (x.kind != frameHeaders || x.code == 200):
				t.Errorf("got %+v", x)
			}
			f.request(3, "GET", "/app/y")
			if x, err := f.answer(3); err != nil || x.code != 200 {
				t.Errorf("the next request: %+v, %v", x, err)
			}
			if c.status == 200 {
				r.denials(0)
				return
			}
			if k := r.denials(1)[0]; k.Stage != abi.StageFilter || k.Rule.ID != abi.RuleRequest {
				t.Errorf("recorded %+v", k)
			}
			if s := r.life.stats(); s.Requests != 2 || s.Allowed != 1 || s.Denied != 1 {
				t.Errorf("statistics are %+v", s)
			}
		})
	}
}

func TestBodiesAreOfTheirLength(t *testing.T) {
	read := make(chan error, 1)
	_, f := secureH2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		read <- err
	}))
	for i, sent := range []string{"1234", "123456"} {
		id := uint32(2*i + 1)
		f.frame(frameHeaders, flagEndHeaders, id, head("POST", "/app/x", "content-length", "5"))
		f.frame(frameData, flagEndStream, id, []byte(sent))
		if err := <-read; err == nil {
			t.Errorf("the application took %d bytes for 5", len(sent))
		}
	}
}

func TestStreamsBeyondTheLimitAreRefused(t *testing.T) {
	leave := make(chan struct{})
	var inside atomic.Int32
	r, f := secureH2(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		inside.Add(1)
		<-leave
	}))
	max := testLimits().MaxStreams
	for i := range max + 1 {
		f.request(2*i+1, "GET", "/app/x")
	}
	x, err := f.answer(2*max + 1)
	if err != nil || x.kind != frameReset {
		t.Errorf("%+v, %v", x, err)
	}
	if n := inside.Load(); n > int32(max) {
		t.Errorf("%d at once", n)
	}
	close(leave)
	eventually(t, "all are answered", func() bool { return r.life.stats().Allowed == uint64(max) })
	r.denials(1)
}

// A client of HTTP/2 has no more time than one of HTTP/1.1.
func TestSlowClientsOfHTTP2AreCutOff(t *testing.T) {
	l := testLimits()
	l.HeaderTimeout, l.BodyTimeout, l.IdleTimeout = 300*time.Millisecond, 300*time.Millisecond, 600*time.Millisecond
	reader := guardFunc(func(x *pep.Exchange) pep.Decision {
		if _, err := x.Body(); err != nil {
			return pep.Decision{Stage: abi.StageAuthz, Reason: "body"}
		}
		return pep.Decision{Verdict: abi.Allow}
	})
	r := newSecureRig(t, transport.Simple, l, text("ok"), reader)
	r.run()
	whole := frameBytes(frameHeaders, flagEndHeaders|flagEndStream, 1, head("GET", "/app/x"))
	for name, c := range map[string]struct {
		said    string // behind the preface; "-": half of that
		denials int
	}{
		"half a preface":         {"-", 1},
		"nothing":                {"", 0},
		"half a head of a frame": {string(whole[:4]), 1},
		"half a header block":    {string(whole[:20]), 1},
		"no CONTINUATION":        {string(frameBytes(frameHeaders, flagEndStream, 1, head("GET", "/app/x"))), 1},
		"one request":            {string(whole), 0},
		"half a body":            {string(frameBytes(frameHeaders, flagEndHeaders, 1, head("POST", "/app/x", "content-length", "9"))) + string(frameBytes(frameData, 0, 1, []byte("abc"))), 1},
	} {
		r.mu.Lock()
		r.records = nil
		r.mu.Unlock()
		var f *framed
		if c.said == "-" {
			f = &framed{t: t, Conn: r.tls(nil, "h2")}
			io.WriteString(f, preface[:7])
		} else {
			f = newFramed(t, r.tls(nil, "h2"))
			io.WriteString(f, c.said)
		}
		if !f.over() {
			t.Errorf("%s: it holds the connection", name)
		}
		f.Close()
		eventually(t, name+": it is gone", func() bool { return r.life.stats().Connections == 0 })
		if list := r.denials(c.denials); c.denials > 0 && list[0].Verdict == abi.Allow {
			t.Errorf("%s: %+v", name, list)
		}
	}
}

// A client whose first SETTINGS come later than net/http waits for them, in whatever
// pieces, has all of its time for a head.
func TestFirstSettingsMayBeLate(t *testing.T) {
	l := testLimits()
	l.HeaderTimeout = time.Minute
	r := newSecureRig(t, transport.Simple, l, text("ok"))
	r.run()
	settings := frameBytes(4, 0, 0, []byte{0, 3, 0, 0, 0, 9})
	for _, cut := range []int{0, 4, frameHead + 2} {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			t.Parallel()
			f := &framed{t: t, Conn: r.tls(nil, "h2")}
			f.SetDeadline(time.Now().Add(time.Minute))
			io.WriteString(f, preface+string(settings[:cut]))
			time.Sleep(2500 * time.Millisecond) // net/http has two seconds, as a constant
			f.Write(settings[cut:])
			f.frame(4, 1, 0, nil)
			f.request(1, "GET", "/app/x")
			if x, err := f.answer(1); err != nil || x.code != 200 {
				t.Errorf("it gets %+v, %v", x, err)
			}
		})
	}
}

// One slow body does not end the other requests of its connection.
func TestAStreamsDeadlineIsItsOwn(t *testing.T) {
	l := testLimits()
	l.BodyTimeout = 300 * time.Millisecond
	reader := guardFunc(func(x *pep.Exchange) pep.Decision {
		if _, err := x.Body(); err != nil {
			return pep.Decision{Stage: abi.StageAuthz, Status: 400, Reason: "body"}
		}
		return pep.Decision{Verdict: abi.Allow}
	})
	r := newSecureRig(t, transport.Simple, l, text("ok"), reader)
	r.run()
	f := newFramed(t, r.tls(nil, "h2"))
	f.frame(frameHeaders, flagEndHeaders, 1, head("POST", "/app/x", "content-length", "9"))
	if x, err := f.answer(1); err != nil || x.code != 400 {
		t.Errorf("the slow one: %+v, %v", x, err)
	}
	f.request(3, "GET", "/app/x")
	if x, err := f.answer(3); err != nil || x.code != 200 {
		t.Errorf("the next one: %+v, %v", x, err)
	}
}

// However many heads and bodies clients send, what is held fits a part of the
// memory: further ones wait, and then are refused.
func TestHeadsAndBodiesOfHTTP2ShareTheirMemory(t *testing.T) {
	l := testLimits()
	l.HeaderTimeout, l.BodyTimeout = 500*time.Millisecond, 5*time.Second
	enter, leave, again := make(chan struct{}, 100), make(chan struct{}), make(chan struct{})
	r := newSecureRig(t, transport.Simple, l, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		enter <- struct{}{}
		if r.Method == "POST" {
			<-again
		}
		<-leave
	}))
	r.life.server.memory = 1 << 20 // an eighth: 128 KiB
	r.run()
	f := newFramed(t, r.tls(nil, "h2"))
	f.request(1, "GET", "/app/x", "x", strings.Repeat("y", 7<<10))
	<-enter
	front := r.life.server.front
	one := front.streams.held() - streamMemory
	if one < 7<<10 || one > 14<<10 {
		t.Fatalf("a request of 7 KiB counts %d", one)
	}
	front.blocks.try(front.blocks.most, false) // as others would
	f.request(3, "GET", "/app/x")
	if !f.over() {
		t.Error("a head beyond the memory is read")
	}
	front.blocks.give(front.blocks.most)
	close(leave)
	k := r.denials(1)[0]
	if k.Reason != "no memory is free for its head" {
		t.Errorf("recorded %+v", k)
	}
	f.Close()
	eventually(t, "all is given back", func() bool {
		return front.blocks.held() == 0 && front.streams.held() == 0 && front.bodies.held() == 0
	})

	front.bodies.try(front.bodies.most-bodyChunk, false)
	g := newFramed(t, r.tls(nil, "h2"))
	g.frame(frameHeaders, flagEndHeaders, 1, head("POST", "/app/x"))
	g.frame(frameData, 0, 1, make([]byte, 1000)) // a chunk
	g.frame(frameHeaders, flagEndHeaders, 3, head("POST", "/app/x"))
	g.frame(frameData, flagEndStream, 3, make([]byte, 1000)) // another waits
	eventually(t, "one waits", func() bool {
		front.bodies.mu.Lock()
		defer front.bodies.mu.Unlock()
		return front.bodies.freed != nil
	})
	front.bodies.give(front.bodies.most - bodyChunk)
	close(again)
	if x, err := g.answer(3); err != nil || x.code != 200 {
		t.Errorf("%+v, %v", x, err)
	}
}

// A request that finds the memory full is refused with a record.
func TestARequestWithoutMemoryIsRefused(t *testing.T) {
	r, f := secureH2(t, text("ok"))
	f.request(1, "GET", "/app/x")
	f.answer(1)
	streams := r.life.server.front.streams
	eventually(t, "the first is done", func() bool { return streams.held() == 0 })
	streams.try(streams.most, false)
	f.request(3, "GET", "/app/x")
	if x, err := f.answer(3); err != nil || x.kind != frameReset {
		t.Errorf("%+v, %v", x, err)
	}
	if k := r.denials(1)[0]; k.Status != 503 || k.Rule.ID != abi.RuleRequest || k.Reason != "the requests that are served fill their memory" {
		t.Errorf("recorded %+v", k)
	}
	streams.give(streams.most)
	f.request(5, "GET", "/app/x")
	if x, err := f.answer(5); err != nil || x.code != 200 {
		t.Errorf("%+v, %v", x, err)
	}
}

// A drain tells clients of HTTP/2 to go, finishes what they asked for, and loses
// nothing of clients that follow the protocol.
func TestDrainFinishesHTTP2(t *testing.T) {
	enter, leave := make(chan struct{}), make(chan struct{})
	r, f := secureH2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/app/wait" {
			enter <- struct{}{}
			<-leave
		}
	}))
	idle := newFramed(t, r.tls(nil, "h2"))
	idle.request(1, "GET", "/app/x")
	if _, err := idle.answer(1); err != nil {
		t.Fatal(err)
	}
	f.request(1, "GET", "/app/wait")
	<-enter
	r.send(control.Drain{Grace: 100 * time.Millisecond, Limit: 10 * time.Second}.Frame())
	for {
		x, b, err := idle.next()
		if err != nil {
			t.Fatalf("no GOAWAY: %v", err)
		}
		if x.kind == frameGoAway {
			if be32(b[4:]) != 0 {
				t.Errorf("GOAWAY with error %d", be32(b[4:]))
			}
			break
		}
	}
	close(leave)
	if x, err := f.answer(1); err != nil || x.code != 200 {
		t.Errorf("the open request: %+v, %v", x, err)
	}
	for {
		if m := r.next(); m == control.KindDrained {
			break
		}
	}
	if err := <-r.done; err != nil {
		t.Error(err)
	}
	var denied []audit.Record
	for _, k := range r.kept(t, 2) {
		if k.Verdict != abi.Allow {
			denied = append(denied, k)
		}
	}
	if len(denied) > 0 {
		t.Errorf("%+v", denied)
	}
}

// While a front retires, responses tell clients to connect anew, and no request
// fails.
func TestNewLimitsLoseNoRequestOfHTTP2(t *testing.T) {
	r := newSecureRig(t, transport.Simple, testLimits(), text("ok"))
	r.run()
	done, stop := r.load(nil)
	l := testLimits()
	l.IdleTimeout -= time.Second
	r.swap(1, 1, r.program(2, l))
	eventually(t, "the old front is gone", func() bool {
		r.life.server.mu.Lock()
		defer r.life.server.mu.Unlock()
		return len(r.life.server.fronts) == 1
	})
	n := done.Load()
	eventually(t, "requests go on", func() bool { return done.Load() > n+10 })
	stop()
}
