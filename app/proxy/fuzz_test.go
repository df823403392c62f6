package proxy

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi/route"
)

// fixed returns the handler of a proxy, quiet, and its upstream.
func fixed(t testing.TB, dial Dialer) (*handler, *upstream) {
	t.Helper()
	c := config()
	c.ConnectTimeout, c.ResponseTimeout = 10*time.Second, 10*time.Second
	built, err := New(c, dial)()
	if err != nil {
		t.Fatal(err)
	}
	h := built.(*handler)
	h.log = log.New(io.Discard, "", 0)
	h.reverse.ErrorLog = h.log
	return h, h.reverse.Transport.(*upstream)
}

// Whatever a service answers, a client gets one response with a status that has a
// body, nothing in the image's name, no trailers, and none that was cut short as a
// whole one; and the place of the request is free again.
func FuzzUpstream(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
		"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Lorica-Principal\r\n\r\n2\r\nhi\r\n0\r\nLorica-Principal: eve\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\nlorica_principal: eve\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
		"HTTP/1.1 600 No\r\n\r\n", "HTTP/1.0 200\r\n\r\nto the end", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhi", "SSH-2.0-x\r\n",
	} {
		f.Add([]byte(s), "GET", false)
		f.Add([]byte(s), "HEAD", true)
	}
	f.Fuzz(func(t *testing.T, answer []byte, method string, upgrade bool) {
		if method != "GET" && method != "HEAD" && method != "POST" {
			method = "GET"
		}
		h, u := fixed(t, func(context.Context, string, uint16) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				defer theirs.Close()
				if _, err := http.ReadRequest(bufio.NewReader(theirs)); err == nil {
					theirs.Write(answer)
				}
			}()
			return ours, nil
		})
		defer u.transport.CloseIdleConnections()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r := httptest.NewRequest(method, "/a", nil).WithContext(ctx)
		if upgrade {
			r.Header.Set("Connection", "Upgrade")
			r.Header.Set("Upgrade", "websocket")
		}
		w := &witness{ResponseRecorder: httptest.NewRecorder()}
		whole := w.watch(func() { h.ServeHTTP(w, r) })
		cancel()
		res := w.Result()
		if res.StatusCode < 200 || res.StatusCode > 599 || w.heads != 1 {
			t.Fatalf("status %d after %d heads", res.StatusCode, w.heads)
		}
		for name := range res.Header {
			if ours(name) {
				t.Fatalf("the service says %s: %q", name, res.Header[name])
			}
		}
		if len(res.Trailer) > 0 {
			t.Fatalf("trailers %v", res.Trailer)
		}
		if whole && method != "HEAD" && res.StatusCode != 304 && res.ContentLength > int64(w.Body.Len()) {
			t.Fatalf("%d of %d bytes are the whole of a response", w.Body.Len(), res.ContentLength)
		}
		for end := time.Now().Add(10 * time.Second); len(u.slots) > 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the place of the request is lost")
			}
		}
	})
}

// A witness keeps a response, and counts its heads.
type witness struct {
	*httptest.ResponseRecorder
	heads int
}

func (w *witness) WriteHeader(status int) {
	w.heads++
	w.ResponseRecorder.WriteHeader(status)
}

// watch reports whether what f answers is for the client to take as whole.
func (w *witness) watch(f func()) (whole bool) {
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler {
			panic(p)
		}
	}()
	f()
	return true
}

// Whatever a client sends, the service gets one request: its method, the path as
// it was judged, and who the client is in the words of the image alone.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET /a/b?x=1;y HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 9.9.9.9\r\nForwarded: for=evil\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\nhi\r\n0\r\nX: y\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: a\";for=evil\r\nConnection: Lorica-Principal, x\r\nLorica-Principal: ada\r\n\r\n",
		"GET /a HTTP/1.1\r\nHost: h\r\nX_Forwarded_For: 1\r\nX.Real.Ip: 1\r\nIdempotency-Key: 7\r\nTE: trailers\r\n\r\n",
		"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
		"PUT /%2e%2e/x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nVia: 1.0 x\r\nProxy: http://evil\r\n\r\nhi",
	} {
		f.Add([]byte(s), "192.0.2.7:1")
	}
	f.Add([]byte("GET / HTTP/1.1\r\nHost: h\r\n\r\n"), "[2001:db8::1%eth0]:2")
	f.Add([]byte("GET / HTTP/1.1\r\nHost: h\r\n\r\n"), "pipe")
	f.Fuzz(func(t *testing.T, raw []byte, remote string) {
		in := bufio.NewReader(bytes.NewReader(raw))
		r, err := http.ReadRequest(in)
		if err != nil || r.Method == "CONNECT" || !strings.HasPrefix(r.URL.Path, "/") {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		p, err := route.Normalize(r.URL.EscapedPath(), false)
		if err != nil {
			return // the filter lets none of these through
		}
		r.URL.Path, r.URL.RawPath, r.URL.Host, r.URL.Scheme = p.Decoded, p.Canonical, "", ""
		r.Body, r.RemoteAddr = io.NopCloser(bytes.NewReader(body)), remote
		method, query, said := r.Method, r.URL.RawQuery, r.Header.Clone()
		seen := make(chan *http.Request, 2)
		h, u := fixed(t, func(context.Context, string, uint16) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				defer theirs.Close()
				in := bufio.NewReader(theirs)
				for {
					q, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					b, err := io.ReadAll(q.Body)
					if err != nil {
						return
					}
					q.Body = io.NopCloser(bytes.NewReader(b))
					seen <- q
					io.WriteString(theirs, "HTTP/1.1 204 No Content\r\n\r\n")
				}
			}()
			return ours, nil
		})
		defer u.transport.CloseIdleConnections()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusNoContent {
			if len(seen) > 0 {
				t.Fatalf("status %d, and the service has a request", w.Code)
			}
			return // not to be written as a request
		}
		q := <-seen
		if len(seen) > 0 {
			t.Fatalf("a second request: %+v", <-seen)
		}
		if got, _ := io.ReadAll(q.Body); q.Method != method || !bytes.Equal(got, body) || len(q.Trailer) > 0 || q.Host != "api.test:9000" {
			t.Fatalf("%s of %q to %s with the trailers %v", q.Method, got, q.Host, q.Trailer)
		}
		target := p.Canonical
		if query != "" {
			target += "?" + query
		}
		if q.RequestURI != target && (query != "" || q.RequestURI != target+"?") {
			t.Fatalf("%q was judged, %q arrives", target, q.RequestURI)
		}
		for name, values := range q.Header {
			switch name {
			case "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Forwarded", "Via":
				if len(values) != 1 {
					t.Fatalf("%s: %q", name, values)
				}
				continue
			}
			if claims(name) || ours(name) && !slices.Equal(values, said[name]) {
				t.Fatalf("the client says %s: %q", name, values)
			}
		}
		if client := q.Header.Get("X-Forwarded-For"); client == "" || strings.ContainsAny(client, ", %") {
			t.Fatalf("the client is %q", client)
		}
		for name, values := range said {
			if ours(name) && !slices.Equal(q.Header[name], values) {
				t.Fatalf("the image says %s: %q, %q arrives", name, values, q.Header[name])
			}
		}
	})
}
