package kernel

import "unsafe"

// boot takes the machine from the shim to the first instruction of the Go runtime.
// The order matters: boot data is read before its memory is unmapped, exceptions are
// reported once there are tables for them, no page is marked NX before that means
// something, and entropy needs clocks for its patience.
//
//go:nosplit
func boot(p uint64) {
	firstTSC = rdtsc()
	initConsole()
	readBoot(p)
	initTables()
	initProcessor()
	initMemory()
	initPaging()
	booted = true
	lockTables()
	initAreas()
	initAPIC()
	initClock()
	initInterrupts()
	initEntropy()
	firstThread()
}

//go:nosplit
func initMemory() {
	for i := 0; i < rams; i++ {
		for a := ram[i].start; a < ram[i].end; {
			from, to := freePart(a, ram[i].end)
			if from < to {
				addPages(from, to)
			}
			a = to
		}
	}
	if freePages*pageSize < minFree {
		die(exitBoot, "too little RAM: bytes left beside the image and the program window: ", freePages*pageSize)
	}
}

// initAreas makes the table of areas with the first of them: zero pages of the image
// that were not loaded, and the stack of the first thread.
//
//go:nosplit
func initAreas() {
	areas.base = areaBase
	if !areas.room() {
		die(exitBoot, "too little RAM for page tables", noValue)
	}
	if image.end < imageEnd {
		areas.set(image.end, imageEnd, protRead|protWrite)
	}
	areas.set(firstStackBottom, userEnd, protRead|protWrite)
}

// Entries of the auxiliary vector: Linux, include/uapi/linux/auxvec.h.
const (
	auxNull    = 0
	auxPage    = 6
	auxSecure  = 23
	auxRandom  = 25
	auxVDSO    = 33
	argSpace   = 1024 // for the strings and vectors below
	randomSize = 16
)

// firstThread makes the thread that starts the Go runtime, on a stack as Linux lays
// it out: argument count and pointers, an empty environment, the auxiliary vector.
//
//go:nosplit
func firstThread() {
	t := newThread()
	if t == nil {
		die(exitBoot, "too little RAM for a thread", noValue)
	}
	t.fs = addr(unsafe.Pointer(&noTLS)) + 64
	sp := uint64(userEnd - argSpace)
	strings := sp + argSpace/2
	random.fill(strings, randomSize)
	name := strings + randomSize
	putString(name, "lorica")

	a := sp
	a = push(a, 1, name) // argc, argv[0]
	a = push(a, 0, 0)    // ends of argv and of the environment
	a = push(a, auxPage, pageSize)
	a = push(a, auxRandom, strings)
	a = push(a, auxSecure, 0)
	a = push(a, auxVDSO, initVDSO())
	push(a, auxNull, 0)

	t.reg[regIP], t.reg[regCS] = info.entry, selCode
	t.reg[regSP], t.reg[regSS] = sp, selData
	t.reg[regFlags] = flagInterrupt | flagReserved
	t.state = threadRunning
	setFS(t.fs)
	current = t.address()
	armTimer(nanotime())
}

//go:nosplit
func push(at, a, b uint64) uint64 {
	st(at, a)
	st(at+8, b)
	return at + 16
}
