package space

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/policy"
)

// An attribute of small worlds: how conditions ask about it, and all its values that these
// conditions tell apart.
type small struct {
	name, schema, source string
	asks                 []string
	values               []types.Value // nil: absent
}

func longs(list ...int64) (out []types.Value) {
	for _, n := range list {
		out = append(out, types.Long(n))
	}
	return out
}

// words are all texts of up to n letters.
func words(n int) []types.Value {
	out := []types.Value{nil, types.String("")}
	for last := []string{""}; n > 0; n-- {
		var next []string
		for _, s := range last {
			for _, r := range []string{"a", "b", "x"} {
				next = append(next, s+r)
				out = append(out, types.String(s+r))
			}
		}
		last = next
	}
	return out
}

func ip(s string) types.Value {
	v, err := types.ParseIPAddr(s)
	if err != nil {
		panic(err)
	}
	return v
}

func decimal(n int64) types.Value { return ofCount(authz.TypeDecimal, n) }

var smalls = []small{
	{"n", `"n"?: Long`, `"body.json:/n"`, []string{"context has n && context.n > 0", "context has n && context.n <= 2", "!(context has n)", "context has n && context.n == 2", "context has n && [0, 3].contains(context.n)"},
		append(longs(-1, 0, 1, 2, 3, 4), nil)},
	{"m", `"m"?: Long`, `"body.json:/m"`, []string{"context has m && context has n && context.m < context.n", "context has m && context.m == 2", "context has m && context has n && context.m == context.n"},
		append(longs(-2, -1, 0, 1, 2, 3, 4, 5), nil)},
	{"h", `"h": Long`, "clock.hour", []string{"context.h < 1", "context.h >= 22", "context.h == 23", "context.h > 30", "context.h < 40"}, longs(0, 1, 2, 21, 22, 23)},
	{"s", `"s"?: String`, "header.S", []string{`context has s && context.s == "ab"`, `context has s && context.s like "a*"`, `context has s && context.s like "*b"`, `context has s && context.s like "a*b*"`, `context has s && context.s != ""`},
		append(words(2), types.String("aab"), types.String("axb"), types.String("abx"), types.String("axbx"))},
	{"w", `"w"?: String`, "header.W", []string{`context has w && context.w == "ab"`, `context has w && ["x", "b"].contains(context.w)`, `context has w && context.w != "b"`}, words(2)},
	{"f", `"f"?: Bool`, `'jwt.amr has "mfa"'`, []string{"context has f && context.f", "context has f && !context.f", "!(context has f)"}, []types.Value{types.True, types.False}},
	{"t", `"t"?: Set<String>`, "jwt.t", []string{`context has t && context.t.contains("a")`, `context has t && context.t.containsAll(["a", "b"])`, `context has t && context.t.containsAny(["b", "x"])`, "context has t && context.t.isEmpty()", `context has t && context.t == ["a"]`}, sets("a", "b", "x", "q")},
	{"p", `"p": ipaddr`, "peer.address", []string{`context.p.isInRange(ip("10.0.0.0/8"))`, `context.p.isInRange(ip("10.1.0.0/16"))`, `context.p == ip("10.1.2.3")`, "context.p.isIpv6()", "context.p.isLoopback()"},
		[]types.Value{ip("9.0.0.1"), ip("10.0.0.1"), ip("10.1.2.3"), ip("10.1.2.4"), ip("127.0.0.1"), ip("::1"), ip("2001:db8::1")}},
	{"d", `"d"?: decimal`, `"body.json:/d"`, []string{`context has d && context.d.lessThan(decimal("1.5"))`, `context has d && context.d.greaterThanOrEqual(decimal("1.4999"))`, `context has d && context.d.greaterThan(decimal("1.5"))`},
		[]types.Value{nil, decimal(14998), decimal(14999), decimal(15000), decimal(15001)}},
	{"lvl", `"lvl": String`, "level", []string{`context.lvl == "normal"`, `context.lvl == "lockdown"`, `context.lvl != "elevated"`}, nil},
}

func sets(list ...string) []types.Value {
	out := []types.Value{nil}
	for bits := range 1 << len(list) {
		var vs []types.Value
		for i, s := range list {
			if bits>>i&1 == 1 {
				vs = append(vs, types.String(s))
			}
		}
		out = append(out, types.NewSet(vs...))
	}
	return out
}

const entitiesOfSmall = `[
  {"uid": {"type": "User", "id": "ada"}, "attrs": {"rank": 3}, "parents": [{"type": "Group", "id": "sub"}]},
  {"uid": {"type": "User", "id": "eve"}, "attrs": {}, "parents": []},
  {"uid": {"type": "Group", "id": "sub"}, "attrs": {}, "parents": [{"type": "Group", "id": "top"}]},
  {"uid": {"type": "Group", "id": "top"}, "attrs": {}, "parents": []}
]`

// rule writes a Cedar rule at random.
func rule(r *rand.Rand, id string, used []small) string {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	who := pick("principal", "principal", `principal in Group::"top"`, `principal in Group::"sub"`, `principal in Group::"free"`, `principal == User::"ada"`, `principal == User::"bob"`)
	what := pick("resource", "resource", `resource == Route::"one"`, `resource in RouteGroup::"some"`)
	var conds []string
	for range r.IntN(4) {
		x := used[r.IntN(len(used))]
		c := pick(x.asks...)
		if r.IntN(5) == 0 {
			c = pick(`principal in Group::"free"`, `principal has rank && principal.rank > 2`, `principal == User::"eve"`, `!(principal in Group::"top")`)
		}
		switch r.IntN(4) {
		case 0:
			c = "!(" + c + ")"
		case 1:
			y := used[r.IntN(len(used))]
			c = "(" + c + ") || (" + pick(y.asks...) + ")"
		}
		conds = append(conds, "("+c+")")
	}
	s := fmt.Sprintf("@id(%q) %s (%s, action, %s)", id, pick("permit", "permit", "forbid"), who, what)
	if len(conds) > 0 {
		s += " " + pick("when", "when", "unless") + " { " + strings.Join(conds, pick(" && ", " && ", " || ")) + " }"
	}
	return s + ";"
}

// smallPolicy loads one of the rules, which read the attributes used.
func smallPolicy(t *testing.T, rules []string, fallback string) *policy.Deployment {
	t.Helper()
	var b strings.Builder
	b.WriteString(`apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: w, labels: {app: w}}
spec: {app: {static: {dir: ./public}}, listen: [{name: web, port: 8080}]}
---
apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: w}
spec:
  selector: {matchLabels: {app: w}}
  default: {network: Allow, authorization: ` + fallback + `}
  levels: {names: [normal, elevated, lockdown], initial: normal}
  tls: {mode: SIMPLE}
  authentication: {require: true, jwt: [{name: idp, issuer: "https://a.example", audiences: [w], jwks: secret/keys}]}
  secrets: {keys: {file: ./keys}}
  routes:
    - {name: one, match: {method: GET, path: /one}}
    - {name: two, group: some, match: {method: GET, path: /two}}
  attributes:
    groups: jwt.groups
`)
	var schema []string
	for _, x := range smalls {
		fmt.Fprintf(&b, "    %s: %s\n", x.name, x.source)
		schema = append(schema, x.schema)
	}
	b.WriteString("  authorization:\n    schema: |\n      entity Group in [Group];\n      entity User in [Group] { rank?: Long };\n      entity RouteGroup;\n      entity Route in [RouteGroup];\n" +
		"      action \"call\" appliesTo { principal: User, resource: Route, context: { " + strings.Join(schema, ", ") + " } };\n    entities: |\n")
	for l := range strings.Lines(entitiesOfSmall) {
		b.WriteString("      " + l)
	}
	b.WriteString("\n    cedar: |\n")
	for _, l := range rules {
		b.WriteString("      " + l + "\n")
	}
	bundle, err := policy.Parse([]policy.File{{Name: "p.yaml", Data: []byte(b.String())}})
	if err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	return bundle.Deployments[0]
}

// everyCall calls f with one call of each kind that small worlds tell apart on a route.
func everyCall(route string, used []small, f func(policy.Call)) {
	groups := []string{"top", "sub", "free"}
	for _, user := range []string{"ada", "eve", "bob", "somebody"} {
		for bits := range 1 << len(groups) {
			var in []string
			for i, g := range groups {
				if bits>>i&1 == 1 {
					in = append(in, g)
				}
			}
			var fill func(i int, c map[string]cedar.Value)
			fill = func(i int, c map[string]cedar.Value) {
				switch {
				case i == len(used):
					f(policy.Call{Principal: user, Groups: in, Route: route, Context: c})
				case len(used[i].values) == 0:
					fill(i+1, c)
				default:
					for _, v := range used[i].values {
						if delete(c, used[i].name); v != nil {
							c[used[i].name] = v
						}
						fill(i+1, c)
					}
				}
			}
			fill(0, make(map[string]cedar.Value))
		}
	}
}

// someSmalls chooses attributes, those that others are compared with included.
func someSmalls(r *rand.Rand) []small {
	var out []small
	for _, i := range r.Perm(len(smalls))[:1+r.IntN(2)] {
		out = append(out, smalls[i])
		if smalls[i].name == "m" {
			out = append(out, smalls[0])
		}
	}
	slices.SortFunc(out, func(a, b small) int { return strings.Compare(a.name, b.name) })
	return slices.CompactFunc(out, func(a, b small) bool { return a.name == b.name })
}

// A rule decides none <=> none of all calls is decided by it; and every witness is one.
func TestWhatCedarRulesDecideIsWhatAllCallsShow(t *testing.T) {
	count := map[Status]int{}
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 3))
		used := someSmalls(r)
		var rules []string
		for i := range 1 + r.IntN(6) {
			rules = append(rules, rule(r, fmt.Sprint("r", i), used))
		}
		d := smallPolicy(t, rules, []string{"Allow", "Deny"}[r.IntN(2)])
		list, err := Calls(budget(), d)
		if err != nil {
			t.Fatal(err)
		}
		ref := d.Reference()
		cited := make(map[string]bool)
		for _, route := range []string{"one", "two"} {
			var dec policy.Decision
			everyCall(route, used, func(c policy.Call) {
				for i, level := range d.Policy.Levels.Names {
					if c.Level = level; i == 0 || ref.About(route).ReadsLevel {
						dec = ref.Authorize(c)
					}
					cited[level+" "+dec.Rule.ID] = true
					if dec.Rule.ID == abi.RuleAuthz {
						cited[level+" "+route] = true
					}
				}
			})
		}
		for _, x := range list {
			name := x.Rule.ID
			if x.Index < 0 {
				name = x.Route
			}
			some := false
			for l, level := range d.Policy.Levels.Names {
				want := cited[level+" "+name]
				some = some || want
				c := x.At[l]
				if c == nil && want && x.Why == "" {
					t.Fatalf("seed %d: %s decides something at level %s\n%s", seed, name, level, strings.Join(rules, "\n"))
				}
				if c != nil && (ref.Authorize(*c).Rule != x.Rule || c.Level != level) {
					t.Fatalf("seed %d: %s does not decide %+v", seed, name, *c)
				}
				if c != nil && !want {
					t.Fatalf("seed %d: all calls do not show that %s decides %+v\n%s", seed, name, *c, strings.Join(rules, "\n"))
				}
			}
			if count[x.Status]++; x.Status != NotAnalysed && some != (x.Status == Found) {
				t.Fatalf("seed %d: %s: %s (%s), all calls show %v\n%s", seed, name, x.Status, x.Why, some, strings.Join(rules, "\n"))
			}
		}
	}
	t.Log(count)
	if count[None] < 20 || count[Found] < 100 || count[NotAnalysed] > count[None]/4 {
		t.Fatalf("%v", count)
	}
}
