package policy_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/cedar-policy/cedar-go"
	pub "github.com/cedar-policy/cedar-go/ast"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// calls makes questions to the payments policy, most of them near its limits.
func calls(n int, ask func(policy.Call)) {
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	for range n {
		c := policy.Call{Principal: pick("staff-3", "teller-7", "eve"), Route: pick("listAccounts", "readAccount", "transfer", "refund"), Context: map[string]cedar.Value{}}
		for _, g := range []string{"staff", "tellers", "others"} {
			if r.IntN(2) == 0 {
				c.Groups = append(c.Groups, g)
			}
		}
		if r.IntN(8) > 0 {
			c.Context["hour"] = cedar.Long(r.IntN(24))
		}
		if r.IntN(8) > 0 {
			addr := netip.MustParseAddr(pick("10.20.1.1", "192.0.2.1", "2001:db8:20::1"))
			c.Context["srcIP"] = cedar.IPAddr(netip.PrefixFrom(addr, addr.BitLen()))
		}
		if r.IntN(8) > 0 {
			c.Context["amount"] = cedar.Long([]int64{5, 99, 100, 1000, 1001, 10000, 10001, 1<<63 - 1}[r.IntN(8)])
		}
		if r.IntN(2) > 0 {
			c.Context["account"] = cedar.String(pick("7", "8"))
		}
		ask(c)
	}
}

// A higher level can only remove access, whatever the policies say.
func TestHigherLevelsOnlyRemoveAccess(t *testing.T) {
	d := payments(t)
	allowed, removed := 0, 0
	calls(3000, func(c policy.Call) {
		open := true
		for _, l := range d.Policy.Levels.Names {
			c.Level = l
			dec := d.Authorize(c)
			if dec.Verdict == abi.Allow && !open {
				t.Fatalf("%+v is allowed at %s and not below", c, l)
			}
			if open && dec.Verdict == abi.Deny && l != "normal" {
				removed++
			}
			open = dec.Verdict == abi.Allow
			if open {
				allowed++
			}
			if dec.Verdict == abi.Deny && (dec.Reason == "" || dec.Rule.ID == "") {
				t.Fatalf("%+v: a denial without a reason: %+v", c, dec)
			}
		}
	})
	if allowed == 0 || removed == 0 {
		t.Fatalf("the test shows nothing: %d allowed, %d removed by a higher level", allowed, removed)
	}
	for range 2000 {
		k := api.Packet{From: netip.AddrFrom4([4]byte{10, 20, 1, byte(rand.IntN(2))}), Protocol: "TCP", Port: []uint16{22, 8443, 9000}[rand.IntN(3)]}
		open := true
		for _, l := range d.Policy.Levels.Names {
			got := d.Classify(l, k).Verdict == abi.Allow
			if got && !open {
				t.Fatalf("%+v is allowed at %s and not below", k, l)
			}
			open = got
		}
	}
}

// A policy that allows more at a higher level does not: the lower level decides.
func TestPermitAtAHigherLevelIsNoAccess(t *testing.T) {
	text := replace(t, base, `when { context has count && context.count < 10 };`, `when { context.level == "lockdown" };`)
	b, err := parse("", text)
	if err != nil {
		t.Fatal(err)
	}
	dec := b.Deployments[0].Authorize(policy.Call{Level: "lockdown", Principal: "ann", Route: "buy"})
	if dec.Verdict != abi.Deny || dec.Rule.ID != abi.RuleAuthz || dec.Level != "normal" {
		t.Errorf("got %+v, want the default to deny at normal", dec)
	}
}

// Against cedar-go's own authorizer, level by level: the same, except where a
// policy has an error, which denies here.
func TestAuthorizeIsCedar(t *testing.T) {
	d := payments(t)
	a := d.Authorization
	set := cedar.NewPolicySet()
	for _, r := range a.Rules {
		set.Add(cedar.PolicyID(r.ID), cedar.NewPolicyFromAST((*pub.Policy)(r.Policy)))
	}
	failed := 0
	calls(3000, func(c policy.Call) {
		dec := d.Authorize(c)
		if dec.Rule.ID == abi.RuleAttribute {
			return
		}
		context := cedar.RecordMap{"level": cedar.String("normal")}
		for k, v := range c.Context {
			context[cedar.String(k)] = v
		}
		who, what := cedar.NewEntityUID("User", cedar.String(c.Principal)), cedar.NewEntityUID("Route", cedar.String(c.Route))
		var groups, part []cedar.EntityUID
		for _, g := range c.Groups {
			groups = append(groups, cedar.NewEntityUID("Group", cedar.String(g)))
		}
		if c.Route == "listAccounts" || c.Route == "readAccount" {
			part = append(part, cedar.NewEntityUID("RouteGroup", "reads"))
		}
		entities := cedar.EntityMap{who: {UID: who, Parents: cedar.NewEntityUIDSet(groups...)}, what: {UID: what, Parents: cedar.NewEntityUIDSet(part...)}}
		want, diag := cedar.Authorize(set, entities, cedar.Request{Principal: who, Action: a.Action, Resource: what, Context: cedar.NewRecord(context)})
		if len(diag.Errors) > 0 {
			failed++
			if dec.Verdict != abi.Deny {
				t.Fatalf("%+v: allowed although %v", c, diag.Errors)
			}
			return
		}
		if (want == cedar.Allow) != (dec.Verdict == abi.Allow) {
			t.Fatalf("%+v: got %+v, cedar-go says %v", c, dec, want)
		}
	})
	if failed == 0 {
		t.Fatal("no call made a policy fail")
	}
}

// An erroring forbid is skipped by cedar-go, which would allow.
func TestForbidThatFailsDenies(t *testing.T) {
	text := replace(t, base, `      @id("may-buy")`, `      @id("not-much")
      forbid (principal, action, resource == Route::"buy") when { context has count && context.count + 1 > 100 };
      @id("may-buy")`, "context.count < 10", "context.count > 0")
	b, err := parse("", text)
	if err != nil {
		t.Fatal(err)
	}
	d := b.Deployments[0]
	for count, want := range map[int64]string{5: "may-buy", 200: "not-much", 1<<63 - 1: "not-much"} {
		dec := d.Authorize(policy.Call{Principal: "ann", Route: "buy", Context: map[string]cedar.Value{"count": cedar.Long(count)}})
		if dec.Rule.ID != want || (dec.Verdict == abi.Allow) != (want == "may-buy") {
			t.Errorf("count %d: got %+v, want %s", count, dec, want)
		}
	}
}

func TestZeroAnswersDeny(t *testing.T) {
	if (policy.Decision{}).Verdict != abi.Deny || (policy.Answer{}).Verdict != abi.Deny {
		t.Error("a zero answer allows")
	}
	d := payments(t)
	for name, c := range map[string]policy.Call{
		"nobody":           {Route: "listAccounts", Groups: []string{"staff"}},
		"no route":         {Principal: "staff-3", Groups: []string{"staff"}},
		"a level unknown":  {Principal: "staff-3", Groups: []string{"staff"}, Route: "listAccounts", Level: "none"},
		"no authorization": {Principal: "staff-3"},
	} {
		x := *d
		if name == "no authorization" {
			x.Authorization = nil
		}
		if dec := x.Authorize(c); dec.Verdict != abi.Deny || dec.Rule.ID == "" {
			t.Errorf("%s: got %+v", name, dec)
		}
	}
	if dec := d.Classify("none", api.Packet{From: netip.MustParseAddr("127.0.0.1"), Protocol: "TCP", Port: 8443}); dec.Verdict != abi.Deny {
		t.Errorf("an unknown level: got %+v", dec)
	}
}
