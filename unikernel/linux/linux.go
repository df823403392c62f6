//go:build linux && amd64

// Package linux holds every system call that an image makes by itself, and
// everything unsafe, on the process target: the control descriptor, the sealed program memory, and the
// seal. All of it happens once, during boot.
package linux

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"lorica.dev/lorica/abi/launch"
)

// Numbers that the frozen syscall package lacks: linux/fcntl.h, linux/mman.h,
// linux/prctl.h, linux/seccomp.h and asm/unistd_64.h.
const (
	sysSeccomp = 317
	sysMseal   = 462 // since Linux 6.10

	getSeals = 1034 // F_GET_SEALS
	// F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW and F_SEAL_FUTURE_WRITE: nobody
	// who maps the memory from now on can write it, shorten it or undo that.
	wantSeals = 0x1 | 0x2 | 0x4 | 0x10

	fixedNoReplace = 0x100000 // MAP_FIXED_NOREPLACE

	setNoNewPrivs = 38 // PR_SET_NO_NEW_PRIVS
	modeFilter    = 1  // SECCOMP_SET_MODE_FILTER
	tsync         = 1  // SECCOMP_FILTER_FLAG_TSYNC
)

// A Platform is a confined process, started by the tender.
type Platform struct{}

// New returns the module.
func New() Platform { return Platform{} }

// Control adopts the control channel. Reads and writes of the file park on the
// runtime's poller instead of holding a thread.
func (Platform) Control() (io.ReadWriter, error) {
	const fd = launch.ControlFD
	if err := syscall.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("control channel, descriptor %d: %w", fd, err)
	}
	return os.NewFile(uintptr(fd), "control"), nil
}

// Window maps the program memory that the tender handed in.
func (Platform) Window(p *launch.Params) ([]byte, error) {
	return Map(launch.ProgramFD, launch.WindowBase, int(p.Slots)*int(p.SlotSize))
}

// Seal installs the filter of the launch parameters on all threads. There is no
// way back.
func (Platform) Seal(p *launch.Params) error {
	if len(p.Seal) == 0 {
		return errors.New("this is an image of the process target, and was launched as a microVM")
	}
	return Seal(p.Seal)
}

// Map maps size bytes of the sealed memfd at base, read-only, and closes fd. It
// refuses memory that this process could write, or that could shrink under it.
func Map(fd int, base uintptr, size int) ([]byte, error) {
	have, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), getSeals, 0)
	if errno != 0 {
		return nil, fmt.Errorf("program memory, descriptor %d: %w", fd, errno)
	}
	if have&wantSeals != wantSeals {
		return nil, fmt.Errorf("program memory has seals %#x; it needs %#x", have, wantSeals)
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("program memory: %w", err)
	}
	if st.Size < int64(size) {
		return nil, fmt.Errorf("program memory has %d bytes; the launch promised %d", st.Size, size)
	}
	addr, _, errno := syscall.Syscall6(syscall.SYS_MMAP, base, uintptr(size),
		syscall.PROT_READ, syscall.MAP_SHARED|fixedNoReplace, uintptr(fd), 0)
	if errno != 0 {
		return nil, fmt.Errorf("mapping the program at %#x: %w", base, errno)
	}
	if addr != base { // kernels before 4.17 take the address as a hint
		return nil, fmt.Errorf("the program was mapped at %#x instead of %#x", addr, base)
	}
	// Where the kernel knows mseal, the range stays as it is even if the filter
	// had a hole.
	if _, _, errno = syscall.Syscall(sysMseal, addr, uintptr(size), 0); errno != 0 && errno != syscall.ENOSYS {
		return nil, fmt.Errorf("sealing the program's mapping: %w", errno)
	}
	if err := syscall.Close(fd); err != nil {
		return nil, fmt.Errorf("program memory: %w", err)
	}
	// The mapping is not the collector's and never moves; the indirection tells
	// vet that the number is an address on purpose.
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&addr)), size), nil
}

// An Instruction is handed to the kernel as it is.
var _ = [1]struct{}{}[unsafe.Sizeof(launch.Instruction{})-8]

// Seal installs the filter on all threads. There is no way back.
func Seal(filter []launch.Instruction) error {
	if len(filter) == 0 || len(filter) > 4096 { // BPF_MAXINSNS
		return fmt.Errorf("a filter of %d instructions", len(filter))
	}
	prog := struct {
		n      uint16
		filter *launch.Instruction // laid out as struct sock_filter
	}{uint16(len(filter)), &filter[0]}

	// no_new_privs is per thread; TSYNC copies it to the others.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, setNoNewPrivs, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("no_new_privs: %w", errno)
	}
	tid, _, errno := syscall.RawSyscall(sysSeccomp, modeFilter, tsync, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	if tid != 0 {
		return fmt.Errorf("seccomp: thread %d has a filter of its own", tid)
	}
	return nil
}
