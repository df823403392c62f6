package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/policy"
)

const ward = `
apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: ward, labels: {app: ward}}
spec:
  app: {static: {dir: .}}
  listen: [{name: web, port: 8080}]
---
apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: ward}
spec:
  selector: {matchLabels: {app: ward}}
  default: {network: Allow, authorization: Deny}
  authentication: {require: true, basic: {name: people, users: secret/users}}
  secrets: {users: {file: ./users.txt}}
  routes:
    - {name: read, group: files, match: {method: POST, path: /read}}
    - {name: write, group: files, match: {method: POST, path: /write}}
    - {name: admit, match: {method: POST, path: /admit}}
  attributes:
    groups: basic.groups
    tags: "body.json:/tags"
    codes: "body.json:/codes"
    at: "body.json:/at"
    for: "body.json:/for"
  authorization:
    schema: |
      entity Team;
      entity Group in [Group];
      entity User in [Group] = { "team": Team, "shift": { "from": Long, "to": Long }, "leads"?: Set<Team> } tags String;
      entity RouteGroup;
      entity Route in [RouteGroup] = { "owner"?: Team };
      action "call" appliesTo { principal: User, resource: Route,
        context: { "tags"?: Set<String>, "codes"?: Set<Long>, "at"?: datetime, "for"?: duration } };
    entities: |
      [{"uid": {"type": "User", "id": "ada"}, "parents": [{"type": "Group", "id": "nurses"}],
        "attrs": {"team": {"__entity": {"type": "Team", "id": "east"}}, "shift": {"from": 6, "to": 14},
                  "leads": [{"__entity": {"type": "Team", "id": "east"}}]}, "tags": {"badge": "blue"}},
       {"uid": {"type": "User", "id": "bob"}, "parents": [], "attrs": {"team": {"__entity": {"type": "Team", "id": "west"}}, "shift": {"from": 14, "to": 22}}},
       {"uid": {"type": "Group", "id": "nurses"}, "parents": [{"type": "Group", "id": "staff"}], "attrs": {}},
       {"uid": {"type": "Group", "id": "staff"}, "parents": [], "attrs": {}},
       {"uid": {"type": "Route", "id": "write"}, "parents": [], "attrs": {"owner": {"__entity": {"type": "Team", "id": "east"}}}}]
    cedar: |
      @id("staff-read")
      permit (principal in Group::"staff", action, resource in RouteGroup::"files") when { resource == Route::"read" };
      @id("team-writes")
      permit (principal, action, resource == Route::"write") when { principal has team && resource has owner && principal.team == resource.owner };
      @id("night")
      forbid (principal, action, resource == Route::"write") when { context has at && (context.at.toTime() < duration("6h") || context.at.offset(duration("1d")) < datetime("2026-01-01")) };
      @id("long")
      forbid (principal, action, resource) when { context has for && context.for > duration("8h") };
      @id("badge")
      permit (principal, action, resource == Route::"admit") when { principal.hasTag("badge") && principal.getTag("badge") == "blue" && context has tags && context.tags.containsAny(["calm", "quiet"]) };
      @id("code")
      permit (principal, action, resource == Route::"admit") when { context has codes && [3, 5, 7].containsAll(context.codes) && !context.codes.isEmpty() && context == context };
      @id("whole")
      forbid (principal, action, resource == Route::"admit") when { context has codes && {a: context.codes, b: 1} == {a: [5, 3], b: 1} && context has tags && context.tags == ["x"] };
      @id("early")
      forbid (principal is User, action, resource == Route::"admit") when { context has for && principal.shift.from < 10 && context.for < duration("1m") };
`

// What policies look up in entities, and sets, times and durations of requests, are the
// same for an image and for cedar-go.
func TestEntitiesAreLookedUpAsTheReferenceSays(t *testing.T) {
	b, err := policy.Parse([]policy.File{{Name: "policy.yaml", Data: []byte(ward), Dir: "../../examples/accounts"}})
	if err != nil {
		t.Fatalf("%v", err)
	}
	d := b.Deployments[0]
	state := guards(t, d)[0]
	for _, c := range []struct {
		user, groups, route, body string
		verdict                   abi.Verdict
		rule                      string
	}{
		{"ada", "", "read", `{}`, abi.Allow, "staff-read"}, // by the groups that the policy knows
		{"bob", "", "read", `{}`, abi.Deny, abi.RuleAuthz},
		{"bob", "nurses", "read", `{}`, abi.Allow, "staff-read"}, // by one that the request brings, which is in another
		{"eve", "nurses", "read", `{}`, abi.Allow, "staff-read"}, // of whom the policy knows nothing
		{"eve", "night", "read", `{}`, abi.Deny, abi.RuleAuthz},
		{"ada", "", "write", `{}`, abi.Allow, "team-writes"},
		{"bob", "", "write", `{}`, abi.Deny, abi.RuleAuthz},
		{"eve", "staff", "write", `{}`, abi.Deny, abi.RuleAuthz},
		{"ada", "", "write", `{"at": "2026-11-26T05:59:59Z"}`, abi.Deny, "night"},
		{"ada", "", "write", `{"at": "2026-11-26T06:00:00.000Z"}`, abi.Allow, "team-writes"},
		{"ada", "", "write", `{"at": "2026-11-26T06:30:00+0100"}`, abi.Deny, "night"},
		{"ada", "", "write", `{"at": "2025-12-30T07:00:00Z"}`, abi.Deny, "night"},
		{"ada", "", "read", `{"for": "8h"}`, abi.Allow, "staff-read"},
		{"ada", "", "read", `{"for": "8h1ms"}`, abi.Deny, "long"},
		{"ada", "", "admit", `{"tags": ["loud", "calm"]}`, abi.Allow, "badge"},
		{"ada", "", "admit", `{"tags": ["loud"]}`, abi.Deny, abi.RuleAuthz},
		{"bob", "", "admit", `{"tags": ["calm"]}`, abi.Deny, abi.RuleAuthz},
		{"bob", "", "admit", `{"codes": [7, 3, 3]}`, abi.Allow, "code"},
		{"bob", "", "admit", `{"codes": [7, 4]}`, abi.Deny, abi.RuleAuthz},
		{"bob", "", "admit", `{"codes": []}`, abi.Deny, abi.RuleAuthz},
		{"bob", "", "admit", `{"codes": [3, 5, 3], "tags": ["x"]}`, abi.Deny, "whole"},
		{"bob", "", "admit", `{"codes": [3, 5], "tags": ["x", "y"]}`, abi.Allow, "code"},
		{"ada", "", "admit", `{"codes": [3], "for": "1s"}`, abi.Deny, "early"},
		{"bob", "", "admit", `{"codes": [3], "for": "1s"}`, abi.Allow, "code"},
		{"eve", "", "admit", `{"codes": [3], "for": "1s"}`, abi.Deny, "early"}, // she has no shift: the rule fails
	} {
		x := exchangeOf(t, c.user, c.groups, c.route, c.body)
		call := policy.Call{Principal: c.user, Groups: x.Groups, Route: c.route, Context: valuesOf(t, c.body)}
		if want := d.Authorize(call); want.Verdict != c.verdict || want.Rule.ID != c.rule {
			t.Errorf("%s %s %s: the reference says %s by %s (%s)", c.user, c.route, c.body, want.Verdict, want.Rule.ID, want.Reason)
		}
		for range 3 { // the third answer is remembered
			if got := state.Judge(x); got.Verdict != c.verdict || got.Rule.ID != c.rule {
				t.Errorf("%s %s %s: the image says %s by %s (%s)", c.user, c.route, c.body, got.Verdict, got.Rule.ID, got.Reason)
			}
		}
	}
	for _, body := range []string{`{"codes": "3"}`, `{"codes": ["3"]}`, `{"codes": [3, null]}`, `{"codes": {"a": 3}}`, `{"tags": [["x"]]}`, `{"at": "2026-13-01"}`, `{"for": 7}`,
		`{"codes": [` + strings.Repeat("3, ", 128) + `3]}`} {
		if got := state.Judge(exchangeOf(t, "bob", "", "admit", body)); got.Verdict != abi.Deny || got.Rule.ID != abi.RuleRequest {
			t.Errorf("%s: %s by %s (%s)", body, got.Verdict, got.Rule.ID, got.Reason)
		}
	}
}

func exchangeOf(t *testing.T, user, groups, name, body string) *pep.Exchange {
	x := &pep.Exchange{Principal: user, Groups: strings.Fields(groups), Route: &route.Route{Name: name}, MaxBody: 4096, Now: time.Now()}
	x.Request = must(http.NewRequest("POST", "/", strings.NewReader(body)))
	x.Request.Header.Set("Content-Type", "application/json")
	return x
}

// valuesOf reads a body as the schema of ward has it.
func valuesOf(t *testing.T, body string) map[string]cedar.Value {
	var doc struct {
		Tags    []string
		Codes   []int64
		At, For string
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	out := map[string]cedar.Value{}
	if doc.Tags != nil {
		out["tags"] = setOf(doc.Tags, func(s string) cedar.Value { return cedar.String(s) })
	}
	if doc.Codes != nil {
		out["codes"] = setOf(doc.Codes, func(n int64) cedar.Value { return cedar.Long(n) })
	}
	if doc.At != "" {
		out["at"] = must(types.ParseDatetime(doc.At))
	}
	if doc.For != "" {
		out["for"] = must(types.ParseDuration(doc.For))
	}
	return out
}

func setOf[T any](list []T, value func(T) cedar.Value) cedar.Value {
	var out []cedar.Value
	for _, x := range list {
		out = append(out, value(x))
	}
	return cedar.NewSet(out...)
}
