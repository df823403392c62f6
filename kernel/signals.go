package kernel

// Signals, as far as the Go runtime needs them: a fault becomes SIGSEGV, SIGFPE and
// so on, and tgkill, by which it preempts, takes effect when its target runs next.
// Frames look as on Linux: arch/x86/include/uapi/asm/sigcontext.h, ucontext.h.

const (
	sigILL, sigTRAP, sigFPE, sigSEGV = 4, 5, 8, 11
	maxSignal                        = 64

	maskBlock, maskUnblock, maskSet = 0, 1, 2

	// si_code
	codeTgkill    = -6 & (1<<32 - 1)
	codeKernel    = 0x80
	codeUnmapped  = 1 // of SIGSEGV; 2 is a protection violation
	codeDivide    = 1
	codeIllegal   = 2
	noAltStack    = 2
	handlerIgnore = 1 // SIG_IGN; 0 is SIG_DFL
	redZone       = 128
	smallestStack = 2048

	// The frame: address of the restorer, then a ucontext, then a siginfo.
	ucStack     = 16
	ucStackSize = 32
	ucContext   = 40 // sigcontext, of 8-byte words
	ucMask      = 296
	ucSize      = 304
	infoSize    = 128
	sigFrame    = 8 + ucSize + infoSize

	// Words of a sigcontext.
	scSegments = 18
	scError    = 19
	scTrap     = 20
	scMask     = 21
	scCR2      = 22
	scFPState  = 23

	userSegments = 0x33 | 0x2b<<48 // CS and SS as on Linux

	flagInterrupt = 1 << 9
	flagReserved  = 1 << 1
	// What sigreturn may set: CF PF AF ZF SF TF DF OF, and RF.
	flagsUser = 0xdd5 | 1<<16

	xsaveHeader  = 512
	mxcsrAt      = 24
	mxcsrAllowed = 0xffff
)

type action struct{ handler, flags, restorer, mask uint64 }

var (
	actions   [maxSignal + 1]action
	xsaveSize uint64 // of the components in use, a multiple of 64
	xsaveMask uint64 // those components
)

// contextRegister is the register at word i of a sigcontext.
//
//go:nosplit
func contextRegister(i uint64) uint64 {
	switch i {
	case 0, 1, 2, 3, 4, 5, 6, 7:
		return regR8 - i // R8 to R15
	case 8:
		return regDI
	case 9:
		return regSI
	case 10:
		return regBP
	case 11:
		return regBX
	case 12:
		return regDX
	case 13:
		return regAX
	case 14:
		return regCX
	case 15:
		return regSP
	case 16:
		return regIP
	}
	return regFlags
}

//go:nosplit
func sysSigaction(sig, set, old uint64) uint64 {
	if sig == 0 || sig > maxSignal {
		return fail(eINVAL)
	}
	a := &actions[sig]
	before := *a
	if set != 0 {
		*a = *(*action)(at(set))
	}
	if old != 0 {
		*(*action)(at(old)) = before
	}
	return 0
}

//go:nosplit
func sysSigprocmask(t *thread, how, set, old uint64) uint64 {
	if old != 0 {
		st(old, t.mask)
	}
	if set != 0 {
		m := ld(set)
		switch how {
		case maskBlock:
			t.mask |= m
		case maskUnblock:
			t.mask &^= m
		case maskSet:
			t.mask = m
		default:
			return fail(eINVAL)
		}
	}
	return 0
}

//go:nosplit
func sysSigaltstack(t *thread, set, old uint64) uint64 {
	if old != 0 {
		st(old, t.altStack)
		st(old+8, 0)
		if t.altSize == 0 {
			st(old+8, noAltStack)
		}
		st(old+16, t.altSize)
	}
	if set != 0 {
		sp, flags, size := ld(set), ld32(set+8), ld(set+16)
		switch {
		case flags&noAltStack != 0:
			t.altStack, t.altSize = 0, 0
		case size < smallestStack:
			return fail(eNOMEM)
		case sp >= userEnd || size > userEnd-sp:
			return fail(eFAULT) // the kernel writes frames there
		default:
			t.altStack, t.altSize = sp, size
		}
	}
	return 0
}

//go:nosplit
func sysTgkill(id, sig uint64) uint64 {
	if id == 0 || id > threads || sig == 0 || sig > maxSignal {
		return fail(eINVAL)
	}
	threadAt(threadBase + (id-1)*pageSize).pending |= 1 << (sig - 1)
	return 0
}

// pushSignal makes t run the handler of sig when it is resumed. It reports whether
// there is a handler and a stack for it.
//
//go:nosplit
func pushSignal(t *thread, sig, code, address uint64) bool {
	h := &actions[sig]
	if h.handler <= handlerIgnore || t.altSize == 0 {
		return false
	}
	sp := t.reg[regSP]
	if sp < t.altStack || sp >= t.altStack+t.altSize {
		sp = t.altStack + t.altSize
	} else {
		sp -= redZone
	}
	fp := uint64(0)
	if t.vectors != 0 {
		sp = (sp - xsaveSize) &^ 63
		fp = sp
		copyWords(fp, t.address()+threadXSAVE, xsaveSize/8)
		t.vectors = 0
	}
	sp = (sp-sigFrame)&^15 - 8
	for i := uint64(0); i < sigFrame; i += 8 {
		st(sp+i, 0)
	}
	uc := sp + 8
	si := uc + ucSize
	sc := uc + ucContext
	st(sp, h.restorer)
	st(uc+ucStack, t.altStack)
	st(uc+ucStackSize, t.altSize)
	for i := uint64(0); i < scSegments; i++ {
		st(sc+i*8, t.reg[contextRegister(i)])
	}
	st(sc+scSegments*8, userSegments)
	st(sc+scError*8, t.reg[regCode])
	st(sc+scTrap*8, t.reg[regVector])
	st(sc+scMask*8, t.mask)
	st(sc+scCR2*8, address)
	st(sc+scFPState*8, fp)
	st(uc+ucMask, t.mask)
	st32(si, uint32(sig))
	st32(si+8, uint32(code))
	st(si+16, address)
	t.mask = ^uint64(0)
	t.reg[regDI] = sig
	t.reg[regSI] = si
	t.reg[regDX] = uc
	t.reg[regAX] = 0
	t.reg[regIP] = h.handler
	t.reg[regSP] = sp
	t.reg[regFlags] = flagInterrupt | flagReserved
	return true
}

// sysSigreturn takes back what a handler may have changed, but nothing that would
// fault in the kernel when it is restored.
//
//go:nosplit
func sysSigreturn(t *thread) {
	uc := t.reg[regSP]
	sc := uc + ucContext
	// Of memory shorter than a page, all can be read where both ends can: a call that
	// faulted on the way would leave what it has read by then, and has not looked at.
	mask := ld(uc + ucMask)
	for i := uint64(0); i < scSegments; i++ {
		t.reg[contextRegister(i)] = ld(sc + i*8)
	}
	t.reg[regFlags] = t.reg[regFlags]&flagsUser | flagInterrupt | flagReserved
	t.reg[regVector] = 0 // every register counts: not the way back of a system call
	t.mask = mask
	if ip := t.reg[regIP]; ip >= userEnd {
		t.reg[regIP] = 0 // faults where it can be handled
	}
	if sp := t.reg[regSP]; sp >= userEnd {
		t.reg[regSP] = 0 // so does that: nothing is mapped there, or below it at the end of all addresses
	}
	if fp := ld(sc + scFPState*8); fp != 0 && fp < userEnd {
		a := t.address() + threadXSAVE
		copyWords(a+xsaveSize-8, fp+xsaveSize-8, 1)
		copyWords(a, fp, xsaveSize/8)
		st32(a+mxcsrAt, ld32(a+mxcsrAt)&mxcsrAllowed)
		st(a+xsaveHeader, ld(a+xsaveHeader)&xsaveMask)
		for i := uint64(8); i < 64; i += 8 {
			st(a+xsaveHeader+i, 0)
		}
		t.vectors = 1
	}
}

// deliverFault turns an exception of t into a signal, where it can handle it.
//
//go:nosplit
func deliverFault(t *thread, vector, cr2 uint64) bool {
	sig, code, address := uint64(sigSEGV), uint64(codeKernel), uint64(0)
	switch vector {
	case vecPageFault:
		code, address = codeUnmapped+t.reg[regCode]&faultPresent, cr2
	case vecDivide, vecX87, vecSIMD:
		sig, code, address = sigFPE, codeDivide, t.reg[regIP]
	case vecInvalid:
		sig, code, address = sigILL, codeIllegal, t.reg[regIP]
	case vecBreakpoint:
		sig = sigTRAP
	case vecNMI, vecDoubleFault, vecMachineCheck:
		return false
	}
	if t.mask>>(sig-1)&1 != 0 {
		return false
	}
	return pushSignal(t, sig, code, address)
}

// deliverPending is for the current thread, before it is resumed.
//
//go:nosplit
func deliverPending() {
	t := threadAt(current)
	p := t.pending &^ t.mask
	if p == 0 {
		return
	}
	sig := uint64(1)
	for p&1 == 0 {
		p >>= 1
		sig++
	}
	t.pending &^= 1 << (sig - 1)
	pushSignal(t, sig, codeTgkill, 0)
}
