package unikernel

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
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
	streams := r.life.server.front.streams
	one := streams.held()
	for id := uint32(3); id < 43; id += 2 {
		f.request(id, "GET", "/app/x", "te", "gzip", "x", strings.Repeat("y", 4<<10))
		if x, err := f.answer(id); err != nil || x.code != 400 {
			t.Fatalf("%+v, %v", x, err)
		}
	}
	if now := streams.held(); now > one {
		t.Errorf("%d bytes are held for one open request; with refused ones behind it %d", one, now)
	}
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
	streams, bodies := r.life.server.front.streams, r.life.server.front.bodies
	one := streams.held()
	f.frame(frameGoAway, 0, 0, make([]byte, 8))
	f.until(frameGoAway)
	for id := uint32(3); id < 43; id += 2 {
		f.frame(frameHeaders, flagEndHeaders, id, head("POST", "/app/x", "x", strings.Repeat("y", 4<<10)))
		f.frame(frameData, 0, id, make([]byte, 1000))
	}
	f.frame(6, 0, 0, make([]byte, 8))
	f.until(6)
	if now := streams.held(); now > one || bodies.held() > 0 {
		t.Errorf("%d bytes are held for the open request; with ignored ones behind it %d, and %d of bodies", one, now, bodies.held())
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
	streams := r.life.server.front.streams
	streams.add(streams.most)
	defer streams.give(streams.most)
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
	streams := r.life.server.front.streams
	if held := streams.held(); held < n*4<<10 {
		t.Errorf("%d bytes are held for %d heads of 4 KiB", held, n)
	}
	close(leave)
	eventually(t, "all is given back", func() bool { return streams.held() == 0 })
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
	bodies.add(bodies.most)
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
