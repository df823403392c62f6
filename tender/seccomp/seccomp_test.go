package seccomp

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/catalog"
)

// A data is struct seccomp_data.
type data struct {
	number, arch uint32
	args         [6]uint64
}

// run interprets a filter as the kernel does.
func run(t testing.TB, filter []launch.Instruction, d data) Answer {
	t.Helper()
	var mem [64]byte
	binary.LittleEndian.PutUint32(mem[0:], d.number)
	binary.LittleEndian.PutUint32(mem[4:], d.arch)
	for i, a := range d.args {
		binary.LittleEndian.PutUint64(mem[16+8*i:], a)
	}
	var acc uint32
	for pc := 0; pc < len(filter); pc++ {
		in := filter[pc]
		jump := func(yes bool) {
			if yes {
				pc += int(in.JT)
			} else {
				pc += int(in.JF)
			}
		}
		switch in.Code {
		case opLoad:
			acc = binary.LittleEndian.Uint32(mem[in.K:])
		case opAnd:
			acc &= in.K
		case opJump:
			pc += int(in.K)
		case opEqual:
			jump(acc == in.K)
		case opAtLeast:
			jump(acc >= in.K)
		case opReturn:
			return Answer(in.K)
		default:
			t.Fatalf("instruction %d has code %#x", pc, in.Code)
		}
	}
	t.Fatal("the filter has no end")
	return Kill
}

// expect is what the rules say, read directly.
func expect(rules []Rule, self int, d data) Answer {
	if d.arch != archX8664 || d.number >= x32Bit {
		return Kill
	}
	var mine []Rule
	for _, r := range rules {
		if numbers[r.Call.Name] == d.number {
			if len(r.Call.When) == 0 {
				return r.Answer
			}
			mine = append(mine, r)
		}
	}
	for _, r := range mine {
		if !slices.ContainsFunc(r.Call.When, func(c catalog.Condition) bool { return !holds(c, self, d) }) {
			return r.Answer
		}
	}
	return Kill
}

func holds(c catalog.Condition, self int, d data) bool {
	a := d.args[c.Arg]
	switch c.Kind {
	case catalog.Equal:
		return a == c.Value
	case catalog.Masked:
		return a&c.Mask == c.Value
	case catalog.Self:
		return a == uint64(self)
	}
	const guard, end = launch.GuardHigh << 32, (launch.WindowHigh + 1) << 32
	return (a < guard || a >= end) && d.args[c.Length] < 1<<32
}

func equal(arg int, v uint64) catalog.Condition {
	return catalog.Condition{Kind: catalog.Equal, Arg: arg, Value: v}
}

func masked(arg int, mask, v uint64) catalog.Condition {
	return catalog.Condition{Kind: catalog.Masked, Arg: arg, Mask: mask, Value: v}
}

var outside = catalog.Condition{Kind: catalog.Outside, Arg: 0, Length: 1}

func allow(name string, when ...catalog.Condition) Rule {
	return Rule{Call: catalog.Syscall{Name: name, When: when}, Answer: Allow}
}

func TestCompose(t *testing.T) {
	rules := []Rule{
		allow("read"),
		allow("tgkill", catalog.Condition{Kind: catalog.Self, Arg: 0}),
		allow("mmap", masked(2, 4, 0), outside),
		allow("mmap", equal(4, 4), equal(2, 1)),
		allow("setsockopt", equal(1, 6), equal(2, 1)),
		allow("setsockopt", equal(1, 0x1_0000_0006)),
		allow("fcntl", equal(1, 3)),
		allow("fcntl"),
		{Call: catalog.Syscall{Name: "openat"}, Answer: Refuse(13)},
	}
	filter, err := Compose(rules, 77)
	if err != nil {
		t.Fatal(err)
	}
	native := func(nr uint32, args ...uint64) data {
		d := data{number: nr, arch: archX8664}
		copy(d.args[:], args)
		return d
	}
	const window = launch.WindowBase
	for _, c := range []struct {
		name string
		d    data
		want Answer
	}{
		{"a listed call", native(unix.SYS_READ, 1, 2, 3), Allow},
		{"a call that is not listed", native(unix.SYS_WRITE), Kill},
		{"a refused call", native(unix.SYS_OPENAT), Refuse(13)},
		{"another architecture", data{number: unix.SYS_READ, arch: 0x40000003}, Kill},
		{"no architecture", data{number: unix.SYS_READ}, Kill},
		{"the x32 table", native(unix.SYS_READ | x32Bit), Kill},
		{"a number with a sign", native(1<<32 - 1), Kill},
		{"its own process", native(unix.SYS_TGKILL, 77), Allow},
		{"another process", native(unix.SYS_TGKILL, 78), Kill},
		{"its own process in the low half only", native(unix.SYS_TGKILL, 1<<32|77), Kill},
		{"memory anywhere", native(unix.SYS_MMAP, 0, 4096, 3), Allow},
		{"executable memory", native(unix.SYS_MMAP, 0, 4096, 7), Kill},
		{"the second alternative", native(unix.SYS_MMAP, window, 1<<33, 1, 0, 4), Allow},
		{"the start of the window", native(unix.SYS_MMAP, window, 4096, 3), Kill},
		{"inside the window", native(unix.SYS_MMAP, window+1<<20, 4096, 3), Kill},
		{"the end of the window", native(unix.SYS_MMAP, window+1<<32-4096, 4096, 3), Kill},
		{"the guard", native(unix.SYS_MMAP, window-4096, 4096, 3), Kill},
		{"the start of the guard", native(unix.SYS_MMAP, window-1<<32, 4096, 3), Kill},
		{"just below the guard", native(unix.SYS_MMAP, window-1<<32-4096, 4096, 3), Allow},
		{"just above the window", native(unix.SYS_MMAP, window+1<<32, 4096, 3), Allow},
		{"from below the guard, as long as allowed", native(unix.SYS_MMAP, window-1<<32-4096, 1<<32-1, 3), Allow},
		{"from below the guard, long enough to reach in", native(unix.SYS_MMAP, window-1<<32-4096, 1<<32+8192, 3), Kill},
		{"a length that wraps", native(unix.SYS_MMAP, window+1<<32, 1<<64-1<<32, 3), Kill},
		{"an alternative in full", native(unix.SYS_SETSOCKOPT, 5, 6, 1), Allow},
		{"half an alternative", native(unix.SYS_SETSOCKOPT, 5, 6, 2), Kill},
		{"a 64-bit value", native(unix.SYS_SETSOCKOPT, 5, 0x1_0000_0006, 9), Allow},
		{"with and without a condition is without", native(unix.SYS_FCNTL, 1, 99), Allow},
	} {
		if got := run(t, filter, c.d); got != c.want {
			t.Errorf("%s: got %#x, want %#x", c.name, got, c.want)
		}
		if got := expect(rules, 77, c.d); got != c.want {
			t.Errorf("%s: the rules say %#x, want %#x", c.name, got, c.want)
		}
	}
	slices.Reverse(rules[4:6]) // alternatives keep their order; calls do not matter
	slices.Reverse(rules[:2])
	slices.Reverse(rules[4:6])
	again, err := Compose(rules, 77)
	if err != nil || !slices.Equal(filter, again) {
		t.Errorf("the order of calls changes the filter (%v)", err)
	}
}

func TestComposeRefuses(t *testing.T) {
	many := allow("read")
	for i := range 100 {
		many.Call.When = append(many.Call.When, equal(i%6, uint64(i)))
	}
	var long []Rule
	for i := range 1000 {
		long = append(long, allow("read", equal(0, uint64(i))))
	}
	for name, c := range map[string]struct {
		rules []Rule
		want  string
	}{
		"nothing":            {nil, "empty list"},
		"an unknown call":    {[]Rule{allow("sing")}, `"sing" is unknown`},
		"an unknown kind":    {[]Rule{allow("read", catalog.Condition{Kind: "near"})}, "unknown kind"},
		"no such argument":   {[]Rule{allow("read", equal(6, 0))}, "no arg6"},
		"a negative one":     {[]Rule{allow("read", equal(-1, 0))}, "no arg-1"},
		"no such length":     {[]Rule{allow("read", catalog.Condition{Kind: catalog.Outside, Arg: 0, Length: 9})}, "not the length"},
		"never true":         {[]Rule{allow("read", masked(0, 1, 2))}, "never hold"},
		"too many at once":   {[]Rule{many}, "too many conditions"},
		"more than a filter": {long, "the kernel takes 4096"},
	} {
		if _, err := Compose(c.rules, 1); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

func TestSealKeepsTheProgram(t *testing.T) {
	good := []catalog.Condition{masked(2, 4, 0), masked(3, 0x21, 0x20), outside}
	without := func(i int) catalog.Syscall {
		return catalog.Syscall{Name: "mmap", When: slices.Delete(slices.Clone(good), i, i+1)}
	}
	for name, c := range map[string]struct {
		call catalog.Syscall
		want string
	}{
		"mmap of executable memory":    {without(0), "executable"},
		"mmap of shared memory":        {without(1), "no limit counts"},
		"mmap over the program":        {without(2), "reach the sealed program"},
		"munmap without a condition":   {catalog.Syscall{Name: "munmap"}, "reach the sealed program"},
		"madvise without a condition":  {catalog.Syscall{Name: "madvise"}, "reach the sealed program"},
		"mprotect without a condition": {catalog.Syscall{Name: "mprotect"}, "reach the sealed program"},
		"mprotect that may execute":    {catalog.Syscall{Name: "mprotect", When: []catalog.Condition{outside}}, "executable"},
		"another range than its own":   {catalog.Syscall{Name: "munmap", When: []catalog.Condition{{Kind: catalog.Outside, Arg: 1, Length: 0}}}, "reach the sealed program"},
		"mremap":                       {catalog.Syscall{Name: "mremap", When: []catalog.Condition{outside}}, "never"},
		"process_vm_writev":            {catalog.Syscall{Name: "process_vm_writev"}, "never"},
		"openat":                       {catalog.Syscall{Name: "openat"}, "never"},
		"a process":                    {catalog.Syscall{Name: "clone"}, "start a process"},
		"a process by other flags":     {catalog.Syscall{Name: "clone", When: []catalog.Condition{equal(0, 17)}}, "start a process"},
	} {
		if _, err := Seal([]catalog.Syscall{{Name: "read"}, c.call}, 1); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if _, err := Seal([]catalog.Syscall{{Name: "mmap", When: good}}, 1); err != nil {
		t.Errorf("what the Go runtime needs: %v", err)
	}
}

// The manifests of the modules compose, and the kernel would take the result.
func TestSealOfTheRealModules(t *testing.T) {
	c, err := catalog.Load(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	filter, err := Seal(catalog.Syscalls(c.Modules), 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(filter) < 30 || len(filter) > 400 {
		t.Errorf("the seal of all modules has %d instructions", len(filter))
	}
}

// FuzzCompose compares the filter with the rules it was made from, on calls
// near what they name.
func FuzzCompose(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed, uint64(launch.WindowBase), uint64(4096))
	}
	f.Add(uint64(99), uint64(1<<32), ^uint64(0))
	f.Fuzz(func(t *testing.T, seed, x, y uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		names := []string{"read", "mmap", "clone", "futex", "setsockopt"}
		values := []uint64{0, 1, 4, 7, x, y, x >> 32, x << 32, launch.WindowBase, launch.WindowBase - 1, 1<<32 - 1, 1 << 32}
		value := func() uint64 { return values[r.IntN(len(values))] }
		var rules []Rule
		for range 1 + r.IntN(8) {
			rule := Rule{Call: catalog.Syscall{Name: names[r.IntN(len(names))]}, Answer: Allow}
			for range r.IntN(4) {
				arg := r.IntN(6)
				mask := value()
				rule.Call.When = append(rule.Call.When, []catalog.Condition{equal(arg, value()), masked(arg, mask, value()&mask),
					{Kind: catalog.Self, Arg: arg}, {Kind: catalog.Outside, Arg: arg, Length: (arg + 1) % 6}}[r.IntN(4)])
			}
			rules = append(rules, rule)
		}
		filter, err := Compose(rules, int(x&0xffff))
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			d := data{number: numbers[names[r.IntN(len(names))]], arch: archX8664}
			for i := range d.args {
				d.args[i] = value()
			}
			if got, want := run(t, filter, d), expect(rules, int(x&0xffff), d); got != want {
				t.Fatalf("call %d%#x of %+v: got %#x, want %#x", d.number, d.args, rules, got, want)
			}
		}
	})
}
