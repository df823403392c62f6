// Package seccomp composes the system calls that the modules of an image list
// in their manifests into one classic BPF program, the image's seal: what is
// not listed kills the process.
//
// The filter knows x86-64 only; another architecture and the x32 table kill.
// Calls with conditions are tested first: the kernel answers an unconditional
// one from a bitmap without running the filter (Linux 5.11, kernel/seccomp.c).
package seccomp

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/catalog"
)

// MaxLength is the kernel's bound on a classic BPF program (BPF_MAXINSNS).
const MaxLength = 4096

// ThreadFlags is what the Go runtime starts threads with (cloneFlags in
// runtime/os_linux.go, and SETTLS from sys_linux_amd64.s).
const ThreadFlags = 0xd0f00

// An Answer is what the filter does with a call, as SECCOMP_RET_ encodes it.
type Answer uint32

const (
	Allow Answer = 0x7fff_0000
	Kill  Answer = 0x8000_0000
)

// Refuse answers a call with an error number instead of running it.
func Refuse(errno uint16) Answer { return 0x0005_0000 | Answer(errno) }

// A Rule gives one call its answer when every condition holds. Rules for one
// call are alternatives; where none applies the answer is Kill.
type Rule struct {
	Call   catalog.Syscall
	Answer Answer
}

// Seal composes the filter of an image whose process id, as it sees it, is
// self. It refuses lists that would let the image change the memory that its
// program lies in.
func Seal(calls []catalog.Syscall, self int) ([]launch.Instruction, error) {
	rules := make([]Rule, len(calls))
	for i, c := range calls {
		if err := keepsWindow(c); err != nil {
			return nil, err
		}
		rules[i] = Rule{c, Allow}
	}
	return Compose(rules, self)
}

// Compose turns rules into a filter. Equal lists give equal filters, whatever
// the order of calls; alternatives of one call keep their order.
func Compose(rules []Rule, self int) ([]launch.Instruction, error) {
	if len(rules) == 0 {
		return nil, errors.New("seccomp: an empty list would kill every process: is the image's manifest complete?")
	}
	var calls []*call
	index := map[uint32]*call{}
	for _, r := range rules {
		nr, ok := numbers[r.Call.Name]
		if !ok {
			return nil, fmt.Errorf("seccomp: system call %q is unknown on x86-64", r.Call.Name)
		}
		if index[nr] == nil {
			index[nr] = &call{number: nr}
			calls = append(calls, index[nr])
		}
		if err := index[nr].add(r); err != nil {
			return nil, fmt.Errorf("seccomp: %s: %w", r.Call.Name, err)
		}
	}
	slices.SortFunc(calls, func(a, b *call) int {
		if a.plain() != b.plain() {
			if b.plain() {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.number, b.number)
	})
	var asm assembler
	asm.prologue()
	for _, c := range calls {
		if err := asm.call(c, uint32(self)); err != nil {
			return nil, err
		}
	}
	asm.answer(Kill)
	if len(asm.code) > MaxLength {
		return nil, fmt.Errorf("seccomp: the filter has %d instructions; the kernel takes %d", len(asm.code), MaxLength)
	}
	return asm.code, nil
}

// A call is one system call and its alternatives.
type call struct {
	number       uint32
	alternatives []Rule
}

// plain reports whether the call gets one answer whatever its arguments.
func (c *call) plain() bool { return len(c.alternatives[0].Call.When) == 0 }

func (c *call) add(r Rule) error {
	for _, w := range r.Call.When {
		if err := check(w); err != nil {
			return err
		}
	}
	same := func(o Rule) bool { return o.Answer == r.Answer && slices.Equal(o.Call.When, r.Call.When) }
	switch {
	case slices.ContainsFunc(c.alternatives, same):
	case len(r.Call.When) == 0: // one module needs it whatever the arguments: it decides
		c.alternatives = []Rule{r}
	case len(c.alternatives) == 1 && c.plain():
	default:
		c.alternatives = append(c.alternatives, r)
	}
	return nil
}

func check(c catalog.Condition) error {
	switch c.Kind {
	case catalog.Equal, catalog.Self:
	case catalog.Masked:
		if c.Value&^c.Mask != 0 {
			return fmt.Errorf("arg%d & %#x == %#x can never hold", c.Arg, c.Mask, c.Value)
		}
	case catalog.Outside:
		if c.Length < 0 || c.Length > 5 || c.Length == c.Arg {
			return fmt.Errorf("arg%d is not the length of a range that starts at arg%d", c.Length, c.Arg)
		}
	default:
		return fmt.Errorf("condition of unknown kind %q", c.Kind)
	}
	if c.Arg < 0 || c.Arg > 5 {
		return fmt.Errorf("there is no arg%d", c.Arg)
	}
	return nil
}

// never lists calls that could change or replace the program's memory, or the
// process itself, in ways that no condition on arguments can fence in.
var never = map[string]bool{
	"mremap": true, "remap_file_pages": true, "shmat": true, "process_vm_writev": true, "process_madvise": true, "ptrace": true,
	"userfaultfd": true, "io_uring_setup": true, "io_uring_enter": true, "execve": true, "execveat": true, "fork": true, "vfork": true,
	"clone3": true, "pkey_mprotect": true, "open": true, "openat": true, "openat2": true, "bpf": true, "mseal": true,
}

// ranged lists calls on a range of memory, by the arguments of its start and
// length; in a seal each of them must stay outside the program's window.
var ranged = map[string]bool{"mmap": true, "munmap": true, "madvise": true, "mprotect": true}

func keepsWindow(c catalog.Syscall) error {
	if never[c.Name] {
		return fmt.Errorf("seccomp: a sealed image may never call %s; take it out of the manifest", c.Name)
	}
	if c.Name == "clone" && !slices.Contains(c.When, catalog.Condition{Kind: catalog.Equal, Arg: 0, Value: ThreadFlags}) {
		return fmt.Errorf("seccomp: clone could start a process; it needs the condition \"arg0 == %#x\"", ThreadFlags)
	}
	if !ranged[c.Name] {
		return nil
	}
	outside := catalog.Condition{Kind: catalog.Outside, Arg: 0, Length: 1}
	if !slices.Contains(c.When, outside) {
		return fmt.Errorf("seccomp: %s could reach the sealed program; it needs the condition \"arg0+arg1 outside program\"", c.Name)
	}
	private := func(w catalog.Condition) bool {
		return w.Kind == catalog.Masked && w.Arg == 3 && w.Mask&0x21 == 0x21 && w.Value&0x21 == 0x20
	}
	if c.Name == "mmap" && !slices.ContainsFunc(c.When, private) {
		return errors.New("seccomp: mmap could map files or memory that no limit counts; it needs the condition \"arg3 & 0x21 == 0x20\"")
	}
	executable := func(w catalog.Condition) bool {
		return w.Arg == 2 && (w.Kind == catalog.Masked && w.Mask&4 != 0 && w.Value&4 == 0 || w.Kind == catalog.Equal && w.Value&4 == 0)
	}
	if (c.Name == "mmap" || c.Name == "mprotect") && !slices.ContainsFunc(c.When, executable) {
		return fmt.Errorf("seccomp: %s could make memory executable; it needs the condition \"arg2 & 0x4 == 0\"", c.Name)
	}
	return nil
}
