package hostile

import (
	"reflect"
	"syscall"
	"unsafe"
)

// What system calls point at. It lies in the data of the image, which the
// collector does not move.
var (
	buffer [64 << 10]byte
	event  [12]byte
	short  = syscall.Timespec{Nsec: 1000}
	ones   = ^uint64(0)
	passwd = [...]byte{'/', 'e', 't', 'c', '/', 'p', 'a', 's', 's', 'w', 'd', 0}
	memory = [...]byte{'/', 'p', 'r', 'o', 'c', '/', 's', 'e', 'l', 'f', '/', 'm', 'e', 'm', 0}
	shell  = [...]byte{'/', 'b', 'i', 'n', '/', 's', 'h', 0}
	one    = uint32(1)
)

func address[T any](p *T) func() uintptr {
	return func() uintptr { return uintptr(unsafe.Pointer(p)) }
}

// things are the arguments that only the image can know.
var things = map[string]func() uintptr{
	"buf":       address(&buffer),
	"path":      address(&passwd),
	"mem":       address(&memory),
	"shell":     address(&shell),
	"time":      address(&short),
	"ones":      address(&ones),
	"event":     address(&event),
	"one":       address(&one),
	"code":      func() uintptr { return reflect.ValueOf(int80).Pointer() &^ 4095 },
	"constants": func() uintptr { return uintptr(unsafe.Pointer(unsafe.StringData(constant))) &^ (page - 1) },
	"handlers":  handlers,
	"self":      func() uintptr { return uintptr(syscall.Getpid()) },
	"tid":       func() uintptr { return uintptr(syscall.Gettid()) },
	"epoll":     func() uintptr { return find(syscall.SYS_EPOLL_PWAIT, 0, uintptr(unsafe.Pointer(&event)), 1) },
	"listener":  func() uintptr { return find(syscall.SYS_ACCEPT4, syscall.EAGAIN, 0, 0) },
}

// find returns the first descriptor of which a call answers in a way that tells
// it from others: it can be waited on, or nobody is waiting on it.
func find(call uintptr, answer syscall.Errno, args ...uintptr) uintptr {
	a := [5]uintptr{}
	copy(a[:], args)
	for fd := uintptr(3); fd < 1024; fd++ {
		if _, _, e := syscall.RawSyscall6(call, fd, a[0], a[1], a[2], a[3], a[4]); e == answer {
			return fd
		}
	}
	return ^uintptr(0)
}
