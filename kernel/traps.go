package kernel

// Exceptions and interrupts, as entry_amd64.s hands them over.

var (
	trapFrame uint64 // registers of what was interrupted, where that is not a thread
	inFault   uint64 // firstTouch is running
	touched   uint64 // it served the fault
	inCall    bool   // a system call runs that fails with EFAULT if it faults
)

//go:nosplit
func word64(frame, register uint64) uint64 { return ld(frame + register*8) }

// firstTouch serves page faults that are no error, of programs and of the kernel.
//
//go:nosplit
func firstTouch() {
	touched = 0
	if pageFault(readCR2(), word64(trapFrame, regCode)) {
		touched = 1
	}
}

//go:nosplit
func faultInFault() {
	report(trapFrame, "a page fault while serving one")
}

// trap is for what interrupted a thread; its registers are saved.
//
//go:nosplit
func trap() {
	t := threadAt(current)
	vector := t.reg[regVector]
	if vector >= vecTimer {
		interrupt(vector)
		if runQueue.head != 0 {
			ready(t)
			schedule()
		}
		armTimer(nanotime())
		deliverPending()
		return
	}
	if !deliverFault(t, vector, readCR2()) {
		report(t.address(), "a trap that the image does not handle")
	}
}

// nestedTrap is for what interrupted the kernel.
//
//go:nosplit
func nestedTrap() {
	vector := word64(trapFrame, regVector)
	switch {
	case vector >= vecTimer:
		interrupt(vector) // while idle
	case vector == vecPageFault && inCall && readCR2() < lowerEnd && !isGuard(roundDown(readCR2())):
		inCall = false
		threadAt(current).reg[regAX] = fail(eFAULT)
		abandon()
	case vector == vecPageFault && isGuard(roundDown(readCR2())):
		report(trapFrame, "a kernel stack overflowed")
	default:
		report(trapFrame, "a trap in the kernel")
	}
}

// report prints the state of what trapped, and dies.
//
//go:nosplit
func report(frame uint64, what string) {
	say(what)
	puts(": vector ")
	putDecimal(word64(frame, regVector))
	register(" code ", word64(frame, regCode))
	register(" ip ", word64(frame, regIP))
	register(" sp ", word64(frame, regSP))
	register(" flags ", word64(frame, regFlags))
	register(" address ", readCR2())
	say("registers:")
	register(" ax ", word64(frame, regAX))
	register(" bx ", word64(frame, regBX))
	register(" cx ", word64(frame, regCX))
	register(" dx ", word64(frame, regDX))
	register(" si ", word64(frame, regSI))
	register(" di ", word64(frame, regDI))
	register(" bp ", word64(frame, regBP))
	for r := uint64(8); r < 16; r++ {
		puts(" r")
		putDecimal(r)
		register(" ", word64(frame, regR8-(r-8)))
	}
	die(exitTrap, "stopped", noValue)
}

//go:nosplit
func register(name string, v uint64) {
	puts(name)
	putHex(v)
}
