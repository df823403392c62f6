package unikernel

import (
	"fmt"
	"math"
	"time"

	"lorica.dev/lorica/abi/route"
)

// Frames of HTTP/2 (RFC 9113, section 6), as far as the count of them needs.
const (
	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	frameGoAway       = 7
	frameWindow       = 8
	frameContinuation = 9

	flagEndStream  = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8

	frameHead = 9
	preface   = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

// A frame is the head of a frame; pad is the padding of a DATA frame.
type frame struct {
	length uint32
	kind   byte
	flags  byte
	stream uint32
	pad    byte
	last   uint32 // of GOAWAY: the highest stream that is answered
	code   uint32 // of GOAWAY
}

// A scanner finds the frames in what passes, however it is cut.
type scanner struct {
	head [frameHead + 8]byte
	have int
	left uint32 // of the payload
}

// need is how many bytes from the head on must be there to say what a frame is.
func (s *scanner) need() int {
	n := frameHead
	if s.have >= frameHead {
		switch length := s.length(); {
		case s.head[3] == frameData && s.head[4]&flagPadded != 0:
			n += int(min(length, 1))
		case s.head[3] == frameGoAway:
			n += int(min(length, 8))
		}
	}
	return n
}

func (s *scanner) length() uint32 {
	return uint32(s.head[0])<<16 | uint32(s.head[1])<<8 | uint32(s.head[2])
}

func be32(b []byte) uint32 {
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

// within reports whether a frame has begun and not ended.
func (s *scanner) within() bool { return s.have > 0 || s.left > 0 }

// scan calls each for every frame whose head is complete.
func (s *scanner) scan(p []byte, each func(frame)) {
	for len(p) > 0 {
		if s.left > 0 {
			n := min(uint32(len(p)), s.left)
			p, s.left = p[n:], s.left-n
			continue
		}
		n := copy(s.head[s.have:s.need()], p)
		p, s.have = p[n:], s.have+n
		if s.have < frameHead || s.have < s.need() {
			continue
		}
		f := frame{length: s.length(), kind: s.head[3], flags: s.head[4], stream: be32(s.head[5:]) &^ (1 << 31)}
		switch {
		case s.have > frameHead && f.kind == frameData:
			f.pad = s.head[frameHead]
		case s.have == frameHead+8:
			f.last, f.code = be32(s.head[frameHead:])&^(1<<31), be32(s.head[frameHead+4:])
		}
		s.left = f.length - uint32(s.have-frameHead)
		s.have = 0
		each(f)
	}
}

// A purse is what a client may spend on frames that ask for no work worth its
// cost. Work that was done fills it again.
type purse struct{ left, most int }

func (p *purse) spend() bool { p.left--; return p.left >= 0 }
func (p *purse) earn(n int)  { p.left = min(p.left+n, p.most) }

// Purses at the start. Honest clients stay far below: they cancel few requests
// of those that they make, and acknowledge what they read.
const (
	purseResets   = 128 // requests withdrawn or refused, for one that was answered
	purseControls = 256 // SETTINGS, PING, PRIORITY, unknown; 4 for an answer, 1 a second, 1 for 4 KiB
	purseWindows  = 512 // WINDOW_UPDATE; 2 for an answer, 1 for 512 bytes sent
	purseEmpties  = 64  // DATA without data or padded; 1 for an answer, 1 for 4 KiB received
	purseGrowth   = 4   // a purse holds no more than this many times its start
)

func newPurse(n int) purse { return purse{n, purseGrowth * n} }

// An accountant follows the frames of one connection, in both directions, and
// says when its client costs more than it may: by withdrawing its requests
// (CVE-2023-44487) or making the server refuse them (CVE-2025-8671), by header
// blocks without an end (CVE-2023-45288), by frames that carry nothing
// (CVE-2019-9512, 9515, 9518). It trusts neither side and decodes no header.
type accountant struct {
	limits route.Limits

	in, out scanner
	preface int // bytes of it that were seen

	resets, controls, windows, empties purse
	received, sent                     uint64 // bytes of DATA
	clock                              time.Time

	block  uint32 // bytes of the last header block
	frames int    // of it
	within bool   // a header block is open
	fresh  bool   // it is a request, not trailers

	last    uint32              // highest stream of the client
	final   uint32              // highest stream that the server will answer
	ignored uint32              // a stream beyond that, whose header block was last; 0: none
	waiting map[uint32]struct{} // streams without an answer
	heads   []heldHead          // of streams that wait and are not known to the chain, oldest first
	open    map[uint32]struct{} // streams whose response has not gone
	bodies  map[uint32]int64    // memory for their bodies

	answered int // streams with a response, or a reset by the server
}

// A heldHead is the memory for the header block of a stream.
type heldHead struct {
	stream uint32
	memory int64
}

func newAccountant(l route.Limits) *accountant {
	return &accountant{limits: l, resets: newPurse(max(purseResets, 2*int(l.MaxStreams))), controls: newPurse(purseControls),
		windows: newPurse(purseWindows), empties: newPurse(purseEmpties), clock: time.Now(),
		final: math.MaxUint32, waiting: make(map[uint32]struct{}), open: make(map[uint32]struct{}), bodies: make(map[uint32]int64)}
}

// Bounds of a header block beyond what its client was told: net/http answers
// what is little too large, the connection ends at what is absurd.
const (
	blockSlack  = 16 << 10
	blockFrames = 8
	frameLarge  = 16 << 10 // that the server announces, and the least there is
)

// What comes of a frame.
type effect struct {
	flood     string // why the connection ends; empty: it does not
	fault     string // why the server ends it by itself
	head      int64  // memory for the header block of a request that comes next
	body      int64  // memory for a body that comes next
	heads     int64  // memory for heads that is free again
	withdrawn int64  // memory for heads of requests that the client withdrew
	bodies    int64  // memory for bodies that is free again
}

// receive counts what the client sent. It returns at the first flood.
func (a *accountant) receive(p []byte) (e effect) {
	if n := len(preface) - a.preface; n > 0 && len(p) > 0 {
		n = min(n, len(p))
		if string(p[:n]) != preface[a.preface:a.preface+n] {
			return effect{flood: "the connection does not begin as HTTP/2 must"}
		}
		a.preface += n
		p = p[n:]
	}
	a.in.scan(p, func(f frame) {
		if e.flood == "" {
			a.frameIn(f, &e)
		}
	})
	return e
}

func (a *accountant) frameIn(f frame, e *effect) {
	if f.length > frameLarge {
		e.flood = fmt.Sprintf("a frame has %d bytes", f.length)
		return
	}
	if a.within != (f.kind == frameContinuation) {
		e.flood = "frames of a header block are apart from each other"
		return
	}
	if a.ignored > 0 && !a.within { // net/http has dropped its block by now
		e.heads += a.known(a.ignored)
		a.ignored = 0
	}
	switch f.kind {
	case frameHeaders:
		a.within, a.block, a.frames = f.flags&flagEndHeaders == 0, f.length, 1
		if a.fresh = f.stream > a.last; a.fresh {
			a.last = f.stream
			e.head += a.hold(f.stream, f.length)
			if f.stream <= a.final {
				a.waiting[f.stream], a.open[f.stream] = struct{}{}, struct{}{}
			} else if a.ignored = f.stream; !a.controls.spend() {
				e.flood = "too many requests after the last one"
			}
		}
		if len(a.waiting) > purseResets+2*int(a.limits.MaxStreams) {
			e.flood = "too many requests at once"
		}
	case frameContinuation:
		a.block, a.frames = a.block+f.length, a.frames+1
		a.within = f.flags&flagEndHeaders == 0
		if a.fresh {
			e.head += a.hold(a.last, f.length)
		}
		if a.block > a.limits.MaxHeaderBytes+blockSlack {
			e.flood = fmt.Sprintf("a header block has more than %d bytes", a.limits.MaxHeaderBytes+blockSlack)
		} else if most := blockFrames + int(a.limits.MaxHeaderBytes/(8<<10)); a.frames > most {
			e.flood = fmt.Sprintf("a header block has more than %d frames", most)
		}
	case frameData:
		a.data(f, e)
	case frameReset:
		if _, ok := a.waiting[f.stream]; ok {
			delete(a.waiting, f.stream)
			e.withdrawn += a.known(f.stream)
		}
		a.end(f.stream, e)
		if !a.resets.spend() {
			e.flood = "too many requests are withdrawn"
		}
	case frameWindow:
		if !a.windows.spend() {
			e.flood = "too many WINDOW_UPDATE frames"
		}
	default:
		now := time.Now()
		if s := int(now.Sub(a.clock) / time.Second); s > 0 {
			a.clock = now
			a.controls.earn(s)
		}
		if !a.controls.spend() {
			e.flood = "too many frames that are about no request"
		}
	}
}

// Memory for the body of a request, until it is answered: net/http keeps what
// was not read yet in chunks, and lets a client send this much ahead.
const (
	bodyChunk  = 16 << 10
	bodyWindow = 64 << 10
)

func (a *accountant) data(f frame, e *effect) {
	carried := int64(f.length)
	if f.flags&flagPadded != 0 {
		carried -= int64(f.pad) + 1
	}
	if (carried <= 0 && f.flags&flagEndStream == 0 || f.flags&flagPadded != 0) && !a.empties.spend() {
		e.flood = "too many DATA frames without data"
	}
	n := crossed(&a.received, f.length, 4<<10)
	a.empties.earn(n)
	a.controls.earn(n)
	if f.length == 0 || f.stream > min(a.last, a.final) {
		return
	}
	have := a.bodies[f.stream]
	want := min(max(have+int64(f.length), bodyChunk), bodyWindow)
	a.bodies[f.stream] = want
	e.body += want - have
}

// crossed adds n to total and returns how many multiples of unit that passed.
func crossed(total *uint64, n uint32, unit uint64) int {
	before := *total / unit
	*total += uint64(n)
	return int(*total/unit - before)
}

// worst is the most memory that n bytes of a header block can take.
func (a *accountant) worst(n uint32) int64 {
	fields := min(int64(n), int64(a.limits.MaxHeaderBytes)/(fieldOverIts+1)+1)
	return textGrowth*int64(n) + fieldMemory*fields
}

// hold adds n bytes to the header block of a stream and returns their memory.
func (a *accountant) hold(stream, n uint32) int64 {
	memory := a.worst(n)
	if last := len(a.heads) - 1; last >= 0 && a.heads[last].stream == stream {
		a.heads[last].memory += memory
	} else {
		a.heads = append(a.heads, heldHead{stream, memory})
	}
	return memory
}

// known forgets the header block of a stream: its request is known, or never will
// be. It returns the memory.
func (a *accountant) known(stream uint32) int64 {
	for i, h := range a.heads {
		if h.stream == stream {
			a.heads = append(a.heads[:i], a.heads[i+1:]...)
			return h.memory
		}
	}
	return 0
}

// begin notes that a request has reached the chain, and returns the memory for
// its header block. Which stream it is of nobody says: the oldest is taken for it.
func (a *accountant) begin() int64 {
	if len(a.heads) == 0 {
		return 0
	}
	return a.known(a.heads[0].stream)
}

func (a *accountant) end(stream uint32, e *effect) {
	e.bodies += a.bodies[stream]
	delete(a.bodies, stream)
	delete(a.open, stream)
}

// send counts what the server sent.
func (a *accountant) send(p []byte) (e effect) {
	a.out.scan(p, func(f frame) {
		switch f.kind {
		case frameHeaders, frameReset:
			if _, ok := a.waiting[f.stream]; ok {
				delete(a.waiting, f.stream)
				e.heads += a.known(f.stream)
				a.answered++
				a.earn(f.kind, &e)
			}
		case frameData:
			before := a.sent
			a.windows.earn(crossed(&a.sent, f.length, 512))
			a.controls.earn(crossed(&before, f.length, 4<<10))
		case frameGoAway:
			a.leave(f.last, &e)
			if f.code != 0 {
				e.fault = fmt.Sprintf("broken off with error %d of HTTP/2", f.code)
			}
		}
		if f.kind == frameReset || (f.kind == frameHeaders || f.kind == frameData) && f.flags&flagEndStream != 0 {
			a.end(f.stream, &e)
		}
	})
	return e
}

// leave notes that the server reads past streams beyond the last one.
func (a *accountant) leave(last uint32, e *effect) {
	a.final = min(a.final, last)
	for stream := range a.waiting {
		if stream > a.final {
			delete(a.waiting, stream)
			e.heads += a.known(stream)
		}
	}
	for stream := range a.open {
		if stream > a.final {
			a.end(stream, e)
		}
	}
}

func (a *accountant) earn(kind byte, e *effect) {
	if kind == frameReset {
		if !a.resets.spend() {
			e.flood = "too many requests that must be refused"
		}
		return
	}
	a.resets.earn(1)
	a.controls.earn(4)
	a.windows.earn(2)
	a.empties.earn(1)
}
