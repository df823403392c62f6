package http1

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// answer serves one request with a handler and returns what net/http makes of the
// response.
func answer(t *testing.T, request string, handler func(w *Response, r *http.Request)) (*http.Response, string, *client) {
	t.Helper()
	c := serve(t, limits(), handler).dial().say(request)
	method, _, _ := strings.Cut(request, " ")
	resp, body := c.hear(method)
	return resp, body, c
}

func TestResponses(t *testing.T) {
	large := strings.Repeat("0123456789", 10_000)
	for name, x := range map[string]struct {
		request string
		handler func(w *Response, r *http.Request)
		status  int
		length  int64
		chunked bool
		close   bool
		body    string
		header  map[string]string
	}{
		"nothing":    {get, func(*Response, *http.Request) {}, 200, 0, false, false, "", nil},
		"short":      {get, echo, 200, 7, false, false, "GET /x ", map[string]string{"Content-Type": "text/plain; charset=utf-8"}},
		"status":     {get, func(w *Response, _ *http.Request) { w.WriteHeader(404); w.WriteHeader(200) }, 404, 0, false, false, "", nil},
		"odd status": {get, func(w *Response, _ *http.Request) { w.WriteHeader(799) }, 799, 0, false, false, "", nil},
		"type":       {get, func(w *Response, _ *http.Request) { w.Header().Set("Content-Type", "a/b"); w.Write([]byte("<html>")) }, 200, 6, false, false, "<html>", map[string]string{"Content-Type": "a/b"}},
		"no type":    {get, func(w *Response, _ *http.Request) { w.Header()["Content-Type"] = nil; w.Write([]byte("<html>")) }, 200, 6, false, false, "<html>", map[string]string{"Content-Type": ""}},
		"coded": {get, func(w *Response, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write([]byte("<html>"))
		}, 200, 6, false, false, "<html>", map[string]string{"Content-Type": ""}},
		"large":        {get, func(w *Response, _ *http.Request) { io.WriteString(w, large) }, 200, -1, true, false, large, map[string]string{"Content-Type": "text/plain; charset=utf-8"}},
		"large, later": {get, func(w *Response, _ *http.Request) { io.WriteString(w, "<ht"); io.WriteString(w, "ml>"+large) }, 200, -1, true, false, "<html>" + large, map[string]string{"Content-Type": "text/html; charset=utf-8"}},
		"many": {get, func(w *Response, _ *http.Request) {
			for i := range 1000 {
				io.WriteString(w, large[i*100:i*100+100])
			}
		}, 200, -1, true, false, large, nil},
		"flushed":       {get, func(w *Response, _ *http.Request) { io.WriteString(w, "a"); w.Flush(); io.WriteString(w, "b") }, 200, -1, true, false, "ab", nil},
		"flushed empty": {get, func(w *Response, _ *http.Request) { w.Flush() }, 200, -1, true, false, "", nil},
		"announced": {get, func(w *Response, _ *http.Request) {
			w.Header().Set("Content-Length", "100000")
			io.WriteString(w, large)
			w.Header().Set("X", "late")
		}, 200, 100_000, false, false, large, map[string]string{"X": ""}},
		"no length": {get, func(w *Response, _ *http.Request) { w.Header().Set("Content-Length", "-1"); io.WriteString(w, "a") }, 200, 1, false, false, "a", nil},
		"no coding": {get, func(w *Response, _ *http.Request) { w.Header().Set("Transfer-Encoding", "x"); io.WriteString(w, "a") }, 200, 1, false, false, "a", nil},
		"small letters": {get, func(w *Response, _ *http.Request) {
			w.Header()["content-length"], w.Header()["transfer-encoding"] = []string{"2"}, []string{"chunked"}
			w.Header()["connection"] = []string{"close"}
			io.WriteString(w, "ab")
		}, 200, 2, false, true, "ab", map[string]string{"Content-Length": "2"}},
		"close":           {get, func(w *Response, _ *http.Request) { w.Header().Set("Connection", "a, Close"); io.WriteString(w, "a") }, 200, 1, false, true, "a", nil},
		"client closes":   {strings.Replace(get, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1), echo, 200, 7, false, true, "GET /x ", nil},
		"HEAD":            {strings.Replace(get, "GET", "HEAD", 1), echo, 200, 8, false, false, "", nil},
		"HEAD, large":     {strings.Replace(get, "GET", "HEAD", 1), func(w *Response, _ *http.Request) { io.WriteString(w, large) }, 200, -1, false, false, "", nil},
		"HEAD, announced": {strings.Replace(get, "GET", "HEAD", 1), func(w *Response, _ *http.Request) { w.Header().Set("Content-Length", "5") }, 200, 5, false, false, "", nil},
		"204":             {get, func(w *Response, _ *http.Request) { w.Header().Set("Content-Length", "5"); w.WriteHeader(204) }, 204, 0, false, false, "", nil},
		"304":             {get, func(w *Response, _ *http.Request) { w.Header().Set("Content-Length", "5"); w.WriteHeader(304) }, 304, 0, false, false, "", nil},
		"101":             {get, func(w *Response, _ *http.Request) { w.WriteHeader(101) }, 101, 0, false, true, "", nil},
		"split": {get, func(w *Response, _ *http.Request) {
			w.Header()["X"] = []string{"a\r\nY: b\n\r\n"}
			w.Header()["Z: a\r\nV"] = []string{"b"}
		}, 200, 0, false, false, "", map[string]string{"X": "a  Y: b", "Y": "", "V": "", "Z": ""}},
		"1.0":        {"GET /x HTTP/1.0\r\n\r\n", echo, 200, 7, false, true, "GET /x ", nil},
		"1.0, large": {"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", func(w *Response, _ *http.Request) { io.WriteString(w, large) }, 200, -1, false, true, large, nil},
		"1.0, kept":  {"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", echo, 200, 7, false, false, "GET /x ", nil},
	} {
		resp, body, c := answer(t, x.request, x.handler)
		if resp.StatusCode != x.status || resp.ContentLength != x.length || (len(resp.TransferEncoding) > 0) != x.chunked || resp.Close != x.close || body != x.body {
			t.Errorf("%s: got %d, length %d, %v, close %t, %d bytes %.20q", name, resp.StatusCode, resp.ContentLength, resp.TransferEncoding, resp.Close, len(body), body)
		}
		if _, err := http.ParseTime(resp.Header.Get("Date")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for k, v := range x.header {
			if got := resp.Header.Get(k); got != v {
				t.Errorf("%s: %s is %q, want %q", name, k, got, v)
			}
		}
		if x.close {
			if more := c.rest(); more != "" {
				t.Errorf("%s: then %q", name, more)
			}
		} else if resp, _ := c.say(x.request).hear(resp.Request.Method); resp.StatusCode != x.status {
			t.Errorf("%s: the next response has status %d", name, resp.StatusCode)
		}
	}
}

func TestWritesThatFail(t *testing.T) {
	var errs []error
	fails := func(_ int, err error) { errs = append(errs, err) }
	_, _, _ = answer(t, get, func(w *Response, r *http.Request) {
		w.WriteHeader(204)
		fails(w.Write([]byte("a")))
	})
	_, _, _ = answer(t, get, func(w *Response, r *http.Request) {
		w.Header().Set("Content-Length", "1")
		fails(w.Write([]byte("ab")))
		fails(w.Write([]byte("a")))
	})
	if len(errs) != 3 || !errors.Is(errs[0], http.ErrBodyNotAllowed) || !errors.Is(errs[1], http.ErrContentLength) || errs[2] != nil {
		t.Errorf("got %v", errs)
	}
}

// A response that is shorter than it said is not followed by another.
func TestAShortResponseEndsTheConnection(t *testing.T) {
	h := serve(t, limits(), func(w *Response, r *http.Request) {
		w.Header().Set("Content-Length", "3")
		io.WriteString(w, "a")
	})
	c := h.dial().say(get + get)
	if got := c.rest(); strings.Count(got, "HTTP/1.1") != 1 || !strings.HasSuffix(got, "a") {
		t.Errorf("got %q", got)
	}
}

func TestInformation(t *testing.T) {
	c := serve(t, limits(), func(w *Response, r *http.Request) {
		w.Header().Set("Link", "</a>")
		w.WriteHeader(103)
		w.Header().Del("Link")
		io.WriteString(w, "a")
	}).dial().say(get)
	if resp, _ := c.hear("GET"); resp.StatusCode != 103 || resp.Header.Get("Link") == "" {
		t.Errorf("got %+v", resp)
	}
	if resp, body := c.hear("GET"); resp.StatusCode != 200 || resp.Header.Get("Link") != "" || body != "a" {
		t.Errorf("got %+v, %q", resp, body)
	}
}

func TestTrailersOfResponses(t *testing.T) {
	resp, body, _ := answer(t, get, func(w *Response, r *http.Request) {
		w.Header().Set("Trailer", "A")
		io.WriteString(w, "x")
		w.Header().Set("A", "1")
		w.Header().Set(http.TrailerPrefix+"B", "2")
	})
	if body != "x" || resp.Trailer.Get("A") != "1" || resp.Trailer.Get("B") != "2" || len(resp.TransferEncoding) != 1 {
		t.Errorf("got %q, %v", body, resp.Trailer)
	}
}

func TestPanics(t *testing.T) {
	h := serve(t, limits(), func(w *Response, r *http.Request) {
		io.WriteString(w, "half")
		if r.RequestURI == "/x" {
			panic(http.ErrAbortHandler)
		}
		panic("oops")
	})
	for _, request := range []string{get, strings.Replace(get, "/x", "/y", 1)} {
		if got := h.dial().say(request).rest(); got != "" {
			t.Errorf("got %q", got)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if fmt.Sprint(h.failed) != "[oops]" {
		t.Errorf("told of %v", h.failed)
	}
}

// Whoever keeps a response cannot write into that of another.
func TestNobodyWritesBehindTheResponse(t *testing.T) {
	var kept *Response
	h := serve(t, limits(), func(w *Response, r *http.Request) {
		if kept == nil {
			kept = w
			io.WriteString(w, "first")
			return
		}
		if n, err := kept.Write([]byte("stale")); n != 0 || err == nil {
			t.Errorf("wrote %d, %v", n, err)
		}
		kept.Flush()
		kept.WriteHeader(500)
		io.WriteString(w, "second")
	})
	c := h.dial()
	for _, want := range []string{"first", "second"} {
		if _, got := c.say(get).hear("GET"); got != want {
			t.Errorf("got %q", got)
		}
	}
}

func TestWhoAsksLearnsThatTheClientLeft(t *testing.T) {
	for _, body := range []string{"", "abc"} {
		gone := make(chan error, 1)
		h := serve(t, limits(), func(w *Response, r *http.Request) {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			io.Copy(io.Discard, r.Body)
			select {
			case <-ctx.Done():
			case <-time.After(time.Minute):
			}
			gone <- r.Context().Err()
		})
		c := h.dial().say(fmt.Sprintf("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
		time.Sleep(20 * time.Millisecond)
		c.Close()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
}

// What the watch reads is the next request.
func TestTheWatchLosesNothing(t *testing.T) {
	sent := make(chan bool)
	h := serve(t, limits(), func(w *Response, r *http.Request) {
		done := r.Context().Done()
		if r.RequestURI == "/x" {
			<-sent
			time.Sleep(20 * time.Millisecond)
		}
		select {
		case <-done:
			t.Error("the context ended")
		default:
		}
		io.WriteString(w, r.RequestURI)
	})
	c := h.dial()
	for range 5 {
		c.say(get).say("GET /y HTTP/1.1\r\nHo")
		sent <- true
		if _, got := c.hear("GET"); got != "/x" {
			t.Errorf("got %q", got)
		}
		if _, got := c.say("st: h\r\n\r\n").hear("GET"); got != "/y" {
			t.Errorf("got %q", got)
		}
	}
}

func TestTheContextEndsWithTheHandler(t *testing.T) {
	contexts := make(chan context.Context, 2)
	h := serve(t, limits(), func(w *Response, r *http.Request) {
		if r.RequestURI == "/x" {
			r.Context().Done()
		}
		if r.Context().Value(http.LocalAddrContextKey) == nil || r.Context().Value("x") != nil {
			t.Error("the values of the context are others")
		}
		contexts <- r.Context()
	})
	c := h.dial()
	for _, request := range []string{get, strings.Replace(get, "/x", "/y", 1)} {
		c.say(request).hear("GET")
		ctx := <-contexts
		select {
		case <-ctx.Done():
		case <-time.After(time.Minute):
			t.Error("it goes on")
		}
	}
}

func TestHijack(t *testing.T) {
	h := serve(t, limits(), func(w *Response, r *http.Request) {
		r.Context().Done()
		nc, early, err := w.Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		if r.Context().Err() != nil {
			t.Error("the context ended")
		}
		if _, err := w.Write(nil); !errors.Is(err, http.ErrHijacked) {
			t.Errorf("wrote: %v", err)
		}
		if _, _, err := w.Hijack(); err == nil {
			t.Error("hijacked twice")
		}
		fmt.Fprintf(nc, "mine %s", early)
		io.CopyN(nc, nc, 3)
		nc.Close()
	})
	c := h.dial().say(get + "early")
	b := make([]byte, 10)
	if _, err := io.ReadFull(c.in, b); err != nil || string(b) != "mine early" {
		t.Fatalf("got %q, %v", b, err)
	}
	if got := c.say("abc").rest(); got != "abc" {
		t.Errorf("got %q", got)
	}
	_, _, _ = answer(t, get, func(w *Response, r *http.Request) {
		w.WriteHeader(200)
		if _, _, err := w.Hijack(); err == nil {
			t.Error("hijacked after the head")
		}
	})
}

// A connection that was taken over stays as it is when the handler returns.
func TestAHijackedConnectionOutlivesTheHandler(t *testing.T) {
	returned := make(chan bool)
	h := serve(t, limits(), func(w *Response, r *http.Request) {
		r.Context().Done()
		nc, _, err := w.Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		go func() {
			defer nc.Close()
			<-returned
			io.CopyN(nc, nc, 3)
		}()
	})
	c := h.dial().say(get)
	eventually(t, "the handler has returned", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.ended == 1
	})
	close(returned)
	if got := c.say("abc").rest(); got != "abc" {
		t.Errorf("got %q", got)
	}
}

// A goroutine may take the connection over when the handler has returned already.
func TestALateHijack(t *testing.T) {
	x := &exchange{c: &conn{nc: endless{}}, r: &http.Request{}}
	x.w = Response{x: x, length: -1}
	if _, _, err := x.w.Hijack(); err != nil {
		t.Fatal(err)
	}
	if x.w.finish() {
		t.Error("another request would be read")
	}
}

// What a client does not take ends in time.
func TestADeafClientIsCutOff(t *testing.T) {
	l := limits()
	l.Write = 100 * time.Millisecond
	ended := make(chan error, 1)
	h := serve(t, l, func(w *Response, r *http.Request) {
		block := bytes.Repeat([]byte("x"), 1<<20)
		for {
			if _, err := w.Write(block); err != nil {
				ended <- err
				return
			}
		}
	})
	h.dial().say(get)
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("it goes on")
	}
}

// A handler that only looks at its context ends when the time for its response is
// over, though the client is still there.
func TestTheContextEndsWithTheTimeToWrite(t *testing.T) {
	l := limits()
	l.Write = 100 * time.Millisecond
	ended := make(chan bool)
	h := serve(t, l, func(w *Response, r *http.Request) {
		defer close(ended)
		for late := time.Now().Add(10 * time.Second); r.Context().Err() == nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(late) {
				t.Error("it goes on")
				return
			}
			io.WriteString(w, "event\n")
			w.Flush()
		}
	})
	c := h.dial().say(get)
	go io.Copy(io.Discard, c)
	<-ended
}
