package way

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/tender/seccomp"
)

// giveUp leaves all threads of the helper with no system calls but what making a socket
// and handing it over takes, and the rest kills it: of the capabilities that it has in its
// namespaces none can be used. Its sockets need no privilege of its own: with them a tender
// may do what the owner of the namespace may.
func giveUp() error {
	runtime.LockOSThread() // for the two calls, of which the second reaches all threads
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("PR_SET_NO_NEW_PRIVS: %w", err)
	}
	filter, err := seccomp.Compose(helperCalls(), os.Getpid())
	if err != nil {
		return err
	}
	prog := struct {
		length uint16
		_      [6]byte
		filter unsafe.Pointer
	}{length: uint16(len(filter)), filter: unsafe.Pointer(unsafe.SliceData(filter))}
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog))); e != 0 {
		return fmt.Errorf("seccomp: %w", e)
	}
	return nil
}

const namespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// helperCalls is what the Go runtime needs of a program that is waiting, and what the
// helper does.
func helperCalls() []seccomp.Rule {
	allow := func(name string, when ...catalog.Condition) seccomp.Rule {
		return seccomp.Rule{Call: catalog.Syscall{Name: name, When: when}, Answer: seccomp.Allow}
	}
	equal := func(arg int, v uint64) catalog.Condition {
		return catalog.Condition{Kind: catalog.Equal, Arg: arg, Value: v}
	}
	rules := []seccomp.Rule{
		allow("recvfrom", equal(0, helperFD)),
		allow("sendmsg", equal(0, helperFD)),
		allow("socket", equal(0, unix.AF_INET), equal(1, socketKind), equal(2, unix.IPPROTO_TCP)),
		allow("socket", equal(0, unix.AF_INET6), equal(1, socketKind), equal(2, unix.IPPROTO_TCP)),
		// Threads only, in namespaces that there are: a program linked with C starts them by its library.
		allow("clone", catalog.Condition{Kind: catalog.Masked, Arg: 0, Mask: unix.CLONE_THREAD | namespaces, Value: unix.CLONE_THREAD}),
		{Call: catalog.Syscall{Name: "clone3"}, Answer: seccomp.Refuse(uint16(unix.ENOSYS))},
		allow("tgkill", catalog.Condition{Kind: catalog.Self, Arg: 0}),
		allow("mmap", catalog.Condition{Kind: catalog.Masked, Arg: 2, Mask: unix.PROT_EXEC}),
		allow("mprotect", catalog.Condition{Kind: catalog.Masked, Arg: 2, Mask: unix.PROT_EXEC}),
	}
	for _, name := range []string{"close", "epoll_ctl", "epoll_pwait", "exit", "exit_group", "futex", "getpid", "getrandom", "gettid", "madvise",
		"munmap", "nanosleep", "rseq", "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity", "sched_yield", "set_robust_list", "sigaltstack", "write"} {
		rules = append(rules, allow(name))
	}
	return rules
}
