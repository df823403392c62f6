package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// glutton is an application that remembers all it is asked to.
const glutton = `// Package witness eats.
package witness

import "net/http"

// New returns what eats.
func New() (http.Handler, error) {
	var eaten [][]byte
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.URL.Path == "/app/eat" {
			b := make([]byte, 16<<20)
			for i := range b {
				b[i] = 1
			}
			eaten = append(eaten, b)
		}
	}), nil
}
`

// An application that eats all memory ends with its image, which is started again;
// the request has its record, and so has every other.
func TestOutOfMemory(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	addr := "127.0.0.1:" + port
	dir := u.witness(port, "")
	write(t, filepath.Join(dir, "witness", "witness.go"), glutton)
	e := u.evidence()
	x, first := u.up(dir)
	end := e.load(addr, "/app/x", "")
	time.Sleep(300 * time.Millisecond)
	c := &client{addr: addr}
	if a, err := c.do("GET", "/app/eat", "", ""); err == nil {
		t.Errorf("it ate and answered %d", a.status)
	}
	c.close()
	e.answered(addr, "/app/x", "", 200)
	end()
	now := u.ps()
	if now.Restarts != 1 || now.TenderPID != first.TenderPID || !strings.Contains(now.LastError, "memory") {
		t.Errorf("afterwards: %+v", now)
	}
	eventually(t, "what ate is recorded", func() bool {
		e.read()
		e.mu.Lock()
		defer e.mu.Unlock()
		for _, r := range e.byID {
			if r.Path == "/app/eat" && r.Decision == "Allow" {
				return true
			}
		}
		return false
	})
	x.interrupt()
	u.gone(addr)
	e.check()
}

// With few descriptors 'up' says so or works; what works goes on when clients, and
// other users of the control socket, take all that are left, and serves them when
// there are some again.
func TestOutOfDescriptors(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	addr := "127.0.0.1:" + port
	dir := u.witness(port, "  requestFilter: {headerTimeout: 5m, idleTimeout: 5m}\n")
	u.run("build", "-f", dir)
	limited := func(n int, args ...string) *exec.Cmd {
		cmd := u.command(args...)
		cmd.Args = append([]string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, n)}, cmd.Args...)
		cmd.Path, cmd.Err = exec.LookPath("sh")
		return cmd
	}
	for _, n := range []int{4, 8} {
		out, err := limited(n, "up", "-f", dir, "-o", "json").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "too many open files") && !strings.Contains(string(out), "fatal error") {
			t.Errorf("with %d descriptors: %v\n%s", n, err, out)
		}
	}
	if left := u.folders(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	const few = 48
	x, first := u.follow(limited(few, "up", "-f", dir, "-o", "json"))
	var held []net.Conn
	for range 2 * few {
		c, err := net.DialTimeout("tcp", addr, patience)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	served := make(chan error, 1)
	go func() {
		c := &client{addr: addr}
		defer c.close()
		_, err := c.do("GET", "/app/x", "", "")
		served <- err
	}()
	select {
	case err := <-served:
		if first.Way != "routed" { // then nobody but the image has connections, and they are no descriptors there
			t.Errorf("%d connections are open and one more is served (%v)", len(held), err)
		}
		served <- err
	case <-time.After(300 * time.Millisecond):
	}
	for _, c := range held {
		c.Close()
	}
	if err := <-served; err != nil {
		t.Errorf("with descriptors again: %v", err)
	}
	for range 2 * few {
		c, err := net.Dial("tcp", addr) // to a port of the image, to keep both busy
		if err == nil {
			defer c.Close()
		}
	}
	if now := u.ps(); now.PID != first.PID || now.TenderPID != first.TenderPID || now.Restarts != 0 {
		t.Errorf("it did not live through it: %+v", now)
	}
	x.interrupt()
	u.gone(addr)
}

// Nobody reads what 'up' writes: requests are answered and recorded all the same, and
// Ctrl-C ends what runs. Whoever reads at last finds every decision.
func TestAFullPipe(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	addr := "127.0.0.1:" + port
	e := u.evidence()
	cmd := u.command("up", "-f", u.witness(port, ""), "-o", "json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), `"event":"up"`) {
	}
	c := &client{addr: addr}
	defer c.close()
	for range 1000 {
		sent := time.Now()
		a, err := c.do("GET", "/app/x", "", "")
		if err != nil || a.status != 200 {
			t.Fatalf("%v %d", err, a.status)
		}
		e.note(reply{a, sent, time.Now(), 1})
	}
	cmd.Process.Signal(syscall.SIGINT)
	eventually(t, "nothing serves", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	shown := map[string]bool{}
	for lines.Scan() {
		var v event
		if json.Unmarshal(lines.Bytes(), &v) == nil && v.Decision != nil {
			shown[v.Decision.ID] = true
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("up ended with %v", err)
	}
	lost := 0
	for _, r := range e.asked {
		if !shown[r.decision] {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d decisions are not shown", lost, len(e.asked))
	}
	u.gone(addr)
	e.check()
}

// A second 'up' on a project is refused and changes nothing; when the first has
// ended it works.
func TestTwoUps(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	dir := u.example(port)
	x, first := u.up(dir)
	second := u.command("up", "-f", dir, "-o", "json")
	defer time.AfterFunc(time.Minute, func() { second.Process.Signal(syscall.SIGINT) }).Stop() // should it go on
	out, err := second.CombinedOutput()
	if want := fmt.Sprintf("acme/accounts is held up by another 'lorica up' (process %d), which goes on", x.cmd.Process.Pid); err == nil || !strings.Contains(string(out), want) {
		t.Errorf("the second: %v\n%s", err, out)
	}
	x.find(get(t, "127.0.0.1:"+port, "/accounts", staff).decision)
	if now := u.ps(); now.PID != first.PID || now.TenderPID != first.TenderPID || now.Revision != first.Revision {
		t.Errorf("the first became %+v", now)
	}
	x.interrupt()
	y, _ := u.up(dir)
	y.interrupt()
	u.gone("127.0.0.1:" + port)
}
