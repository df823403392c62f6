package kernel

// Descriptors: the console, and what the runtime's network poller needs: one epoll
// instance, event counters, and interrupts, which are event counters that devices
// raise. There are no files and no sockets.

const (
	fdFree = iota
	fdEpoll
	fdEvent
	fdInterrupt
)

const (
	maxFDs  = 64
	firstFD = 3 // below: standard input (empty), output and error (the console)

	fcntlGetFlags = 3
	flagNonblock  = 0x800 // O_NONBLOCK
	flagReadWrite = 2     // O_RDWR

	epollAdd, epollDelete, epollModify = 1, 2, 3
	epollIn                            = 1
	epollEdge                          = 1 << 31
	epollSize                          = 12 // struct epoll_event is packed on amd64
)

type descriptor struct {
	kind    uint64
	count   uint64 // events since it was read
	fresh   uint64 // an event has come since epoll reported one
	watched uint64
	events  uint64 // asked for
	data    uint64 // to report
	regs    uint64 // of the virtio device whose interrupt it is
	pin     uint64
}

var descriptors [maxFDs]descriptor

//go:nosplit
func newFD(kind uint64) uint64 {
	for i := firstFD; i < maxFDs; i++ {
		if d := &descriptors[i]; d.kind == fdFree {
			*d = descriptor{kind: kind}
			return uint64(i)
		}
	}
	return fail(eMFILE)
}

//go:nosplit
func sysEpollCreate() uint64 {
	for i := firstFD; i < maxFDs; i++ {
		if descriptors[i].kind == fdEpoll {
			return fail(eMFILE) // there is one poller
		}
	}
	return newFD(fdEpoll)
}

//go:nosplit
func isFD(fd, kind uint64) bool {
	return fd >= firstFD && fd < maxFDs && descriptors[fd].kind >= kind && descriptors[fd].kind != fdFree
}

//go:nosplit
func sysClose(fd uint64) uint64 {
	if fd < firstFD {
		return 0
	}
	if !isFD(fd, fdEpoll) {
		return fail(eBADF)
	}
	if d := &descriptors[fd]; d.kind == fdInterrupt {
		unroute(d.pin)
	}
	descriptors[fd].kind = fdFree
	return 0
}

//go:nosplit
func sysFcntl(fd, command uint64) uint64 {
	switch {
	case fd >= firstFD && !isFD(fd, fdEpoll):
		return fail(eBADF)
	case command == fcntlGetFlags && fd >= firstFD:
		return flagNonblock | flagReadWrite
	case command == fcntlGetFlags:
		return flagReadWrite
	}
	return 0
}

//go:nosplit
func sysRead(fd, p, n uint64) uint64 {
	switch {
	case fd == 0:
		return 0
	case !isFD(fd, fdEvent):
		return fail(eBADF)
	case n < 8:
		return fail(eINVAL)
	}
	d := &descriptors[fd]
	if d.count == 0 {
		return fail(eAGAIN)
	}
	st(p, d.count)
	d.count = 0
	return 8
}

//go:nosplit
func sysWrite(fd, p, n uint64) uint64 {
	if fd == 1 || fd == 2 {
		for i := uint64(0); i < n; i++ {
			putc(ld8(p + i))
		}
		return n
	}
	if !isFD(fd, fdEvent) || descriptors[fd].kind != fdEvent {
		return fail(eBADF)
	}
	raise(fd)
	return n
}

// raise counts an event and wakes who polls.
//
//go:nosplit
func raise(fd uint64) {
	d := &descriptors[fd]
	d.count++
	d.fresh = 1
	if d.watched == 0 || pollers.head == 0 {
		return
	}
	t := threadAt(pollers.head)
	ready(t)
	t.state = threadPolling // collects when it runs
}

//go:nosplit
func sysEpollCtl(op, fd, event uint64) uint64 {
	if !isFD(fd, fdEvent) {
		return fail(ePERM)
	}
	d := &descriptors[fd]
	switch op {
	case epollAdd, epollModify:
		d.events, d.data = uint64(ld32(event)), ld(event+4)
		d.watched, d.fresh = 1, 1
	case epollDelete:
		d.watched = 0
	default:
		return fail(eINVAL)
	}
	return 0
}

// collect stores what has happened as struct epoll_event.
//
//go:nosplit
func collect(buf, limit uint64) (n uint64) {
	for i := firstFD; i < maxFDs && n < limit; i++ {
		d := &descriptors[i]
		if d.kind >= fdEvent && d.watched != 0 && d.count > 0 && (d.events&epollEdge == 0 || d.fresh != 0) {
			d.fresh = 0
			st32(buf+n*epollSize, epollIn)
			st(buf+n*epollSize+4, d.data)
			n++
		}
	}
	return n
}

//go:nosplit
func sysEpollWait(t *thread, buf, limit uint64, ms int64) (r uint64, blocked bool) {
	if limit == 0 || limit > maxFDs {
		limit = maxFDs
	}
	if n := collect(buf, limit); n > 0 || ms == 0 {
		return n, false
	}
	if !areas.allows(buf, buf+limit*epollSize, protWrite) && !(buf >= image.start && buf+limit*epollSize <= imageEnd) {
		return fail(eFAULT), false
	}
	deadline := uint64(never)
	if ms > 0 {
		deadline = nanotime() + uint64(ms)*millisecond
	}
	t.events, t.limit = buf, limit
	wait(t, threadPolling, &pollers, deadline)
	return 0, true
}
