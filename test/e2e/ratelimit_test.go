package e2e

import (
	"path/filepath"
	"strconv"
	"testing"
)

// A limit holds, says when to come again, is recorded under its name, and is not
// forgotten when the policy changes elsewhere; where it changes itself, it starts
// afresh.
func TestRateLimit(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	dir := u.example(port)
	policy := filepath.Join(dir, "policy.yaml")
	edit(t, policy, "requests: 600, per: 1m}", "requests: 3, per: 1h}\n    - {name: from-one-source, key: source, routes: [listAccounts], requests: 2, per: 1h}")
	x, first := u.up(dir)
	addr := "127.0.0.1:" + port
	c := &client{addr: addr}
	defer c.close()
	transfer := func(user string) answer {
		t.Helper()
		a, err := c.do("POST", "/accounts/7/transfers", user, `{"to": "1", "amount": 5}`)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	refused := func(when string, a answer, stage, rule string, most int) {
		t.Helper()
		if wait, err := strconv.Atoi(a.header.Get("Retry-After")); a.status != 429 || err != nil || wait < 1 || wait > most {
			t.Errorf("%s: %d, Retry-After %q", when, a.status, a.header.Get("Retry-After"))
		}
		if d := x.find(a.decision); d.Decision != "Deny" || d.Stage != stage || d.Rule != rule || d.Line == "" {
			t.Errorf("%s: the record is %+v", when, d)
		}
	}

	for i := range 3 {
		if a := transfer(teller); a.status != 201 {
			t.Fatalf("transfer %d: %d", i+1, a.status)
		}
	}
	refused("one more", transfer(teller), "limit-principal", "transfers", 1200)
	if a := transfer(staff); a.status != 403 {
		t.Errorf("another principal: %d", a.status)
	}
	if a := get(t, addr, "/accounts/7", staff); a.status != 200 {
		t.Errorf("another route: %d", a.status)
	}
	// By source, and before anybody is asked for a password.
	for range 2 {
		if a := get(t, addr, "/accounts", ""); a.status != 401 {
			t.Fatalf("without credentials: %d", a.status)
		}
	}
	refused("a third from this source", get(t, addr, "/accounts", ""), "limit-source", "from-one-source", 1800)

	edit(t, policy, `@id("teller-transfer")`,
		"@id(\"teller-read\")\n      permit (principal in Group::\"tellers\", action == Action::\"call\", resource in RouteGroup::\"reads\");\n\n      @id(\"teller-transfer\")")
	if e := x.wait("applied"); e.Change != "program" || e.Status.PID != first.PID {
		t.Errorf("after the change of a rule: %s, %+v", e.Change, e.Status)
	}
	if a := get(t, addr, "/accounts/7", teller); a.status != 200 {
		t.Errorf("the changed rule: %d", a.status)
	}
	refused("after the change of a rule", transfer(teller), "limit-principal", "transfers", 1200)
	refused("after the change of a rule", get(t, addr, "/accounts", ""), "limit-source", "from-one-source", 1800)

	edit(t, policy, "requests: 3, per: 1h}", "requests: 4, per: 1h}")
	if e := x.wait("applied"); e.Change != "program" {
		t.Errorf("after the change of the limit: %s", e.Change)
	}
	if a := transfer(teller); a.status != 201 {
		t.Errorf("after the change of the limit: %d", a.status)
	}
}
