package kernel

import "unsafe"

// Threads. Each has a page of its own: registers, state, and the area of XSAVE. To
// block is to put the current thread on a queue and to call schedule; it goes on
// when someone else has put it back on the run queue. Addresses of threads are kept
// as numbers: pointers would need write barriers.

// Registers of a thread, in the order of the pushes in entry_amd64.s.
const (
	regR15 = iota
	regR14
	regR13
	regR12
	regR11
	regR10
	regR9
	regR8
	regDI
	regSI
	regBP
	regBX
	regDX
	regCX
	regAX
	regVector
	regCode
	regIP
	regCS
	regFlags
	regSP
	regSS
	registers
)

// vecSyscall is the "vector" of a thread that is in a system call.
const vecSyscall = 256

const (
	threadXSAVE = 512 // offset of the XSAVE area, which needs 64 bytes of alignment
	xsaveRoom   = pageSize - threadXSAVE
	maxThreads  = 1024
)

// What a thread is doing.
const (
	threadFree = iota
	threadReady
	threadRunning
	threadFutex
	threadSleeping
	threadPolling
)

// never is a deadline that does not come.
const never = 1<<63 - 1

type thread struct {
	reg      [registers]uint64
	vectors  uint64 // the XSAVE area is to be restored too
	fs       uint64 // base of FS: thread-local storage
	id       uint64
	state    uint64
	queue    uint64 // address of the queue it is on, or 0
	next     uint64 // on that queue
	prev     uint64
	deadline uint64 // in ns, or never
	later    uint64 // the next thread with a deadline
	earlier  uint64
	futex    uint64 // address it waits on
	events   uint64 // buffer of epoll_pwait
	limit    uint64 // events that it has room for
	altStack uint64
	altSize  uint64
	mask     uint64 // blocked signals
	pending  uint64 // sent signals
}

const _ = threadXSAVE - unsafe.Sizeof(thread{}) // it does not reach into the area

// A queue of threads, first come, first served.
type queue struct{ head, tail uint64 }

const futexQueues = 64

var (
	current     uint64 // the running thread
	currentFS   uint64
	callerSP    uint64
	inKernel    uint64 = 1
	runQueue    queue
	futexes     [futexQueues]queue
	pollers     queue
	freeThreads queue
	timed       uint64 // threads with a deadline, in no order
	nextWake    uint64 = never
	threads     uint64 // that ever existed
)

//go:nosplit
func threadAt(a uint64) *thread { return (*thread)(at(a)) }

//go:nosplit
func (t *thread) address() uint64 { return addr(unsafe.Pointer(t)) }

//go:nosplit
func (q *queue) push(t *thread) {
	a := t.address()
	t.queue = addr(unsafe.Pointer(q))
	t.next, t.prev = 0, q.tail
	if q.tail == 0 {
		q.head = a
	} else {
		threadAt(q.tail).next = a
	}
	q.tail = a
}

// leave takes t from the queue it is on.
//
//go:nosplit
func (t *thread) leave() {
	if t.queue == 0 {
		return
	}
	q := (*queue)(at(t.queue))
	if t.prev == 0 {
		q.head = t.next
	} else {
		threadAt(t.prev).next = t.next
	}
	if t.next == 0 {
		q.tail = t.prev
	} else {
		threadAt(t.next).prev = t.prev
	}
	t.queue = 0
}

//go:nosplit
func setDeadline(t *thread, d uint64) {
	if t.deadline != never {
		if t.earlier == 0 {
			timed = t.later
		} else {
			threadAt(t.earlier).later = t.later
		}
		if t.later != 0 {
			threadAt(t.later).earlier = t.earlier
		}
	}
	t.deadline = d
	if d == never {
		return
	}
	t.later, t.earlier = timed, 0
	if timed != 0 {
		threadAt(timed).earlier = t.address()
	}
	timed = t.address()
	nextWake = min(nextWake, d)
}

// ready makes t runnable; what its call returns is set by then.
//
//go:nosplit
func ready(t *thread) {
	t.leave()
	if t.deadline != never {
		setDeadline(t, never)
	}
	t.state = threadReady
	runQueue.push(t)
}

// wait puts the current thread to sleep; schedule must follow.
//
//go:nosplit
func wait(t *thread, state uint64, q *queue, deadline uint64) {
	t.state = state
	if q != nil {
		q.push(t)
	}
	setDeadline(t, deadline)
}

// wakeExpired makes every thread ready whose deadline has come.
//
//go:nosplit
func wakeExpired(now uint64) {
	if now < nextWake {
		return
	}
	first := uint64(never)
	for a := timed; a != 0; {
		t := threadAt(a)
		a = t.later
		if t.deadline > now {
			first = min(first, t.deadline)
			continue
		}
		t.reg[regAX] = 0
		if t.state == threadFutex {
			t.reg[regAX] = fail(eTIMEDOUT)
		}
		ready(t)
	}
	nextWake = first
}

// schedule makes a ready thread the current one, and waits until there is one.
//
//go:nosplit
func schedule() {
	for {
		now := nanotime()
		wakeExpired(now)
		if runQueue.head != 0 {
			break
		}
		armTimer(now)
		idle()
	}
	t := threadAt(runQueue.head)
	t.leave()
	if t.state == threadPolling {
		// Events are collected here and not where they happen: the buffer may be touched
		// for the first time, and an interrupt must not fault.
		t.reg[regAX] = collect(t.events, t.limit)
	}
	t.state = threadRunning
	if a := t.address(); a != current {
		threadAt(current).fs = currentFS
		current = a
		if t.fs != currentFS {
			setFS(t.fs)
		}
	}
}

//go:nosplit
func setFS(v uint64) {
	currentFS = v
	wrmsr(msrFSBase, v)
}

// newThread returns nil where there are too many. Where memory is used up it ends the
// machine, as any other need of a page does: the runtime would end it by a trace of all
// goroutines, and a code that says nothing of memory.
//
//go:nosplit
func newThread() *thread {
	if a := freeThreads.head; a != 0 {
		t := threadAt(a)
		t.leave()
		id := t.id
		zeroPage(a)
		t.id, t.deadline = id, never
		return t
	}
	if threads == maxThreads {
		return nil
	}
	if freePages <= reserve {
		die(exitMemory, "out of memory: no page is left for thread ", threads+1)
	}
	a := threadBase + threads*pageSize
	if !mapNew(a) {
		return nil
	}
	threads++
	t := threadAt(a)
	t.id, t.deadline = threads, never
	return t
}

// Flags of clone: Linux, include/uapi/linux/sched.h.
const (
	cloneVM, cloneThread, cloneSetTLS = 0x100, 0x1_0000, 0x8_0000
)

//go:nosplit
func sysClone(t *thread, flags, stack, tls uint64) uint64 {
	if flags&(cloneVM|cloneThread) != cloneVM|cloneThread || flags&cloneSetTLS != 0 && tls >= userEnd {
		return fail(eINVAL) // a process, or a base of FS that the processor does not take
	}
	n := newThread()
	if n == nil {
		return fail(eAGAIN)
	}
	n.reg = t.reg
	n.reg[regAX] = 0
	n.reg[regSP] = stack
	n.fs = currentFS
	if flags&cloneSetTLS != 0 {
		n.fs = tls
	}
	n.mask = t.mask
	ready(n)
	return n.id
}

//go:nosplit
func sysExit(t *thread) {
	t.state = threadFree
	freeThreads.push(t)
}

// Futex operations: Linux, include/uapi/linux/futex.h.
const (
	futexWait, futexWake = 0, 1
	futexCommand         = 0x7f // without FUTEX_PRIVATE_FLAG and the like
)

//go:nosplit
func futexQueue(a uint64) *queue { return &futexes[a>>2%futexQueues] }

// sysFutex reports blocked where the thread now waits.
//
//go:nosplit
func sysFutex(t *thread, a, op, v, timeout uint64) (r uint64, blocked bool) {
	switch op & futexCommand {
	case futexWait:
		if ld32(a) != uint32(v) {
			return fail(eAGAIN), false
		}
		deadline := uint64(never)
		if timeout != 0 {
			deadline = after(timeout)
		}
		t.futex = a
		wait(t, threadFutex, futexQueue(a), deadline)
		return 0, true
	case futexWake:
		n := uint64(0)
		for w := futexQueue(a).head; w != 0 && n < v; {
			t := threadAt(w)
			w = t.next
			if t.futex == a {
				t.reg[regAX] = 0
				ready(t)
				n++
			}
		}
		return n, false
	}
	return fail(eNOSYS), false
}

// after returns the deadline that lies the time in a timespec from now.
//
//go:nosplit
func after(timespec uint64) uint64 {
	s, ns := ld(timespec), ld(timespec+8)
	if s >= never/second || ns >= second {
		return never
	}
	return min(nanotime()+s*second+ns, never)
}
