package process

import (
	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/tender/seccomp"
)

func equal(arg int, v uint64) catalog.Condition {
	return catalog.Condition{Kind: catalog.Equal, Arg: arg, Value: v}
}

func clear(arg int, mask uint64) catalog.Condition {
	return catalog.Condition{Kind: catalog.Masked, Arg: arg, Mask: mask}
}

func call(name string, when ...catalog.Condition) seccomp.Rule {
	return seccomp.Rule{Call: catalog.Syscall{Name: name, When: when}, Answer: seccomp.Allow}
}

func refuse(name string, errno uint16) seccomp.Rule {
	return seccomp.Rule{Call: catalog.Syscall{Name: name}, Answer: seccomp.Refuse(errno)}
}

// bootRules is what an image may do before it seals itself, beside what it may
// do afterwards: the start of the Go runtime and of package net/http, and the
// boot of the image. Already here no process can be started, no socket made,
// nothing opened, and the window of the program can be mapped, not changed.
func bootRules(image int) []seccomp.Rule {
	outside := catalog.Condition{Kind: catalog.Outside, Arg: 0, Length: 1}
	// RLIMIT_DATA does not count shared memory, nor a cgroup the host's pool of huge
	// pages: there may be none of either.
	private := catalog.Condition{Kind: catalog.Masked, Arg: 3, Mask: unix.MAP_SHARED | unix.MAP_ANONYMOUS | unix.MAP_HUGETLB, Value: unix.MAP_ANONYMOUS}
	rules := []seccomp.Rule{
		// Of the stage: becoming the image. Its descriptor is gone afterwards.
		call("execveat", equal(0, uint64(image)), equal(4, unix.AT_EMPTY_PATH)),

		// Memory.
		call("mmap", clear(2, unix.PROT_EXEC), private, outside),
		call("mmap", equal(2, unix.PROT_READ), equal(4, launch.ProgramFD)),
		call("munmap", outside),
		call("mprotect", clear(2, unix.PROT_EXEC), outside),
		call("mseal"),
		call("mincore"),

		// Threads, signals, time.
		call("clone", equal(0, seccomp.ThreadFlags)),
		call("tgkill", catalog.Condition{Kind: catalog.Self, Arg: 0}),
		call("prctl", equal(0, unix.PR_SET_NO_NEW_PRIVS)),
		call("prctl", equal(0, unix.PR_SET_VMA)),
		call("seccomp", equal(0, unix.SECCOMP_SET_MODE_FILTER), equal(1, unix.SECCOMP_FILTER_FLAG_TSYNC)),

		// What Go looks for at its start, and does without. prlimit64 may read
		// and lower; raising needs a capability.
		call("prlimit64", equal(0, 0)),
		refuse("open", uint16(unix.EACCES)),
		refuse("openat", uint16(unix.EACCES)),
		refuse("readlinkat", uint16(unix.EACCES)),
		refuse("readlink", uint16(unix.EACCES)),
		refuse("newfstatat", uint16(unix.EACCES)),
		refuse("ioctl", uint16(unix.ENOTTY)),
		refuse("pidfd_open", uint16(unix.ENOSYS)),
		refuse("pidfd_send_signal", uint16(unix.ENOSYS)),
		refuse("uname", uint16(unix.EPERM)),
		refuse("socket", uint16(unix.EACCES)),
	}
	// What the Go runtime advises.
	for _, advice := range []uint64{unix.MADV_DONTNEED, unix.MADV_FREE, unix.MADV_HUGEPAGE, unix.MADV_NOHUGEPAGE, unix.MADV_COLLAPSE} {
		rules = append(rules, call("madvise", equal(2, advice), outside))
	}
	for _, name := range []string{
		"arch_prctl", "set_tid_address", "set_robust_list", "rseq",
		"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack",
		"futex", "nanosleep", "clock_gettime", "clock_nanosleep", "gettimeofday", "sched_yield", "sched_getaffinity", "getrandom",
		"gettid", "getpid", "getppid", "getuid", "geteuid", "getgid", "getegid", "exit", "exit_group",
		"read", "write", "readv", "writev", "close", "fcntl", "fstat", "pipe2", "eventfd2",
		"epoll_create1", "epoll_ctl", "epoll_pwait", "poll", "ppoll",
		"getsockname", "getpeername", "getsockopt", "setsockopt", "recvmsg", "sendmsg", "recvfrom", "sendto", "accept4",
		"brk",
	} {
		rules = append(rules, call(name))
	}
	return rules
}

// launchFilter is in force from just before the image is executed; it stays,
// under the image's own seal.
func launchFilter(sealed []catalog.Syscall, image, self int) ([]launch.Instruction, error) {
	rules := bootRules(image)
	for _, c := range sealed {
		rules = append(rules, seccomp.Rule{Call: c, Answer: seccomp.Allow})
	}
	return seccomp.Compose(rules, self)
}
