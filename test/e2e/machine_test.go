package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/internal/notrun"
)

const emulator = "qemu-system-x86_64"

// canHaveMachines reports whether there is a QEMU; where not, what is not run is listed.
func canHaveMachines(t *testing.T, what string) bool {
	t.Helper()
	if _, err := exec.LookPath(emulator); err != nil {
		notrun.Say(t, what, "there is no "+emulator+" here: apt-get install qemu-system-x86")
		return false
	}
	return true
}

// onMachines runs everything of a user as microVMs.
func onMachines(args ...string) []string { return append(args, "--target", "microvm") }

// A QEMU that is killed, or that stops to do anything, is replaced; clients wait, and
// the machine of somebody else beside it goes on. In the end nothing is left.
func TestMachinesThatFail(t *testing.T) {
	if !canHaveMachines(t, "microVMs that fail") {
		return
	}
	u, other := newUser(t), newUser(t)
	port, beside := freePort(t), freePort(t)
	x, s := u.up(u.example(port), onMachines()...)
	y, neighbour := other.up(other.example(beside), onMachines()...)
	for _, c := range []struct {
		name    string
		signal  syscall.Signal
		because string
	}{
		{"killed", syscall.SIGKILL, "the image ended: QEMU was killed by SIGKILL"},
		{"stopped", syscall.SIGSTOP, "no answer to query-status: nothing within 10s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := syscall.Kill(s.PID, c.signal); err != nil {
				t.Fatal(err)
			}
			if a := get(t, "127.0.0.1:"+port, "/accounts", staff); a.status != 200 {
				t.Errorf("a client that waited gets %d", a.status)
			}
			now := u.ps()
			if now.PID == s.PID || !strings.Contains(now.LastError, c.because) {
				t.Errorf("it ended by %q", now.LastError)
			}
			if alive(s.PID) {
				t.Errorf("QEMU %d is still there", s.PID)
			}
			s = &now
		})
	}
	if a := get(t, "127.0.0.1:"+beside, "/accounts", staff); a.status != 200 {
		t.Errorf("the neighbour answers %d", a.status)
	}
	if now := other.ps(); now.PID != neighbour.PID || now.Restarts != 0 {
		t.Errorf("the neighbour did not live through it: %+v", now)
	}
	y.interrupt()
	u.run("down")
	x.interrupt()
	u.gone("127.0.0.1:" + port)
}

// Whoever ends 'up' while its machine boots leaves no machine behind, and where the machine
// ends or hangs 'up' does, and says so.
func TestAMachineThatBootsIsEnded(t *testing.T) {
	if !canHaveMachines(t, "microVMs that are ended while they boot") {
		return
	}
	u := newUser(t)
	port := freePort(t)
	dir := u.example(port)
	u.run(onMachines("build", "-f", dir)...)
	for name, c := range map[string]struct {
		end  func(up *exec.Cmd, machine int)
		says string
	}{
		"Ctrl-C":          {end: func(up *exec.Cmd, _ int) { up.Process.Signal(syscall.SIGINT) }},
		"down":            {end: func(*exec.Cmd, int) { u.command("down").Run() }},
		"killed":          {end: func(up *exec.Cmd, _ int) { up.Process.Kill() }},
		"machine killed":  {func(_ *exec.Cmd, machine int) { syscall.Kill(machine, syscall.SIGKILL) }, "QEMU was killed by SIGKILL"},
		"machine stopped": {func(_ *exec.Cmd, machine int) { syscall.Kill(machine, syscall.SIGSTOP) }, "nothing within"},
	} {
		t.Run(name, func(t *testing.T) {
			up := u.command(onMachines("up", "-f", dir)...)
			var said bytes.Buffer
			up.Stdout, up.Stderr = &said, &said
			if err := up.Start(); err != nil {
				t.Fatal(err)
			}
			machine := 0
			boots := func() bool {
				for _, p := range leftovers() {
					if !strings.Contains(p, "virtserialport") { // the guest that KVM is tried with
						continue
					}
					fmt.Sscan(p, &machine)
					// One that lost its tender may be what another test on this machine left.
					if f := stat(fmt.Sprintf("/proc/%d", machine)); f != nil && ours("/proc/"+f[1]) {
						return true
					}
				}
				return false
			}
			for late := time.Now().Add(time.Minute); !boots(); time.Sleep(time.Millisecond) {
				if time.Now().After(late) {
					up.Process.Kill()
					t.Fatal("no machine boots")
				}
			}
			c.end(up, machine)
			if name == "down" { // 'up' may have been too early to be found, and goes on
				time.Sleep(500 * time.Millisecond)
				u.command("down").Run()
				up.Process.Signal(syscall.SIGINT)
			}
			err := up.Wait()
			if c.says != "" && (err == nil || !strings.Contains(said.String(), c.says)) {
				t.Errorf("up ends with %v:\n%s", err, said.String())
			}
			if name == "killed" { // what it started waits for another 'up', for a while
				u.run("down")
			}
			u.gone("127.0.0.1:" + port)
		})
	}
}

// What cannot be started says why, and what to do about it.
func TestMachinesThatCannotBe(t *testing.T) {
	if !canHaveMachines(t, "microVMs that cannot start") {
		return
	}
	u := newUser(t)
	port := freePort(t)
	dir := u.example(port)
	workload := filepath.Join(dir, "workload.yaml")
	fails := func(t *testing.T, cmd *exec.Cmd, want ...string) {
		t.Helper()
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("it started:\n%s", out)
		}
		for _, w := range want {
			if !strings.Contains(string(out), w) {
				t.Errorf("it does not say %q:\n%s", w, out)
			}
		}
		u.gone("127.0.0.1:" + port)
	}

	t.Run("too little memory", func(t *testing.T) {
		edit(t, workload, "spec:\n", "spec:\n  resources: {memory: 16Mi}\n")
		defer edit(t, workload, "  resources: {memory: 16Mi}\n", "")
		fails(t, u.command(onMachines("up", "-f", dir)...), "memory")
	})
	t.Run("a port that somebody else has", func(t *testing.T) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		_, number, _ := net.SplitHostPort(taken.Addr().String())
		fails(t, u.command(onMachines("up", "-f", u.example(number))...), "127.0.0.1:"+number, "address already in use")
	})
	t.Run("an application that panics as it starts", func(t *testing.T) {
		dir := u.witness(port, "")
		const begins = "func New() (http.Handler, error) {\n"
		edit(t, filepath.Join(dir, "witness/witness.go"), begins, begins+"\tpanic(\"no database\")\n")
		fails(t, u.command(onMachines("up", "-f", dir)...), "panic: no database")
	})
	t.Run("an image that was altered", func(t *testing.T) {
		u.run(onMachines("build", "-f", dir)...)
		images, _ := filepath.Glob(filepath.Join(u.home, ".local/share/lorica/images/*/image"))
		if len(images) == 0 {
			t.Fatal("the store has no image")
		}
		for _, name := range images { // each is shared with the stores of other users
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 1
			os.Remove(name)
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		fails(t, u.command(onMachines("up", "-f", dir)...), "altered")
	})
}

// Without QEMU everything says so, and how to get it, before it builds anything.
func TestNoQEMU(t *testing.T) {
	if os.Geteuid() != 0 || !canHaveMachines(t, "a machine without QEMU") {
		if os.Geteuid() != 0 {
			notrun.Say(t, "a machine without QEMU", "it cannot be hidden here: run the tests as root")
		}
		return
	}
	u := &user{t: t, home: t.TempDir()} // without images that others built
	dir := u.example(freePort(t))
	for _, args := range [][]string{onMachines("up", "-f", dir), onMachines("selftest"), {"doctor"}} {
		cmd := u.command(args...)
		hide := "for d in /usr/local/bin /usr/bin /bin; do if [ -e $d/" + emulator + " ]; then mount --bind /dev/null $d/" + emulator + "; fi; done; exec \"$@\""
		cmd.Args = append([]string{"sh", "-c", hide, "sh", cmd.Path}, cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		out, err := cmd.CombinedOutput()
		if args[0] != "doctor" && err == nil || !strings.Contains(string(out), emulator) || !strings.Contains(string(out), "apt-get install qemu-system-x86") {
			t.Errorf("lorica %s: %v\n%s", args[0], err, out)
		}
		if strings.Contains(string(out), "generate: plan:") {
			t.Errorf("lorica %s builds what cannot run:\n%s", args[0], out)
		}
	}
}
