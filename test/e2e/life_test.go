package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Ctrl-C drains and leaves nothing behind: no process, no socket, no folder.
func TestInterruptLeavesNothing(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	dir, addr := u.example(port), "127.0.0.1:"+port
	t.Run("interrupt", func(t *testing.T) { leavesNothing(t, u, dir, (*upping).interrupt) })
	t.Run("terminal closed", func(t *testing.T) { leavesNothing(t, u, dir, (*upping).hangUp) })
	t.Run("nobody reads", func(t *testing.T) {
		leavesNothing(t, u, dir, func(x *upping) {
			x.out.Close()
			get(t, addr, "/accounts", staff) // so that something is written
			x.cmd.Wait()
		})
	})
}

func leavesNothing(t *testing.T, u *user, dir string, end func(*upping)) {
	x, s := u.up(dir)
	end(x)
	if code := x.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d: %s", code, x.stderr.String())
	}
	if alive(s.PID) {
		t.Errorf("image %d is still there", s.PID)
	}
	// It gives up its folder, for which up waits, just before it ends.
	eventually(t, "the tender is gone", func() bool { return !alive(s.TenderPID) })
	left, err := os.ReadDir(filepath.Join(u.home, ".local", "share", "lorica", "run"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

// A second Ctrl-C ends 'up' at once, whatever what runs has open, and that goes on draining by
// itself.
func TestASecondInterruptWaitsForNobody(t *testing.T) {
	u := newUser(t)
	x, s := u.up(u.example(freePort(t)))
	if err := syscall.Kill(s.PID, syscall.SIGSTOP); err != nil { // it does not drain
		t.Fatal(err)
	}
	defer syscall.Kill(s.PID, syscall.SIGCONT)
	x.cmd.Process.Signal(syscall.SIGINT)
	eventually(t, "it drains", func() bool {
		var list []status
		err := json.Unmarshal([]byte(u.run("ps", "-o", "json")), &list)
		return err == nil && len(list) == 1 && list[0].State == "draining"
	})
	x.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-x.done:
	case <-time.After(patience):
		t.Fatal("up goes on")
	}
	x.cmd.Wait()
	if end := x.cmd.ProcessState.Sys().(syscall.WaitStatus); !end.Signaled() || end.Signal() != syscall.SIGINT {
		t.Errorf("up ended with %v: %s", x.cmd.ProcessState, x.stderr.String())
	}
	syscall.Kill(s.PID, syscall.SIGCONT)
	eventually(t, "the tender and its image are gone", func() bool { return !alive(s.TenderPID) && !alive(s.PID) })
}

// What 'up' started survives it for a while; the next 'up' takes it over, and
// shows what is decided from then on.
func TestReattach(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	dir := u.example(port)
	x, s := u.up(dir)
	x.kill()
	before := get(t, "127.0.0.1:"+port, "/accounts", staff)
	if before.status != 200 {
		t.Errorf("after up died: %d", before.status)
	}
	y, again := u.up(dir)
	if again.PID != s.PID || again.TenderPID != s.TenderPID {
		t.Errorf("the next up did not take over: %+v, before %+v", again, s)
	}
	y.find(get(t, "127.0.0.1:"+port, "/accounts", staff).decision)
	y.mu.Lock()
	for _, d := range y.decisions {
		if d.ID == before.decision {
			t.Error("a decision of before was shown again")
		}
	}
	y.mu.Unlock()
}

// An image that dies is started again by its tender; a tender that dies takes
// its image with it and is started again by 'up'.
func TestDeathsAreMended(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	x, s := u.up(u.example(port))
	addr := "127.0.0.1:" + port
	if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if a := get(t, addr, "/accounts", staff); a.status != 200 { // waits in the backlog meanwhile
		t.Errorf("after the image died: %d", a.status)
	}
	var list []status
	if err := json.Unmarshal([]byte(u.run("ps", "-o", "json")), &list); err != nil || len(list) != 1 || list[0].Restarts != 1 {
		t.Fatalf("ps: %+v (%v)", list, err)
	}
	if err := syscall.Kill(list[0].TenderPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the image follows its tender", func() bool { return !alive(list[0].PID) })
	x.wait("died")
	e := x.wait("ready")
	if e.Status.TenderPID == s.TenderPID {
		t.Errorf("the same tender again: %+v", e.Status)
	}
	if a := get(t, addr, "/accounts", staff); a.status != 200 {
		t.Errorf("after the tender died: %d", a.status)
	}
}

// 'down' from another terminal ends an instance in order, and 'up' with it.
func TestDown(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	x, s := u.up(u.example(port))
	u.run("down", "accounts")
	select {
	case <-x.done:
	case <-time.After(patience):
		t.Fatal("up goes on after its only workload was taken down")
	}
	if alive(s.PID) {
		t.Errorf("image %d is still there", s.PID)
	}
	// It gives up its folder, for which up waits, just before it ends.
	eventually(t, "the tender is gone", func() bool { return !alive(s.TenderPID) })
}

// A tender that is stopped is told of, and costs no other workload of the user anything.
func TestAStoppedTenderIsNoOtherWorkloads(t *testing.T) {
	u := newUser(t)
	port, beside := freePort(t), freePort(t)
	_, stopped := u.up(u.example(port))
	x, s := u.up(u.site(beside))
	syscall.Kill(stopped.TenderPID, syscall.SIGSTOP)
	defer syscall.Kill(stopped.TenderPID, syscall.SIGCONT)

	ps := u.command("ps", "-o", "json")
	var out, said bytes.Buffer
	ps.Stdout, ps.Stderr = &out, &said
	err := ps.Run()
	var list []status
	if bad := json.Unmarshal(out.Bytes(), &list); bad != nil || len(list) != 1 || list[0].Instance != s.Instance {
		t.Errorf("ps lists %+v (%v)", list, bad)
	}
	if !strings.Contains(said.String(), fmt.Sprintf("kill -CONT %d", stopped.TenderPID)) || err == nil {
		t.Errorf("ps ends with %v and says %q", err, said.String())
	}
	u.run("inspect", s.Instance)
	u.run("logs", "site")
	kill(t, s.TenderPID)
	x.wait("died")
	if e := x.wait("ready"); e.Status.TenderPID == s.TenderPID {
		t.Errorf("the same tender again: %+v", e.Status)
	}
	u.run("down", "site")
}

// The tier that was reached is in ps and in every record.
func TestTierIsShown(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	x, s := u.up(u.example(port))
	if s.Tier == "" {
		t.Error("no tier in the status")
	}
	a := get(t, "127.0.0.1:"+port, "/accounts", "")
	if d := x.find(a.decision); d.Tier != s.Tier || d.Decision != "Deny" || d.Rule != "default:authentication" {
		t.Errorf("the record is %+v", d)
	}
}

// What a user tries first on a machine that she does not know.
func TestSelftest(t *testing.T) {
	u := newUser(t)
	var list []struct {
		Name, Detail string
		OK           bool
	}
	out, failed := u.command("selftest", "-o", "json").Output()
	if err := json.Unmarshal(out, &list); err != nil || len(list) < 7 || target != "" && len(list) < 30 {
		t.Fatalf("%d checks: %v, %v", len(list), err, failed)
	}
	for _, c := range list {
		if !c.OK {
			t.Errorf("%s: %s", c.Name, c.Detail)
		}
	}
	if left := u.folders(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
