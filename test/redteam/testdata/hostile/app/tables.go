package hostile

import (
	"errors"
	"runtime/debug"
	"syscall"
	"unsafe"
)

// In a machine of its own the image is in ring 0, with the kernel. All memory but its
// own text and the programs is mapped from direct on, the page tables with it: to
// find and to change them takes package unsafe and nothing else.

const (
	direct     = 0xffff_8000_0000_0000
	window     = 0x6000_0000_0000 // of the program in force
	page       = 4096
	present    = 1 << 0
	mayWrite   = 1 << 1
	uncached   = 1<<3 | 1<<4
	large      = 1 << 7
	noExecute  = 1 << 63
	addressOf  = 0x000f_ffff_ffff_f000
	tableSpans = 39
)

func at[T any](a uintptr) *T { return *(**T)(unsafe.Pointer(&a)) }

// faults reports whether f touched what it must not.
func faults(f func()) (yes bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { yes = recover() != nil }()
	f()
	return false
}

// refusedByFault is the result of an attack that comes to nothing by a fault.
func refusedByFault(f func()) result {
	if faults(f) {
		return result{Text: "refused: a fault, which it may survive"}
	}
	return result{Text: "done"}
}

// A tables is the physical address of the table at the top.
type tables uintptr

var errNoTables = errors.New("no page tables were found")

// findTables looks through memory for the table that maps itself.
func findTables() (top tables, err error) {
	for p := uintptr(page); p < 1<<30; p += page {
		top = tables(p)
		found := false
		faults(func() {
			t := at[[512]uint64](direct + p)
			found = t[window>>tableSpans]&present != 0 && t[direct>>tableSpans&511]&present != 0 && t[0]&present != 0 && top.physical(direct+p) == p
		})
		if found {
			return top, nil
		}
	}
	return 0, errNoTables
}

// entry returns what maps an address, and how much it maps; nil where nothing does.
func (t tables) entry(a uintptr) (e *uint64, size uintptr) {
	table := uintptr(t)
	for shift := tableSpans; ; shift -= 9 {
		e = at[uint64](direct + table + a>>shift&511*8)
		switch {
		case *e&present == 0:
			return nil, 0
		case shift == 12 || *e&large != 0:
			return e, 1 << shift
		}
		table = uintptr(*e & addressOf)
	}
}

func (t tables) physical(a uintptr) uintptr {
	e, size := t.entry(a)
	if e == nil {
		return 0
	}
	return uintptr(*e&addressOf)&^(size-1) | a&(size-1)
}

// fresh returns the address of a page that nobody else has, mapped by an entry of
// its own.
func fresh() uintptr {
	a, _, e := syscall.Syscall6(syscall.SYS_MMAP, 0, page, 3, 0x22, ^uintptr(0), 0)
	if e != 0 {
		panic(e)
	}
	*at[byte](a) = 0
	return a
}

// see maps a page of physical memory or of device registers.
func (t tables) see(physical uintptr) uintptr {
	a := fresh()
	e, _ := t.entry(a)
	*e = uint64(physical&^(page-1)) | present | mayWrite | uncached | noExecute
	invalidate(a)
	return a + physical&(page-1)
}

// with runs an attack on the page tables.
func with(f func(tables) result) func() result {
	return func() result {
		t, err := findTables()
		if err != nil {
			return said(err)
		}
		return f(t)
	}
}
