package kernel

// System calls: the ones that the Go runtime makes on linux/amd64, and the kernel's
// own. Any other is named once on the console and does not exist.

// Linux: arch/x86/entry/syscalls/syscall_64.tbl.
const (
	nrRead             = 0
	nrWrite            = 1
	nrClose            = 3
	nrMmap             = 9
	nrMprotect         = 10
	nrMunmap           = 11
	nrRtSigaction      = 13
	nrRtSigprocmask    = 14
	nrRtSigreturn      = 15
	nrSchedYield       = 24
	nrMadvise          = 28
	nrNanosleep        = 35
	nrGetpid           = 39
	nrClone            = 56
	nrExit             = 60
	nrUname            = 63
	nrFcntl            = 72
	nrSigaltstack      = 131
	nrPrctl            = 157
	nrArchPrctl        = 158
	nrGettid           = 186
	nrFutex            = 202
	nrSchedGetaffinity = 204
	nrClockGettime     = 228
	nrExitGroup        = 231
	nrEpollWait        = 232
	nrEpollCtl         = 233
	nrTgkill           = 234
	nrOpenat           = 257
	nrReadlinkat       = 267
	nrEpollPwait       = 281
	nrEventfd2         = 290
	nrEpollCreate1     = 291
	nrPrlimit64        = 302
	nrGetrandom        = 318

	// Ours, far from Linux's.
	nrPages     = 0x4c00
	nrRegisters = 0x4c01
	nrInterrupt = 0x4c02
	nrSeal      = 0x4c03
	nrSetClock  = 0x4c04

	maxNamed = 1024 // calls that are named at most once each; the last stands for all above

	archSetFS      = 0x1002 // arch/x86/include/uapi/asm/prctl.h
	clockRealtime  = 0
	threadsAllowed = 1024 // what prlimit64 says of every resource
	utsField       = 65   // struct new_utsname
	utsFields      = 6
)

var (
	sealed bool
	named  [maxNamed / 64]uint64
)

// systemCall runs the call of the current thread.
//
//go:nosplit
func systemCall() {
	t := threadAt(current)
	inCall = true
	r, left := dispatch(t, t.reg[regAX])
	inCall = false
	if left {
		schedule()
	} else {
		t.reg[regAX] = r
	}
	if nextWake < armed || runQueue.head != 0 {
		armTimer(nanotime())
	}
	deliverPending()
}

// dispatch reports left where the thread does not simply go on: it waits, or is gone.
// The switch is compiled into code: there is no table that could be written.
//
//go:nosplit
func dispatch(t *thread, nr uint64) (r uint64, left bool) {
	a, b, c, d := t.reg[regDI], t.reg[regSI], t.reg[regDX], t.reg[regR10]
	if foreign(t, nr, a, b, c, d) {
		return fail(eFAULT), false
	}
	switch nr {
	case nrFutex:
		return sysFutex(t, a, b, c, d)
	case nrEpollPwait, nrEpollWait:
		return sysEpollWait(t, b, c, int64(int32(d)))
	case nrRead:
		return sysRead(a, b, c), false
	case nrWrite:
		return sysWrite(a, b, c), false
	case nrMadvise:
		return sysMadvise(a, b, c), false
	case nrMmap:
		return sysMmap(a, b, c, d), false
	case nrMunmap:
		return sysMunmap(a, b), false
	case nrMprotect:
		return sysMprotect(a, b, c), false
	case nrNanosleep:
		wait(t, threadSleeping, nil, after(a))
		return 0, true
	case nrSchedYield:
		t.reg[regAX] = 0
		ready(t)
		return 0, true
	case nrTgkill:
		return sysTgkill(b, c), false
	case nrRtSigreturn:
		sysSigreturn(t)
		return t.reg[regAX], false
	case nrRtSigaction:
		return sysSigaction(a, b, c), false
	case nrRtSigprocmask:
		return sysSigprocmask(t, a, b, c), false
	case nrSigaltstack:
		return sysSigaltstack(t, a, b), false
	case nrClone:
		return sysClone(t, a, b, t.reg[regR8]), false
	case nrExit:
		sysExit(t)
		return 0, true
	case nrExitGroup:
		exitImage(a)
	case nrGetrandom:
		return sysGetrandom(a, b), false
	case nrClockGettime:
		return sysClockGettime(a, b), false
	}
	return rare(t, nr, a, b, c, d), false
}

// foreign reports whether a call names memory that no program has: the map of all memory,
// with the page tables in it, and the kernel's threads are not for it to write by way of
// the kernel. Where memory begins decides, since the page at userEnd is never mapped.
//
//go:nosplit
func foreign(t *thread, nr, a, b, c, d uint64) bool {
	switch nr {
	case nrFutex:
		return a >= userEnd || d >= userEnd
	case nrRead, nrWrite, nrClockGettime, nrEpollPwait, nrEpollWait, nrPages, nrRegisters, nrClone:
		return b >= userEnd
	case nrNanosleep, nrGetrandom, nrUname:
		return a >= userEnd
	case nrSigaltstack:
		return a >= userEnd || b >= userEnd
	case nrRtSigaction, nrRtSigprocmask:
		return b >= userEnd || c >= userEnd
	case nrSchedGetaffinity:
		return c >= userEnd
	case nrEpollCtl, nrPrlimit64:
		return d >= userEnd
	case nrRtSigreturn:
		return t.reg[regSP] >= userEnd
	}
	return false
}

// rare runs the calls that do not need to be quick.
//
//go:nosplit
func rare(t *thread, nr, a, b, c, d uint64) uint64 {
	switch nr {
	case nrClose:
		return sysClose(a)
	case nrFcntl:
		return sysFcntl(a, b)
	case nrEpollCreate1:
		return sysEpollCreate()
	case nrEpollCtl:
		return sysEpollCtl(b, c, d)
	case nrEventfd2:
		return newFD(fdEvent)
	case nrGetpid:
		return 1
	case nrGettid:
		return t.id
	case nrArchPrctl:
		if a != archSetFS || b >= userEnd {
			return fail(eINVAL)
		}
		setFS(b)
		return 0
	case nrPrctl:
		return fail(eINVAL)
	case nrSchedGetaffinity:
		if b < 8 {
			return fail(eINVAL)
		}
		st(c, 1)
		return 8
	case nrPrlimit64:
		if d != 0 {
			st(d, threadsAllowed)
			st(d+8, threadsAllowed)
		}
		return 0
	case nrOpenat, nrReadlinkat:
		return fail(eNOENT)
	case nrUname:
		return sysUname(a)
	case nrPages:
		return sysPages(a, b)
	case nrRegisters:
		return sysRegisters(a, b)
	case nrInterrupt:
		return sysInterrupt(a, b)
	case nrSetClock:
		wallStart = a - nanotime()
		return 0
	case nrSeal:
		sealed = true
		return 0
	}
	return unknown(nr)
}

//go:nosplit
func unknown(nr uint64) uint64 {
	bit := min(nr, maxNamed-1)
	if named[bit/64]>>(bit%64)&1 == 0 {
		named[bit/64] |= 1 << (bit % 64)
		say("there is no system call ")
		putDecimal(nr)
		putc('\n')
	}
	return fail(eNOSYS)
}

//go:nosplit
func sysClockGettime(clock, p uint64) uint64 {
	n := nanotime()
	if clock == clockRealtime {
		n += wallStart
	}
	st(p, n/second)
	st(p+8, n%second)
	return 0
}

//go:nosplit
func sysUname(p uint64) uint64 {
	for i := uint64(0); i < utsFields*utsField; i++ {
		st8(p+i, 0)
	}
	putString(p, "Linux")
	putString(p+utsField, "lorica")
	putString(p+2*utsField, "6.1.0") // what the calls above are like
	putString(p+4*utsField, "x86_64")
	return 0
}
