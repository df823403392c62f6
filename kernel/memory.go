package kernel

// The memory calls of Linux, for anonymous private memory. The image and the program
// window are out of reach of them all, and nothing ever becomes executable.

// Linux: include/uapi/asm-generic/mman-common.h, mman.h.
const (
	protRead, protWrite, protExec = 1, 2, 4

	mapFixed     = 0x10
	mapAnonymous = 0x20
	mapNoReplace = 0x10_0000

	adviseDontNeed   = 4
	adviseFree       = 8
	adviseHuge       = 14
	adviseNoHuge     = 15
	adviseCollapse   = 25
	mmapStart        = 0x7f00_0000_0000 // where addresses are chosen, up to the first thread's stack
	touchAround      = 4                // pages that a first touch maps at once, aligned
	plenty           = 4 * reserve      // free pages below which it maps one only
	firstStackSize   = 256 << 10
	firstStackBottom = userEnd - firstStackSize
)

// Bits of a page fault's error code: Intel SDM volume 3A, 4.7.
const (
	faultPresent = 1 << 0
	faultWrite   = 1 << 1
	faultReserve = 1 << 3
	faultFetch   = 1 << 4
)

// untouchable reports whether [start, end) touches what no call may change, or lies
// outside of what programs have.
//
//go:nosplit
func untouchable(start, end uint64) bool {
	return start < userStart || end > userEnd ||
		overlap(start, end, image.start, imageEnd) ||
		overlap(start, end, WindowBase, WindowBase+max(window.end-window.start, pageSize))
}

// extent checks the address and length of a call, and returns where it ends.
//
//go:nosplit
func extent(start, n uint64) (end uint64, e uint64) {
	if start%pageSize != 0 || n == 0 || n > userEnd || start > userEnd-roundUp(n) {
		return 0, eINVAL
	}
	end = start + roundUp(n)
	if untouchable(start, end) {
		return 0, ePERM
	}
	return end, 0
}

//go:nosplit
func pageBits(prot uint64) uint64 {
	if prot == 0 {
		return pteKept
	}
	bits := uint64(ptePresent | pteNoExec)
	if prot&protWrite != 0 {
		bits |= pteWrite
	}
	return bits
}

//go:nosplit
func sysMmap(a, n, prot, flags uint64) uint64 {
	if flags&mapAnonymous == 0 {
		return fail(eNODEV)
	}
	if prot&protExec != 0 {
		return fail(ePERM)
	}
	if n == 0 || n > userEnd {
		return fail(eINVAL)
	}
	n = roundUp(n)
	end, e := extent(a, n)
	switch {
	case flags&(mapFixed|mapNoReplace) != 0 && e != 0:
		return fail(e)
	case flags&mapNoReplace != 0 && !areas.free(a, end):
		return fail(eEXIST)
	}
	if !areas.room() {
		return fail(eNOMEM)
	}
	switch {
	case flags&mapNoReplace != 0:
	case flags&mapFixed != 0:
		unmapPages(a, end)
	case e != 0 || !areas.free(a, end):
		if a = areas.gap(mmapStart, firstStackBottom-pageSize, n); a == 0 {
			return fail(eNOMEM)
		}
	}
	areas.set(a, a+n, prot&(protRead|protWrite))
	return a
}

//go:nosplit
func sysMunmap(a, n uint64) uint64 {
	end, e := extent(a, n)
	if e != 0 {
		return fail(e)
	}
	if areas.splits(a, end) && !areas.room() {
		return fail(eNOMEM)
	}
	unmapPages(a, end)
	areas.clear(a, end)
	return 0
}

//go:nosplit
func sysMprotect(a, n, prot uint64) uint64 {
	end, e := extent(a, n)
	switch {
	case e != 0:
		return fail(e)
	case prot&protExec != 0:
		return fail(ePERM)
	case !areas.allows(a, end, 0) || !areas.room():
		return fail(eNOMEM)
	}
	prot &= protRead | protWrite
	areas.set(a, end, prot)
	protectPages(a, end, pageBits(prot))
	return 0
}

//go:nosplit
func sysMadvise(a, n, advice uint64) uint64 {
	if n == 0 {
		return 0
	}
	end, e := extent(a, n)
	if e != 0 {
		return fail(e)
	}
	switch advice {
	case adviseDontNeed, adviseFree:
		unmapPages(a, end)
		return 0
	case adviseHuge, adviseNoHuge, adviseCollapse:
		return 0
	}
	return fail(eINVAL)
}

// pageFault serves the first touch of a page, and reports whether it was one.
//
//go:nosplit
func pageFault(va, code uint64) bool {
	if code&(faultPresent|faultReserve|faultFetch) != 0 {
		return false
	}
	i := areas.find(va)
	if i == areas.count {
		return false
	}
	a := areas.get(i)
	if a.start > va || a.prot == 0 {
		return false
	}
	bits := pageBits(a.prot)
	e := walk(va, shiftPage, true)
	p := userPage()
	if e == 0 || p == 0 {
		outOfMemory(va)
	}
	st(e, p|bits)
	if freePages < plenty {
		return true
	}
	first := va &^ (touchAround*pageSize - 1)
	e -= (va/pageSize - first/pageSize) * 8
	for n := uint64(0); n < touchAround; n++ {
		near := first + n*pageSize
		if near >= a.start && near < a.end && ld(e+n*8) == 0 {
			st(e+n*8, allocPage()|bits)
		}
	}
	return true
}

// userPage is allocPage for programs: it leaves the reserve.
//
//go:nosplit
func userPage() uint64 {
	if freePages <= reserve {
		return 0
	}
	return allocPage()
}

//go:nosplit
func outOfMemory(va uint64) {
	die(exitMemory, "out of memory: no page is left for address ", va)
}
