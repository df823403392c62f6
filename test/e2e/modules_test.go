package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A guard of the user's own stands in an image: it decides, its decisions are recorded,
// its settings are data of the program, its code changes only when somebody has accepted
// that, and a system call that its manifest does not name ends the image.
func TestAModuleOfTheUsers(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	dir, addr := u.copied("module", "8448", port), "127.0.0.1:"+port
	workload, source, manifest := filepath.Join(dir, "workload.yaml"), filepath.Join(dir, "override", "override.go"), filepath.Join(dir, "override", "module.yaml")
	os.Remove(filepath.Join(dir, "lorica.lock")) // of somebody who has tried the example
	if out, err := u.command("build", "-f", dir).CombinedOutput(); err == nil || !strings.Contains(string(out), "lorica.lock: there is no such file") {
		t.Fatalf("built without a lock: %v, %s", err, out)
	}
	if s := u.run("plan", "-f", dir); !strings.Contains(s, "example.com/override 1 from ./override") || !strings.Contains(s, "lorica.lock: written") {
		t.Errorf("plan: %s", s)
	}
	x, first := u.up(dir)
	if a := get(t, addr, "/", ""); a.status != 200 {
		t.Errorf("an ordinary request: %d", a.status)
	}
	a := get(t, addr, "/?_method=DELETE", "")
	if d := x.find(a.decision); a.status != 400 || d.Decision != "Deny" || d.Rule != "override" || d.Stage != "example.com/override" || d.Line != "workload.yaml:9" || !strings.Contains(d.Reason, "_method") {
		t.Errorf("what it denies: %d, %+v", a.status, d)
	}
	if s := u.run("why", "--live", a.decision, "-f", dir); !strings.Contains(s, "a module of your own decided, example.com/override; without it the policy decides:\nthey decide: Allow by pages") {
		t.Errorf("why --live: %s", s)
	}

	edit(t, workload, "settings:\n", "settings:\n        status: 422\n")
	if e := x.wait("applied"); e.Change != "program" || e.Status.PID != first.PID {
		t.Errorf("another setting is %s, %+v", e.Change, e.Status)
	}
	if a := get(t, addr, "/?_method=DELETE", ""); a.status != 422 {
		t.Errorf("with another setting: %d", a.status)
	}

	// A call that the manifest does not name.
	edit(t, source, "	query := x.Request.URL.Query()\n", `	query := x.Request.URL.Query()
	if query.Has("uptime") {
		var info syscall.Sysinfo_t
		if err := syscall.Sysinfo(&info); err != nil || info.Uptime == 0 {
			return s.deny("no uptime")
		}
	}
`)
	edit(t, source, "\"net/http\"\n", "\"net/http\"\n\t\"syscall\"\n")
	if e := x.wait("refused"); !strings.Contains(e.Text, "module example.com/override (./override) has changed") || !strings.Contains(e.Text, "lorica plan --update") {
		t.Errorf("what nobody accepted: %s", e.Text)
	}
	if a := get(t, addr, "/?_method=DELETE", ""); a.status != 422 {
		t.Errorf("what ran before: %d", a.status)
	}
	u.run("plan", "-f", dir, "--update")
	e := x.wait("applied")
	if e.Change != "image" {
		t.Errorf("other code is %s", e.Change)
	}
	if a := get(t, addr, "/?page=2", ""); a.status != 200 {
		t.Errorf("an ordinary request: %d", a.status)
	}
	if target == "" {
		c := &client{addr: addr}
		if a, err := c.do("GET", "/?uptime", "", ""); err == nil {
			t.Errorf("a call that no manifest names: %d", a.status)
		}
		c.close()
		eventually(t, "the image is started again", func() bool {
			return strings.Contains(u.run("inspect", "module"), "restarts    1")
		})
	}

	// The same call, named and accepted.
	edit(t, manifest, "requires: [filter]\n", "requires: [filter]\nsyscalls: [{name: sysinfo}]\n")
	x.wait("refused")
	if s := u.run("plan", "-f", dir, "--update"); target == "" && !strings.Contains(s, "widens the seal: sysinfo") {
		t.Errorf("plan: %s", s)
	}
	if e := x.wait("applied"); e.Change != "image" {
		t.Errorf("another manifest is %s", e.Change)
	}
	if a := get(t, addr, "/?uptime", ""); target == "" && a.status != 200 {
		t.Errorf("a call that the manifest names: %d", a.status)
	}
	if s := u.run("inspect", "module"); !strings.Contains(s, "example.com/override@1 (h1:") || target == "" && !strings.Contains(s, "  sysinfo\n") {
		t.Errorf("inspect: %s", s)
	}
	x.interrupt()

	// Its own tests run where Lorica's source is.
	out, err := exec.Command("go", "-C", filepath.Join("..", "..", "examples", "module", "override"), "test", "./...").CombinedOutput()
	if err != nil {
		t.Errorf("the example's own tests: %v\n%s", err, out)
	}
}
