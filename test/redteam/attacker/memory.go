package main

import (
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"lorica.dev/lorica/abi/launch"
)

// Attacks on the sealed program. Each tells on the log what its call answered;
// an image that gets to say so has not been killed.

// call makes one system call after the seal.
func call(number uintptr, args ...uintptr) attack {
	return attack{sealed, func(i *image) { i.try(number, args...) }}
}

// early makes one system call before the seal, under the launch filter.
func early(number uintptr, args ...uintptr) attack {
	return attack{atHello, func(i *image) { i.try(number, args...) }}
}

func (i *image) try(number uintptr, args ...uintptr) {
	var a [6]uintptr
	copy(a[:], args)
	r, _, e := syscall.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	if e != 0 {
		fmt.Fprintf(os.Stderr, "attacker: survived system call %d: %v\n", number, e)
		return
	}
	fmt.Fprintf(os.Stderr, "attacker: survived system call %d: %#x\n", number, r)
}

const (
	window = launch.WindowBase
	slot   = 16 << 20
	page   = 4096
	anon   = syscall.MAP_PRIVATE | syscall.MAP_ANONYMOUS | syscall.MAP_FIXED
	rw     = syscall.PROT_READ | syscall.PROT_WRITE
	none   = ^uintptr(0) // no descriptor

	mremapMayMove, mremapFixed = 1, 2
	sysProcessVMWritev         = 311
	sysProcessMadvise          = 440
	sysMseal                   = 462
	sysPkeyMprotect            = 329
	sysMemfdCreate             = 319
	sysExecveat                = 322
	sysSeccompNumber           = 317
	sysIoUringSetup            = 425
	sysUserfaultfd             = 323
	sysBPF                     = 321
	sysClone3                  = 435
	sysPidfdGetfd              = 438
)

// store writes through a pointer.
func store(*image) {
	*(*byte)(at(window)) = 1
	fmt.Fprintln(os.Stderr, "attacker: survived a store")
}

// procMem writes through the kernel's view of the process.
func procMem(*image) {
	f, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt([]byte{1}, window)
	}
	fmt.Fprintln(os.Stderr, "attacker: survived /proc/self/mem:", err)
}

// writev writes through a call that crosses processes.
func writev(i *image) {
	b := []byte{1}
	local := [2]uintptr{uintptr(unsafe.Pointer(&b[0])), 1}
	remote := [2]uintptr{window, 1}
	i.try(sysProcessVMWritev, uintptr(syscall.Getpid()), uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&remote)), 1, 0)
}

// elsewhere does what an honest runtime does, away from the program: it must
// live, or the others prove nothing.
func elsewhere(i *image) {
	b, err := syscall.Mmap(-1, 0, page, rw, syscall.MAP_PRIVATE|syscall.MAP_ANONYMOUS)
	check(err)
	b[0] = 1
	check(syscall.Madvise(b, syscall.MADV_DONTNEED))
	check(syscall.Munmap(b))
}
