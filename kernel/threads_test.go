package kernel

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// newThreads makes n threads of the arena, each of them the current one in turn.
func newThreads(t *testing.T, n int) []*thread {
	t.Helper()
	newArena(t, n+64)
	nsPerTick, firstTSC = 1<<32, rdtsc()
	t.Cleanup(func() {
		runQueue, pollers, freeThreads, futexes = queue{}, queue{}, queue{}, [futexQueues]queue{}
		timed, nextWake, nsPerTick, firstTSC, lastTSC = 0, never, 0, 0, 0
	})
	var list []*thread
	for i := range n {
		th := threadAt(direct + allocPage())
		th.id, th.deadline, th.state = uint64(i+1), never, threadRunning
		list = append(list, th)
	}
	return list
}

func (q *queue) list() (ids []uint64) {
	last := uint64(0)
	for a := q.head; a != 0; a = threadAt(a).next {
		if threadAt(a).prev != last {
			panic("a queue is not linked back")
		}
		last = a
		ids = append(ids, threadAt(a).id)
	}
	if q.tail != last {
		panic("the tail of a queue is not its last")
	}
	return ids
}

func take1(q *queue) *thread {
	t := threadAt(q.head)
	t.leave()
	t.state = threadRunning
	return t
}

// TestFutexes runs threads through waits, wakes and timeouts in a random order, and
// holds them to lists kept beside.
func TestFutexes(t *testing.T) {
	const words = 6
	r := rand.New(rand.NewPCG(1, 2))
	free := newThreads(t, 40)
	word := make([]byte, words*4)
	waiting := map[uint64][]*thread{} // by address, in order
	deadlines := map[*thread]uint64{}
	now := uint64(1 << 40) // far behind nanotime, which only orders what is given to sysFutex
	for step := range 20_000 {
		a := addrOf(word) + r.Uint64N(words)*4
		switch r.IntN(4) {
		case 0, 1:
			if len(free) == 0 {
				continue
			}
			th := free[0]
			free = free[1:]
			if r, blocked := sysFutex(th, a, futexWait|128, 1, 0); blocked || r != fail(eAGAIN) {
				t.Fatalf("waits %v although the word is another: %d", blocked, int64(r))
			}
			if _, blocked := sysFutex(th, a, futexWait|128, 0, 0); !blocked {
				t.Fatal("does not wait")
			}
			waiting[a] = append(waiting[a], th)
			if r.IntN(2) == 0 {
				setDeadline(th, now+r.Uint64N(100))
				deadlines[th] = th.deadline
			}
		case 2:
			n := r.Uint64N(4)
			got, _ := sysFutex(nil, a, futexWake|128, n, 0)
			woken := waiting[a][:min(int(n), len(waiting[a]))]
			if got != uint64(len(woken)) {
				t.Fatalf("step %d: woke %d of %d", step, got, len(woken))
			}
			for _, th := range woken {
				if th.reg[regAX] != 0 {
					t.Fatalf("step %d: woken with %d", step, int64(th.reg[regAX]))
				}
				delete(deadlines, th)
			}
			free = runAll(t, free, slices.Clone(woken))
			waiting[a] = slices.Clone(waiting[a][len(woken):])
		case 3:
			now += r.Uint64N(60)
			wakeExpired(now)
			var expired []*thread
			for th, d := range deadlines {
				if d <= now {
					expired = append(expired, th)
					if th.reg[regAX] != fail(eTIMEDOUT) {
						t.Fatalf("step %d: timed out with %d", step, int64(th.reg[regAX]))
					}
					delete(deadlines, th)
					waiting[th.futex] = slices.DeleteFunc(waiting[th.futex], func(w *thread) bool { return w == th })
				}
			}
			free = runAll(t, free, expired)
			first := uint64(never)
			for _, d := range deadlines {
				first = min(first, d)
			}
			if nextWake > first || nextWake <= now {
				t.Fatalf("step %d: at %d it sleeps until %d, and the first deadline is %d", step, now, nextWake, first)
			}
		}
	}
}

// runAll takes threads from the run queue, which must hold exactly those of want.
func runAll(t *testing.T, free, want []*thread) []*thread {
	t.Helper()
	if got := runQueue.list(); len(got) != len(want) {
		t.Fatalf("%d threads are ready, want %d", len(got), len(want))
	}
	for runQueue.head != 0 {
		th := take1(&runQueue)
		if !slices.Contains(want, th) {
			t.Fatalf("thread %d runs", th.id)
		}
		free = append(free, th)
	}
	return free
}

func TestFirstComeFirstServed(t *testing.T) {
	list := newThreads(t, 5)
	word := make([]byte, 4)
	for _, th := range list {
		sysFutex(th, addrOf(word), futexWait, 0, 0)
	}
	list[2].leave() // from the middle
	for _, n := range []uint64{1, 10} {
		sysFutex(nil, addrOf(word), futexWake, n, 0)
	}
	if got := runQueue.list(); !slices.Equal(got, []uint64{1, 2, 4, 5}) {
		t.Errorf("woken in the order %v", got)
	}
}

// TestFutexesOfOneQueue: addresses that share a queue are still apart.
func TestFutexesOfOneQueue(t *testing.T) {
	list := newThreads(t, 2)
	words := make([]byte, (futexQueues+1)*4)
	a, b := addrOf(words), addrOf(words)+futexQueues*4
	if futexQueue(a) != futexQueue(b) {
		t.Fatal("they share none")
	}
	sysFutex(list[0], a, futexWait, 0, 0)
	sysFutex(list[1], b, futexWait, 0, 0)
	if n, _ := sysFutex(nil, b, futexWake, 10, 0); n != 1 || list[0].state != threadFutex {
		t.Errorf("woke %d", n)
	}
}

// TestTimeSlices: the timer interrupts a thread for another that is ready, and is set again
// in any case.
func TestTimeSlices(t *testing.T) {
	list := newThreads(t, 3)
	apic, ticksPerNS, currentFS = direct+allocPage(), 1<<32, 0
	t.Cleanup(func() { apic, ticksPerNS, armed, current = 0, 0, never, 0 })
	running, sleeping, other := list[0], list[1], list[2]
	current, running.reg[regVector] = running.address(), vecTimer
	wait(sleeping, threadSleeping, nil, nanotime()+1000*second)
	goesOn := func(when string, want *thread) {
		t.Helper()
		armed = nanotime()
		st32(apic+apicInitial, 0)
		trap()
		if current != want.address() || ld32(apic+apicInitial) == 0 || armed == never {
			t.Errorf("%s: thread %d goes on, want %d; the timer is set to %d", when, threadAt(current).id, want.id, ld32(apic+apicInitial))
		}
	}
	goesOn("nobody else is ready", running)
	ready(other)
	goesOn("another is ready", other)
	other.reg[regVector] = vecTimer
	goesOn("the first is ready again", running)
	other.leave()
	running.reg[regVector] = vecTimer
	setDeadline(sleeping, nanotime())
	if goesOn("one has slept enough", sleeping); sleeping.reg[regAX] != 0 {
		t.Errorf("it is told %d", sleeping.reg[regAX])
	}
}

// TestClone: a new thread goes on as the one that made it, with a stack and a base of FS
// of its own, and with nothing of who had its page before.
func TestClone(t *testing.T) {
	list := newThreads(t, 2)
	parent, used := list[0], list[1]
	t.Cleanup(func() { currentFS = 0 })
	const stack, tls, thread = 0x10_0000, 0x20_0000, cloneVM | cloneThread
	for _, c := range []struct{ flags, tls uint64 }{
		{0, 0}, {cloneVM, 0}, {cloneThread, 0}, {17, 0},
		{thread | cloneSetTLS, userEnd}, {thread | cloneSetTLS, direct}, {thread | cloneSetTLS, ^uint64(0)},
	} {
		if r := sysClone(parent, c.flags, stack, c.tls); r != fail(eINVAL) {
			t.Errorf("flags %#x, FS %#x: %d", c.flags, c.tls, int64(r))
		}
	}
	for i := range parent.reg {
		parent.reg[i] = 0x1000 + uint64(i)
	}
	parent.mask, currentFS = testMask, 0x30_0000
	for _, c := range []struct{ flags, fs uint64 }{{thread, 0x30_0000}, {thread | cloneSetTLS, tls}} {
		used.pending, used.altSize, used.vectors, used.mask = 1, 1, 1, 1
		sysExit(used)
		if r := sysClone(parent, c.flags, stack, tls); r != used.id {
			t.Fatalf("it is %d, not thread %d, whose page is free", int64(r), used.id)
		}
		take1(&runQueue)
		want := parent.reg
		want[regAX], want[regSP] = 0, stack
		if used.reg != want || used.fs != c.fs || used.mask != testMask {
			t.Errorf("registers %#x, want %#x; FS %#x, want %#x; mask %#x", used.reg, want, used.fs, c.fs, used.mask)
		}
		if used.pending|used.altSize|used.vectors != 0 || used.deadline != never {
			t.Error("it has something of the one before")
		}
	}
}

// TestDeadlines: no time of a program's makes a deadline of the past.
func TestDeadlines(t *testing.T) {
	for _, c := range []struct{ s, ns, want uint64 }{
		{0, 0, 0},
		{0, 1, 1},
		{3, 999_999_999, 3_999_999_999},
		{0, second, never},
		{never/second - 1, 999_999_999, never/second*second - 1},
		{never / second, 0, never},
		{1 << 63, 0, never},
		{^uint64(0), ^uint64(0), never},
	} {
		timespec := make([]byte, 16)
		st(addrOf(timespec), c.s)
		st(addrOf(timespec)+8, c.ns)
		if got := after(addrOf(timespec)); got != c.want { // it is 0: no clock runs
			t.Errorf("%d s and %d ns: %d, want %d", c.s, c.ns, got, c.want)
		}
	}
}

// TestTimer reads what armTimer tells an APIC of one tick in a nanosecond.
func TestTimer(t *testing.T) {
	list := newThreads(t, 2)
	regs := make([]byte, pageSize)
	apic, ticksPerNS = addrOf(regs), 1<<32
	defer func() { apic, ticksPerNS, armed, nextWake = 0, 0, never, never }()
	const now = 1 << 40
	for _, c := range []struct {
		name     string
		wake     uint64
		runnable bool
		armed    uint64 // before
		want     uint32
	}{
		{"nothing to do", never, false, never, 0},
		{"a deadline", now + 5000, false, never, 5001},
		{"a deadline in the past", now - 5000, false, never, timerMin | 1},
		{"a deadline far off", now + 100*second, false, never, timerMax | 1},
		{"the time slice", never, true, never, timeSlice | 1},
		{"a deadline within the time slice", now + 5000, true, never, 5001},
		{"a time slice before the deadline", now + second, true, never, timeSlice | 1},
		{"what is armed comes first", now + 5000, false, now + 4000, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			st32(apic+apicInitial, 0)
			nextWake, armed = c.wake, c.armed
			if runQueue = (queue{}); c.runnable {
				runQueue.push(list[0])
			}
			armTimer(now)
			if got := ld32(apic + apicInitial); got != c.want {
				t.Errorf("%d ticks, want %d", got, c.want)
			}
		})
	}
}
