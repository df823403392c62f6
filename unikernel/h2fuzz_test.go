package unikernel

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"lorica.dev/lorica/abi/transport"
)

// Whatever a client of HTTP/2 sends behind its preface, the application sees only
// what was judged, every request that reached the chain is recorded, no reason
// leaks, and when the connection is gone nothing of the memory is held.
func FuzzHTTP2(f *testing.F) {
	settings := append(frameBytes(4, 0, 0, nil), frameBytes(4, 1, 0, nil)...)
	frames := func(list ...[]byte) { f.Add(append(bytes.Clone(settings), bytes.Join(list, nil)...)) }
	get := head("GET", "/app/x")
	const last = flagEndHeaders | flagEndStream
	frames(frameBytes(frameHeaders, last, 1, get), frameBytes(frameHeaders, last, 3, head("GET", "/nowhere")))
	frames(frameBytes(frameHeaders, flagEndHeaders, 1, head("POST", "/app/x", "content-length", "3")), frameBytes(frameData, flagEndStream, 1, []byte("abc")))
	frames(frameBytes(frameHeaders, last, 1, head("GET", "/app/x", "lorica-principal", "eve", "lorica_groups", "x")))
	frames(frameBytes(frameHeaders, flagEndStream, 1, get[:9]), frameBytes(frameContinuation, flagEndHeaders, 1, get[9:]))
	frames(frameBytes(frameHeaders, last, 1, head("GET", "/app/../app/x", "lorica-principal", "eve")), frameBytes(frameReset, 0, 1, make([]byte, 4)))
	frames(frameBytes(frameHeaders, flagEndHeaders, 1, head("POST", "/app/x")), frameBytes(frameData, 0, 1, make([]byte, 2000)), frameBytes(frameHeaders, last, 1, fields("lorica-groups", "x")))
	frames(frameBytes(frameHeaders, last, 1, head("CONNECT", "/app/x", ":protocol", "websocket")), frameBytes(frameGoAway, 0, 0, make([]byte, 8)))
	frames(frameBytes(frameHeaders, last, 1, fields(":method", "GET", ":path", "/app/x", ":scheme", "http", ":authority", "b", "host", "a", "te", "gzip")))
	app := &sightings{}
	l := testLimits()
	l.HeaderTimeout, l.BodyTimeout, l.IdleTimeout = 100*time.Millisecond, 100*time.Millisecond, 100*time.Millisecond
	r := newSecureRig(f, transport.Simple, l, app)
	r.run()
	r.client(nil).Get(r.url("/app/x")) // what the application does comes after the start
	if list, _ := app.take(); len(list) != 1 {
		f.Fatalf("the application saw %v", list)
	}
	front := r.life.server.front
	f.Fuzz(func(t *testing.T, data []byte) {
		raw, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		raw.SetDeadline(time.Now().Add(20 * time.Second))
		c := tls.Client(raw, r.config(nil, "h2"))
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		go func() {
			io.WriteString(c, preface)
			c.Write(data)
			c.CloseWrite()
		}()
		out, err := io.ReadAll(c)
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Fatal("the connection stays open")
		}
		if bytes.Contains(out, []byte("default:")) {
			t.Errorf("a rule leaked: %q", out)
		}
		eventually(t, "all requests are recorded", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return uint64(len(r.records)) >= r.life.server.requests.Load()
		})
		eventually(t, "nothing is held", func() bool {
			return front.blocks.held() == 0 && front.streams.held() == 0 && front.bodies.held() == 0
		})
		for _, b := range app.outside("/app/") {
			t.Error(b)
		}
	})
}
