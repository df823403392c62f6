package policy_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/policy"
)

// paymentsWith is the payments policy with other tests; more are pairs of what replaces what.
func paymentsWith(t *testing.T, tests string, more ...string) (*policy.Bundle, error) {
	t.Helper()
	var files []policy.File
	for _, name := range []string{"policy.yaml", "workload.yaml"} {
		data, err := os.ReadFile("testdata/payments/" + name)
		if err != nil {
			t.Fatal(err)
		}
		text := string(data)
		if at := strings.Index(text, "  tests:\n"); at >= 0 {
			text = strings.NewReplacer(more...).Replace(text[:at]) + tests
		}
		files = append(files, policy.File{Name: name, Data: []byte(text)})
	}
	return policy.Parse(files)
}

// What a test can say, and how it comes out. Empty: it holds.
func TestTests(t *testing.T) {
	const teller = "as: {user: teller-7, groups: [tellers]}, "
	const day = `at: "2026-11-25T12:00:00Z", from: 10.20.1.1, `
	for _, c := range []struct{ name, test, want string }{
		{"a request", `as: {user: s, groups: [staff]}, request: "GET /accounts/7", expect: Allow, by: staff-read`, ""},
		{"a request without a method", `as: {user: s, groups: [staff]}, request: /accounts/7, expect: Allow, by: staff-read`, ""},
		{"HEAD where GET is", `as: {user: s, groups: [staff]}, request: "HEAD /accounts/7", expect: Allow, by: staff-read`, ""},
		{"a request of nobody", `request: "GET /accounts/7", expect: Deny, by: "default:authentication"`, ""},
		{"a path that does not exist", `as: {user: s}, request: "GET /debug", expect: Deny, by: "default:route"`, ""},
		{"a method that does not exist", `as: {user: s}, request: "DELETE /accounts/7", expect: Deny, by: "default:method"`, ""},
		{"a path in disguise", `as: {user: s}, request: "GET /accounts/..%2fdebug", expect: Deny, by: "default:request"`, ""},
		{"dot segments", `as: {user: s}, request: "GET /accounts/../debug", expect: Deny, by: "default:request"`, ""},
		{"a path that is too long", `as: {user: s}, request: "GET /` + strings.Repeat("a", 4000) + `", expect: Deny, by: "default:request"`, ""},
		{"TRACE", `as: {user: s}, request: "TRACE /accounts", expect: Deny, by: "default:request"`, ""},
		{"expected to exist", `as: {user: s, groups: [staff]}, request: "GET /acounts", expect: Allow`, "expected Allow, got Deny by default:route (policy.yaml:24): no route has the path /acounts"},
		{"a body", teller + day + `request: "POST /accounts/7/transfers", body: {amount: 500}, expect: Allow, by: teller-transfer`, ""},
		{"a body with too much", teller + day + `request: "POST /accounts/7/transfers", body: {amount: 10001}, expect: Deny, by: "default:authorization"`, ""},
		{"a body without it", teller + day + `request: "POST /accounts/7/transfers", body: {}, expect: Deny, by: "default:authorization"`, ""},
		{"no body", teller + day + `request: "POST /accounts/7/transfers", body: "", expect: Deny, by: "default:authorization"`, ""},
		{"a body that says it twice", teller + day + `request: "POST /accounts/7/transfers", body: '{"amount": 5, "amount": 50000}', expect: Deny, by: "default:request"`, ""},
		{"a body of the wrong type", teller + day + `request: "POST /accounts/7/transfers", body: {amount: "500"}, expect: Deny, by: "default:request"`, ""},
		{"a body with a null", teller + day + `request: "POST /accounts/7/transfers", body: {amount: null}, expect: Deny, by: "default:request"`, ""},
		{"a body with a fraction", teller + day + `request: "POST /accounts/7/transfers", body: {amount: 5.5}, expect: Deny, by: "default:request"`, ""},
		{"a body that breaks off", teller + day + `request: "POST /accounts/7/transfers", body: '{"amount": 5', expect: Deny, by: "default:request"`, ""},
		{"a body of a call", teller + day + `call: transfer, body: {amount: 500, to: [1, "x", true, {a: null}]}, expect: Allow, by: teller-transfer`, ""},
		{"by night", teller + `at: "2026-11-25T23:10:00Z", from: 10.20.1.1, call: transfer, body: {amount: 500}, expect: Deny, by: "default:authorization"`, ""},
		{"by night elsewhere", teller + `at: "2026-11-25T23:10:00+10:00", from: 10.20.1.1, call: transfer, body: {amount: 500}, expect: Allow`, ""},
		{"a time without quotes", teller + `at: 2026-11-25T12:00:00Z, from: 10.20.1.1, call: transfer, body: {amount: 500}, expect: Allow`, ""},
		{"from elsewhere", "level: lockdown, " + teller + `at: "2026-11-25T12:00:00Z", from: 192.0.2.1, call: transfer, body: {amount: 5}, expect: Deny, by: lockdown-corp-only`, ""},
		{"from here", "level: lockdown, " + teller + day + `call: transfer, body: {amount: 5}, expect: Allow, by: teller-transfer`, ""},
		{"elevated", "level: elevated, " + teller + day + `request: "POST /accounts/7/transfers", body: {amount: 1001}, expect: Deny, by: elevated-small`, ""},
		{"a parameter of the path", `as: {user: teller-7}, request: "POST /accounts/7/refunds", body: {amount: 5}, expect: Allow, by: own-refund`, ""},
		{"another parameter", `as: {user: teller-7}, request: "POST /accounts/8/refunds", body: {amount: 5}, expect: Deny, by: "default:authorization"`, ""},
		{"without a time", teller + `from: 10.20.1.1, request: "POST /accounts/7/transfers", body: {amount: 5}, expect: Deny`, "the policies for transfer read hour, and the context of the test does not say it"},
		{"without a time, and meant so", teller + `from: 10.20.1.1, request: "POST /accounts/7/transfers", body: {amount: 5}, expect: Deny, by: "default:missing-attribute"`, ""},
		{"the clock twice", teller + day + `call: transfer, context: {hour: 4}, expect: Deny`, `attribute "hour" comes from the time: write it there`},
		{"the address twice", teller + day + `call: transfer, context: {srcIP: 10.20.1.1}, expect: Deny`, `attribute "srcIP" comes from the client's address: write it there`},
		{"the amount twice", teller + day + `call: transfer, body: {}, context: {amount: 5}, expect: Deny`, `attribute "amount" comes from the body: write it there`},
		{"the path twice", `as: {user: t}, request: "POST /accounts/7/refunds", context: {account: 7}, expect: Deny`, `attribute "account" comes from the request line: write it there`},
		{"an attribute that there is not", teller + `request: "POST /accounts/7/transfers", context: {amuont: 5}, expect: Deny`, `there is no attribute "amuont": did you mean "amount"?`},
		{"the wrong rule", `as: {user: s}, request: "GET /debug", expect: Deny, by: staff-read`, "expected Deny by staff-read, got Deny by default:route"},

		{"a request that is none", `request: "fetch it", expect: Deny`, `spec.tests.request "fetch it" is not a request (write "GET /accounts/7")`},
		{"a method in small letters", `request: "get /accounts", expect: Deny`, `is not a request (write "GET /accounts")`},
		{"any method", `request: "* /accounts", expect: Deny`, `spec.tests.request "* /accounts" is not a request`},
		{"a request and a call", `request: /accounts, call: transfer, expect: Deny`, "spec.tests must have exactly one of call, request and packet"},
		{"nothing asked", `expect: Deny`, "spec.tests must have exactly one of call, request and packet"},
		{"a packet with a user", `packet: {from: 10.20.1.1, port: 22}, as: {user: a}, expect: Deny`, "spec.tests.as is not for a packet"},
		{"a packet with a time", `packet: {from: 10.20.1.1, port: 22}, at: "2026-11-25T12:00:00Z", expect: Deny`, "spec.tests.at is not for a packet"},
		{"a time of day", `call: transfer, at: "23:10", expect: Deny`, `spec.tests.at cannot be "23:10" (write date, time and zone`},
		{"a date", `call: transfer, at: 2026-11-25, expect: Deny`, `spec.tests.at cannot be "2026-11-25"`},
		{"a body with a number of YAML", `call: transfer, body: {amount: 0x10}, expect: Deny`, "spec.tests.body.amount cannot be the number 0x10 (write it as JSON does, or in quotes)"},
		{"a body with a date", `call: transfer, body: {to: [2026-11-25]}, expect: Deny`, "spec.tests.body.to cannot be the date 2026-11-25"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := paymentsWith(t, "  tests:\n    - {name: it, "+c.test+"}\n")
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
}

// What a test says and no policy reads is not taken for tested.
func TestTestsOfWhatNobodyReads(t *testing.T) {
	unread := []string{"hour: clock.hour", "hour: header.X-Hour", "srcIP: peer.address", `srcIP: "body.json:/from"`, `amount: "body.json:/amount"`, "amount: query.amount"}
	for _, c := range []struct{ say, want string }{
		{`at: "2026-11-25T12:00:00Z"`, `test "it" says at, and no attribute has the source clock.hour, clock.minute or clock.weekday (remove at)`},
		{"from: 10.20.1.1", `test "it" says from, and no attribute has the source peer.address (remove from)`},
	} {
		_, err := paymentsWith(t, "  tests:\n    - {name: it, as: {user: s, groups: [staff]}, call: readAccount, expect: Allow, "+c.say+"}\n", unread...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v\nwant %s", err, c.want)
		}
	}
}

// A group that is nearly one that policies name would pass every test of a denial.
func TestAGroupMisspeltInATest(t *testing.T) {
	for group, want := range map[string]string{"staf": `no policy names the group "staf" (did you mean "staff"?)`, "staff": "", "guests": ""} {
		verdict := "Deny"
		if group == "staff" {
			verdict = "Allow"
		}
		b, err := paymentsWith(t, fmt.Sprintf("  tests:\n    - {name: it, as: {user: s, groups: [%s]}, call: readAccount, expect: %s}\n", group, verdict))
		if err != nil {
			t.Fatal(err)
		}
		if got := b.Warnings.Error(); !strings.Contains(got, want) || want == "" && strings.Contains(got, "group") {
			t.Errorf("%s: %q, want %q", group, got, want)
		}
	}
}

// The defaults are rules, too: somebody wrote them.
func TestCoverage(t *testing.T) {
	d := payments(t)
	results := d.RunTests()
	c := d.Coverage(results)
	list := func(rules []policy.CoverageRule) string {
		var s []string
		for _, r := range rules {
			s = append(s, fmt.Sprintf("%s %d", r.ID, r.Tests))
			if r.Pos.Line == 0 || r.Line != r.Pos.Short() {
				t.Errorf("%s has no place: %+v", r.ID, r)
			}
		}
		return strings.Join(s, ", ")
	}
	if got, want := list(c.Covered), "default:network 1, default:authorization 1, ssh-never 1, web-in 1, default:authentication 1, staff-read 1, teller-transfer 1, elevated-small 2, lockdown-corp-only 1, own-refund 2"; got != want {
		t.Errorf("covered: %s, want %s", got, want)
	}
	if got, want := list(c.Uncovered), "corp-in 0"; got != want {
		t.Errorf("uncovered: %s, want %s", got, want)
	}
	if got, want := list(c.Beyond), "per-source 0, careful 0"; got != want {
		t.Errorf("beyond: %s, want %s", got, want)
	}
	// A test that fails says nothing of the rule that decided it.
	for i := range results {
		if results[i].Decision.Rule.ID == "ssh-never" {
			results[i].Problem = "broken"
		}
	}
	if got := list(d.Coverage(results).Uncovered); !strings.Contains(got, "ssh-never") {
		t.Errorf("uncovered: %s", got)
	}
}

// A default is not asked for where rules leave it nothing: no test could reach it.
func TestDefaultsThatNothingReaches(t *testing.T) {
	for _, c := range []struct {
		name, old, new, rule string
		counted              bool
	}{
		{"a permit for all", `permit (principal in Group::"staff", action == Action::"call", resource in RouteGroup::"reads")`, "permit (principal, action, resource)", abi.RuleAuthz, false},
		{"a permit for some routes", `permit (principal in Group::"staff", action == Action::"call", resource in RouteGroup::"reads")`, `permit (principal, action, resource in RouteGroup::"reads")`, abi.RuleAuthz, true},
		{"a permit with a condition", `permit (principal in Group::"staff", action == Action::"call", resource in RouteGroup::"reads")`, "permit (principal, action, resource) when { context.hour > 1 }", abi.RuleAuthz, true},
		{"a rule for everybody", "    ingress:\n", "    ingress:\n      - {name: open, action: Allow, from: [any]}\n", abi.RuleNetwork, false},
		{"a rule for everybody at one level", "    ingress:\n", "    ingress:\n      - {name: open, action: Allow, from: [any], maxLevel: normal}\n", abi.RuleNetwork, true},
		{"a rule for everybody at a port", "    ingress:\n", "    ingress:\n      - {name: open, action: Allow, from: [any], ports: [{protocol: any}]}\n", abi.RuleNetwork, true},
	} {
		b, err := paymentsWith(t, "", c.old, c.new)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		counted := false
		for _, r := range b.Deployments[0].Coverage(nil).Uncovered {
			counted = counted || r.ID == c.rule
		}
		if counted != c.counted {
			t.Errorf("%s: %s is counted: %v", c.name, c.rule, counted)
		}
	}
}

// spec.coverage: Required names each rule that decides no test, at its place.
func TestCoverageThatIsRequired(t *testing.T) {
	tests := "  coverage: Required\n  tests:\n    - {name: reads, as: {user: s, groups: [staff]}, call: readAccount, expect: Allow, by: staff-read}\n"
	_, err := paymentsWith(t, tests)
	var list policy.Errors
	if !errors.As(err, &list) {
		t.Fatal("accepted")
	}
	var names []string
	for _, e := range list {
		if e.Pos.Line == 0 || !strings.Contains(e.Message, "decides no test, and spec.coverage is Required") || !strings.Contains(e.Fix, "by: ") {
			t.Errorf("%v", e)
		}
		names = append(names, strings.Split(e.Message, `"`)[1])
	}
	if len(names) != 10 || strings.Contains(strings.Join(names, " "), "staff-read") {
		t.Errorf("%d: %s", len(names), names)
	}
	if _, err := paymentsWith(t, strings.Replace(tests, "Required", "Optional", 1)); err != nil {
		t.Error(err)
	}
	if _, err := paymentsWith(t, strings.Replace(tests, "Required", "required", 1)); err == nil || !strings.Contains(err.Error(), `did you mean "Required"?`) {
		t.Errorf("%v", err)
	}
	// What is wrong with the tests comes first.
	if _, err := paymentsWith(t, strings.Replace(tests, "Allow", "Deny", 1)); err == nil || strings.Contains(err.Error(), "coverage") {
		t.Errorf("%v", err)
	}
}

// Monday is the first day of the week, and days begin in UTC, as in images.
func TestTheDayOfATest(t *testing.T) {
	for at, want := range map[string]string{"2026-11-22T23:59:00Z": "7", "2026-11-23T00:00:00Z": "1", "2026-11-23T01:00:00+02:00": "7"} {
		if _, err := time.Parse(time.RFC3339, at); err != nil {
			t.Fatal(err)
		}
		rule := `permit (principal in Group::"staff", action, resource in RouteGroup::"reads") when { context.hour == ` + want + " }"
		_, err := paymentsWith(t, "  tests:\n    - {name: it, as: {user: s, groups: [staff]}, request: /accounts, at: \""+at+"\", expect: Allow}\n",
			"hour: clock.hour", "hour: clock.weekday", `permit (principal in Group::"staff", action == Action::"call", resource in RouteGroup::"reads")`, rule)
		if err != nil {
			t.Errorf("%s: %v", at, err)
		}
	}
}

// What rules say comes before what a call of a route is taken for, a rule that cannot be
// evaluated before a forbid behind it, and sets from bodies have the types that images take.
func TestWhatDecidesATest(t *testing.T) {
	const old = `permit (principal in Group::"staff", action == Action::"call", resource in RouteGroup::"reads");`
	fails := `@id("fails") permit (principal, action, resource in RouteGroup::"reads") when { 9223372036854775807 + context.hour > 0 };`
	forbids := `@id("forbids") forbid (principal, action, resource in RouteGroup::"reads");`
	method := []string{"hour: clock.hour", "hour: request.method", `"hour": Long`, `"hour": String`, "context.hour >= 6 && context.hour < 22 &&", "",
		old, `permit (principal, action, resource in RouteGroup::"reads") when { context.hour == "HEAD" };`}
	set := func(typ, rule string) []string {
		return []string{`amount: "body.json:/amount"`, "amount: \"body.json:/amount\"\n    list: \"body.json:/list\"", `"srcIP": ipaddr`, `"srcIP": ipaddr, "list"?: Set<` + typ + `>`,
			old, `permit (principal, action, resource in RouteGroup::"reads") when { context has list && ` + rule + " };"}
	}
	const at = `at: "2026-11-25T23:10:00Z", `
	for _, c := range []struct {
		name string
		more []string
		test string
	}{
		{"an error before a forbid", []string{"@id(\"staff-read\")\n      " + old, fails + "\n      " + forbids}, at + "call: readAccount, expect: Deny, by: fails"},
		{"a forbid before an error", []string{"@id(\"staff-read\")\n      " + old, forbids + "\n      " + fails}, at + "call: readAccount, expect: Deny, by: forbids"},
		{"an error and a permit", []string{old, old + "\n      " + fails}, at + "call: readAccount, expect: Deny, by: fails"},
		{"the method of a route", method, `call: readAccount, expect: Deny, by: "default:authorization"`},
		{"another method of a route", method, "call: readAccount, context: {hour: HEAD}, expect: Allow"},
		{"a method as it is sent", method, "request: HEAD /accounts, expect: Allow"},
		{"texts", set("String", `context.list.contains("a")`), `call: readAccount, body: {list: ["a"]}, expect: Allow`},
		{"texts that are numbers", set("String", `context.list.contains("a")`), `call: readAccount, body: {list: ["a", 1]}, expect: Deny, by: default:request`},
		{"a text that is no list", set("String", `context.list.contains("a")`), `call: readAccount, body: {list: "a"}, expect: Deny, by: default:request`},
		{"truth values", set("Bool", "context.list.contains(true)"), "call: readAccount, body: {list: [false, true]}, expect: Allow"},
		{"whole decimal numbers", set("decimal", `context.list.contains(decimal("5.0"))`), "call: readAccount, body: {list: [5]}, expect: Allow"},
		{"decimal numbers", set("decimal", `context.list.contains(decimal("5.25"))`), `call: readAccount, body: {list: [1, "5.25"]}, expect: Allow`},
		{"numbers by hand", set("Long", "context.list.contains(5)"), `call: readAccount, context: {list: "[1, 5]"}, expect: Allow`},
		{"too many", set("Long", "context.list.contains(5)"), "call: readAccount, body: {list: [" + strings.Repeat("5, ", 2000) + "5]}, expect: Deny, by: default:request"},
	} {
		if _, err := paymentsWith(t, "  tests:\n    - {name: it, as: {user: s, groups: [staff]}, "+c.test+"}\n", c.more...); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
