package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"lorica.dev/lorica/kernel"
)

// at is memory that Go knows nothing of.
func at(a uintptr) *byte { return (*byte)(unsafe.Add(unsafe.Pointer(nil), a)) }

//go:noinline
func load(p *byte) byte { return *p }

//go:noinline
func store(p *byte) { *p = 0x90 }

//go:noinline
func divide(a, b int) int { return a / b }

// faults runs f, which must panic with a run-time error that says want.
func faults(want string, f func()) (detail string, err error) {
	defer func() {
		e := recover()
		if re, ok := e.(runtime.Error); !ok || !strings.Contains(re.Error(), want) {
			err = fmt.Errorf("got %v, want a panic that says %q", e, want)
			return
		}
		detail = fmt.Sprint(e)
	}()
	f()
	return "", errors.New("nothing happened")
}

func panicNil() (string, error) { return faults("nil pointer", func() { load(nil) }) }

func panicDivide() (string, error) {
	return faults("divide by zero", func() { fmt.Println(divide(1, len(os.Args)-1)) })
}

func panicBounds() (string, error) {
	return faults("out of range", func() { load(&make([]byte, 1)[len(os.Args)]) })
}

// faultsAt runs f, which must panic because of an access to address a.
func faultsAt(a uintptr, f func()) (detail string, err error) {
	defer func() {
		e := recover()
		if at, ok := e.(interface{ Addr() uintptr }); !ok || at.Addr() != a {
			err = fmt.Errorf("got %v, want a fault at %#x", e, a)
			return
		}
		detail = fmt.Sprintf("%#x", a)
	}()
	f()
	return "", errors.New("nothing happened")
}

func control() (cr0, cr4, efer uint64) // what ring 0 is held by
func features() (b, c uint32)          // what the processor offers of it

// processor looks whether the protections that the processor offers are on.
func processor() (string, error) {
	cr0, cr4, efer := control()
	b, c := features()
	var on []string
	for _, p := range []struct {
		name      string
		offered   bool
		word, bit uint64
	}{
		{"WP", true, cr0, 16},
		{"NXE", true, efer, 11},
		{"SMEP", b>>7&1 == 1, cr4, 20},
		{"SMAP", b>>20&1 == 1, cr4, 21},
		{"UMIP", c>>2&1 == 1, cr4, 11},
	} {
		switch is := p.word>>p.bit&1 == 1; {
		case is != p.offered:
			return "", fmt.Errorf("%s: offered %v, on %v", p.name, p.offered, is)
		case is:
			on = append(on, p.name)
		}
	}
	return strings.Join(on, ", "), nil
}

func textAddress() uintptr {
	f := divide
	return **(**uintptr)(unsafe.Pointer(&f))
}

func writeText() (string, error) {
	a := textAddress()
	return faultsAt(a, func() { store(at(a)) })
}

func writeReadOnly() (string, error) {
	p := unsafe.StringData("constant")
	return faultsAt(uintptr(unsafe.Pointer(p)), func() { store(p) })
}

func readWild() (string, error) {
	const a = 0x1234_5678_9000
	return faultsAt(a, func() { load(at(a)) })
}

// readNonCanonical: the processor does not say the address.
func readNonCanonical() (string, error) {
	return faultsAt(0, func() { load(at(0x8123_4567_8900_0000)) })
}

func readNullPage() (string, error) { return faults("nil pointer", func() { load(at(0xfff)) }) }

func writeWindow() (string, error) {
	w := kernel.Window()
	if w == nil {
		return "no window", nil
	}
	if len(w)%4096 != 0 {
		return "", fmt.Errorf("%d bytes", len(w))
	}
	load(&w[len(w)-1])
	return faultsAt(uintptr(unsafe.Pointer(&w[0])), func() { store(&w[0]) })
}

// writeDescriptors writes where the processor says that its tables are.
func writeDescriptors() (string, error) {
	var errs []error
	interrupts, segments := descriptors()
	for _, a := range []uintptr{interrupts, segments} {
		load(at(a))
		_, err := faultsAt(a, func() { store(at(a)) })
		errs = append(errs, err)
	}
	return fmt.Sprintf("%#x, %#x", interrupts, segments), errors.Join(errs...)
}

// descriptors is what SIDT and SGDT say.
func descriptors() (interrupts, segments uintptr)

var code = [16]byte{0xc3} // RET

// executeData jumps to variables, the heap, a stack, and the memory of drivers.
func executeData() (string, error) {
	heap, stack := new([16]byte), [16]byte{0xc3}
	heap[0] = 0xc3
	virt, _, err := kernel.Pages(1)
	if err != nil {
		return "", err
	}
	*at(virt) = 0xc3
	var errs []error
	for _, p := range []unsafe.Pointer{unsafe.Pointer(&code), unsafe.Pointer(heap), unsafe.Pointer(&stack), unsafe.Pointer(at(virt))} {
		pp := &p
		f := *(*func())(unsafe.Pointer(&pp))
		_, err := faultsAt(uintptr(p), f)
		errs = append(errs, err)
	}
	return fmt.Sprintf("%d places", len(errs)), errors.Join(errs...)
}

func refused(what string, want syscall.Errno, nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, e := syscall.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); e != want {
		return fmt.Errorf("%s: got %v, want %v", what, e, want)
	}
	return nil
}

const (
	anonymous = syscall.MAP_ANON | syscall.MAP_PRIVATE
	fixed     = anonymous | syscall.MAP_FIXED
	readable  = syscall.PROT_READ
	writable  = syscall.PROT_READ | syscall.PROT_WRITE
	runnable  = syscall.PROT_READ | syscall.PROT_EXEC
)

func executableMemory() (string, error) {
	page, err := syscall.Mmap(-1, 0, 4096, writable, anonymous)
	if err != nil {
		return "", err
	}
	a := uintptr(unsafe.Pointer(&page[0]))
	return "", errors.Join(
		refused("mmap", syscall.EPERM, syscall.SYS_MMAP, 0, 4096, runnable, anonymous),
		refused("mprotect", syscall.EPERM, syscall.SYS_MPROTECT, a, 4096, runnable),
		syscall.Munmap(page))
}

// protect looks whether a page is what the last call made it, though the processor has
// just had it otherwise.
func protect() (string, error) {
	page, err := syscall.Mmap(-1, 0, 4096, writable, anonymous)
	if err != nil {
		return "", err
	}
	p := &page[0]
	a := uintptr(unsafe.Pointer(p))
	store(p)
	var errs []error
	for _, step := range []struct {
		name string
		call func() error
		f    func() // what faults then, or
		want byte   // what is there
	}{
		{"read-only", func() error { return syscall.Mprotect(page, readable) }, func() { store(p) }, 0},
		{"still there", func() error { return nil }, nil, 0x90},
		{"inaccessible", func() error { return syscall.Mprotect(page, 0) }, func() { load(p) }, 0},
		{"writable again", func() error { return syscall.Mprotect(page, writable) }, nil, 0x90},
		{"given back", func() error { store(p); return syscall.Madvise(page, syscall.MADV_DONTNEED) }, nil, 0},
		{"gone", func() error { store(p); return syscall.Munmap(page) }, func() { load(p) }, 0},
	} {
		err := step.call()
		switch {
		case err != nil:
		case step.f != nil:
			_, err = faultsAt(a, step.f)
		case load(p) != step.want:
			err = fmt.Errorf("it has %#x", load(p))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", step.name, err))
		}
	}
	return "", errors.Join(errs...)
}

// untouchable tries every memory call on text, rodata, data, and the window.
func untouchable() (string, error) {
	s := "constant"
	targets := []struct {
		name string
		at   uintptr
	}{
		{"text", textAddress()},
		{"rodata", uintptr(unsafe.Pointer(unsafe.StringData(s)))},
		{"data", uintptr(unsafe.Pointer(&code))},
		{"window", kernel.WindowBase},
	}
	var errs []error
	for _, t := range targets {
		a := t.at &^ 4095
		errs = append(errs,
			refused("mmap over "+t.name, syscall.EPERM, syscall.SYS_MMAP, a, 4096, writable, fixed, ^uintptr(0)),
			refused("mmap from below "+t.name, syscall.EPERM, syscall.SYS_MMAP, a-4096, 8192, writable, fixed, ^uintptr(0)),
			refused("mprotect of "+t.name, syscall.EPERM, syscall.SYS_MPROTECT, a, 4096, writable),
			refused("munmap of "+t.name, syscall.EPERM, syscall.SYS_MUNMAP, a, 4096),
			refused("madvise of "+t.name, syscall.EPERM, syscall.SYS_MADVISE, a, 4096, syscall.MADV_DONTNEED))
	}
	return fmt.Sprintf("%d calls refused", len(errs)), errors.Join(errs...)
}

func noFiles() (string, error) {
	_, err := os.ReadFile("/etc/passwd")
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("opening a file: %v", err)
	}
	return "", refused("socket", syscall.ENOSYS, syscall.SYS_SOCKET, syscall.AF_INET, syscall.SOCK_STREAM, 0)
}

// seal comes last: drivers get nothing behind it.
func seal() (string, error) {
	virt, phys, err := kernel.Pages(2)
	if err != nil {
		return "", err
	}
	if phys%4096 != 0 || load(at(virt)) != 0 {
		return "", fmt.Errorf("pages at %#x are not zeroed whole pages", phys)
	}
	store(at(virt + 8191))
	if _, err := kernel.Registers(phys); !errors.Is(err, syscall.EINVAL) {
		return "", fmt.Errorf("RAM as registers: %v", err)
	}
	if err := kernel.Seal(); err != nil {
		return "", err
	}
	_, _, errPages := kernel.Pages(1)
	_, errRegs := kernel.Registers(0xfeb0_0000)
	_, errIRQ := kernel.Interrupt(5, 0)
	for _, err := range []error{errPages, errRegs, errIRQ} {
		if !errors.Is(err, syscall.EPERM) {
			return "", fmt.Errorf("sealed, and yet: %v", err)
		}
	}
	return "", nil
}
