package policy_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"lorica.dev/lorica/policy"
)

func payments(t *testing.T) *policy.Deployment {
	t.Helper()
	b, err := policy.Load("testdata/payments")
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Deployments) != 1 {
		t.Fatalf("%d deployments, want 1", len(b.Deployments))
	}
	return b.Deployments[0]
}

func set(pairs ...string) map[string]string {
	m := make(map[string]string)
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return m
}

// TestWhy holds explanations to testdata/why.golden.
func TestWhy(t *testing.T) {
	const golden = "testdata/why.golden"
	d := payments(t)
	staff, tellers := []string{"staff"}, []string{"tellers"}
	day := []string{"hour", "12", "srcIP", "10.20.1.1"}
	cases := []struct {
		name string
		q    policy.Query
	}{
		{"allowed by a rule", policy.Query{Request: "GET /accounts/7", User: "staff-3", Groups: staff}},
		{"HEAD is served where GET is", policy.Query{Request: "HEAD /accounts", User: "staff-3", Groups: staff}},
		{"denied by default: not in the group", policy.Query{Request: "GET /accounts/7", User: "eve"}},
		{"denied by default: too much", policy.Query{Request: "POST /accounts/7/transfers", User: "teller-7", Groups: tellers, Set: set(append(day, "amount", "50000")...)}},
		{"denied by default: no amount", policy.Query{Request: "POST /accounts/7/transfers", User: "teller-7", Groups: tellers, Set: set(day...)}},
		{"denied by default: night", policy.Query{Request: "POST /accounts/7/transfers", User: "teller-7", Groups: tellers, Set: set("hour", "23", "srcIP", "10.20.1.1", "amount", "5")}},
		{"allowed at normal", policy.Query{Request: "POST /accounts/7/transfers", User: "teller-7", Groups: tellers, Set: set(append(day, "amount", "5000")...)}},
		{"forbidden at elevated", policy.Query{Request: "POST /accounts/7/transfers", User: "teller-7", Groups: tellers, Level: "elevated", Set: set(append(day, "amount", "5000")...)}},
		{"forbidden at lockdown because elevated forbids", policy.Query{Request: "POST /accounts/7/transfers", User: "teller-7", Groups: tellers, Level: "lockdown", Set: set(append(day, "amount", "5000")...)}},
		{"a required attribute without a value", policy.Query{Request: "POST /accounts/7/transfers", User: "teller-7", Groups: tellers, Set: set("amount", "5")}},
		{"a rule that cannot be evaluated", policy.Query{Request: "POST /accounts/7/refunds", User: "teller-7", Set: set("amount", "9223372036854775807")}},
		{"a path parameter decides", policy.Query{Request: "POST /accounts/8/refunds", User: "teller-7", Set: set("amount", "5")}},
		{"an escaped path parameter", policy.Query{Request: "POST /accounts/%37/refunds", User: "teller-7", Set: set("amount", "5")}},
		{"no credentials", policy.Query{Request: "GET /accounts"}},
		{"no such path", policy.Query{Request: "GET /acounts", User: "staff-3", Groups: staff}},
		{"no such method", policy.Query{Request: "DELETE /accounts/7", User: "staff-3", Groups: staff}},
		{"a path in disguise", policy.Query{Request: "GET /accounts/..%2fadmin", User: "staff-3"}},
		{"dot segments", policy.Query{Request: "GET /accounts/../admin", User: "staff-3"}},
		{"packet allowed", policy.Query{Packet: "tcp 127.0.0.1 -> :8443"}},
		{"packet in disguise", policy.Query{Packet: "tcp ::ffff:10.20.1.1 -> :8443"}},
		{"packet denied by a rule", policy.Query{Packet: "tcp 10.20.1.1 -> :22"}},
		{"packet denied by default", policy.Query{Packet: "tcp 192.0.2.1 -> :8443"}},
		{"echo", policy.Query{Packet: "icmp 10.20.1.1"}},
		{"packet denied at lockdown", policy.Query{Packet: "tcp 10.20.1.1 -> :8443", Level: "lockdown"}},
		{"query about no level", policy.Query{Request: "GET /accounts", Level: "elevatd"}},
		{"query that sets what the path says", policy.Query{Request: "POST /accounts/7/refunds", User: "a", Set: set("account", "8")}},
		{"query that sets no attribute", policy.Query{Request: "GET /accounts", User: "a", Set: set("amuont", "8")}},
		{"query that sets the level as an attribute", policy.Query{Request: "GET /accounts", User: "a", Set: set("level", "normal")}},
		{"query with a wrong value", policy.Query{Request: "GET /accounts", User: "a", Set: set("amount", "much")}},
		{"query without a question", policy.Query{}},
		{"query that is no request", policy.Query{Request: "fetch it"}},
		{"echo to a port", policy.Query{Packet: "icmp 10.20.1.1 -> :7"}},
		{"query that is no packet", policy.Query{Packet: "tcp 10.20.1.1 8443"}},
		{"query as nobody", policy.Query{Request: "GET /accounts", User: "anonymous"}},
	}
	var got strings.Builder
	for _, c := range cases {
		a, err := d.Why(c.q)
		fmt.Fprintf(&got, "== %s\n", c.name)
		if err != nil {
			fmt.Fprintf(&got, "error: %v\n\n", err)
			continue
		}
		fmt.Fprintf(&got, "%s by %s %s at %s, level %q, route %q, reason %q\n", a.Verdict, a.Stage, a.Rule.ID, a.Rule.Line, a.Level, a.Route, a.Reason)
		for _, m := range a.Missing {
			fmt.Fprintf(&got, "  missing: %s\n", m)
		}
		for _, n := range a.Nearest {
			fmt.Fprintf(&got, "  near: %s (%s), %d fail: %q\n", n.Rule.ID, n.Rule.Line, len(n.Failed), n.Failed)
		}
		for _, o := range a.Considered {
			fmt.Fprintf(&got, "  %s (%s) %s\n", o.Rule.ID, o.Rule.Line, o.Text)
		}
		got.WriteByte('\n')
	}
	compareGolden(t, golden, got.String())
}

func compareGolden(t *testing.T, golden, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got == string(want) {
		return
	}
	g, w := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			t.Fatalf("%s:%d:\ngot  %s\nwant %s\n(go test -update, then read the difference)", golden, i+1, g[i], w[i])
		}
	}
	t.Fatalf("%s: %d lines, want %d (go test -update, then read the difference)", golden, len(g), len(w))
}
