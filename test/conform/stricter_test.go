package main

import (
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"lorica.dev/lorica/abi"
)

// TestLoricaIsStricterThanCedar shows every way in which an image denies what Cedar
// allows; docs/policy.md lists them. Each is allowed by both where nothing is wrong.
func TestLoricaIsStricterThanCedar(t *testing.T) {
	const everyone = "permit (principal, action, resource);\n"
	facts := func(change func(map[string]cedar.Value)) request {
		r := request{user: "ada", route: 0, values: map[string]cedar.Value{"hour": cedar.Long(12), "minute": cedar.Long(720), "weekday": cedar.Long(1), "id": cedar.String("a"),
			"method": cedar.String("POST"), "ip": must(types.ParseIPAddr("10.1.2.3")), "amount": cedar.Long(5), "price": must(types.ParseDecimal("1.5"))}}
		change(r.values)
		return r
	}
	nothing := func(map[string]cedar.Value) {}
	for name, c := range map[string]struct {
		policies string
		change   func(map[string]cedar.Value)
		rule     string
		reason   string
	}{
		"a forbid that reads what is not there": {everyone + "forbid (principal, action, resource) when { context.amount > 1000 };",
			func(v map[string]cedar.Value) { delete(v, "amount") }, "p1", "does not have"},
		"a permit that does, beside one that holds": {everyone + "permit (principal, action, resource) when { context.amount < 10 };",
			func(v map[string]cedar.Value) { delete(v, "amount") }, "p1", "does not have"},
		"a number that overflows": {everyone + "forbid (principal, action, resource) when { context.amount * 2 > 1000 };",
			func(v map[string]cedar.Value) { v["amount"] = cedar.Long(1 << 62) }, "p1", "overflows"},
		"a text that is read as something else": {everyone + `forbid (principal, action, resource) when { context.id != "a" && ip(context.id).isLoopback() };`,
			func(v map[string]cedar.Value) { v["id"] = cedar.String("b") }, "p1", "something that it is not"},
	} {
		t.Run(name, func(t *testing.T) {
			d := deployment(t, c.policies, abi.Deny)
			state, set := guards(t, d)[0], policySet(d)
			for _, wrong := range []bool{false, true} {
				change := nothing
				if wrong {
					change = c.change
				}
				r := facts(change)
				context := cedar.RecordMap{"level": cedar.String("normal")}
				for k, v := range r.values {
					context[cedar.String(k)] = v
				}
				if decision, _ := cedar.Authorize(set, nil, cedar.Request{Principal: cedar.NewEntityUID("User", "ada"), Action: d.Authorization.Action,
					Resource: cedar.NewEntityUID("Route", "r0"), Context: cedar.NewRecord(context)}); decision != cedar.Allow {
					t.Fatalf("wrong %t: Cedar denies too", wrong)
				}
				got := state.Judge(exchange(r))
				if !wrong && got.Verdict != abi.Allow {
					t.Errorf("denied by %s (%s) where nothing is wrong", got.Rule.ID, got.Reason)
				}
				if wrong && (got.Verdict != abi.Deny || got.Rule.ID != c.rule || !strings.Contains(got.Reason, c.reason)) {
					t.Errorf("%s by %s (%s)", got.Verdict, got.Rule.ID, got.Reason)
				}
			}
		})
	}
}

// TestRequestsThatDoNotFitTheSchemaAreDenied has facts that the schema does not allow;
// Cedar would evaluate policies that do not read them, or skip those that do.
func TestRequestsThatDoNotFitTheSchemaAreDenied(t *testing.T) {
	d := deployment(t, `permit (principal, action, resource) when { context.hour >= 0 || context.amount > 0 || context.id == "" };`, abi.Allow)
	state := guards(t, d)[0]
	r := request{user: "ada", values: map[string]cedar.Value{"hour": cedar.Long(12), "minute": cedar.Long(720), "weekday": cedar.Long(1), "id": cedar.String("a"),
		"method": cedar.String("POST"), "ip": must(types.ParseIPAddr("10.1.2.3")), "amount": cedar.Long(5)}}
	if got := state.Judge(exchange(r)); got.Verdict != abi.Allow {
		t.Fatalf("denied by %s: %s", got.Rule.ID, got.Reason)
	}
	wrong := r
	wrong.values = map[string]cedar.Value{}
	for k, v := range r.values {
		wrong.values[k] = v
	}
	wrong.values["amount"] = cedar.String(`"five"`)
	if got := state.Judge(exchange(wrong)); got.Verdict != abi.Deny || got.Rule.ID != abi.RuleRequest {
		t.Errorf("an amount that is no number: %s by %s (%s)", got.Verdict, got.Rule.ID, got.Reason)
	}
	delete(wrong.values, "amount")
	delete(wrong.values, "id")
	if got := state.Judge(exchange(wrong)); got.Verdict != abi.Deny || got.Rule.ID != abi.RuleAttribute {
		t.Errorf("no id, which must be there: %s by %s (%s)", got.Verdict, got.Rule.ID, got.Reason)
	}
}
