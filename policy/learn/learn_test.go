package learn

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/record"
)

var defaults = Options{Users: DefaultUsers, Values: DefaultValues, Prefixes: DefaultPrefixes, Steps: 20_000_000}

const head = `apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: w, labels: {app: w}}
spec: {app: {static: {dir: ./public}}, target: process, listen: [{name: web, port: 8080}]}
---
apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: w}
spec:
  selector: {matchLabels: {app: w}}
`

const middle = `  tls: {mode: SIMPLE}
  authentication: {require: true, jwt: [{name: idp, issuer: "https://idp.example", audiences: [a, b], jwks: secret/keys}]}
  secrets: {keys: {file: ./keys}}
  routes:
    - {name: one, group: some, match: {method: GET, path: /one}}
    - {name: two, group: some, match: {method: GET, path: /two}}
    - {name: three, match: {method: GET, path: /three}}
  attributes:
    groups: jwt.groups
    n: "body.json:/n"
    s: header.S
    f: 'jwt.amr has "mfa"'
    t: jwt.t
    p: peer.address
    h: clock.hour
    d: "body.json:/d"
    lvl: level
  authorization:
    schema: |
      entity Group in [Group];
      entity User in [Group] = { "rank"?: Long };
      entity RouteGroup;
      entity Route in [RouteGroup];
      action "call" appliesTo { principal: User, resource: Route, context: { "n"?: Long, "s"?: String, "f"?: Bool, "t"?: Set<String>, "p": ipaddr, "h": Long, "d"?: decimal, "lvl": String } };
    entities: |
      [{"uid": {"type": "User", "id": "ada"}, "attrs": {"rank": 3}, "parents": []},
       {"uid": {"type": "Group", "id": "sub"}, "attrs": {}, "parents": [{"type": "Group", "id": "top"}]}]
    cedar: |
`

const levels = "  levels: {names: [normal, high], initial: normal}\n"

// document writes one.
func document(settings, rules string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.TrimSpace(rules)) {
		b.WriteString("      " + line)
	}
	return head + levels + settings + middle + b.String() + "\n"
}

func files(text string) []policy.File { return []policy.File{{Name: "w.yaml", Data: []byte(text)}} }

func load(t testing.TB, text string) *policy.Deployment {
	t.Helper()
	b, err := policy.Parse(files(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return b.Deployments[0]
}

// A question is a request or a connection that somebody could make.
type question struct {
	who    string
	groups []string
	route  string
	level  string
	from   string
	port   uint16
	hour   int
	facts  map[string]string
	// parts is what the record does not hold.
	parts []string
}

var seq uint64

func text(s string) *string { return &s }

// recorded is the record of a question, as an image that runs the policy makes it.
func recorded(d *policy.Deployment, q question) record.Decision {
	seq++
	x := record.Decision{Seq: seq, Time: time.Date(2026, 3, 2, q.hour, 5, 0, 0, time.UTC), Instance: "w-1", ID: fmt.Sprintf("%032x", seq), Source: q.from, Protocol: "TCP", Port: q.port,
		Level: q.level, Program: "sha256:" + strings.Repeat("0a", 32), Stage: abi.StageFirewall, Decision: "Allow", Rule: "r", Partial: q.parts}
	if x.Port == 0 {
		x.Port = 8080
	}
	if x.Level == "" {
		x.Level = "normal"
	}
	if q.route != "" {
		x.Method, x.Path, x.Route, x.Stage, x.Principal, x.Groups = "GET", "/"+q.route, q.route, abi.StageAuthz, q.who, q.groups
		x.Facts = make(map[string]*string)
		for _, name := range d.Reference().About(q.route).Reads {
			switch v, ok := q.facts[name]; {
			case name == "lvl":
			case name == "h":
				x.Facts[name] = text(fmt.Sprint(q.hour))
			case name == "p":
				x.Facts[name] = text(q.from)
			case ok:
				x.Facts[name] = text(v)
			case name == "f": // a token has it, or has it not
				x.Facts[name] = text("false")
			default:
				x.Facts[name] = nil
			}
		}
	}
	dec, err := record.Replay(d, x)
	if err == nil {
		x.Decision, x.Rule = dec.Verdict.String(), dec.Rule.ID
		if dec.Rule.ID == abi.RuleNetwork {
			x.Stage = abi.StageFirewall
		}
		if w := dec.Would; w != nil {
			x.DryRun = &audit.DryRun{Decision: w.Verdict.String(), Stage: x.Stage, Rule: w.Rule.ID}
		}
	}
	return x
}

func propose(t testing.TB, doc string, o Options, log []record.Decision) (*Proposal, error) {
	t.Helper()
	l := New(load(t, doc), o)
	for _, x := range log {
		if err := l.Add(x); err != nil {
			t.Fatal(err)
		}
	}
	return l.Propose(context.Background(), Source{Files: files(doc)})
}

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

func anyQuestion(r *rand.Rand) question {
	q := question{who: pick(r, "ada", "bob", "eve"), route: pick(r, "one", "two", "three", ""), level: pick(r, "normal", "high"),
		from: pick(r, "10.0.0.1", "10.0.0.2", "10.0.0.77", "10.1.0.9", "192.0.2.7", "2001:db8::1", "2001:db8::2"), port: pick[uint16](r, 8080, 8081), hour: pick(r, 1, 9, 23), facts: map[string]string{}}
	for _, g := range []string{"sub", "free", "blue"} {
		if r.IntN(2) == 0 {
			q.groups = append(q.groups, g)
		}
	}
	for _, values := range [][]string{{"n", "1", "2", "5"}, {"s", "ab", "a\"b", "x\ny"}, {"f", "true", "false"}, {"t", `["a"]`, `[]`, `["a","b"]`}, {"d", "1.5", "2.0"}} {
		if r.IntN(3) > 0 {
			q.facts[values[0]] = pick(r, values[1:]...)
		}
	}
	return q
}

func anyRules(r *rand.Rand) string {
	asks := []string{"context has n && context.n > 1", "context has s && context.s like \"a*\"", "context has f && context.f", "context.p.isInRange(ip(\"10.0.0.0/24\"))", "context.h < 12",
		"context has t && context.t.contains(\"a\")", "!(context has n)", `context.lvl == "normal"`, "context has d && context.d.lessThan(decimal(\"1.7\"))", `principal in Group::"free"`, "principal has rank && principal.rank > 2", `!(principal in Group::"blue")`}
	var b strings.Builder
	for i := range 2 + r.IntN(5) {
		fmt.Fprintf(&b, "@id(\"r%d\") %s (%s, action, %s)", i, pick(r, "permit", "permit", "permit", "forbid"), pick(r, "principal", `principal in Group::"top"`, `principal in Group::"free"`, `principal == User::"ada"`),
			pick(r, "resource", `resource == Route::"one"`, `resource in RouteGroup::"some"`, `resource == Route::"three"`))
		for range r.IntN(3) {
			fmt.Fprintf(&b, " %s { %s }", pick(r, "when", "when", "unless"), pick(r, asks...))
		}
		b.WriteString(";\n")
	}
	return b.String()
}

func anySettings(r *rand.Rand) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  default: {network: %s, authorization: %s}\n", pick(r, "Allow", "Deny"), pick(r, "Deny", "Deny", "Deny", "Allow"))
	b.WriteString("  endpoints: [{name: near, cidrs: [10.0.0.0/24]}, {name: ten, cidrs: [10.0.0.0/8]}, {name: six, cidrs: [\"2001:db8::/64\"]}, {name: one, cidrs: [10.0.0.1/32, 192.0.2.0/24]}]\n  network:\n    ingress:\n")
	b.WriteString("      - {name: first, action: Allow, from: [" + pick(r, "near", "six", "any") + "], ports: [{protocol: TCP, portRange: \"8080-8081\"}]}\n")
	for i := range r.IntN(5) {
		fmt.Fprintf(&b, "      - {name: n%d, action: %s, from: [%s]%s%s}\n", i, pick(r, "Allow", "Allow", "Deny"), pick(r, "near", "ten", "six", "one", "any"),
			pick(r, "", ", ports: [{protocol: TCP, port: 8080}]", ", ports: [{protocol: any}]"), pick(r, "", "", ", maxLevel: normal", ", minLevel: high"))
	}
	return b.String()
}

// Of any policy and any log: what was learnt from is allowed, nothing is that the present
// policy denies, the comparison says so, and no rule is superfluous.
func TestProposalsAllowWhatWasSeenAndNoMore(t *testing.T) {
	wider, proposals, within := 0, 0, 0
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 7))
		doc := document(anySettings(r), anyRules(r))
		old := load(t, doc)
		o := defaults
		o.Exact = seed%2 == 0
		o.Prefixes, o.Values, o.Users = 1+r.IntN(3), 1+r.IntN(3), r.IntN(3)
		var log, learnt []record.Decision
		for range 1 + r.IntN(40) {
			x := recorded(old, anyQuestion(r))
			if log = append(log, x); x.Decision == "Allow" {
				learnt = append(learnt, x)
			}
		}
		p, err := propose(t, doc, o, log)
		if len(learnt) == 0 {
			if err != errNothing {
				t.Fatalf("seed %d: %v", seed, err)
			}
			continue
		}
		if err != nil && strings.Contains(err.Error(), "--max-users") && !o.Exact {
			continue // default: Allow, and users without groups
		}
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, doc)
		}
		proposals++
		if p.Learnt != len(learnt) || p.Denied != len(log)-len(learnt) {
			t.Fatalf("seed %d: learnt from %d of %d: %+v", seed, p.Learnt, len(learnt), p.Counts)
		}
		after := load(t, string(p.Document))
		if x := denied(after, learnt); x != nil {
			t.Fatalf("seed %d: denies %+v\n%s", seed, x, p.Document)
		}
		for range 200 {
			x := recorded(old, anyQuestion(r))
			if dec, err := record.Replay(after, x); x.Decision == "Deny" && err == nil && dec.Verdict == abi.Allow && len(p.Against.Allowed) == 0 {
				t.Fatalf("seed %d: newly allowed and not told: %s\n%s\n%s", seed, shown(x), doc, p.Document)
			}
		}
		byDefault := old.Policy.Default.Authorization == abi.Allow || old.Policy.Default.Network == abi.Allow
		if len(p.Against.Allowed) > 0 {
			if wider++; o.Exact || !byDefault {
				t.Errorf("seed %d: wider: %+v\n%s\n%s", seed, p.Against.Allowed, doc, p.Document)
			}
		}
		if len(p.Against.NotAnalysed) > 0 {
			t.Errorf("seed %d: not analysed: %v", seed, p.Against.NotAnalysed)
		}
		if o.Exact && len(p.Generalised) > 0 {
			t.Errorf("seed %d: generalised: %v", seed, p.Generalised)
		}
		if strings.Contains(string(p.Document), "when { principal in Group::\"top\" }") {
			within++
		}
		for _, less := range without(after, old) {
			if denied(less, learnt) == nil {
				t.Fatalf("seed %d: a rule is superfluous\n%s\nleft: %+v", seed, p.Document, less.Authorization.Rules)
			}
		}
	}
	t.Logf("%d proposals, %d wider, %d within their parents", proposals, wider, within)
	if proposals < 70 {
		t.Errorf("only %d proposals", proposals)
	}
}

// denied returns a record that a policy does not allow.
func denied(d *policy.Deployment, log []record.Decision) *record.Decision {
	for i := range log {
		if dec, err := record.Replay(d, log[i]); err != nil || dec.Verdict != abi.Allow {
			return &log[i]
		}
	}
	return nil
}

// without are the policies that lack one of the rules that allow.
func without(d, old *policy.Deployment) (out []*policy.Deployment) {
	add := func(p api.SecurityPolicy, a policy.Authorization) {
		out = append(out, &policy.Deployment{Workload: d.Workload, Policy: &p, Authorization: &a})
	}
	for i := range d.Authorization.Rules {
		if d.Authorization.Rules[i].Forbids() || !strings.Contains(d.Authorization.Rules[i].Text, "// ") {
			continue
		}
		a := *d.Authorization
		a.Rules = slices.Delete(slices.Clone(a.Rules), i, i+1)
		add(*d.Policy, a)
	}
	for i, r := range d.Policy.Network.Ingress {
		if r.Action == abi.Deny {
			continue
		}
		p, n := *d.Policy, *d.Policy.Network
		n.Ingress = slices.Delete(slices.Clone(n.Ingress), i, i+1)
		p.Network = &n
		add(p, *d.Authorization)
	}
	return out
}

func shown(x record.Decision) string {
	b, _ := json.Marshal(x)
	return string(b)
}

// What nothing matched is learnt from as well where that is asked for; without any of the
// present rules, too.
func TestWhatWasDeniedIsLearnt(t *testing.T) {
	learnt := 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 8))
		doc := document(pick(r, "", "  enforcement: DryRun\n")+anySettings(r), anyRules(r))
		old := load(t, doc)
		o := defaults
		o.Denied, o.Exact, o.Fresh, o.Users = true, seed%2 == 0, seed%3 == 0, 0
		var log []record.Decision
		for range 1 + r.IntN(30) {
			log = append(log, recorded(old, anyQuestion(r)))
		}
		p, err := propose(t, doc, o, log)
		if err == errNothing {
			continue
		}
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, doc)
		}
		if load(t, string(p.Document)).Policy.DryRun != old.Policy.DryRun {
			t.Fatalf("seed %d: whether it is tried has changed", seed)
		}
		after, left := load(t, string(p.Document)).Enforced(), 0
		for _, x := range p.LeftOut {
			left += x.Count
		}
		for _, x := range log {
			before, _ := record.Replay(old.Enforced(), x)
			dec, err := record.Replay(after, x)
			switch {
			case err != nil:
				t.Fatal(err)
			case dec.Verdict == abi.Allow:
				if before.Verdict == abi.Deny {
					learnt++
				}
			case before.Verdict == abi.Allow:
				t.Fatalf("seed %d: denies %s\n%s\n%s", seed, shown(x), doc, p.Document)
			default:
				left--
			}
		}
		if left < 0 {
			t.Errorf("seed %d: more is denied than was left out: %v\n%s\n%s", seed, p.LeftOut, doc, p.Document)
		}
		for i := range after.Authorization.Rules {
			if o.Fresh && len(rulesOf(p)) > 0 && after.Authorization.Rules[i].Forbids() {
				t.Errorf("seed %d: keeps %s", seed, after.Authorization.Rules[i].ID)
			}
		}
	}
	if learnt < 100 {
		t.Errorf("%d", learnt)
	}
}
