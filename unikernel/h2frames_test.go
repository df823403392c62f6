package unikernel

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"lorica.dev/lorica/abi/route"
)

func account() *accountant {
	return newAccountant(route.Limits{MaxHeaderBytes: 8 << 10, MaxStreams: 32})
}

// traffic is what an honest client sends: n requests with bodies.
func traffic(n int) []byte {
	b := []byte(preface)
	b = append(b, frameBytes(4, 0, 0, make([]byte, 12))...)
	b = append(b, frameBytes(4, 1, 0, nil)...)
	for i := range n {
		id := uint32(2*i + 1)
		b = append(b, frameBytes(frameHeaders, 0, id, make([]byte, 50))...)
		b = append(b, frameBytes(frameContinuation, flagEndHeaders, id, make([]byte, 10))...)
		b = append(b, frameBytes(frameData, flagPadded, id, append([]byte{3}, make([]byte, 100)...))...)
		b = append(b, frameBytes(frameData, flagEndStream, id, make([]byte, 3000))...)
		b = append(b, frameBytes(frameWindow, 0, 0, make([]byte, 4))...)
		b = append(b, frameBytes(frameWindow, 0, id, make([]byte, 4))...)
		b = append(b, frameBytes(6, 0, 0, make([]byte, 8))...)
	}
	return b
}

// Answers give back what honest requests spend, for ever.
func TestHonestClientsNeverRunOut(t *testing.T) {
	a := account()
	if e := a.receive(traffic(1)); e.flood != "" {
		t.Fatal(e.flood)
	}
	for i := range 50_000 {
		id := uint32(2*i + 3)
		block := frameBytes(frameHeaders, flagEndHeaders|flagEndStream, id, make([]byte, 30))
		block = append(block, frameBytes(frameWindow, 0, id, make([]byte, 4))...)
		block = append(block, frameBytes(frameWindow, 0, 0, make([]byte, 4))...)
		block = append(block, frameBytes(2, 0, id, make([]byte, 5))...)
		if i%2 == 0 { // every other one is withdrawn: answers pay for it
			block = append(block, frameBytes(frameReset, 0, id, make([]byte, 4))...)
		}
		if e := a.receive(block); e.flood != "" {
			t.Fatalf("request %d: %s", i, e.flood)
		}
		if i%2 == 1 {
			a.send(append(frameBytes(frameHeaders, flagEndHeaders, id, make([]byte, 20)), frameBytes(frameData, flagEndStream, id, make([]byte, 1024))...))
		}
	}
	if len(a.waiting) != 1 || len(a.bodies) != 1 { // of the first
		t.Errorf("%d streams wait, %d have bodies", len(a.waiting), len(a.bodies))
	}
}

func TestResponsesAreCountedOnce(t *testing.T) {
	a := account()
	a.receive(traffic(3))
	a.send(frameBytes(frameHeaders, flagEndHeaders, 1, make([]byte, 9))) // 103
	a.send(frameBytes(frameHeaders, flagEndHeaders, 1, make([]byte, 9)))
	a.send(frameBytes(frameHeaders, flagEndHeaders|flagEndStream, 1, nil)) // trailers
	a.send(frameBytes(frameReset, 0, 1, make([]byte, 4)))
	a.send(frameBytes(frameReset, 0, 3, make([]byte, 4)))
	a.send(frameBytes(frameHeaders, flagEndHeaders, 99, nil)) // of nobody
	if a.answered != 2 || len(a.waiting) != 1 {
		t.Errorf("%d answered, %d wait", a.answered, len(a.waiting))
	}
}

func TestBodiesHoldMemoryUntilTheyEnd(t *testing.T) {
	a := account()
	a.receive([]byte(preface))
	a.receive(frameBytes(frameHeaders, flagEndHeaders, 1, nil))
	var held int64
	for i, want := range []int64{bodyChunk, bodyChunk + 1000, bodyChunk + 2000} {
		if held += a.receive(frameBytes(frameData, 0, 1, make([]byte, 1000))).body; held != want {
			t.Errorf("after frame %d: %d held, want %d", i, held, want)
		}
	}
	for range 10 {
		held += a.receive(frameBytes(frameData, 0, 1, make([]byte, frameLarge))).body
	}
	if held != bodyWindow {
		t.Errorf("%d held, more than a client may send ahead", held)
	}
	if e := a.send(frameBytes(frameData, flagEndStream, 1, nil)); e.bodies != held {
		t.Errorf("%d of %d come back", e.bodies, held)
	}
	if e := a.send(frameBytes(frameReset, 0, 1, make([]byte, 4))); e.bodies != 0 {
		t.Error("twice")
	}
}

// However the bytes are cut, the same frames are found and the same is decided.
func TestCutsChangeNothing(t *testing.T) {
	whole := traffic(20)
	whole = append(whole, bytes.Repeat(frameBytes(6, 0, 0, make([]byte, 8)), purseControls)...)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		a := account()
		var flood string
		var head, body int64
		for rest := whole; len(rest) > 0 && flood == ""; {
			n := min(1+rnd.IntN(40), len(rest))
			e := a.receive(rest[:n])
			flood, head, body, rest = e.flood, head+e.head, body+e.body, rest[n:]
		}
		if flood != "too many frames that are about no request" || head != 20*60*(textGrowth+fieldMemory) || body != 20*(bodyChunk+3000) || a.last != 39 {
			t.Fatalf("%q, %d bytes of heads, %d of bodies, last %d", flood, head, body, a.last)
		}
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(traffic(3), []byte{}, uint16(7))
	f.Add([]byte("GET / HTTP/1.1"), []byte{0, 0, 0, 7}, uint16(1))
	f.Add(append([]byte(preface), frameBytes(frameData, flagPadded, 1, []byte{0})...), frameBytes(frameGoAway, 0, 0, make([]byte, 8)), uint16(3))
	f.Fuzz(func(t *testing.T, in, out []byte, cut uint16) {
		one, many := account(), account()
		many.clock = one.clock
		e := one.receive(in)
		var flood string
		var sum effect
		for rest := in; len(rest) > 0 && flood == ""; {
			n := min(int(cut)+1, len(rest))
			x := many.receive(rest[:n])
			flood, rest = x.flood, rest[n:]
			sum.head, sum.body, sum.bodies = sum.head+x.head, sum.body+x.body, sum.bodies+x.bodies
			sum.heads, sum.withdrawn = sum.heads+x.heads, sum.withdrawn+x.withdrawn
		}
		if e.flood != flood || e.flood == "" && (e.head != sum.head || e.body != sum.body || e.bodies != sum.bodies || e.heads != sum.heads || e.withdrawn != sum.withdrawn) {
			t.Errorf("whole: %+v; in pieces: %q %+v", e, flood, sum)
		}
		held := int64(0)
		for _, h := range one.heads {
			held += h.memory
		}
		if e.flood == "" && e.head != e.heads+e.withdrawn+held {
			t.Errorf("%+v, and %d are held", e, held)
		}
		if e.body < e.bodies || len(one.waiting) > purseResets+2*32+1 || one.in.have > len(one.in.head) {
			t.Errorf("%+v, %d wait", e, len(one.waiting))
		}
		before := int64(0)
		for _, n := range one.bodies {
			before += n
		}
		if x := one.send(out); x.bodies > before || x.heads > held || x.withdrawn != 0 || one.answered < 0 {
			t.Errorf("%+v come back of %d and %d", x, held, before)
		}
	})
}
