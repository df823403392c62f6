package unikernel

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/pep"
)

func (b *budget) held() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// until reads up to a frame of a kind.
func (f *framed) until(kind byte) {
	f.t.Helper()
	for {
		if x, _, err := f.next(); err != nil {
			f.t.Fatal(err)
		} else if x.kind == kind {
			return
		}
	}
}

// What net/http answers by itself reaches no chain; its head is no longer held
// either, or one connection could keep the memory of everybody.
func TestRefusedHeadsAreGivenBack(t *testing.T) {
	enter, leave := make(chan struct{}), make(chan struct{})
	defer close(leave)
	r, f := secureH2(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		enter <- struct{}{}
		<-leave
	}))
	f.request(1, "GET", "/app/x") // stays open
	<-enter
	blocks, streams := r.life.server.front.blocks, r.life.server.front.streams
	one := streams.held()
	for id := uint32(3); id < 43; id += 2 {
		f.request(id, "GET", "/app/x", "te", "gzip", "x", strings.Repeat("y", 4<<10))
		if x, err := f.answer(id); err != nil || x.code != 400 {
			t.Fatalf("%+v, %v", x, err)
		}
	}
	eventually(t, "only the open request holds memory", func() bool { return streams.held() == one && blocks.held() == 0 })
}

// Nothing is held for requests that come after the last one that will be
// answered.
func TestRequestsAfterTheLastHoldNothing(t *testing.T) {
	enter, leave := make(chan struct{}), make(chan struct{})
	defer close(leave)
	r, f := secureH2(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		enter <- struct{}{}
		<-leave
	}))
	f.request(1, "GET", "/app/x") // keeps the connection
	<-enter
	front := r.life.server.front
	streams, bodies := front.streams, front.bodies
	one := streams.held()
	f.frame(frameGoAway, 0, 0, make([]byte, 8))
	f.until(frameGoAway)
	for id := uint32(3); id < 43; id += 2 {
		f.frame(frameHeaders, flagEndHeaders, id, head("POST", "/app/x", "x", strings.Repeat("y", 4<<10)))
		f.frame(frameData, 0, id, make([]byte, 1000))
	}
	f.frame(6, 0, 0, make([]byte, 8))
	f.until(6)
	if now := streams.held(); now != one || front.blocks.held() > 0 || bodies.held() > 0 {
		t.Errorf("%d bytes are held for the open request; with ignored ones behind it %d, %d of heads, and %d of bodies", one, now, front.blocks.held(), bodies.held())
	}
}

// That others fill the memory is nobody's fault who waits for it.
func TestAWaitForMemoryIsNotTheClientsFault(t *testing.T) {
	l := testLimits()
	l.HeaderTimeout = 200 * time.Millisecond
	var told atomic.Int64
	w := &watcher{gate: pep.Decision{Verdict: abi.Allow}, alert: func(d pep.Decision) (pep.Decision, bool) {
		if d.Verdict != abi.Allow {
			told.Store(int64(d.Status))
		}
		return pep.Decision{}, false
	}}
	r := newSecureRig(t, transport.Simple, l, text("ok"), w)
	r.run()
	f := newFramed(t, r.tls(nil, "h2"))
	f.request(1, "GET", "/app/x")
	if _, err := f.answer(1); err != nil {
		t.Fatal(err)
	}
	blocks := r.life.server.front.blocks
	blocks.try(blocks.most, false)
	defer blocks.give(blocks.most)
	f.request(3, "GET", "/app/x")
	if !f.over() {
		t.Fatal("it waits for ever")
	}
	r.denials(1)
	if told.Load() != http.StatusServiceUnavailable {
		t.Errorf("observers are told of status %d, which counts against the client", told.Load())
	}
}

// A request that was withdrawn hides none that is refused after it.
func TestWithdrawnRequestsHideNothing(t *testing.T) {
	enter, leave := make(chan struct{}), make(chan struct{})
	r, f := secureH2(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/app/wait" {
			enter <- struct{}{}
			<-leave
		}
	}))
	f.request(1, "GET", "/app/wait")
	<-enter
	f.frame(frameReset, 0, 1, []byte{0, 0, 0, 8})
	f.request(3, "GET", "/app/x")
	if x, err := f.answer(3); err != nil || x.code != 200 {
		t.Fatalf("%+v, %v", x, err)
	}
	leave <- struct{}{}
	eventually(t, "the application is done", func() bool { return r.life.server.front.streams.held() == 0 })
	f.request(5, "GET", "/app/x", "te", "gzip")
	if x, err := f.answer(5); err != nil || x.code != 400 {
		t.Fatalf("%+v, %v", x, err)
	}
	r.denials(1)
}

// net/http keeps requests that were withdrawn while applications are busy, and so
// is their memory kept.
func TestWithdrawnHeadsAreHeldWhileTheApplicationIsBusy(t *testing.T) {
	max := testLimits().MaxStreams
	enter, leave := make(chan struct{}, max), make(chan struct{})
	r, f := secureH2(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		enter <- struct{}{}
		<-leave
	}))
	id := uint32(1)
	cancel := []byte{0, 0, 0, 8}
	for range max {
		f.request(id, "GET", "/app/x")
		<-enter
		f.frame(frameReset, 0, id, cancel)
		id += 2
	}
	const n = 20
	for range n {
		f.request(id, "GET", "/app/x", "x", strings.Repeat("y", 4<<10))
		f.frame(frameReset, 0, id, cancel)
		id += 2
	}
	f.frame(6, 0, 0, make([]byte, 8))
	f.until(6)
	blocks := r.life.server.front.blocks
	if held := blocks.held(); held < n*4<<10 {
		t.Errorf("%d bytes are held for %d heads of 4 KiB", held, n)
	}
	close(leave)
	eventually(t, "all is given back", func() bool { return blocks.held() == 0 && r.life.server.front.streams.held() == 0 })
	f.request(id, "GET", "/app/x")
	if x, err := f.answer(id); err != nil || x.code != 200 {
		t.Errorf("%+v, %v", x, err)
	}
}

// A body whose stream ends while its memory is awaited holds none.
func TestABodyThatEndsWhileItWaitsHoldsNothing(t *testing.T) {
	enter, leave := make(chan struct{}), make(chan struct{})
	r, f := secureH2(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		enter <- struct{}{}
		<-leave
	}))
	f.frame(frameHeaders, flagEndHeaders, 1, head("POST", "/app/x"))
	<-enter
	bodies := r.life.server.front.bodies
	bodies.try(bodies.most, false)
	f.frame(frameData, 0, 1, make([]byte, 1000))
	eventually(t, "it waits", func() bool {
		bodies.mu.Lock()
		defer bodies.mu.Unlock()
		return bodies.freed != nil
	})
	close(leave)
	if x, err := f.answer(1); err != nil || x.code != 200 {
		t.Fatalf("%+v, %v", x, err)
	}
	f.until(frameReset) // the rest of the body is not wanted
	bodies.give(bodies.most)
	f.frame(6, 0, 0, make([]byte, 8))
	f.until(6)
	if held := bodies.held(); held != 0 {
		t.Errorf("%d bytes are held", held)
	}
	f.Close()
	eventually(t, "the connection is gone", func() bool { return r.life.stats().Connections == 0 })
	if held := bodies.held(); held != 0 {
		t.Errorf("%d bytes are held by nobody", held)
	}
}

// A client that does not take its responses holds what they hold, within bounds:
// further requests wait, and are refused in the end; one connection fills no more
// than half.
func TestResponsesThatNobodyTakesFitTheMemory(t *testing.T) {
	l := testLimits()
	l.HeaderTimeout = time.Second // before the responses that nobody takes are late
	r := newSecureRig(t, transport.Simple, l, text(strings.Repeat("x", 100_000)))
	r.life.server.memory = 64 * streamMemory // a quarter: 16 requests
	r.run()
	deaf := func(n uint32) *framed {
		f := newFramed(t, r.tls(nil, "h2"))
		f.frame(4, 0, 0, []byte{0, 4, 0, 0, 0, 0}) // no window for responses
		for id := uint32(1); id < 2*n; id += 2 {
			f.request(id, "GET", "/app/x")
		}
		return f
	}
	one := deaf(32)
	served, refused := 0, 0
	for served+refused < 32 {
		x, _, err := one.next()
		switch {
		case err != nil:
			t.Fatal(err)
		case x.kind == frameHeaders:
			served++
		case x.kind == frameReset:
			refused++
		}
	}
	if served < 1 || served > 8 {
		t.Errorf("%d of 32 requests are served where 8 fit", served)
	}
	streams := r.life.server.front.streams
	if held := streams.held(); held > streams.most/2 {
		t.Errorf("one connection holds %d of %d", held, streams.most)
	}
	r.denials(refused)
	if x, err := deaf(1).answer(1); err != nil || x.kind != frameHeaders || x.code != 200 {
		t.Errorf("another client: %+v, %v", x, err)
	}
	one.request(101, "GET", "/app/x") // refusals cost it nothing else
	if x, err := one.answer(101); err != nil || x.kind != frameReset {
		t.Errorf("%+v, %v", x, err)
	}
	one.Close()
	eventually(t, "what it held is given back", func() bool { return streams.held() <= streamMemory })
}

// Nor is there more room for refusals that nobody takes.
func TestRefusalsThatNobodyTakesFitTheMemory(t *testing.T) {
	r := newSecureRig(t, transport.Simple, testLimits(), text("ok"))
	r.life.server.memory = 64 * streamMemory
	r.run()
	f := newFramed(t, r.tls(nil, "h2"))
	f.frame(4, 0, 0, []byte{0, 4, 0, 0, 0, 0})
	for id := uint32(1); id < 64; id += 2 {
		f.request(id, "GET", "/app/x", "te", "gzip") // net/http answers
	}
	if !f.over() {
		t.Error("as many as one likes")
	}
	eventually(t, "it is recorded", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return slices.ContainsFunc(r.records, func(k audit.Record) bool { return k.Reason == "no memory is free for a response that it does not take" })
	})
	f.Close()
	eventually(t, "all is given back", func() bool { return r.life.server.front.streams.held() == 0 })
}

// More requests at once than fit the memory are served one after the other where
// their responses are taken.
func TestRequestsBeyondTheMemoryWait(t *testing.T) {
	enter, leave := make(chan struct{}, 64), make(chan struct{})
	r := newSecureRig(t, transport.Simple, testLimits(), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		enter <- struct{}{}
		<-leave
		io.WriteString(w, "ok")
	}))
	r.life.server.memory = 64 * streamMemory // a quarter: 16 requests, 8 of one connection
	r.run()
	f := newFramed(t, r.tls(nil, "h2"))
	for id := uint32(1); id < 2*32; id += 2 {
		f.request(id, "GET", "/app/x")
	}
	for range 7 {
		<-enter
	}
	eventually(t, "the others wait", func() bool {
		streams := r.life.server.front.streams
		streams.mu.Lock()
		defer streams.mu.Unlock()
		return streams.freed != nil
	})
	if n := len(enter); n > 1 {
		t.Errorf("%d more are served at once", n)
	}
	close(leave)
	answered := 0
	for answered < 32 {
		x, _, err := f.next()
		if err != nil || x.kind == frameReset {
			t.Fatalf("after %d answers: %+v, %v", answered, x, err)
		}
		if x.kind == frameHeaders {
			answered++
		}
	}
	eventually(t, "all is given back", func() bool { return r.life.server.front.streams.held() == 0 })
}
