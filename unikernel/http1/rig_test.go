package http1

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// A host is the owner of the connections of a test.
type host struct {
	t       testing.TB
	server  *Server
	addr    string
	handler func(w *Response, r *http.Request)
	enlarge error

	mu      sync.Mutex
	large   int
	refused []Refusal
	failed  []any
	ended   int // connections
}

// limits end nothing that a test waits for.
func limits() Limits {
	return Limits{Head: 8 << 10, Header: time.Hour, Body: time.Hour, Write: 5 * time.Second, Idle: time.Hour}
}

// serve listens until the test ends.
func serve(t testing.TB, l Limits, handler func(w *Response, r *http.Request)) *host {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, server: NewServer(l), addr: ln.Addr().String(), handler: handler}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				h.server.Serve(c, h)
				h.mu.Lock()
				defer h.mu.Unlock()
				h.ended++
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		h.server.Close()
		wg.Wait()
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.large != 0 {
			t.Errorf("%d places for large heads were not given back", h.large)
		}
	})
	return h
}

func (h *host) ServeHTTP1(w *Response, r *http.Request) { h.handler(w, r) }

func (h *host) Enlarge() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.enlarge == nil {
		h.large++
	}
	return h.enlarge
}

func (h *host) Shrink() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.large--
}

func (h *host) Refuse(status int, reason string) *http.Response {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refused = append(h.refused, Refusal{status, reason})
	return &http.Response{StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Close: true}
}

func (h *host) refusals() []Refusal {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.refused)
}

func (h *host) Failed(v any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed = append(h.failed, v)
}

// A client is a connection with what came back on it.
type client struct {
	*net.TCPConn
	t  testing.TB
	in *bufio.Reader
}

func (h *host) dial() *client {
	h.t.Helper()
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(2 * time.Minute))
	return &client{c.(*net.TCPConn), h.t, bufio.NewReader(c)}
}

func (c *client) say(text string) *client {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
	return c
}

// hear reads a response to a request with the given method, and its body.
func (c *client) hear(method string) (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("the body breaks off after %d bytes: %v", len(b), err)
	}
	return resp, string(b)
}

// rest reads until the server ends the connection.
func (c *client) rest() string {
	c.t.Helper()
	b, err := io.ReadAll(c.in)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		c.t.Fatal(err)
	}
	return string(b)
}

const get = "GET /x HTTP/1.1\r\nHost: h\r\n\r\n"

// echo answers with the method, the target and the body.
func echo(w *Response, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	io.WriteString(w, r.Method+" "+r.RequestURI+" "+string(b))
	if err != nil {
		io.WriteString(w, "!")
	}
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for late := time.Now().Add(time.Minute); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("it never came that %s", what)
		}
	}
}
