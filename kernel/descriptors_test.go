package kernel

import (
	"slices"
	"testing"
)

// A poller has two counters: one reported as long as there is something (1), the other
// when something has come (2).
type poller struct {
	t            *testing.T
	thread       *thread
	buf          []byte
	level, edges uint64
}

func newPoller(t *testing.T) *poller {
	list := newThreads(t, 1)
	t.Cleanup(func() { descriptors = [maxFDs]descriptor{} })
	p := &poller{t: t, thread: list[0], buf: make([]byte, 8*epollSize)}
	image.start, imageEnd = addrOf(p.buf), addrOf(p.buf)+uint64(len(p.buf)) // where waiting for events may store them
	if fd := sysEpollCreate(); fd != firstFD {
		t.Fatalf("descriptor %d", int64(fd))
	}
	if fd := sysEpollCreate(); fd != fail(eMFILE) {
		t.Errorf("a second poller: %d", int64(fd))
	}
	p.level, p.edges = newFD(fdEvent), newFD(fdEvent)
	p.control(epollAdd, p.level, epollIn, 1)
	p.control(epollAdd, p.edges, epollIn|epollEdge, 2)
	return p
}

func (p *poller) control(op, fd, events, data uint64) {
	p.t.Helper()
	event := make([]byte, epollSize)
	st32(addrOf(event), uint32(events))
	st(addrOf(event)+4, data)
	if r := sysEpollCtl(op, fd, addrOf(event)); r != 0 {
		p.t.Fatalf("epoll_ctl: %d", int64(r))
	}
}

func (p *poller) wait(ms int64) (r uint64, blocked bool) {
	return sysEpollWait(p.thread, addrOf(p.buf), 8, ms)
}

// reports says what epoll_wait must find without waiting.
func (p *poller) reports(when string, want ...uint64) {
	p.t.Helper()
	n, blocked := p.wait(0)
	p.holds(when, n, want...)
	if blocked {
		p.t.Errorf("%s: it waits", when)
	}
}

func (p *poller) holds(when string, n uint64, want ...uint64) {
	p.t.Helper()
	var got []uint64
	for i := range min(n, 8) {
		got = append(got, ld(addrOf(p.buf)+i*epollSize+4))
	}
	if !slices.Equal(got, want) {
		p.t.Errorf("%s: %d events, of %v, want %v", when, int64(n), got, want)
	}
}

func (p *poller) reads(fd, n, want, count uint64) {
	p.t.Helper()
	b := make([]byte, 16)
	if r := sysRead(fd, addrOf(b), n); r != want || ld(addrOf(b)) != count {
		p.t.Errorf("read: %d, and a count of %d; want %d and %d", int64(r), ld(addrOf(b)), int64(want), count)
	}
}

func TestEvents(t *testing.T) {
	p := newPoller(t)
	p.reports("nothing has come")
	raise(p.level)
	p.reports("one has come", 1)
	p.reports("it is still there", 1)
	p.reads(p.level, 7, fail(eINVAL), 0)
	p.reads(p.level, 8, 8, 1)
	p.reports("it was read")
	p.reads(p.level, 8, fail(eAGAIN), 0)

	sysWrite(p.edges, 0, 8)
	sysWrite(p.edges, 0, 8)
	p.reports("two have come to an edge", 2)
	p.reports("it was told")
	raise(p.edges)
	p.reports("another has come", 2)
	p.reads(p.edges, 8, 8, 3)
	raise(p.level)
	raise(p.edges)
	p.reports("both", 1, 2)
	p.control(epollDelete, p.level, 0, 0)
	p.reports("nobody asks for it any more")
	p.control(epollAdd, p.level, epollIn, 3)
	p.reports("somebody asks again", 3)
	if sysClose(p.level) != 0 || sysClose(p.level) != fail(eBADF) {
		t.Error("close")
	}
	p.reports("it is closed")
}

// TestNoWakeIsLost: what comes before somebody waits, while one waits, and after he was
// woken and before he runs.
func TestNoWakeIsLost(t *testing.T) {
	p := newPoller(t)
	raise(p.edges)
	if n, blocked := p.wait(-1); blocked {
		t.Error("it waits for what has come")
	} else {
		p.holds("before", n, 2)
	}
	if _, blocked := p.wait(-1); !blocked || pollers.head != p.thread.address() {
		t.Fatal("it does not wait")
	}
	raise(p.edges)
	raise(p.level)
	if got := runQueue.list(); len(got) != 1 || pollers.head != 0 || p.thread.state != threadPolling {
		t.Fatalf("%v are ready, in state %d", got, p.thread.state)
	}
	take1(&runQueue)
	p.holds("woken", collect(p.thread.events, p.thread.limit), 1, 2)
	p.reads(p.level, 8, 8, 1)

	if _, blocked := p.wait(5); !blocked {
		t.Fatal("it does not wait")
	}
	p.thread.reg[regAX] = 77
	wakeExpired(p.thread.deadline - 1)
	if runQueue.head != 0 {
		t.Error("woken before its time")
	}
	wakeExpired(p.thread.deadline)
	if got := runQueue.list(); len(got) != 1 || p.thread.reg[regAX] != 0 || p.thread.state != threadReady {
		t.Errorf("%v are ready, in state %d, with %d", got, p.thread.state, p.thread.reg[regAX])
	}
	take1(&runQueue)
	if r, blocked := sysEpollWait(p.thread, 0x1234_5678_9000, 8, -1); r != fail(eFAULT) || blocked {
		t.Errorf("a buffer that is none: %d", int64(r))
	}
}
