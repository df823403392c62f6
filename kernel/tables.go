package kernel

import "unsafe"

// What the processor reads: descriptor tables, stacks of exceptions, model-specific
// registers. Intel SDM volume 3A, chapters 2, 3, 6 and 7.

// Selectors of the global descriptor table.
const (
	selCode = 0x08
	selData = 0x10
	selTask = 0x18

	// A 64-bit code segment, and a flat data segment: present, ring 0, accessed.
	descCode = 0x00af_9b00_0000_ffff
	descData = 0x00cf_9300_0000_ffff
	descTask = 0x0000_8900_0000_0000 // available 64-bit TSS
	descGate = 0x0000_8e00_0000_0000 // 64-bit interrupt gate

	gdtSize  = 5 * 8
	taskSize = 104
	taskRSP0 = 4
	taskIST1 = 0x24
	idtCount = 256
)

// Stacks of the interrupt stack table. A page fault has one of its own: it can happen
// in the kernel at any place that touches memory of programs.
const (
	istInterrupt = 1
	istFault     = 2
	istException = 3
	istFatal     = 4
	ists         = 4
)

// The stacks and tables lie among the image's variables, which have no second
// mapping: the stack of the kernel, which boots on it, those of the table, and the one
// that it dies on. Below each is a page that is not mapped.
const (
	kernelStackPages = 16
	istPages         = 4
	istStride        = (1 + istPages) * pageSize
	tablePages       = 2 // interrupt descriptors; then the others

	// Where stacks begin, from the first whole page of room on.
	kernelTop = (1 + kernelStackPages) * pageSize
	deathTop  = kernelTop + (ists+1)*istStride

	pageMask = pageSize - 1
)

// Model-specific registers: Intel SDM volume 4.
const (
	msrEFER   = 0xc000_0080
	msrSTAR   = 0xc000_0081
	msrLSTAR  = 0xc000_0082
	msrFMASK  = 0xc000_0084
	msrFSBase = 0xc000_0100

	// EFER: SYSCALL, long mode and that it is active, as the shim left them; no execution.
	efer = 1<<0 | 1<<8 | 1<<10 | 1<<11

	// What SYSCALL clears: trap, interrupt, direction, nested task, alignment check.
	fmask = 1<<8 | 1<<9 | 1<<10 | 1<<14 | 1<<18
)

// Bits of CR4 and CPUID.
const (
	cr4UMIP    = 1 << 11
	cr4OSXSAVE = 1 << 18
	cr4SMEP    = 1 << 20
	cr4SMAP    = 1 << 21

	cpuidExtended = 7
	cpuidXSAVE    = 0xd
	cpuidLongMode = 0x8000_0001
	featureNX     = 1 << 20 // EDX of the leaf of long mode
	featureXSAVE  = 1 << 26 // ECX of leaf 1
	featureSMEP   = 1 << 7  // EBX of leaf 7
	featureSMAP   = 1 << 20
	featureUMIP   = 1 << 2 // ECX

	xsaveAVX = 0x07 // x87, SSE, AVX
	xsave512 = 0xe7 // and AVX-512
)

var (
	noTLS    [128]byte // what wrappers find below FS before there are threads
	noTable  [16]byte
	operands [2][2]uint64 // of LGDT and LIDT

	room        [deathTop + tablePages*pageSize + pageMask]byte
	kernelStack uint64 // top
	istTops     [ists + 1]uint64
	stacksStart uint64
	tablesStart uint64
	tablesEnd   uint64
)

//go:nosplit
func layOut() {
	stacksStart = roundUp(addr(unsafe.Pointer(&room)))
	kernelStack = stacksStart + kernelTop
	for i := range istTops {
		istTops[i] = kernelStack + uint64(i)*istStride
	}
	tablesStart = stacksStart + deathTop
	tablesEnd = tablesStart + tablePages*pageSize
}

// isGuard reports whether the page at a lies below a stack.
//
//go:nosplit
func isGuard(a uint64) bool {
	if a == stacksStart {
		return true
	}
	return a >= kernelStack && a < tablesStart && (a-kernelStack)%istStride == 0
}

//go:nosplit
func initTables() {
	layOut()
	idt, gdt := tablesStart, tablesStart+pageSize
	task := gdt + gdtSize
	st(gdt+selCode, descCode)
	st(gdt+selData, descData)
	st(gdt+selTask, descTask|(taskSize-1)|task&0xff_ffff<<16|task>>24&0xff<<56)
	st(gdt+selTask+8, task>>32)
	st(task+taskRSP0, kernelStack)
	for i := uint64(1); i <= ists; i++ {
		st(task+taskIST1+(i-1)*8, istTops[i])
	}
	vectors := vectorsAt()
	for v := uint64(0); v < idtCount; v++ {
		h := vectors + min(v, lastStub)*16
		st(idt+v*16, descGate|h&0xffff|selCode<<16|stackOf(v)<<32|h>>16&0xffff<<48)
		st(idt+v*16+8, h>>32)
	}
	pseudo(0, gdt, gdtSize)
	pseudo(1, idt, idtCount*16)
	loadTables(addr(unsafe.Pointer(&operands[0])), addr(unsafe.Pointer(&operands[1])), selTask)
	wrmsr(msrSTAR, selCode<<32)
	wrmsr(msrLSTAR, syscallEntryAt())
	wrmsr(msrFMASK, fmask)
}

// pseudo fills an operand of LGDT or LIDT: two bytes of limit, eight of address.
//
//go:nosplit
func pseudo(i int, table, size uint64) {
	operands[i][0] = table<<16 | (size - 1)
	operands[i][1] = table >> 48
}

//go:nosplit
func stackOf(vector uint64) uint64 {
	switch {
	case vector == vecPageFault:
		return istFault
	case vector == vecNMI || vector == vecDoubleFault || vector == vecMachineCheck:
		return istFatal
	case vector >= vecTimer:
		return istInterrupt
	}
	return istException
}

// initProcessor turns on what the processor offers to hold the kernel in, and the
// registers that programs use. It comes before the page tables, which say of most memory
// that it is not to be executed.
//
//go:nosplit
func initProcessor() {
	if _, _, _, d := cpuid(cpuidLongMode, 0); d&featureNX == 0 {
		die(exitBoot, "the processor has no NX: all memory could be executed", noValue)
	}
	wrmsr(msrEFER, efer)
	_, _, c, _ := cpuid(cpuidFeatures, 0)
	if c&featureXSAVE == 0 {
		die(exitBoot, "the processor has no XSAVE", noValue)
	}
	cr4 := readCR4() | cr4OSXSAVE
	if highest, _, _, _ := cpuid(0, 0); highest >= cpuidExtended {
		_, b, c, _ := cpuid(cpuidExtended, 0)
		if b&featureSMEP != 0 {
			cr4 |= cr4SMEP
		}
		if b&featureSMAP != 0 {
			cr4 |= cr4SMAP
		}
		if c&featureUMIP != 0 {
			cr4 |= cr4UMIP
		}
	}
	writeCR4(cr4)
	useXSAVE(xsave512)
	if xsaveSize > xsaveRoom {
		useXSAVE(xsaveAVX)
	}
}

//go:nosplit
func useXSAVE(mask uint64) {
	a, _, _, _ := cpuid(cpuidXSAVE, 0)
	xsaveMask = uint64(a) & mask
	xsetbv(xsaveMask)
	_, size, _, _ := cpuid(cpuidXSAVE, 0)
	xsaveSize = (uint64(size) + 63) &^ 63
}
