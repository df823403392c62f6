package unikernel

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/unikernel/http1"
)

// What net/http answers by itself is recorded on every connection, also where it
// was read with, or right after, a request that was served.
func TestWhatCannotBeReadIsRecordedLater(t *testing.T) {
	for name, x := range map[string]struct{ first, then string }{
		"in one piece":         {getApp, "nonsense\r\n\r\n"},
		"a short one":          {getApp, "x\n\n\n\n"},
		"in the same segment":  {getApp + "nonsense\r\n\r\n", ""},
		"another expectation":  {getApp, "GET /app/x HTTP/1.1\r\nHost: a\r\nExpect: much\r\n\r\n"},
		"two lengths":          {getApp, "GET /app/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"},
		"a head that stalls":   {getApp, "GET /app/x HTTP/1.1\r\nHost: a\r\nX-"},
		"a head that is large": {getApp, "GET /app/x HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 15<<10) + "\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			l := testLimits()
			l.HeaderTimeout = 200 * time.Millisecond
			r := newRig(t, l, text("ok")).run()
			c := r.dial()
			io.WriteString(c, x.first)
			if _, body, err := answer(c); err != nil || body != "ok" {
				t.Fatalf("the first request: %q, %v", body, err)
			}
			io.WriteString(c, x.then)
			b, _ := io.ReadAll(c)
			if strings.Contains(string(b), "ok") {
				t.Error("served")
			}
			if k := r.kept(t, 2)[1]; k.Verdict != abi.Deny || k.Rule.ID != abi.RuleRequest {
				t.Errorf("recorded %+v", k)
			}
		})
	}
}

// A connection that ends between requests is nothing to record.
func TestAnIdleConnectionThatEndsIsNothing(t *testing.T) {
	r := newRig(t, testLimits(), text("ok")).run()
	c := r.dial()
	io.WriteString(c, getApp)
	if _, _, err := answer(c); err != nil {
		t.Fatal(err)
	}
	c.Close()
	r.ask(getApp)
	r.kept(t, 2)
	if s := r.life.stats(); s.Denied != 0 {
		t.Errorf("statistics are %+v", s)
	}
}

// fill has clients hold every place for a large head.
func fill(t *testing.T, r *rig) (held []net.Conn) {
	t.Helper()
	r.ask(getApp) // there is a front
	f := r.life.server.front
	for range cap(f.heads) {
		c := r.dial()
		io.WriteString(c, "GET /app/x HTTP/1.1\r\nHost: a\r\n"+strings.Repeat("a:\r\n", http1.FreeHead/4))
		held = append(held, c)
	}
	eventually(t, "every place is taken", func() bool { return len(f.heads) == cap(f.heads) })
	return held
}

const largeApp = "GET /app/x HTTP/1.1\r\nHost: a\r\n"

func large() string { return largeApp + "X: " + strings.Repeat("x", 3*http1.FreeHead) + "\r\n\r\n" }

// However many clients send large heads, a bounded number is held; small ones
// pass meanwhile, and a large one when another is done.
func TestLargeHeadsWaitForTheirPlace(t *testing.T) {
	r := newRig(t, testLimits(), text("ok"))
	r.life.server.memory = 1 << 20
	r.run()
	held := fill(t, r)
	if resp, _ := r.ask(getApp); resp.StatusCode != 200 {
		t.Errorf("a small head: %d", resp.StatusCode)
	}
	c := r.dial()
	io.WriteString(c, large())
	if !waits(c) {
		t.Fatal("one large head too many was read")
	}
	held[0].Close()
	c.SetReadDeadline(time.Now().Add(time.Minute))
	if resp, body, err := answer(c); err != nil || resp.StatusCode != 200 || body != "ok" {
		t.Errorf("after a place was free: %q, %v", body, err)
	}
	// The connection is kept, its place is not: the next one needs it again.
	d := r.dial()
	io.WriteString(d, large())
	if _, body, err := answer(d); err != nil || body != "ok" {
		t.Errorf("after the request was finished: %q, %v", body, err)
	}
	for _, h := range held {
		h.Close()
	}
	eventually(t, "all places are free", func() bool { return len(r.life.server.front.heads) == 0 })
}

// waits reports whether nothing comes for a while.
func waits(c net.Conn) bool {
	c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	ne, ok := err.(net.Error)
	return ok && ne.Timeout()
}

// Who waits for a place waits no longer than a client may take for its head, and
// is recorded.
func TestTheWaitForAPlaceEnds(t *testing.T) {
	l := testLimits()
	l.HeaderTimeout = 500 * time.Millisecond
	r := newRig(t, l, text("ok"))
	r.life.server.memory = 1 << 20
	r.run()
	r.ask(getApp)
	front := r.life.server.front
	for range cap(front.heads) {
		front.heads <- struct{}{}
	}
	c := r.dial()
	io.WriteString(c, large())
	c.SetReadDeadline(time.Now().Add(time.Minute))
	resp, _, err := answer(c)
	if err != nil || resp.StatusCode != 503 {
		t.Errorf("got %+v, %v", resp, err)
	}
	if k := r.kept(t, 2)[1]; k.Verdict != abi.Deny || k.Rule.ID != abi.RuleRequest {
		t.Errorf("recorded %+v", k)
	}
}

func TestPlacesForLargeHeads(t *testing.T) {
	for _, x := range []struct {
		memory int64
		header uint32
		want   int
	}{{64 << 20, 16 << 10, 56}, {32 << 20, 1 << 20, 4}, {1 << 62, 1, 1 << 16}, {64 << 20, 0, 1 << 16}} {
		if got := largeHeads(x.memory, x.header); got != x.want {
			t.Errorf("%d bytes, heads of %d: %d places, expected %d", x.memory, x.header, got, x.want)
		}
	}
}
