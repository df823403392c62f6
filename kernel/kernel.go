// Package kernel lets an ordinary static Go program run in ring 0 of a virtual machine
// with no operating system. It implements the part of the Linux system call interface
// that the Go runtime itself uses: memory, threads, futexes, signals, clocks, epoll.
// There are no sockets and no files: those are packages of the image.
//
// Package builder/pvh makes the program bootable. Started by Linux, it is a Linux
// program, and Booted says so.
//
// The kernel is Go that cannot grow its stack or be preempted (nosplit), and never
// allocates. It runs with interrupts off on one processor, so that nothing in it is
// concurrent. Addresses are numbers in it: a pointer stored would need the garbage
// collector's write barrier. Numbers from outside are bounded where they come in: an
// index out of range would be a panic of Go where nothing can recover.
//
// The program shares the kernel's ring and its addresses. What holds against Go code
// without package unsafe is what the processor enforces: text, constants and the
// program window cannot be written, nothing that was written can be executed, and no
// call undoes any of it, or takes an address above the program's. Who writes at addresses
// of his choosing, or brings machine code, has the page tables in his reach, as in any
// kernel: it is kept out, not held. So has who knows where a variable of the kernel lies,
// and by package syscall has a call store there: it is data of the program's as any other.
package kernel

import (
	"errors"
	"fmt"
	linux "syscall"
	"unsafe"
)

var errNotBooted = errors.New("kernel: not running on the kernel")

// Booted reports whether the program runs on the kernel.
func Booted() bool { return booted && entryAt() != 0 } // the reference keeps the kernel linked in

// CommandLine returns what the machine was started with.
func CommandLine() string { return string(commandLine[:lineLength]) }

// Pages returns n contiguous pages of zeroed memory that devices may read and write,
// by their virtual and physical address. They are never given back.
func Pages(n int) (virt uintptr, phys uint64, err error) {
	if err := call("pages", nrPages, uintptr(max(n, 0)), uintptr(unsafe.Pointer(&phys))); err != nil {
		return 0, 0, err
	}
	return direct + uintptr(phys), phys, nil
}

// Registers maps the page of device registers that phys is in, uncached, and returns
// where phys is in it. Memory and interrupt controllers are refused.
func Registers(phys uint64) (virt uintptr, err error) {
	var va uint64
	err = call("registers", nrRegisters, uintptr(phys), uintptr(unsafe.Pointer(&va)))
	return uintptr(va), err
}

// Interrupt returns a descriptor for the interrupt gsi of the virtio-mmio device with
// these registers: a read of eight bytes returns how many there were since the last,
// or EAGAIN; os.NewFile makes it wait. The kernel acknowledges them to the device.
func Interrupt(gsi int, regs uintptr) (fd int, err error) {
	r, _, e := linux.RawSyscall(nrInterrupt, uintptr(gsi), regs, 0)
	if err := result("interrupt", e); err != nil {
		return -1, err
	}
	return int(r), nil
}

// Window returns the program window: memory that the tender writes and nobody in the
// machine can, or nil where there is none.
func Window() []byte {
	if !booted || window.start == window.end {
		return nil
	}
	return unsafe.Slice((*byte)(at(WindowBase)), window.end-window.start)
}

// Seal refuses Pages, Registers and Interrupt from here on, for good.
func Seal() error { return call("seal", nrSeal, 0, 0) }

// SetClock sets the wall clock to ns since 1970. The one of the machine counts whole
// seconds, and the rate of the processor's is a measurement.
func SetClock(ns int64) error { return call("set the clock", nrSetClock, uintptr(ns), 0) }

// Memory returns the bytes of RAM that are free, and that the machine has.
func Memory() (free, total uint64) { return freePages * pageSize, totalBytes }

// Exit ends the machine, with a status that says code (0 to 63; 63 for all others).
func Exit(code int) {
	for {
		linux.RawSyscall(linux.SYS_EXIT_GROUP, uintptr(code), 0, 0)
	}
}

func call(what string, nr, a, b uintptr) error {
	_, _, e := linux.RawSyscall(nr, a, b, 0)
	return result(what, e)
}

func result(what string, e linux.Errno) error {
	switch {
	case !booted:
		return errNotBooted
	case e != 0:
		return fmt.Errorf("kernel: %s: %w", what, e)
	}
	return nil
}
