package kernel

import "unsafe"

func outb(port, v uint64)
func outl(port, v uint64)
func inb(port uint64) uint64
func rdtsc() uint64
func rdrand() (v uint64, ok bool)
func wrmsr(msr, v uint64)
func cpuid(leaf, sub uint32) (a, b, c, d uint32)
func readCR2() uint64
func writeCR3(v uint64)
func readCR4() uint64
func writeCR4(v uint64)
func xsetbv(v uint64)
func invlpg(va uint64)
func zeroPage(a uint64)
func copyWords(dst, src, n uint64)
func loadTables(gdtr, idtr, task uint64)
func idle()
func pause()
func stop()

func entry()
func abandon()
func die(code uint64, text string, value uint64)
func vectorsAt() uint64
func syscallEntryAt() uint64
func vdsoClockAt() uint64
func entryAt() uint64

// at is the memory at an address that Go knows nothing of.
//
//go:nosplit
func at(a uint64) unsafe.Pointer { return unsafe.Add(unsafe.Pointer(nil), a) }

//go:nosplit
func addr(p unsafe.Pointer) uint64 { return uint64(uintptr(p)) }

//go:nosplit
func ld(a uint64) uint64 { return *(*uint64)(at(a)) }

//go:nosplit
func st(a, v uint64) { *(*uint64)(at(a)) = v }

//go:nosplit
func ld32(a uint64) uint32 { return *(*uint32)(at(a)) }

//go:nosplit
func st32(a uint64, v uint32) { *(*uint32)(at(a)) = v }

//go:nosplit
func ld8(a uint64) byte { return *(*byte)(at(a)) }

//go:nosplit
func st8(a uint64, v byte) { *(*byte)(at(a)) = v }

// readDevice and writeDevice are one access each to a register of a device, or to memory
// that one writes. The compiler cannot look into them: of stores to one register it would
// leave out all but the last, and answer a load with what was stored before.
//
//go:noinline
//go:nosplit
func readDevice(a uint64) uint32 { return *(*uint32)(at(a)) }

//go:noinline
//go:nosplit
func writeDevice(a uint64, v uint32) { *(*uint32)(at(a)) = v }

// putString stores s with a zero byte behind it, and returns the address behind that.
//
//go:nosplit
func putString(a uint64, s string) uint64 {
	for i := 0; i < len(s); i++ {
		st8(a+uint64(i), s[i])
	}
	st8(a+uint64(len(s)), 0)
	return a + uint64(len(s)) + 1
}

// What only assembly names.
var (
	_ = boot
	_ = systemCall
	_ = firstTouch
	_ = faultInFault
	_ = trap
	_ = nestedTrap
	_ = dying
	_ = entry
	_ = &noTLS
	_ = &noTable
	_ = &callerSP
	_ = &inKernel
	_ = &inFault
	_ = &touched
	_ = vecSyscall
)
