package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/internal/notrun"
	"lorica.dev/lorica/tender/process"
)

func TestDeathsOfGuests(t *testing.T) {
	b := newBench(t)
	for code, want := range map[uint32]string{
		0: "the image exited", 5: "the image exited with code 5", 63: "the image exited with code 63 or more",
		64: "the image stopped at a fault of its kernel", 65: "the image ran out of memory", 66: "the image found no source of entropy",
		67: "the image was started with wrong boot information or too little memory",
	} {
		g := b.mustStart(t, exitWith(code), nil)
		g.ended(t)
		if got, ok := g.Code(); got != int(code) || !ok || g.Death() != want || g.Starved() {
			t.Errorf("code %d: %d, %v, %q", code, got, ok, g.Death())
		}
	}
}

// QEMU's status is the guest's only where the guest ran and QEMU does not say that it
// failed.
func TestWhoseStatusItIs(t *testing.T) {
	for _, c := range []struct {
		began  bool
		status int
		said   string
		code   int
		ok     bool
	}{
		{true, 1, "", 0, true}, {true, 127, "", 63, true}, {true, 255, "", 127, true}, {true, 7, "a remark", 3, true},
		{true, 1, "no memory", 0, false}, {true, 0, "", 0, false}, {true, 2, "", 0, false}, {true, -1, "", 0, false}, {false, 1, "", 0, false},
	} {
		if code, ok := exited(c.began, c.status, c.said); code != c.code || ok != c.ok {
			t.Errorf("%+v: %d, %v", c, code, ok)
		}
	}
}

func TestDeathsOfQEMU(t *testing.T) {
	b := newBench(t)
	for name, c := range map[string]struct {
		code []byte
		end  func(*guest) error
		want string
	}{
		"killed":          {idle(), func(g *guest) error { g.Kill(); return nil }, "QEMU was killed by SIGKILL"},
		"killed, stopped": {idle(), func(g *guest) error { unix.Kill(g.PID(), unix.SIGSTOP); g.Kill(); return nil }, "QEMU was killed by SIGKILL"},
		"told":            {idle(), func(g *guest) error { return g.Quit(t.Context()) }, "QEMU ended as it was told"},
		"terminated":      {idle(), func(g *guest) error { return unix.Kill(g.PID(), unix.SIGTERM) }, "QEMU ended: host-signal"},
		"a triple fault":  {[]byte{0x0f, 0x0b}, func(*guest) error { return nil }, "QEMU ended because the image reset the machine (a triple fault)"}, // ud2
	} {
		g := b.mustStart(t, c.code, nil)
		if err := c.end(g); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		g.ended(t)
		if _, ok := g.Code(); ok || !strings.HasPrefix(g.Death(), c.want) {
			t.Errorf("%s: %q, want %q", name, g.Death(), c.want)
		}
		if err := g.Watch(time.Millisecond, time.Second); err != nil {
			t.Errorf("%s: after its end: %v", name, err)
		}
	}
}

func TestLaunchesThatFail(t *testing.T) {
	b := newBench(t)
	file := func(content []byte) *os.File {
		f, err := memory(content)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	answers := `[ $1 != --version ] || { echo QEMU emulator version 8.0; exit; }
`
	for name, c := range map[string]struct {
		script string // of a QEMU that is none
		change func(*Spec)
		want   string
	}{
		"an empty image":  {"", func(s *Spec) { s.Image = file(nil) }, "the image is no ELF"},
		"no image at all": {"", func(s *Spec) { s.Image = file(bytes.Repeat([]byte("no ELF "), 10_000)) }, "the image is no ELF"},
		"an ELF without the note": {"", func(s *Spec) {
			s.Image = file(bytes.Replace(tinyGuest(idle()), []byte("Xen\x00"), []byte("Hen\x00"), 1))
		}, "the image does not say where it starts"},
		"an ELF of which half is missing": {"", func(s *Spec) { s.Image = file(tinyGuest(idle())[:180]) }, "the image does not say where it starts"},
		"an image beyond the memory": {"", func(s *Spec) {
			s.Image = file(tinyGuest(make([]byte, leastRAM)))
		}, "takes memory up to 0x900000, and has it up to 0x800000"},
		"no socket":                 {"", func(s *Spec) { s.Devices = append(s.Devices, DeviceControl); s.Control = file(nil) }, "QEMU failed with exit status 1: qemu"},
		"no network":                {"", func(s *Spec) { s.Devices = append(s.Devices, DeviceNet); s.Net, s.Network = file(nil), Interface }, "QEMU failed with exit status 1: qemu"},
		"one that fails":            {"echo no firmware >&2; exit 3", nil, "qemu: QEMU failed with exit status 3: no firmware"},
		"one that fails in silence": {"exit 1", nil, "qemu: QEMU failed with exit status 1"},
		"one that hangs":            {"read -r x <&3", nil, "no greeting: nothing within 500ms"},
		"one that answers nothing":  {"echo '" + strings.TrimSpace(greeting) + "' >&3; while read -r x <&3; do :; done", nil, "no answer to qmp_capabilities: nothing within 500ms"},
		"one without a sandbox": {"echo '" + strings.TrimSpace(greeting) + `' >&3; read -r x <&3; echo '{"return": {}, "id": 1}' >&3; while read -r x <&3; do :; done`, nil,
			"no system call filter"},
	} {
		b := *b
		if c.script != "" {
			h, err := Find(fake(t, answers+c.script))
			if err != nil {
				t.Fatal(err)
			}
			h.patience = 500 * time.Millisecond
			b.host = h
		}
		g, err := b.start(t, idle(), c.change)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %+v, %v; want %q", name, g, err, c.want)
		}
	}
}

func TestAStoppedQEMUIsNoticed(t *testing.T) {
	g := newBench(t).mustStart(t, idle(), nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, step := range []struct {
		do   func(context.Context) error
		want string
	}{{g.Stop, "paused"}, {g.Stop, "paused"}, {g.Continue, "running"}} {
		if err := step.do(ctx); err != nil {
			t.Fatal(err)
		}
		if s, err := g.Status(ctx); err != nil || s != step.want {
			t.Errorf("status %q, %v; want %q", s, err, step.want)
		}
		if err := g.alive(patience); err != nil {
			t.Errorf("%s: %v", step.want, err)
		}
	}
	// Nobody has stopped it here, as far as the tender knows.
	if err := g.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	g.setStopped(false)
	if err := g.Watch(time.Millisecond, patience); err == nil || !strings.Contains(err.Error(), "no longer running: paused") {
		t.Errorf("got %v", err)
	}
	if err := unix.Kill(g.PID(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := g.Watch(time.Millisecond, 200*time.Millisecond); err == nil || !strings.Contains(err.Error(), "no answer to query-status: nothing within 200ms") {
		t.Errorf("got %v", err)
	}
	if _, err := g.Status(ctx); err == nil {
		t.Error("what has failed answers again")
	}
}

func TestTheConsole(t *testing.T) {
	b := newBench(t)
	hello := append(say("hello\n"), exitWith(0)...)
	g := b.mustStart(t, hello, func(s *Spec) { s.Devices = append(s.Devices, DeviceConsole) })
	g.ended(t)
	if got := g.output(t); got != "hello\n" {
		t.Errorf("it wrote %q", got)
	}
	g = b.mustStart(t, hello, nil)
	g.ended(t)
	if got := g.output(t); got != "" {
		t.Errorf("without a console it wrote %q", got)
	}
}

// What the tender writes the guest reads, whenever it does, and no firmware writes there.
func TestTheWindowIsShared(t *testing.T) {
	b := newBench(t)
	var at uint64 = leastRAM
	g := b.mustStart(t, exitWithWord(at+8), func(s *Spec) {
		if s.RAM.WindowAt() != at || len(s.RAM.Window()) != hugePage {
			t.Fatalf("%d bytes at %#x", len(s.RAM.Window()), s.RAM.WindowAt())
		}
		for i := range s.RAM.Window() {
			s.RAM.Window()[i] = 0xa5
		}
		copy(s.RAM.Window()[8:], []byte{0, 0, 0, 0})
	})
	if s, err := g.Status(t.Context()); err != nil || s != "running" {
		t.Fatalf("%q, %v", s, err)
	}
	w := g.ram.Window()
	w[8] = 21
	g.ended(t)
	if code, _ := g.Code(); code != 21 {
		t.Errorf("the guest read %d (%s)", code, g.Death())
	}
	copy(w[8:], bytes.Repeat([]byte{0xa5}, 4))
	if !bytes.Equal(w, bytes.Repeat([]byte{0xa5}, hugePage)) {
		t.Error("something else wrote to the window")
	}
}

// The guest finds what it is to know on its command line: QEMU's devices, and the window.
func TestEveryDeviceCanBeHad(t *testing.T) {
	b := newBench(t)
	ours, theirs, err := process.Pair(unix.SOCK_STREAM, "monitor")
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	defer theirs.Close()
	g := b.mustStart(t, append(say("up"), idle()...), func(s *Spec) {
		s.Devices = []string{DeviceNet, DeviceControl, DeviceEntropy, DeviceConsole, DeviceExit}
		s.Control, s.Net, s.Network, s.MTU, s.Arguments = theirs, theirs, Stream, 16384, "a=b"
	})
	up, b0 := make([]byte, 2), make([]byte, leastRAM)
	if _, err := io.ReadFull(g.out, up); err != nil {
		t.Fatal(err)
	}
	if _, err := g.ram.File().ReadAt(b0, 0); err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(b0, []byte("a=b lorica.window="))
	if i < 0 {
		t.Fatal("the command line is not in the memory of the guest")
	}
	line, _, _ := bytes.Cut(b0[i:], []byte{0})
	if got := string(line); !strings.HasPrefix(got, fmt.Sprintf("a=b lorica.window=%#x,%#x virtio_mmio.device=", leastRAM, hugePage)) || strings.Count(got, "virtio_mmio.device=") != 3 {
		t.Errorf("the command line is %q", got)
	}
}

// confined reads /proc for what QEMU runs under.
func TestQEMUIsConfined(t *testing.T) {
	b := newBench(t)
	g := b.mustStart(t, idle(), nil)
	if err := g.Verify(); err != nil {
		t.Error(err)
	}
	proc := fmt.Sprintf("/proc/%d/", g.PID())
	read := func(name string) string {
		t.Helper()
		s, err := os.ReadFile(proc + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(s)
	}
	if env := read("environ"); env != "" {
		t.Errorf("environment %q", env)
	}
	for name, want := range map[string]uint64{"Max core file size": 0, "Max file size": 0, "Max locked memory": 0, "Max data size": dataLimit, "Max open files": 256} {
		_, rest, _ := strings.Cut(read("limits"), name)
		if f := strings.Fields(rest); len(f) < 2 || f[0] != fmt.Sprint(want) || f[1] != f[0] {
			t.Errorf("%s is %q, want %d", name, f[:min(2, len(f))], want)
		}
	}
	if b.confine.Namespaces {
		for _, ns := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} {
			own, err1 := os.Readlink("/proc/self/ns/" + ns)
			its, err2 := os.Readlink(proc + "ns/" + ns)
			if err1 != nil || err2 != nil || own == its {
				t.Errorf("%s namespace: own %s (%v), its %s (%v)", ns, own, err1, its, err2)
			}
		}
		for line := range strings.Lines(read("mountinfo")) {
			f := strings.Fields(line)
			if f[4] != "/" && f[4] != "/proc/self/fd" && !within(f[4], b.host.reads()) || !strings.HasPrefix(f[5], "ro,") {
				t.Errorf("it has %s", line)
			}
		}
		if strings.Count(read("net/dev"), ":") != 1 {
			t.Errorf("its network is\n%s", read("net/dev"))
		}
	} else {
		notrun.Say(t, "QEMU in namespaces of its own", "the kernel does not give them")
	}
	fds, err := os.ReadDir(proc + "fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, err := os.Readlink(proc + "fd/" + fd.Name())
		if err != nil {
			continue // closed by now
		}
		known := to == "/dev/null"
		for _, prefix := range []string{"pipe:", "socket:", "anon_inode:", "/memfd:lorica-"} {
			known = known || strings.HasPrefix(to, prefix)
		}
		if !known {
			t.Errorf("it holds %s", to)
		}
	}
	if got := g.Limits(); got != "RLIMIT_DATA" {
		t.Errorf("limits are %s", got)
	}
	if _, err := process.OpenGroup("x", 1); err != nil {
		notrun.Say(t, "QEMU in a cgroup", err.Error())
	}
}

// stranger tries to open what a process has, and says what it could. What is neither opened
// nor refused, as where the process is gone, shows nothing and is an error; but not each
// number is a descriptor.
func stranger() error {
	var pid int
	if _, err := fmt.Scan(&pid); err != nil {
		return err
	}
	names := []string{"mem", "environ", "root", "cwd", "exe"}
	for fd := range 32 {
		names = append(names, fmt.Sprintf("fd/%d", fd))
	}
	refused := 0
	var odd error
	for _, name := range names {
		for _, how := range []int{unix.O_RDONLY, unix.O_RDWR} {
			fd, err := unix.Open(fmt.Sprintf("/proc/%d/%s", pid, name), how|unix.O_NONBLOCK, 0)
			switch {
			case err == nil:
				fmt.Println(name)
				unix.Close(fd)
			case err == unix.EACCES || err == unix.EPERM:
				refused++
			case err != unix.ENOENT || !strings.HasPrefix(name, "fd/"):
				odd = errors.Join(odd, fmt.Errorf("%s: %w", name, err))
			}
		}
	}
	if refused == 0 {
		odd = errors.Join(odd, errors.New("nothing was refused"))
	}
	return odd
}

// Nobody else opens the memory of a guest, or anything of its QEMU's: not even who has
// the user id that QEMU has where its tender is root.
func TestTheMemoryIsOpenToNobodyElse(t *testing.T) {
	b := newBench(t)
	if os.Geteuid() != 0 || !b.confine.Namespaces {
		notrun.Say(t, "the memory of a microVM, tried by another user", "it takes root, and namespaces")
		return
	}
	g := b.mustStart(t, idle(), nil)
	self, err := os.Open("/proc/self/exe") // which others may not find by its name
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	as := func(id uint32) *exec.Cmd {
		cmd := exec.Command("/proc/self/fd/3", "stranger")
		cmd.ExtraFiles, cmd.Stdin = []*os.File{self}, strings.NewReader(fmt.Sprint(g.PID()))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: id, Gid: id}}
		return cmd
	}
	for _, id := range []uint32{65534, 64321} {
		if out, err := as(id).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("user %d: %v: it opened, or got other errors than a refusal\n%s", id, err, out)
		}
	}
	// Root, which is refused nothing, is who shows that there was something to open.
	if out, _ := as(0).Output(); !slices.Contains(strings.Fields(string(out)), "mem") {
		t.Errorf("root does not open the memory either, but\n%s", out)
	}
}

// parent launches a guest, says who it is, and waits to be killed.
func parent() error {
	h, err := Find("")
	if err != nil {
		return err
	}
	l, err := process.NewLauncher()
	if err != nil {
		return err
	}
	image, err := memory(tinyGuest(idle()))
	if err != nil {
		return err
	}
	ram, err := NewRAM(leastRAM, 0)
	if err != nil {
		return err
	}
	v, err := h.Launch(l, Spec{Image: image, RAM: ram, Devices: []string{DeviceExit}, Output: os.Stderr, Accel: TCG, Confinement: process.Probe().Confinement})
	if err != nil {
		return err
	}
	fmt.Println(v.PID())
	<-v.Done()
	return fmt.Errorf("it ended: %s", v.Death())
}

func TestQEMUDiesWithItsTender(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "parent")
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("%v: %s", err, said.String())
	}
	f, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(f)
	cmd.Process.Kill()
	io.Copy(io.Discard, out)
	cmd.Wait()
	poll := []unix.PollFd{{Fd: int32(f), Events: unix.POLLIN}} // readable once it has ended
	if n, err := unix.Poll(poll, int(patience.Milliseconds())); n != 1 || err != nil {
		t.Errorf("QEMU lives on: %d, %v", n, err)
	}
}
