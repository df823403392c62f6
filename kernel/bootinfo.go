package kernel

import "unsafe"

// bootInfo is what the boot shim hands over; package pvh of the builder writes it.
type bootInfo struct {
	magic    uint64
	start    uint64 // physical address of a startInfo
	entry    uint64 // of the Go runtime
	lazy     uint64 // zero pages of the image from here on have no physical memory yet
	count    uint64
	segments [maxSegments]segment
}

type segment struct{ addr, size, flags uint64 }

const (
	infoMagic   = 0x3130_4143_4952_4f4c // "LORICA01"
	maxSegments = 8

	// Flags of a segment: p_flags of ELF.
	segExec  = 1
	segWrite = 2

	// The boot shim, its page tables included, lies here until the kernel has its own.
	shimStart, shimEnd = 0x10_0000, 0x10_4000
)

// startInfo is struct hvm_start_info of Xen's public/arch-x86/hvm/start_info.h.
type startInfo struct {
	magic, version, flags, modules uint32
	moduleList, commandLine, rsdp  uint64
	memory                         uint64 // physical address of the memory map
	memoryEntries, reserved        uint32
}

// memoryEntry is struct hvm_memmap_table_entry.
type memoryEntry struct {
	addr, size     uint64
	kind, reserved uint32
}

const (
	startMagic   = 0x336e_c578
	memoryRAM    = 1
	maxMemoryMap = 64

	firstMB = 1 << 20  // RAM below belongs to firmware
	maxRAM  = 1 << 39  // what one entry of the top page table maps
	minFree = 6 << 20  // bytes that a Go program needs to start at all
	shimMap = 1 << 30  // what the shim maps: the first pages are taken below
	maxLine = 4096 - 1 // bytes of the command line
)

type span struct{ start, end uint64 }

var (
	info        bootInfo
	commandLine [maxLine + 1]byte
	lineLength  uint64
	image       span // of memory that belongs to the image's segments, virtual and physical
	imageEnd    uint64
	window      span // physical
	ram         [maxMemoryMap]span
	rams        int
	holes       [3]span // RAM that the allocator never sees: shim, image, window
	totalBytes  uint64
)

// readBoot copies everything that firmware and shim left in memory, before that
// memory is reused or unmapped.
//
//go:nosplit
func readBoot(p uint64) {
	info = *(*bootInfo)(at(direct + p))
	if info.magic != infoMagic || info.count == 0 || info.count > maxSegments {
		die(exitBoot, "bad boot information, magic ", info.magic)
	}
	start := (*startInfo)(at(direct + info.start))
	if info.start >= shimMap || start.magic != startMagic {
		die(exitBoot, "bad PVH start information at ", info.start)
	}
	if start.version < 1 || start.memoryEntries == 0 || start.memoryEntries > maxMemoryMap || start.memory >= shimMap {
		die(exitBoot, "no memory map in the PVH start information", noValue)
	}
	if start.commandLine != 0 && start.commandLine < shimMap {
		for lineLength = 0; lineLength < maxLine; lineLength++ {
			c := ld8(direct + start.commandLine + lineLength)
			if c == 0 {
				break
			}
			commandLine[lineLength] = c
		}
	}
	readImage()
	entries := uint64(start.memoryEntries)
	for i := uint64(0); i < entries; i++ {
		e := (*memoryEntry)(at(direct + start.memory + i*uint64(unsafe.Sizeof(memoryEntry{}))))
		if e.kind == memoryRAM && e.addr < maxRAM {
			addRAM(e.addr, e.addr+min(e.size, maxRAM-e.addr))
		}
	}
	readWindow()
}

//go:nosplit
func readImage() {
	image.start, image.end, imageEnd = ^uint64(0), 0, 0
	for i := uint64(0); i < info.count; i++ {
		s := &info.segments[i]
		image.start = min(image.start, s.addr)
		imageEnd = max(imageEnd, s.addr+s.size)
	}
	image.start = roundDown(image.start)
	image.end = roundUp(min(info.lazy, imageEnd))
	imageEnd = roundUp(imageEnd)
}

// addRAM keeps the ranges in ascending order, without overlap.
//
//go:nosplit
func addRAM(start, end uint64) {
	start, end = roundUp(max(start, firstMB)), roundDown(end)
	if start >= end {
		return
	}
	i := rams
	for i > 0 && ram[i-1].start > start {
		i--
	}
	if i > 0 && ram[i-1].end > start || i < rams && ram[i].start < end {
		die(exitBoot, "the memory map overlaps itself at ", start)
	}
	for j := rams; j > i; j-- {
		ram[j] = ram[j-1]
	}
	ram[i].start, ram[i].end = start, end
	rams++
	totalBytes += end - start
}

// inRAM reports whether [start, end) lies in one range of RAM.
//
//go:nosplit
func inRAM(start, end uint64) bool {
	for i := 0; i < rams; i++ {
		if ram[i].start <= start && end <= ram[i].end {
			return true
		}
	}
	return false
}

// readWindow takes the program window from the command line and punches the holes.
//
//go:nosplit
func readWindow() {
	if !inRAM(image.start, image.end) {
		die(exitBoot, "too little RAM: the image needs it up to ", image.end)
	}
	holes[0].start, holes[0].end = shimStart, shimEnd
	holes[1] = image
	a, n, found, ok := parseWindow(addr(unsafe.Pointer(&commandLine)), lineLength)
	if !found {
		return
	}
	if !ok {
		die(exitBoot, "lorica.window is not ADDRESS,SIZE, once, on the command line", noValue)
	}
	if a%pageSize != 0 || n%pageSize != 0 || n == 0 || n > maxWindow || a >= maxRAM || !inRAM(a, a+n) ||
		overlap(a, a+n, image.start, image.end) || overlap(a, a+n, shimStart, shimEnd) {
		die(exitBoot, "the program window is not whole pages of free RAM: ", a)
	}
	window.start, window.end = a, a+n
	holes[2] = window
}

// freePart returns the first part of [start, end) outside of the holes; it is empty
// where nothing is left.
//
//go:nosplit
func freePart(start, end uint64) (from, to uint64) {
again:
	to = end
	for i := range holes {
		h := &holes[i]
		if h.start <= start && start < h.end {
			start = h.end
			goto again
		}
		if h.start > start && h.start < to {
			to = h.start
		}
	}
	if start >= end {
		return end, end
	}
	return start, to
}

//go:nosplit
func overlap(a, aEnd, b, bEnd uint64) bool { return a < bEnd && b < aEnd }

//go:nosplit
func roundDown(a uint64) uint64 { return a &^ (pageSize - 1) }

//go:nosplit
func roundUp(a uint64) uint64 { return (a + pageSize - 1) &^ (pageSize - 1) }
