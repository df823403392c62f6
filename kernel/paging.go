package kernel

// Page tables: Intel SDM volume 3A, chapter 4 (4-level paging); AMD APM volume 2,
// chapter 5. Nothing is both writable and executable, the image's memory has one
// mapping only, and where nothing is mapped (the first page, guard pages) an access
// faults.

// Virtual addresses.
const (
	// direct is where all RAM is mapped that has no other place: not the image, not
	// the program window. Its range is one entry of the top table.
	direct    = 0xffff_8000_0000_0000
	directEnd = direct + maxRAM

	// WindowBase is where the program window is mapped: WindowBase of package launch.
	WindowBase = 0x6000_0000_0000

	// Addresses that belong to the image and its run time.
	userStart = 0x1_0000
	userEnd   = 0x7fff_ffff_f000
	lowerEnd  = 0x8000_0000_0000 // of the addresses below the kernel's; the page between stays empty

	// The kernel's growing tables and the registers of devices.
	threadBase   = 0xffff_c000_0000_0000
	areaBase     = 0xffff_c001_0000_0000
	registerBase = 0xffff_c002_0000_0000
)

// Bits of page table entries.
const (
	ptePresent = 1 << 0
	pteWrite   = 1 << 1
	pteThrough = 1 << 3 // PWT
	pteUncache = 1 << 4 // PCD; with PWT: strong uncacheable
	pteLarge   = 1 << 7
	pteKept    = 1 << 9 // ours: not present, but the page stays (PROT_NONE)
	pteNoExec  = 1 << 63
	pteAddr    = 0x000f_ffff_ffff_f000

	pteData   = ptePresent | pteWrite | pteNoExec
	pteTable  = ptePresent | pteWrite
	pteDevice = pteData | pteThrough | pteUncache

	shiftTop, shiftLarge, shiftPage = 39, 21, 12
	indexMask                       = 511
)

var (
	topTable uint64 // physical
	booted   bool
)

// walk returns the address of the entry for va in the table at shift, making the
// tables above it where create is true. It is 0 where there is none.
//
//go:nosplit
func walk(va uint64, shift uint, create bool) uint64 {
	alloc := allocPage // without optimization an indirect call, or the linker finds the chain too deep for nosplit
	t := direct + topTable
	for s := uint(shiftTop); s > shift; s -= 9 {
		e := t + (va>>s&indexMask)*8
		v := ld(e)
		if v&ptePresent == 0 {
			if !create {
				return 0
			}
			p := alloc()
			if p == 0 {
				return 0
			}
			v = p | pteTable
			st(e, v)
		} else if v&pteLarge != 0 {
			return 0
		}
		t = direct + v&pteAddr
	}
	return t + (va>>shift&indexMask)*8
}

// behind returns the first address behind va that can have an entry, where
// walk(va) found none.
//
//go:nosplit
func behind(va uint64) uint64 {
	t := direct + topTable
	for s := uint(shiftTop); s > shiftPage; s -= 9 {
		v := ld(t + (va>>s&indexMask)*8)
		if v&(ptePresent|pteLarge) != ptePresent {
			return (va>>s + 1) << s
		}
		t = direct + v&pteAddr
	}
	return va + pageSize
}

// mapPage reports whether there was memory for the tables.
//
//go:nosplit
func mapPage(va, p, bits uint64) bool {
	e := walk(va, shiftPage, true)
	if e == 0 {
		return false
	}
	st(e, p|bits)
	return true
}

// mapNew maps a new zeroed page for the kernel.
//
//go:nosplit
func mapNew(va uint64) bool {
	p := allocPage()
	if p == 0 {
		return false
	}
	if !mapPage(va, p, pteData) {
		freePage(p)
		return false
	}
	return true
}

// flush forgets what the processor remembers of va. Tests run without one.
//
//go:nosplit
func flush(va uint64) {
	if booted {
		invlpg(va)
	}
}

// mapBoot is mapPage while booting, where there must be memory.
//
//go:nosplit
func mapBoot(va, p, bits uint64) {
	if !mapPage(va, p, bits) {
		die(exitBoot, "too little RAM for page tables", noValue)
	}
}

// initPaging replaces the shim's map of everything.
//
//go:nosplit
func initPaging() {
	topTable = allocPage()
	for i := 0; i < rams; i++ {
		for a := ram[i].start; a < ram[i].end; {
			from, to := freePart(a, ram[i].end)
			mapDirect(from, to)
			a = to
		}
	}
	for i := uint64(0); i < info.count; i++ {
		mapSegment(&info.segments[i])
	}
	for a := window.start; a < window.end; a += pageSize {
		mapBoot(WindowBase+a-window.start, a, ptePresent|pteNoExec)
	}
	writeCR3(topTable)
}

//go:nosplit
func mapDirect(a, end uint64) {
	for a < end {
		if a%largePage == 0 && end-a >= largePage {
			e := walk(direct+a, shiftLarge, true)
			if e == 0 {
				die(exitBoot, "too little RAM for page tables", noValue)
			}
			st(e, a|pteData|pteLarge)
			a += largePage
			continue
		}
		mapBoot(direct+a, a, pteData)
		a += pageSize
	}
}

// mapSegment maps a segment of the image where it was loaded, and leaves out the
// guard pages among the kernel's stacks.
//
//go:nosplit
func mapSegment(s *segment) {
	bits := uint64(ptePresent)
	if s.flags&segWrite != 0 {
		bits |= pteWrite
	}
	if s.flags&segExec == 0 {
		bits |= pteNoExec
	}
	for a := roundDown(s.addr); a < min(s.addr+s.size, image.end); a += pageSize {
		if !isGuard(a) {
			mapBoot(a, a, bits)
		}
	}
}

// lockTables makes the tables that the processor reads read-only. It comes last:
// loading the task register still writes one.
//
//go:nosplit
func lockTables() {
	for a := tablesStart; a < tablesEnd; a += pageSize {
		mapBoot(a, a, ptePresent|pteNoExec)
		flush(a)
	}
}

// unmapPages gives the pages of [start, end) back.
//
//go:nosplit
func unmapPages(start, end uint64) {
	for va := start; va < end; {
		e := walk(va, shiftPage, false)
		if e == 0 {
			va = behind(va)
			continue
		}
		if v := ld(e); v&(ptePresent|pteKept) != 0 {
			st(e, 0)
			flush(va)
			freePage(v & pteAddr)
		}
		va += pageSize
	}
}

// protectPages changes the pages that [start, end) has already.
//
//go:nosplit
func protectPages(start, end, bits uint64) {
	for va := start; va < end; {
		e := walk(va, shiftPage, false)
		if e == 0 {
			va = behind(va)
			continue
		}
		if v := ld(e); v&(ptePresent|pteKept) != 0 {
			st(e, v&pteAddr|bits)
			flush(va)
		}
		va += pageSize
	}
}
