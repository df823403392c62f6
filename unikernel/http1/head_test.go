package http1

import (
	"bufio"
	"errors"
	"io"
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func TestHeadsAreRefused(t *testing.T) {
	for head, status := range map[string]int{
		"\r\n" + get:                                                                                400,
		"GET /x HTTP/1.1\nHost: h\n\n":                                                              400,
		"GET /x HTTP/1.1\r\nHost: h\n\r\n":                                                          400,
		"GET /x HTTP/1.1\r\nHost: h\r\n\n":                                                          400,
		"GET /x HTTP/1.1\rHost: h\r\r\n\r\n":                                                        400,
		"GET  /x HTTP/1.1\r\nHost: h\r\n\r\n":                                                       400,
		"GET /x  HTTP/1.1\r\nHost: h\r\n\r\n":                                                       400,
		"GET /x HTTP/1.1 \r\nHost: h\r\n\r\n":                                                       400,
		" GET /x HTTP/1.1\r\nHost: h\r\n\r\n":                                                       400,
		"GET\t/x HTTP/1.1\r\nHost: h\r\n\r\n":                                                       400,
		"G(T /x HTTP/1.1\r\nHost: h\r\n\r\n":                                                        400,
		"GET /x\x00 HTTP/1.1\r\nHost: h\r\n\r\n":                                                    400,
		"GET /x HTTP/1.1\r\n\r\n":                                                                   400,
		"GET /x HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n":                                             400,
		"GET /x\r\n\r\n":                                                                            400,
		"GET /x http/1.1\r\nHost: h\r\n\r\n":                                                        400,
		"GET /x HTTP/1.1.1\r\nHost: h\r\n\r\n":                                                      400,
		"GET /x HTTP/2.0\r\nHost: h\r\n\r\n":                                                        505,
		"GET /x HTTP/0.9\r\nHost: h\r\n\r\n":                                                        505,
		"GET /x HTTP/1.1\r\nHost: h\r\nA\r\n\r\n":                                                   400,
		"GET /x HTTP/1.1\r\nHost: h\r\n: a\r\n\r\n":                                                 400,
		"GET /x HTTP/1.1\r\nHost : h\r\n\r\n":                                                       400,
		"GET /x HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n":                                          400,
		"GET /x HTTP/1.1\r\nHost: h\r\nA: b\r\n\tc\r\n\r\n":                                         400,
		"GET /x HTTP/1.1\r\nHost: h\r\nA: b\x01\r\n\r\n":                                            400,
		"GET /x HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n\r\n":                                             400,
		"GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n":                                                      400,
		"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n":             400,
		"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 1\r\n\r\n":                               400,
		"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\n":                                 400,
		"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n":                                    400,
		"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 9223372036854775808\r\n\r\n":                400,
		"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n":    400,
		"POST /x HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n":                         400,
		"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n":                   501,
		"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chun\u212aed\r\n\r\n":                    501,
		"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: a\r\n\r\n": 501,
		"POST /x HTTP/1.1\r\nHost: h\r\nTrailer: Host\r\nTransfer-Encoding: chunked\r\n\r\n":        400,
		"GET /x HTTP/1.1\r\nHost: h\r\nA: " + strings.Repeat("x", 9<<10):                            431,
		"GET /x HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("A: x\r\n", 2<<10):                        431,
		"\x16\x03\x01": 400,
	} {
		h := serve(t, limits(), func(*Response, *http.Request) { t.Errorf("%q: served", head) })
		c := h.dial().say(head)
		if resp, _ := c.hear("GET"); resp.StatusCode != status || !resp.Close {
			t.Errorf("%q: got %d, close %t", head, resp.StatusCode, resp.Close)
		}
		if more := c.rest(); more != "" {
			t.Errorf("%q: then %q", head, more)
		}
		if r := h.refusals(); len(r) != 1 || r[0].Status != status {
			t.Errorf("%q: refused %v", head, r)
		}
	}
}

// read is what net/http makes of a head and what follows.
func read(text string) (*http.Request, error) {
	return http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
}

// same reports how a and b differ, as far as an application can tell.
func same(t *testing.T, a, b *http.Request) {
	t.Helper()
	if a.Method != b.Method || a.RequestURI != b.RequestURI || a.Proto != b.Proto || a.ProtoMinor != b.ProtoMinor || a.Host != b.Host ||
		a.ContentLength != b.ContentLength || !slices.Equal(a.TransferEncoding, b.TransferEncoding) {
		t.Errorf("%s %s %s %s %d %v, but net/http: %s %s %s %s %d %v", a.Method, a.RequestURI, a.Proto, a.Host, a.ContentLength, a.TransferEncoding,
			b.Method, b.RequestURI, b.Proto, b.Host, b.ContentLength, b.TransferEncoding)
	}
	if *a.URL != *b.URL && a.URL.String() != b.URL.String() {
		t.Errorf("%#v, but net/http: %#v", a.URL, b.URL)
	}
	b.Header.Del("Cache-Control") // which net/http adds for Pragma
	h := a.Header.Clone()
	h.Del("Cache-Control")
	if !maps.EqualFunc(h, b.Header, slices.Equal) {
		t.Errorf("%v, but net/http: %v", h, b.Header)
	}
}

// Whatever this package takes for a head, net/http takes for the same.
func FuzzHead(f *testing.F) {
	for _, s := range []string{get, "GET http://a/b?c HTTP/1.0\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n",
		"GET //a/%2e?? HTTP/1.1\r\nhost: h \r\nx_y:\ta\r\nX_Y: b\r\nA:\r\n\r\n",
		"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 003\r\n\r\n",
		"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\nTrailer: a, b\r\n\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var s scan
		n, err := s.end([]byte(text))
		if err != nil || n == 0 {
			return
		}
		a, err := parse(text[:n])
		if err != nil {
			if r := (*Refusal)(nil); !errors.As(err, &r) || r.Status < 400 || r.Reason == "" {
				t.Errorf("refused with %v", err)
			}
			return
		}
		b, err := read(text[:n])
		if err != nil {
			if a.Method == "CONNECT" || strings.Contains(err.Error(), "Host") { // judged later
				return
			}
			t.Fatalf("taken, but net/http: %v", err)
		}
		same(t, a, b)
	})
}

// However a head arrives, its end is found where it is.
func TestAHeadMayComeInPieces(t *testing.T) {
	h := serve(t, limits(), echo)
	c := h.dial()
	c.SetNoDelay(true)
	text := "POST /x?y HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"
	for i := range len(text) {
		c.say(text[i : i+1])
	}
	if _, body := c.hear("POST"); body != "POST /x?y abc" {
		t.Errorf("got %q", body)
	}
}

// What is made of a head holds no more than its owner reckons with: about 17 times its
// bytes.
func TestWhatAHeadHolds(t *testing.T) {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~"
	for name, line := range map[string]func(i int) string{
		"one name":   func(int) string { return "A:\r\n" },
		"many names": func(i int) string { return string(letters[i/51%51]) + string(letters[i%51]) + ":\r\n" },
	} {
		b := []byte(get[:len(get)-2])
		for i := 0; len(b) < 16<<10; i++ {
			b = append(b, line(i)...)
		}
		head := string(b) + "\r\n"
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var held [64]*http.Request
		for i := range held {
			var err error
			if held[i], err = parse(head); err != nil {
				t.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if times := float64(after.HeapAlloc-before.HeapAlloc) / float64(len(held)*len(head)); times > 20 { // the race detector holds some, too
			t.Errorf("%s: %.1f times its bytes", name, times)
		} else {
			t.Logf("%s: %.1f times its bytes", name, times)
		}
		runtime.KeepAlive(&held)
	}
}

func TestALargeHeadNeedsAPlace(t *testing.T) {
	h := serve(t, limits(), echo)
	large := "GET /x HTTP/1.1\r\nHost: h\r\nA: " + strings.Repeat("x", 3*FreeHead) + "\r\n\r\n"
	c := h.dial().say(large + get + large)
	for range 3 {
		if _, body := c.hear("GET"); body != "GET /x " {
			t.Errorf("got %q", body)
		}
	}
	eventually(t, "the place is free", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.large == 0
	})
	h.mu.Lock()
	h.enlarge = ErrStarved
	h.mu.Unlock()
	if resp, _ := h.dial().say(large).hear("GET"); resp.StatusCode != 503 {
		t.Errorf("got %d", resp.StatusCode)
	}
	h.mu.Lock()
	h.enlarge = io.ErrClosedPipe
	h.mu.Unlock()
	if got := h.dial().say(large).rest(); got != "" {
		t.Errorf("got %q", got)
	}
	if r := h.refusals(); len(r) != 2 {
		t.Errorf("refused %v", r)
	}
}
