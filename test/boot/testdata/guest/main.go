// Command guest does on the kernel what the word do= of the command line says.
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"lorica.dev/lorica/kernel"
)

func main() {
	if !kernel.Booted() {
		fmt.Println("not booted:", kernel.Seal())
		return
	}
	what, arg := "", 0
	for _, w := range strings.Fields(kernel.CommandLine()) {
		if v, ok := strings.CutPrefix(w, "do="); ok {
			what = v
		}
		if v, ok := strings.CutPrefix(w, "arg="); ok {
			arg, _ = strconv.Atoi(v)
		}
	}
	f, ok := map[string]func(int) error{
		"exit":       func(n int) error { os.Exit(n); return nil },
		"kexit":      func(n int) error { kernel.Exit(n); return nil },
		"panic":      func(int) error { panic("as told") },
		"deadlock":   func(int) error { select {} },
		"memory":     memory,
		"eat":        eat,
		"brink":      brink,
		"unknown":    unknown,
		"threads":    threads,
		"fds":        descriptors,
		"areas":      areas,
		"reuse":      reuse,
		"bad":        badPointers,
		"window":     window,
		"interrupts": interrupts,
		"ram":        ram,
		"clock":      clock,
		"random":     random,
		"overflow":   func(n int) error { overflow(uint64(n)); return nil },
		"trap":       func(int) error { trap(); return nil },
		"nmi":        func(int) error { nmi(); return nil },
		"refault":    func(int) error { refault(); return nil },
	}[what]
	if !ok {
		fmt.Printf("nothing to do in %q\n", kernel.CommandLine())
		os.Exit(2)
	}
	if err := f(arg); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	fmt.Println("done")
	os.Exit(0)
}

// What only assembly can do: each ends the machine.
func overflow(n uint64) // pushes until the kernel's stack (0), one of the table, or the last (5) ends
func trap()             // reads a wild address as the kernel
func nmi()              // an exception that no program handles
func refault()          // a page fault while one is served

func call(nr uintptr, args ...uintptr) (uintptr, syscall.Errno) {
	var a [6]uintptr
	copy(a[:], args)
	r, _, e := syscall.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	return r, e
}

func memory(int) error {
	free, total := kernel.Memory()
	fmt.Println("free", free, "total", total)
	return nil
}

// eat holds on to memory until there is none.
func eat(int) error {
	debug.SetGCPercent(-1)
	var held [][]byte
	for {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		held = append(held, b)
		runtime.KeepAlive(held)
	}
}

// brink takes all memory but what the kernel keeps for itself, and wants a thread then:
// in one go, though a thread that the runtime wakes meanwhile may want a page first.
func brink(int) error {
	debug.SetGCPercent(-1)
	runtime.GC()
	var phys uintptr
	for n := uintptr(1 << 20); n > 0; {
		if _, _, e := syscall.RawSyscall(0x4c00, n, uintptr(unsafe.Pointer(&phys)), 0); e != 0 {
			n /= 2
		}
	}
	syscall.RawSyscall(syscall.SYS_CLONE, 0x1_0100, 0, 0)
	syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0) // it must not come to this: at once, as any page would end it
	return nil
}

func unknown(int) error {
	for range 3 {
		for _, nr := range []uintptr{41, 59, 1023, 5000} {
			if _, e := call(nr); e != syscall.ENOSYS {
				return fmt.Errorf("call %d: %v", nr, e)
			}
		}
	}
	return nil
}

// threads locks n goroutines to threads, all at once.
func threads(n int) error {
	var started, done sync.WaitGroup
	stop := make(chan struct{})
	started.Add(n)
	for range n {
		done.Go(func() {
			runtime.LockOSThread()
			started.Done()
			<-stop
		})
	}
	started.Wait()
	fmt.Println("started", n)
	close(stop)
	done.Wait()
	return nil
}

func descriptors(int) error {
	for range 2 {
		var fds []uintptr
		for {
			fd, e := call(syscall.SYS_EVENTFD2, 0, 0)
			if e == syscall.EMFILE {
				break
			}
			if e != 0 || len(fds) > 1000 {
				return fmt.Errorf("descriptor %d: %v", len(fds), e)
			}
			fds = append(fds, fd)
		}
		if len(fds) < 40 {
			return fmt.Errorf("only %d descriptors", len(fds))
		}
		for _, fd := range fds {
			if _, e := call(syscall.SYS_CLOSE, fd); e != 0 {
				return e
			}
		}
		if _, e := call(syscall.SYS_CLOSE, fds[0]); e != syscall.EBADF {
			return fmt.Errorf("closed twice: %v", e)
		}
	}
	if _, e := call(syscall.SYS_EPOLL_CREATE1, 0); e != 0 && e != syscall.EMFILE {
		return e
	}
	return nil
}

const anonymous = syscall.MAP_ANON | syscall.MAP_PRIVATE

// areas maps every other page until the table is full, and takes them back.
func areas(int) error {
	const base = 0x3000_0000_0000
	n := 0
	for ; ; n++ {
		_, e := call(syscall.SYS_MMAP, base+uintptr(n)*8192, 4096, syscall.PROT_READ, anonymous|syscall.MAP_FIXED, ^uintptr(0))
		if e == syscall.ENOMEM {
			break
		}
		if e != 0 || n > 1<<20 {
			return fmt.Errorf("area %d: %v", n, e)
		}
	}
	fmt.Println("areas", n)
	for i := n - 1; i >= 0; i-- {
		if _, e := call(syscall.SYS_MUNMAP, base+uintptr(i)*8192, 4096); e != 0 {
			return fmt.Errorf("taking back area %d: %v", i, e)
		}
	}
	return nil
}

// reuse maps far more than there are addresses, in turn.
func reuse(int) error {
	const size = 1 << 38
	free, _ := kernel.Memory()
	for i := range 1000 {
		a, e := call(syscall.SYS_MMAP, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, anonymous, ^uintptr(0))
		if e != 0 {
			return fmt.Errorf("round %d: %v", i, e)
		}
		*at(a) = 1
		*at(a + size - 1) = 1
		if _, e := call(syscall.SYS_MUNMAP, a, size); e != 0 {
			return e
		}
	}
	if now, _ := kernel.Memory(); now+1<<20 < free {
		return fmt.Errorf("%d bytes are gone", free-now)
	}
	return nil
}

func at(a uintptr) *byte { return (*byte)(unsafe.Add(unsafe.Pointer(nil), a)) }

// badPointers must come back as errors: those of nothing, of text, of nobody and of the
// kernel.
func badPointers(int) error {
	text := **(**uintptr)(unsafe.Pointer(&[]func(int) error{badPointers}[0]))
	fd, e := call(syscall.SYS_EVENTFD2, 0, 0)
	if e != 0 {
		return e
	}
	one := uint64(1)
	if _, e := call(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(&one)), 8); e != 0 {
		return e
	}
	virt, _, err := kernel.Pages(1)
	if err != nil {
		return err
	}
	const (
		threads = 0xffff_c000_0000_0000 // of the kernel
		upper   = 1 << 47               // where addresses below the kernel's end
	)
	for _, p := range []uintptr{0, 8, 0x1234_5678_9000, text, upper - 4096, upper - 4, upper, 1 << 63, virt, threads, ^uintptr(7)} {
		errs := map[string]syscall.Errno{}
		_, errs["clock_gettime"] = call(syscall.SYS_CLOCK_GETTIME, 1, p)
		_, errs["getrandom"] = call(318, p, 64)
		_, errs["read"] = call(syscall.SYS_READ, fd, p, 8)
		_, errs["uname"] = call(syscall.SYS_UNAME, p)
		_, errs["sched_getaffinity"] = call(syscall.SYS_SCHED_GETAFFINITY, 0, 8, p)
		if p != text { // which can be read
			_, errs["write"] = call(syscall.SYS_WRITE, 1, p, 8)
			_, errs["nanosleep"] = call(syscall.SYS_NANOSLEEP, p, 0)
			_, errs["futex"] = call(syscall.SYS_FUTEX, p, 0, 1)
			_, errs["epoll_ctl"] = call(syscall.SYS_EPOLL_CTL, 0, 1, fd, p)
		}
		if p != 0 { // which stands for nothing
			_, errs["rt_sigaction"] = call(syscall.SYS_RT_SIGACTION, 10, 0, p, 8)
			_, errs["rt_sigprocmask"] = call(syscall.SYS_RT_SIGPROCMASK, 0, 0, p, 8)
			_, errs["sigaltstack"] = call(syscall.SYS_SIGALTSTACK, 0, p)
			_, errs["prlimit64"] = call(syscall.SYS_PRLIMIT64, 0, 7, 0, p)
		}
		if p >= upper {
			stack := [3]uintptr{p, 0, 1 << 16}
			_, errs["sigaltstack there"] = call(syscall.SYS_SIGALTSTACK, uintptr(unsafe.Pointer(&stack)), 0)
			_, errs["epoll_wait"] = call(syscall.SYS_EPOLL_WAIT, 3, p, 8, 1)
			_, errs["clone"] = call(syscall.SYS_CLONE, 0x1_0100, p)
		}
		for name, e := range errs {
			if e != syscall.EFAULT {
				return fmt.Errorf("%s with pointer %#x: %v", name, p, e)
			}
		}
	}
	if _, e := call(syscall.SYS_CLOCK_GETTIME, 1, upper-4096-4); e != syscall.EFAULT {
		return fmt.Errorf("clock_gettime across the end of memory: %v", e)
	}
	return nil
}

// window prints what the window says, and again when it has changed.
func window(int) error {
	w := kernel.Window()
	if w == nil {
		return errors.New("there is no window")
	}
	first := w[0]
	fmt.Printf("window %d %q\n", len(w), w[:16])
	for *(*byte)(unsafe.Pointer(unsafe.SliceData(w))) == first {
		time.Sleep(time.Millisecond)
	}
	fmt.Printf("changed %q\n", w[:16])
	return nil
}

// ram holds the whole of a large machine's address range to its size.
func ram(int) error {
	_, total := kernel.Memory()
	virt, phys, err := kernel.Pages(1)
	if err != nil {
		return err
	}
	*at(virt) = 1
	fmt.Println("total", total>>20, "MB, a page above 4 GB:", phys >= 1<<32)
	return nil
}

// random prints what the kernel gives.
func random(int) error {
	var b [32]byte
	if n, e := call(318, uintptr(unsafe.Pointer(&b)), uintptr(len(b))); e != 0 || n != uintptr(len(b)) {
		return fmt.Errorf("%d bytes: %v", n, e)
	}
	fmt.Printf("random %x\n", b)
	return nil
}

// clock sets the wall clock, and looks whether it stays set when the kernel next looks
// at the machine's, within a second. That is a day off; the processor may be taken away
// between any two readings, for a while.
func clock(int) error {
	const day, while = 24 * time.Hour, time.Minute
	now := time.Now()
	if y := now.Year(); y < 2025 {
		return fmt.Errorf("it is %v", now)
	}
	if err := kernel.SetClock(now.Add(day).UnixNano()); err != nil {
		return err
	}
	for range 15 {
		time.Sleep(100 * time.Millisecond)
		later := time.Now()
		off := later.Round(0).Sub(now.Round(0)) - later.Sub(now) - day
		if off.Abs() > while {
			return fmt.Errorf("%v after it was set the clock is off by %v", later.Sub(now), off)
		}
	}
	return nil
}
