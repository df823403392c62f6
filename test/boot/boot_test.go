// Package boot boots small programs on the kernel, in machines of QEMU, and holds
// what they print and how they end to what the kernel promises.
package boot

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"lorica.dev/lorica/builder/pvh"
	"lorica.dev/lorica/internal/notrun"
)

const qemu = "qemu-system-x86_64"

// patience bounds the life of a machine; none here needs more than a few seconds.
const patience = 2 * time.Minute

// Exit codes of the kernel.
const (
	codeTrap    = 64
	codeMemory  = 65
	codeEntropy = 66
	codeBoot    = 67
)

// images builds a program once for all tests.
var images struct {
	sync.Mutex
	built map[string]string
	dir   string
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "lorica-boot-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	images.dir, images.built = dir, map[string]string{}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// image returns the bootable image of a package, built with flags, and with those that
// are variables of the environment.
func image(t *testing.T, pkg string, flags ...string) string {
	t.Helper()
	images.Lock()
	defer images.Unlock()
	key := fmt.Sprint(pkg, flags)
	if file := images.built[key]; file != "" {
		return file
	}
	file := filepath.Join(images.dir, fmt.Sprintf("%d.elf", len(images.built)))
	args, env := []string{"build", "-o", file}, append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	for _, f := range flags {
		if strings.HasPrefix(f, "-") {
			args = append(args, f)
		} else {
			env = append(env, f)
		}
	}
	cmd := exec.Command("go", append(args, pkg)...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	program, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out, err := pvh.Link(program, program)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, out, 0o644); err != nil {
		t.Fatal(err)
	}
	images.built[key] = file
	return file
}

const guest, selftest = "./testdata/guest", "lorica.dev/lorica/kernel/selftest"

// A machine is how one is started. Its zero value has 128 MB and an entropy device.
type machine struct {
	image  string
	line   string
	memory string
	board  string // instead of PIT and real-time clock
	noRNG  bool
	args   []string
}

func (m machine) command(ctx context.Context) *exec.Cmd {
	memory := m.memory
	if memory == "" {
		memory = "128M"
	}
	board := m.board
	if board == "" {
		board = "pit=on,rtc=on"
	}
	args := []string{"-M", "microvm,acpi=off,x-option-roms=off,auto-kernel-cmdline=on," + board, "-accel", "tcg", "-cpu", "max", "-m", memory,
		"-no-reboot", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-global", "virtio-mmio.force-legacy=false",
		"-kernel", m.image, "-append", m.line, "-device", "isa-debug-exit,iobase=0xf4,iosize=4"}
	if !m.noRNG {
		args = append(args, "-device", "virtio-rng-device")
	}
	return exec.CommandContext(ctx, qemu, append(args, m.args...)...)
}

// run returns what the machine printed, and the code that it ended with.
func (m machine) run(t *testing.T) (console string, code int) {
	t.Helper()
	if _, err := exec.LookPath(qemu); err != nil {
		t.Fatalf("%v: install it with apt-get install qemu-system-x86", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := m.command(ctx)
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("%v does not end; it printed:\n%s", cmd, out)
	}
	status := cmd.ProcessState.ExitCode()
	if status&1 == 0 { // QEMU's own, or a triple fault
		t.Fatalf("%v: %v, with status %d:\n%s", cmd, err, status, out)
	}
	return string(out), status / 2
}

// large is 5 GB that the host need not have: almost nothing of it is touched.
var large = []string{"-object", "memory-backend-ram,id=ram,size=5G,reserve=off", "-machine", "memory-backend=ram"}

const overflowed = `^lorica kernel: a kernel stack overflowed: vector 14 `

func TestGuests(t *testing.T) {
	for _, c := range []struct {
		name string
		m    machine
		code int
		want string // a pattern on the console
	}{
		{"exit 0", machine{line: "do=exit arg=0"}, 0, `^$`},
		{"exit 7", machine{line: "do=exit arg=7"}, 7, `^lorica kernel: the image exited with code 7\n$`},
		{"exit 63", machine{line: "do=exit arg=63"}, 63, `code 63\n$`},
		{"exit 64 is not the kernel's", machine{line: "do=exit arg=64"}, 63, `code 64\n$`},
		{"exit -1", machine{line: "do=exit arg=-1"}, 63, `the image exited with code`},
		{"exit by the kernel", machine{line: "do=kexit arg=99"}, 63, `code 99\n$`},
		{"panic", machine{line: "do=panic"}, 2, `(?s)panic: as told.*lorica kernel: the image exited with code 2\n$`},
		{"deadlock", machine{line: "do=deadlock"}, 2, `all goroutines are asleep`},

		{"8 MB", machine{line: "do=memory", memory: "8M"}, codeBoot, `^lorica kernel: too little RAM: .*\n$`},
		{"5 GB", machine{line: "do=ram", memory: "5G", args: large}, 0, `total 51\d\d MB, a page above 4 GB: true\ndone`},
		{"3.5 GB", machine{line: "do=memory", memory: "3584M"}, 0, `total 37\d{8}\ndone`},
		{"no entropy", machine{line: "do=exit", noRNG: true}, codeEntropy, `^lorica kernel: no source of entropy: .*virtio-rng.*\n$`},
		{"an entropy device that wants what the kernel does not do", machine{line: "do=exit", noRNG: true, args: []string{"-device", "virtio-rng-device,iommu_platform=on"}},
			codeEntropy, `^lorica kernel: no source of entropy: `},
		{"an entropy device that does not answer", machine{line: "do=exit", noRNG: true, args: []string{"-chardev", "null,id=nobody",
			"-object", "rng-egd,id=silent,chardev=nobody", "-device", "virtio-rng-device,rng=silent"}}, codeEntropy, `^lorica kernel: no entropy: .*does not answer`},

		{"no PIT", machine{line: "do=exit", board: "pit=off,rtc=on"}, codeBoot, `^lorica kernel: no clock: the PIT`},
		{"no real-time clock", machine{line: "do=exit", board: "pit=on,rtc=off"}, codeBoot, `^lorica kernel: no wall clock: `},
		{"an old processor", machine{line: "do=exit", args: []string{"-cpu", "qemu64"}}, codeBoot, `^lorica kernel: the processor has no XSAVE`},
		{"a processor without NX", machine{line: "do=exit", args: []string{"-cpu", "max,nx=off"}}, codeBoot, `^lorica kernel: the processor has no NX: .*\n$`},
		{"option ROMs", machine{line: "do=exit", board: "pit=on,rtc=on,x-option-roms=on"}, 0, `^$`},

		{"out of memory", machine{line: "do=eat", memory: "32M"}, codeMemory, `^lorica kernel: out of memory: .*\n$`},
		{"out of memory for a thread", machine{line: "do=brink", memory: "32M"}, codeMemory, `^lorica kernel: out of memory: no page is left for (thread|address) .*\n$`},
		{"unknown calls are named once", machine{line: "do=unknown"}, 0,
			`^lorica kernel: there is no system call 41\nlorica kernel: there is no system call 59\nlorica kernel: there is no system call 1023\ndone\n$`},
		{"1000 threads", machine{line: "do=threads arg=1000"}, 0, `started 1000\ndone`},
		{"more threads than there may be", machine{line: "do=threads arg=1100"}, 2, `failed to create new OS thread`},
		{"descriptors end and come back", machine{line: "do=fds"}, 0, `^done`},
		{"areas end and come back", machine{line: "do=areas"}, 0, `^areas 65\d\d\d\ndone`},
		{"addresses are used again", machine{line: "do=reuse"}, 0, `^done`},
		{"bad pointers are errors", machine{line: "do=bad"}, 0, `^done`},
		{"a clock that was set stays set", machine{line: "do=clock"}, 0, `^done`},
		{"interrupts", machine{line: "do=interrupts arg=200", args: []string{"-device", "virtio-rng-device"}}, 0, `^interrupts true\ndone`},

		{"the kernel's stack overflows", machine{line: "do=overflow arg=0"}, codeTrap, overflowed},
		{"the stack of interrupts overflows", machine{line: "do=overflow arg=1"}, codeTrap, overflowed},
		{"the stack of page faults overflows", machine{line: "do=overflow arg=2"}, codeTrap, overflowed},
		{"the stack of exceptions overflows", machine{line: "do=overflow arg=3"}, codeTrap, overflowed},
		{"the stack of what is fatal overflows", machine{line: "do=overflow arg=4"}, codeTrap, overflowed},
		{"the stack to die on overflows", machine{line: "do=overflow arg=5"}, codeTrap, overflowed},
		{"a trap in the kernel", machine{line: "do=trap"}, codeTrap, `^lorica kernel: a trap in the kernel: vector 14 .* address 0x123456789000\n`},
		{"a trap that no program handles", machine{line: "do=nmi"}, codeTrap, `^lorica kernel: a trap that the image does not handle: vector 2 `},
		{"a fault in a fault", machine{line: "do=refault"}, codeTrap, `^lorica kernel: a page fault while serving one: vector 14 `},

		{"a window of no size", machine{line: "lorica.window=0x4000000,0"}, codeBoot, `^lorica kernel: the program window .* 0x4000000\n$`},
		{"a window that is not whole pages", machine{line: "lorica.window=0x4000000,0x1001"}, codeBoot, `the program window`},
		{"a window in the image", machine{line: "lorica.window=0x400000,0x1000"}, codeBoot, `the program window`},
		{"a window that reaches into the image", machine{line: "lorica.window=0x300000,0x101000"}, codeBoot, `the program window`},
		{"a window in the shim", machine{line: "lorica.window=0x103000,0x1000"}, codeBoot, `the program window`},
		{"a window below", machine{line: "lorica.window=0x1000,0x1000"}, codeBoot, `the program window`},
		{"a window past the end", machine{line: "lorica.window=0x7fff000,0x2000"}, codeBoot, `the program window`},
		{"a window around the world", machine{line: "lorica.window=0xfffffffffffff000,0x2000"}, codeBoot, `the program window`},
		{"half a window", machine{line: "lorica.window=0x4000000"}, codeBoot, `lorica.window is not ADDRESS,SIZE`},
		{"two windows", machine{line: "lorica.window=0x4000000,0x1000 lorica.window=0x5000000,0x1000"}, codeBoot, `lorica.window is not`},
		{"no window", machine{line: "do=window"}, 1, `there is no window`},
		{"the window leaves too little", machine{line: "do=exit lorica.window=0x800000,0x7800000"}, codeBoot, `too little RAM`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.m.image = image(t, guest)
			console, code := c.m.run(t)
			if code != c.code || !regexp.MustCompile(c.want).MatchString(console) {
				t.Errorf("code %d, want %d; the console says:\n%s\nwant %s", code, c.code, console, c.want)
			}
		})
	}
}

const window = "lorica.window=0x4000000,0x200000"

func TestSelftest(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags []string
		m     machine
	}{
		{"as built for use", nil, machine{line: window}},
		{"without optimization", []string{"-gcflags=all=-N -l"}, machine{line: window}},
		{"with 5 GB and the window above 4 GB", nil, machine{line: "lorica.window=0x150000000,0x200000", memory: "5G", args: large}},
		{"without AVX", nil, machine{line: window, args: []string{"-cpu", "max,avx=off,avx2=off"}}},
		{"without SMEP, SMAP and UMIP", nil, machine{line: window, args: []string{"-cpu", "max,smep=off,smap=off,umip=off,rdrand=off"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.m.image = image(t, selftest, c.flags...)
			passes(t, c.m)
		})
	}
}

// passes looks for what the test says at its end, and that only the call which it makes
// itself, to be refused, is one that the kernel does not know.
func passes(t *testing.T, m machine) {
	t.Helper()
	console, code := m.run(t)
	if code != 0 || strings.Count(console, "there is no system call") != 1 || !regexp.MustCompile(`\nselftest: \d\d passed, 0 failed\n$`).MatchString(console) || strings.Contains(console, "no window") {
		t.Errorf("code %d; the console says:\n%s", code, console)
	}
}

// nextGo chooses the release after the one that images are built with.
const nextGo = "GOTOOLCHAIN=go1.27.3"

func TestSelftestOfTheNextGo(t *testing.T) {
	t.Parallel()
	offline := exec.Command("go", "version")
	offline.Env = append(os.Environ(), nextGo, "GOPROXY=off")
	if err := offline.Run(); err != nil {
		notrun.Say(t, "the kernel with the next release of Go", "it is not in the module cache: "+nextGo+" go version")
		return
	}
	passes(t, machine{image: image(t, selftest, nextGo), line: window})
}

// TestTheEntropyDeviceIsBroughtUp: in the steps of virtio 1.2, 3.1.1, none of which the
// compiler may leave out.
func TestTheEntropyDeviceIsBroughtUp(t *testing.T) {
	console, code := machine{image: image(t, guest), line: "do=exit", args: []string{"-trace", "virtio_mmio_write_offset"}}.run(t)
	var steps []string
	for _, m := range regexp.MustCompile(`offset 0x70 value 0x([0-9a-f]+)`).FindAllStringSubmatch(console, -1) {
		steps = append(steps, m[1])
	}
	if got, want := strings.Join(steps, " "), "0 1 3 b f"; got != want || code != 0 {
		t.Errorf("code %d, the device's status was set to %s, not to %s; QEMU says:\n%s", code, got, want, console)
	}
}

// TestTheProcessorsRandomIsMixedIn where the processor has it: of a device that gives the
// same to every machine, all that the kernel gives is the same in every other.
func TestTheProcessorsRandomIsMixedIn(t *testing.T) {
	for cpu, alike := range map[string]bool{"max": false, "max,rdrand=off": true} {
		t.Run(cpu, func(t *testing.T) {
			m := machine{image: image(t, guest), line: "do=random", noRNG: true, args: []string{"-cpu", cpu,
				"-object", "rng-random,id=known,filename=/dev/zero", "-device", "virtio-rng-device,rng=known"}}
			first, code := m.run(t)
			again, _ := m.run(t)
			if code != 0 || !regexp.MustCompile(`^random [0-9a-f]{64}\ndone\n$`).MatchString(first) || (first == again) != alike {
				t.Errorf("code %d; the machines say:\n%s%s", code, first, again)
			}
		})
	}
}

// TestBootInformation that no builder wrote is refused. It begins with its magic, and its
// fifth word is the number of segments.
func TestBootInformation(t *testing.T) {
	whole, err := os.ReadFile(image(t, guest))
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(whole, []byte("LORICA01"))
	if at < 0 {
		t.Fatal("there is none")
	}
	for name, change := range map[string]func(info []byte){
		"of another version": func(info []byte) { info[7]++ },
		"of no segments":     func(info []byte) { info[32] = 0 },
		"of many segments":   func(info []byte) { info[32] = 9 },
		"of countless":       func(info []byte) { info[39] = 0x80 },
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(whole)
			change(b[at:])
			file := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(file, b, 0o644); err != nil {
				t.Fatal(err)
			}
			console, code := machine{image: file, line: "do=exit"}.run(t)
			if code != codeBoot || !strings.HasPrefix(console, "lorica kernel: bad boot information") {
				t.Errorf("code %d; the console says:\n%s", code, console)
			}
		})
	}
}

// TestTheHostWritesTheWindow has the machine's memory in a file, as the tender does.
func TestTheHostWritesTheWindow(t *testing.T) {
	const at, size = 0x400_0000, 128 << 20
	file, err := os.CreateTemp(t.TempDir(), "ram")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	write := func(s string) {
		if _, err := file.WriteAt([]byte(s), at); err != nil {
			t.Fatal(err)
		}
	}
	write("the first words.")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	m := machine{image: image(t, guest), line: "do=window " + window, args: []string{
		"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%d,mem-path=%s,share=on", size, file.Name()), "-machine", "memory-backend=ram"}}
	cmd := m.command(ctx)
	var console bytes.Buffer
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&console, w), w
	go func() {
		r.Read(make([]byte, 1)) // it has begun to say what it sees
		write("another program.")
		io.Copy(io.Discard, r)
	}()
	err = cmd.Run()
	w.Close()
	if want := "window 2097152 \"the first words.\"\nchanged \"another program.\"\ndone\n"; console.String() != want || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("%v: the console says:\n%s\nwant\n%s", err, console.String(), want)
	}
	b := make([]byte, 16)
	if _, err := file.ReadAt(b, at); err != nil || string(b) != "another program." {
		t.Errorf("the window now says %q: %v", b, err)
	}
}

// TestNotBooted runs the guest as what it is on Linux.
func TestNotBooted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "guest")
	if out, err := exec.Command("go", "build", "-o", file, guest).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(file).CombinedOutput()
	if err != nil || string(out) != "not booted: kernel: not running on the kernel\n" {
		t.Errorf("%v: %s", err, out)
	}
}
