package e2e

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A levelChange is what 'level -o json' answers, and what an event has of a level.
type levelChange struct {
	Level    string `json:"level"`
	Before   string `json:"before"`
	Revision uint64 `json:"revision"`
	Standing struct {
		Levels     []string  `json:"levels"`
		Why        string    `json:"why"`
		Trigger    string    `json:"trigger"`
		Line       string    `json:"line"`
		Until      time.Time `json:"until"`
		Held       bool      `json:"held"`
		TookMillis float64   `json:"tookMillis"`
		Lacks      []string  `json:"lacks"`
		Plan       string    `json:"plan"`
	} `json:"standing"`
}

// level runs 'lorica level'.
func (u *user) level(args ...string) (l levelChange) {
	u.t.Helper()
	out := u.run(append([]string{"level", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), &l); err != nil {
		u.t.Fatalf("%v: %s", err, out)
	}
	return l
}

// pays reports whether a teller may transfer an amount.
func pays(t *testing.T, c *client, amount string) bool {
	t.Helper()
	a, err := c.do("POST", "/accounts/7/transfers", teller, `{"to": "1", "amount": `+amount+`}`)
	if err != nil || a.status != 201 && a.status != 409 && a.status != 422 && a.status != 403 {
		t.Fatalf("a transfer of %s: %d, %v", amount, a.status, err)
	}
	return a.status != 403
}

// A level that somebody sets is in force when the command returns, on connections that
// are open, and says who set it; it outlives a change of the policy and the death of
// the image, and ends when its time is over.
func TestLevelsByHand(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	dir, addr := u.example(port), "127.0.0.1:"+port
	policy := filepath.Join(dir, "policy.yaml")
	x, first := u.up(dir)
	c := &client{addr: addr}
	defer c.close()
	at := func(level string) {
		t.Helper()
		if large, small := pays(t, c, "2000"), pays(t, c, "5"); large != (level == "normal") || small != (level != "lockdown") {
			t.Fatalf("at level %s: 2,000 is paid: %v, 5: %v", level, large, small)
		}
	}
	at("normal")
	if l := u.level("set", "elevated"); l.Level != "elevated" || l.Before != "normal" || l.Standing.Why != "hand" || l.Revision != first.Revision {
		t.Errorf("set: %+v", l)
	}
	at("elevated")
	if e := x.wait("level"); e.Level.Level != "elevated" || e.Level.Before != "normal" || e.TookMillis <= 0 {
		t.Errorf("told: %+v", e)
	}
	for _, show := range []string{u.run("level", "show"), u.run("inspect", "accounts"), u.run("ps")} {
		if !strings.Contains(show, "elevated") || !strings.Contains(show, "by hand") {
			t.Errorf("it does not say why:\n%s", show)
		}
	}

	edit(t, policy, "requests: 600", "requests: 601")
	if e := x.wait("applied"); e.Change != "program" || e.Status.PID != first.PID || e.Status.Level != "elevated" {
		t.Errorf("a change of the policy: %s, %+v", e.Change, e.Status)
	}
	at("elevated")
	syscall.Kill(first.PID, syscall.SIGKILL)
	eventually(t, "another life", func() bool {
		var s struct{ Instance status }
		return json.Unmarshal([]byte(u.run("inspect", "accounts", "-o", "json")), &s) == nil && s.Instance.Restarts == 1 && s.Instance.State == "ready"
	})
	c.close()
	c = &client{addr: addr}
	at("elevated")

	if l := u.level("set", "lockdown", "--for", "1s"); l.Standing.Until.IsZero() {
		t.Errorf("for a time: %+v", l)
	}
	at("lockdown")
	eventually(t, "its time is over", func() bool { return pays(t, c, "5") })
	at("elevated")
	for args, want := range map[string]string{
		"set elevate":                 `acme/accounts has no level "elevate": did you mean "elevated"?`,
		"set normal --instance other": `no such instance runs: "other"`,
		"release":                     "nothing holds the level: it is elevated, set by hand",
		"set normal --for 0s":         "write a time such as 10m",
	} {
		if out, err := u.command(append([]string{"level"}, strings.Fields(args)...)...).CombinedOutput(); err == nil || !strings.Contains(string(out), want) {
			t.Errorf("level %s: %v\n%s", args, err, out)
		}
	}
	u.level("set", "normal")
	at("normal")
}

// Denials that a trigger counts raise the level, for as long as it holds; what is set by
// hand to stay is not raised.
func TestLevelsByTrigger(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	dir, addr := u.example(port), "127.0.0.1:"+port
	edit(t, filepath.Join(dir, "policy.yaml"), "initial: normal}", `initial: normal, triggers: [
    {name: curious, on: authorization.deny, count: 3, window: 1m, key: principal, to: elevated, hold: 2s},
    {name: lost, on: request.deny, count: 4, window: 1h, to: lockdown, hold: manual}]}`)
	x, _ := u.up(dir)
	c := &client{addr: addr}
	defer c.close()
	asks := func(n int, method, path string, want int) {
		t.Helper()
		for range n {
			if a, err := c.do(method, path, staff, `{"amount": 5}`); err != nil || a.status != want {
				t.Fatalf("%s %s: %d, %v", method, path, a.status, err)
			}
		}
	}
	told := func(level, trigger string) event {
		t.Helper()
		e := x.wait("level")
		if e.Level.Level != level || e.Level.Standing.Trigger != trigger {
			t.Fatalf("told: %+v", e.Level)
		}
		return e
	}
	asks(2, "POST", "/accounts/7/transfers", 403)
	if !pays(t, c, "2000") {
		t.Error("raised too early")
	}
	asks(1, "POST", "/accounts/7/transfers", 403)
	e := told("elevated", "curious")
	if e.TookMillis <= 0 || e.Level.Standing.Why != "trigger" || e.Level.Standing.Line != "policy.yaml:12" || e.Level.Standing.Until.IsZero() {
		t.Errorf("told: %+v", e)
	}
	t.Logf("from the trigger until it is in force: %.2f ms", e.TookMillis)
	if pays(t, c, "2000") {
		t.Error("the level is not in force")
	}
	eventually(t, "the record of the trigger", func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		for _, d := range x.decisions {
			if d.Rule == "curious" && d.Line == "policy.yaml:12" && d.Stage == "obligations" && strings.Contains(d.Reason, "3 denials (authorization) within 1m0s of one principal: level elevated for 2s") {
				return true
			}
		}
		return false
	})
	told("normal", "")
	if !pays(t, c, "2000") {
		t.Error("the hold does not end")
	}

	u.level("set", "normal", "--hold")
	asks(4, "GET", "/nowhere", 404)
	time.Sleep(200 * time.Millisecond)
	if l := u.level("show"); l.Level != "normal" || !l.Standing.Held {
		t.Errorf("held by hand: %+v", l)
	}
	u.level("set", "normal") // what was fired is not forgotten
	told("lockdown", "lost")
	if pays(t, c, "5") {
		t.Error("the level is not in force")
	}
	if l := u.level("release"); l.Level != "normal" || !pays(t, c, "2000") {
		t.Errorf("released: %+v", l)
	}
	if out := u.run("logs"); !strings.Contains(out, "level lockdown is in force instead of normal: trigger lost (policy.yaml:13)") {
		t.Errorf("the log does not say so:\n%s", out)
	}
	if out := u.run("plan", "-f", dir); !strings.Contains(out, "curious") {
		t.Errorf("plan does not show it:\n%s", out)
	}
}

// pooled is the example with images of levels: transfers are limited from elevated on.
func pooled(t *testing.T, u *user, port, pool string) string {
	dir := u.example(port)
	policy := filepath.Join(dir, "policy.yaml")
	edit(t, policy, "initial: normal}", "initial: normal, pool: "+pool+`, triggers: [
    {name: curious, on: authorization.deny, count: 3, window: 1m, to: elevated, hold: manual}]}`)
	edit(t, policy, "requests: 600, per: 1m}", "requests: 600, per: 1m, minLevel: elevated}")
	return dir
}

// An image without a module that a level needs denies what that module would judge, and
// nothing else, as long as there is nobody who has the level's own image take over. Whoever
// comes then does.
func TestTheBridgeToALevel(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	dir, addr := pooled(t, u, port, "reactive"), "127.0.0.1:"+port
	x, first := u.up(dir)
	x.kill()
	c := &client{addr: addr}
	defer c.close()
	if !pays(t, c, "5") {
		t.Fatal("before")
	}
	l := u.level("set", "elevated")
	if l.Standing.Plan == "" || len(l.Standing.Lacks) != 1 || l.Standing.Lacks[0] != "transfers (policy.yaml:74)" {
		t.Errorf("set: %+v", l)
	}
	if out := u.run("level", "show"); !strings.Contains(out, "it denies what it cannot enforce: transfers (policy.yaml:74)") {
		t.Errorf("it does not say so:\n%s", out)
	}
	a, err := c.do("POST", "/accounts/7/transfers", teller, `{"to": "1", "amount": 5}`)
	if err != nil || a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("what is not enforced: %d, %v, %v", a.status, a.header, err)
	}
	if out := u.run("logs", "--decisions", "-o", "json"); !strings.Contains(out, `"stage":"filter","rule":"default:level","line":"policy.yaml:74"`) {
		t.Errorf("no record of it:\n%s", out)
	}
	if a, err := c.do("GET", "/accounts", staff, ""); err != nil || a.status != 200 {
		t.Errorf("what is enforced: %d, %v", a.status, err)
	}
	u.level("set", "normal")
	if !pays(t, c, "5") {
		t.Error("at the level of the image")
	}
	u.level("set", "elevated")
	if _, s := u.up(dir); s.ImageDigest == first.ImageDigest || s.Level != "elevated" {
		t.Errorf("with somebody who does it: %+v", s)
	}
	if c.close(); !pays(t, c, "5") || pays(t, c, "2000") {
		t.Error("its own image does not enforce the level")
	}
}

// With images built ahead, a trigger has the level enforced by its own image, and no
// request is lost on the way there and back.
func TestALevelFromThePool(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	dir, addr := pooled(t, u, port, "proactive"), "127.0.0.1:"+port
	if out := u.run("plan", "-f", dir); !strings.Contains(out, "the same as at level elevated") || strings.Count(out, "pep/principallimit") < 2 {
		t.Errorf("plan does not say which levels share an image:\n%s", out)
	}
	u.run("build", "-f", dir)
	x, first := u.up(dir)
	l := startLoad(addr, "/accounts", staff, func(a answer) bool { return a.status == 200 })
	c := &client{addr: addr}
	defer c.close()
	for range 3 {
		if a, err := c.do("POST", "/accounts/7/transfers", staff, `{"amount": 5}`); err != nil || a.status != 403 {
			t.Fatalf("%d, %v", a.status, err)
		}
	}
	c.close()
	if e := x.wait("level"); e.Level.Level != "elevated" || e.Level.Standing.Plan == "" || len(e.Level.Standing.Lacks) != 1 {
		t.Errorf("the bridge: %+v", e.Level)
	}
	own := x.wait("level")
	if own.Level.Level != "elevated" || own.Level.Standing.Plan != "" || own.Text != "its own image took over" || own.TookMillis <= 0 || own.Level.Standing.Trigger != "curious" {
		t.Errorf("its own image: %+v", own)
	}
	t.Logf("from the trigger until its own image enforces it: %.1f ms", own.TookMillis)
	if !pays(t, c, "5") || pays(t, c, "2000") {
		t.Error("its own image does not enforce the level")
	}
	c.close()
	if l := u.level("release"); l.Level != "normal" || l.Standing.Plan == "" || len(l.Standing.Lacks) != 0 {
		t.Errorf("released: %+v", l)
	}
	x.wait("level")
	if e := x.wait("level"); e.Level.Level != "normal" || e.Level.Standing.Plan != "" {
		t.Errorf("back: %+v", e.Level)
	}
	if n, lost := l.end(); n == 0 || len(lost) > 0 {
		t.Errorf("%d requests; lost: %v", n, lost)
	}
	var s struct{ Instance status }
	if out := u.run("inspect", "accounts", "-o", "json"); json.Unmarshal([]byte(out), &s) != nil || s.Instance.ImageDigest != first.ImageDigest || s.Instance.Instance == first.Instance {
		t.Errorf("what runs: %s", out)
	}
}
