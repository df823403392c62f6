package unikernel

import (
	"crypto/tls"
	"runtime"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi/transport"
)

// However high the limit, with TLS there are no more connections than fit the
// memory; others wait.
func TestSecuredConnectionsFitTheMemory(t *testing.T) {
	r := newSecureRig(t, transport.Simple, testLimits(), text("ok"))
	r.life.server.memory = 4 * securedMemory
	r.run()
	first := r.tls(nil)
	r.tls(nil)
	third := tls.Client(r.dial(), r.config(nil))
	third.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if third.Handshake() == nil {
		t.Fatal("a third one is served")
	}
	third.NetConn().Close()
	first.Close()
	eventually(t, "one is gone, and the third as well", func() bool { return r.life.stats().Connections == 1 })
	r.tls(nil)
}

// securedMemory is not made up. Both ends are in this process.
func TestIdleConnectionsOfHTTP2FitTheMemory(t *testing.T) {
	const n, bound = 300, 2 * securedMemory
	l := testLimits()
	l.MaxConnections = n
	r := newSecureRig(t, transport.Simple, l, text("ok"))
	r.run()
	used := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse + m.StackInuse)
	}
	before := used()
	for range n {
		f := newFramed(t, r.tls(nil, "h2"))
		// As large a head and as large a frame as there may be.
		f.frame(frameHeaders, flagEndHeaders, 1, head("POST", "/app/x", "x", strings.Repeat("y", 4<<10)))
		f.frame(frameData, flagEndStream, 1, make([]byte, frameLarge))
		if x, err := f.answer(1); err != nil || x.kind != frameHeaders {
			t.Fatalf("%+v, %v", x, err)
		}
	}
	each := (used() - before) / n
	t.Logf("%d bytes for each connection, both ends", each)
	if each > bound {
		t.Errorf("%d bytes for each connection; the bound is %d", each, bound)
	}
}
