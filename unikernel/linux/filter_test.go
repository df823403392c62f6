//go:build linux && amd64

package linux_test

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/launch"
)

// The tests seal with what the manifests say, so that a manifest that lacks a
// call fails here. The reading and composing is deliberately not the tender's.

var (
	entryForm = regexp.MustCompile(`^ +- \{name: ([a-z0-9_]+)(?:, when: \[(.*)\])?\}$`)
	condForm  = regexp.MustCompile(`^arg(\d)(?: & (\S+))? == (\S+)$`)
)

var numbers = map[string]uint32{
	"futex": unix.SYS_FUTEX, "epoll_pwait": unix.SYS_EPOLL_PWAIT, "epoll_ctl": unix.SYS_EPOLL_CTL, "read": unix.SYS_READ,
	"write": unix.SYS_WRITE, "nanosleep": unix.SYS_NANOSLEEP, "sched_yield": unix.SYS_SCHED_YIELD,
	"getrandom": unix.SYS_GETRANDOM, "clock_gettime": unix.SYS_CLOCK_GETTIME, "rt_sigreturn": unix.SYS_RT_SIGRETURN,
	"rt_sigprocmask": unix.SYS_RT_SIGPROCMASK, "sigaltstack": unix.SYS_SIGALTSTACK, "gettid": unix.SYS_GETTID,
	"getpid": unix.SYS_GETPID, "tgkill": unix.SYS_TGKILL, "clone": unix.SYS_CLONE, "mmap": unix.SYS_MMAP,
	"munmap": unix.SYS_MUNMAP, "madvise": unix.SYS_MADVISE, "exit": unix.SYS_EXIT, "exit_group": unix.SYS_EXIT_GROUP,
	"accept4": unix.SYS_ACCEPT4, "close": unix.SYS_CLOSE, "getsockname": unix.SYS_GETSOCKNAME,
	"shutdown": unix.SYS_SHUTDOWN, "setsockopt": unix.SYS_SETSOCKOPT,
}

const (
	ld    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	jeq   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	jge   = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	and   = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	ret   = unix.BPF_RET | unix.BPF_K
	allow = 0x7fff0000
	kill  = 0x80000000
)

// compose turns the manifests into a filter that allows what they list to the
// process pid, and kills it for anything else.
func compose(t *testing.T, pid int, manifests ...string) []launch.Instruction {
	t.Helper()
	out := []launch.Instruction{
		{Code: ld, K: 4}, {Code: jeq, JT: 1, K: unix.AUDIT_ARCH_X86_64}, {Code: ret, K: kill},
		{Code: ld, K: 0}, {Code: jge, JF: 1, K: 0x40000000}, {Code: ret, K: kill}, // x32
	}
	entries := 0
	for _, name := range manifests {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			m := entryForm.FindStringSubmatch(strings.TrimRight(line, "\n"))
			if m == nil {
				continue
			}
			entries++
			out = append(out, entry(t, pid, m[1], m[2])...)
		}
	}
	if entries < 24 {
		t.Fatalf("the manifests list %d calls; reading them went wrong", entries)
	}
	return append(out, launch.Instruction{Code: ret, K: kill})
}

// entry is one allowed call. A condition that does not hold jumps to its end.
func entry(t *testing.T, pid int, name, when string) []launch.Instruction {
	t.Helper()
	nr, ok := numbers[name]
	if !ok {
		t.Fatalf("call %q has no number in this test", name)
	}
	var out []launch.Instruction
	var no []struct { // the instruction and whether "equal" is what fails
		at    int
		equal bool
	}
	need := func(offset, mask, value uint32, equal bool) {
		out = append(out, launch.Instruction{Code: ld, K: offset})
		if mask != ^uint32(0) {
			out = append(out, launch.Instruction{Code: and, K: mask})
		}
		no = append(no, struct {
			at    int
			equal bool
		}{len(out), !equal})
		out = append(out, launch.Instruction{Code: jeq, K: value})
	}
	need(0, ^uint32(0), nr, true)
	for c := range strings.SplitSeq(when, ",") {
		c = strings.Trim(c, ` "`)
		switch m := condForm.FindStringSubmatch(c); {
		case c == "":
		case c == "arg0+arg1 outside program":
			need(16+4, ^uint32(0), launch.GuardHigh, false)
			need(16+4, ^uint32(0), launch.WindowHigh, false)
			need(24+4, ^uint32(0), 0, true)
		case m != nil:
			value, mask := number(t, pid, m[3]), ^uint64(0)
			if m[2] != "" {
				mask = number(t, pid, m[2])
			}
			at := 16 + 8*uint32(number(t, pid, m[1]))
			need(at, uint32(mask), uint32(value), true)
			need(at+4, uint32(mask>>32), uint32(value>>32), true)
		default:
			t.Fatalf("condition %q is not understood", c)
		}
	}
	out = append(out, launch.Instruction{Code: ret, K: allow})
	for _, j := range no {
		if skip := uint8(len(out) - j.at - 1); j.equal {
			out[j.at].JT = skip
		} else {
			out[j.at].JF = skip
		}
	}
	return out
}

func number(t *testing.T, pid int, s string) uint64 {
	t.Helper()
	if s == "self" {
		return uint64(pid)
	}
	v, err := strconv.ParseUint(s, 0, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
