package e2e

import (
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// from is a client that calls from an address of its own.
func from(t *testing.T, source, addr string) *client {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	k := adopt(addr, c)
	t.Cleanup(k.close)
	return k
}

// closed reports whether a connection is ended before it is read.
func closed(t *testing.T, source, addr string) bool {
	t.Helper()
	_, err := from(t, source, addr).do("GET", "/accounts", staff, "")
	return err != nil
}

// Whoever guesses passwords is reported once and blocked: on connections that are
// open, on new ones, and over a change of the policy; nobody else is, and it ends.
func TestGuessingIsBlocked(t *testing.T) {
	const guesser, other = "127.0.0.9", "127.0.0.8"
	u := newUser(t)
	port := freePort(t)
	dir, addr := u.example(port), "127.0.0.1:"+port
	policy := filepath.Join(dir, "policy.yaml")
	edit(t, policy, "cidrs: [127.0.0.1/32]", "cidrs: [127.0.0.0/8]")
	edit(t, policy, "  rateLimits:", "  obligations:\n    - {name: guessing, on: authentication.deny, count: 5, window: 1h, do: [alert, blockSource], for: 10s}\n  rateLimits:")
	x, first := u.up(dir)

	open := from(t, guesser, addr)
	if a, err := open.do("GET", "/accounts", staff, ""); err != nil || a.status != 200 {
		t.Fatalf("before: %d, %v", a.status, err)
	}
	for i := range 5 {
		a, err := from(t, guesser, addr).do("GET", "/accounts", "staff-3:wrong", "")
		if err != nil || a.status != 401 {
			t.Fatalf("guess %d: %d, %v", i+1, a.status, err)
		}
	}
	if !closed(t, guesser, addr) {
		t.Error("a new connection is served")
	}
	a, err := open.do("GET", "/accounts", staff, "")
	if err != nil || a.status != 403 || open.conn != nil {
		t.Fatalf("on an open connection, with the right password: %d, %v", a.status, err)
	}
	if d := x.find(a.decision); d.Stage != "obligations" || d.Rule != "guessing" || d.Line == "" || d.Source != guesser || d.Reason != "the source is blocked" {
		t.Errorf("the refusal is recorded as %+v", d)
	}
	if a, err := from(t, other, addr).do("GET", "/accounts", staff, ""); err != nil || a.status != 200 {
		t.Errorf("another source: %d, %v", a.status, err)
	}
	alerts, refusals := 0, 0
	x.mu.Lock()
	for _, d := range x.decisions {
		switch {
		case d.Rule == "guessing" && d.Reason == "5 denials (authentication) within 1h0m0s from this source: blocked for 10s" && d.Source == guesser:
			alerts++
		case d.Rule == "guessing" && d.Decision == "Deny":
			refusals++
		}
	}
	x.mu.Unlock()
	if alerts != 1 || refusals != 2 {
		t.Errorf("%d alerts and %d refusals are recorded", alerts, refusals)
	}

	edit(t, policy, `@id("teller-transfer")`,
		"@id(\"teller-read\")\n      permit (principal in Group::\"tellers\", action == Action::\"call\", resource in RouteGroup::\"reads\");\n\n      @id(\"teller-transfer\")")
	if e := x.wait("applied"); e.Change != "program" || e.Status.PID != first.PID {
		t.Errorf("after the change of a rule: %s, %+v", e.Change, e.Status)
	}
	if !closed(t, guesser, addr) {
		t.Error("a change of a rule lifts the block")
	}
	eventually(t, "the block ends", func() bool { return !closed(t, guesser, addr) })

	if out := u.run("plan", "-f", dir); !strings.Contains(out, "pep/obligations") || !regexp.MustCompile(`guessing .*accept`).MatchString(out) {
		t.Errorf("plan does not say where it is enforced:\n%s", out)
	}
}
