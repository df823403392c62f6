package kernel

import (
	"bytes"
	"runtime/debug"
	"slices"
	"syscall"
	"testing"
	"unsafe"
)

const (
	testHandler  = 0x40_2000
	testRestorer = 0x40_3000
	testMask     = 0x55
)

// contextOrder is how struct sigcontext has the registers: Linux,
// arch/x86/include/uapi/asm/sigcontext.h.
var contextOrder = []int{regR8, regR9, regR10, regR11, regR12, regR13, regR14, regR15, regDI, regSI, regBP, regBX, regDX, regAX, regCX, regSP, regIP, regFlags}

// interrupted is a thread with a different number in every register, vectors in use, a
// stack for signals and handlers.
func interrupted(t *testing.T) *thread {
	th := newThreads(t, 1)[0]
	xsaveSize, xsaveMask = 1024, xsaveAVX
	t.Cleanup(func() { xsaveSize, xsaveMask, current, actions = 0, 0, 0, [maxSignal + 1]action{} })
	for i := range th.reg {
		th.reg[i] = 0x1000 + uint64(i)
	}
	th.reg[regFlags] = 0x246
	th.altStack, th.altSize, th.mask, th.vectors = direct+allocPage(), pageSize, testMask, 1
	area := vectorsOf(th)
	for i := range area {
		area[i] = byte(i * 13)
	}
	st(addrOf(area)+xsaveHeader, xsaveMask)
	clear(area[xsaveHeader+8 : xsaveHeader+64])
	st32(addrOf(area)+mxcsrAt, 0x1f80)
	for s := range actions {
		actions[s] = action{handler: testHandler, restorer: testRestorer}
	}
	return th
}

func vectorsOf(th *thread) []byte {
	return unsafe.Slice((*byte)(at(th.address()+threadXSAVE)), xsaveSize)
}

// ends is what the handler's end and its restorer do, which jumps to sigreturn.
func ends(th *thread) {
	uc := th.reg[regSP] + 8
	th.reg = [registers]uint64{regSP: uc, regVector: vecSyscall}
	copy(vectorsOf(th), bytes.Repeat([]byte{0xee}, int(xsaveSize)))
	th.vectors = 0
	sysSigreturn(th)
}

func TestSignalsGoAndComeBack(t *testing.T) {
	th := interrupted(t)
	before, vectors := th.reg, slices.Clone(vectorsOf(th))
	if !pushSignal(th, sigSEGV, codeUnmapped, 0x1234) {
		t.Fatal("it is not delivered")
	}
	sp := th.reg[regSP]
	if sp%16 != 8 || sp < th.altStack || sp >= th.altStack+th.altSize || ld(sp) != testRestorer || th.reg[regIP] != testHandler {
		t.Errorf("the handler begins at %#x with a stack at %#x", th.reg[regIP], sp)
	}
	if th.mask != ^uint64(0) || th.vectors != 0 {
		t.Errorf("the handler runs with mask %#x, vectors %d", th.mask, th.vectors)
	}
	info, uc := th.reg[regSI], th.reg[regDX]
	if th.reg[regDI] != sigSEGV || ld32(info) != sigSEGV || ld32(info+8) != codeUnmapped || ld(info+16) != 0x1234 {
		t.Errorf("it is told of signal %d, %d with code %d at %#x", th.reg[regDI], ld32(info), ld32(info+8), ld(info+16))
	}
	if uc != sp+8 || ld(uc+ucStack) != th.altStack || ld(uc+ucStackSize) != th.altSize || ld(uc+ucMask) != testMask {
		t.Error("its context is another")
	}
	for i, r := range contextOrder {
		if got := ld(uc + ucContext + uint64(i)*8); got != before[r] {
			t.Errorf("word %d of the context is %#x, want %#x", i, got, before[r])
		}
	}
	ends(th)
	before[regVector], th.reg[regCode], th.reg[regCS], th.reg[regSS] = 0, before[regCode], before[regCS], before[regSS]
	if th.reg != before || th.mask != testMask || th.vectors != 1 {
		t.Errorf("registers %#x, want %#x; mask %#x, vectors %d", th.reg, before, th.mask, th.vectors)
	}
	if !bytes.Equal(vectorsOf(th), vectors) {
		t.Error("the vectors are others")
	}
}

// TestForgedFrames: whatever a handler leaves, the kernel can restore it, and interrupts
// stay on.
func TestForgedFrames(t *testing.T) {
	th := interrupted(t)
	pushSignal(th, sigSEGV, codeKernel, 0)
	sc := th.reg[regDX] + ucContext
	fp := ld(sc + scFPState*8)
	st(sc+15*8, direct)       // stack pointer
	st(sc+16*8, direct)       // instruction pointer
	st(sc+17*8, ^uint64(0)-2) // flags
	st32(fp+mxcsrAt, ^uint32(0))
	for i := uint64(0); i < 64; i += 8 {
		st(fp+xsaveHeader+i, ^uint64(0))
	}
	ends(th)
	area := addrOf(vectorsOf(th))
	if th.reg[regIP] != 0 || th.reg[regSP] != 0 || th.reg[regFlags] != flagsUser|flagInterrupt|flagReserved {
		t.Errorf("it goes on at %#x with a stack at %#x, flags %#x", th.reg[regIP], th.reg[regSP], th.reg[regFlags])
	}
	if ld32(area+mxcsrAt) != mxcsrAllowed || ld(area+xsaveHeader) != xsaveMask {
		t.Errorf("MXCSR %#x, components %#x", ld32(area+mxcsrAt), ld(area+xsaveHeader))
	}
	for i := uint64(8); i < 64; i += 8 {
		if ld(area+xsaveHeader+i) != 0 {
			t.Errorf("word %d of the header is not 0", i/8)
		}
	}
	pushSignal(th, sigSEGV, codeKernel, 0)
	st(th.reg[regDX]+ucContext+scFPState*8, direct)
	if ends(th); th.vectors != 0 {
		t.Error("vectors are taken from the kernel's memory")
	}
}

// TestFramesThatEndInNothing: of a frame, or of the vectors in it, whose end is not mapped,
// nothing is taken.
func TestFramesThatEndInNothing(t *testing.T) {
	th := interrupted(t)
	mem, err := syscall.Mmap(-1, 0, 2*pageSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Munmap(mem)
	if err := syscall.Mprotect(mem[pageSize:], syscall.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	copy(mem, bytes.Repeat([]byte{0xee}, pageSize))
	end := addrOf(mem) + pageSize
	faults := func() (fault bool) {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		defer func() { fault = recover() != nil }()
		sysSigreturn(th)
		return false
	}

	for uc := end - ucMask; uc < end; uc += 8 {
		th.reg[regSP] = uc
		before := th.reg
		if !faults() || th.reg != before || th.mask != testMask {
			t.Errorf("of a frame with %d bytes it takes registers %#x, mask %#x", end-uc, th.reg, th.mask)
		}
	}

	frame := addrOf(mem)
	th.vectors = 0
	whole := slices.Clone(vectorsOf(th))
	for fp := end - xsaveSize + 8; fp < end; fp += 8 {
		th.reg[regSP] = frame
		st(frame+ucContext+scFPState*8, fp)
		if !faults() || th.vectors != 0 || !bytes.Equal(vectorsOf(th), whole) {
			t.Errorf("of vectors with %d bytes it takes some", end-fp)
		}
	}
}

// TestASignalInASignal: its frame is below what the first handler has on the same stack,
// and what it may have behind its end.
func TestASignalInASignal(t *testing.T) {
	th := interrupted(t)
	sp := th.altStack + th.altSize/2
	th.reg[regSP] = sp
	guard := unsafe.Slice((*byte)(at(sp-redZone)), redZone+256)
	copy(guard, bytes.Repeat([]byte{0xee}, len(guard)))
	if !pushSignal(th, sigSEGV, codeKernel, 0) || bytes.Count(guard, []byte{0xee}) != len(guard) {
		t.Error("it writes over what is there")
	}
}

func TestWhatIsDelivered(t *testing.T) {
	for _, c := range []struct {
		name         string
		vector, code uint64
		mask         uint64
		sig, si      uint32 // 0: none
	}{
		{"nothing is mapped", vecPageFault, 0, 0, sigSEGV, 1},
		{"it must not be written", vecPageFault, faultPresent | faultWrite, 0, sigSEGV, 2},
		{"a general protection", 13, 0, 0, sigSEGV, codeKernel},
		{"division", vecDivide, 0, 0, sigFPE, 1},
		{"no instruction", vecInvalid, 0, 0, sigILL, 2},
		{"a breakpoint", vecBreakpoint, 0, 0, sigTRAP, codeKernel},
		{"an NMI", vecNMI, 0, 0, 0, 0},
		{"a machine check", vecMachineCheck, 0, 0, 0, 0},
		{"masked", vecPageFault, 0, 1 << (sigSEGV - 1), 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			th := interrupted(t)
			th.reg[regCode], th.mask = c.code, c.mask
			if got := deliverFault(th, c.vector, 0x1234); got != (c.sig != 0) {
				t.Fatalf("delivered: %v", got)
			}
			if c.sig != 0 && (uint32(th.reg[regDI]) != c.sig || ld32(th.reg[regSI]+8) != c.si) {
				t.Errorf("signal %d with code %d", th.reg[regDI], ld32(th.reg[regSI]+8))
			}
		})
	}
	th := interrupted(t)
	th.altSize = 0
	if deliverFault(th, vecPageFault, 0) {
		t.Error("delivered without a stack")
	}
	th = interrupted(t)
	actions[sigSEGV].handler = handlerIgnore
	if deliverFault(th, vecPageFault, 0) {
		t.Error("delivered to nobody")
	}
}

// TestPendingSignals come when they are no longer masked, one at a time.
func TestPendingSignals(t *testing.T) {
	th := interrupted(t)
	current = th.address()
	const first, second, masked = 1 << 22, 1 << 30, 1 << 2
	th.pending, th.mask = first|second|masked, masked
	th.reg[regAX] = nrGettid
	systemCall() // which is where they come
	if th.reg[regDI] != 23 || th.pending != second|masked {
		t.Errorf("signal %d comes, and %#x are left", th.reg[regDI], th.pending)
	}
	deliverPending()
	if th.pending != second|masked {
		t.Errorf("a handler is interrupted: %#x are left", th.pending)
	}
	ends(th)
	deliverPending()
	if th.reg[regDI] != 31 || th.pending != masked {
		t.Errorf("signal %d comes, and %#x are left", th.reg[regDI], th.pending)
	}
}
