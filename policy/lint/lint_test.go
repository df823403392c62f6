package lint

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/space"
)

// A document that nothing is found in; the cases put something into its places.
const clean = `apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: w, labels: {app: w}}
spec: {app: {static: {dir: ./public}}, listen: [{name: web, port: 8080}]}
---
apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: w}
spec:
  selector: {matchLabels: {app: w}}
  levels: {names: [normal, lockdown], initial: normal}
  tls: {mode: SIMPLE}
  authentication: {require: true, jwt: [{name: idp, issuer: "https://a.example", audiences: [w], jwks: secret/keys}]}
  secrets: {keys: {file: ./keys}}
  endpoints:
    - {name: low, cidrs: [10.0.0.0/9]}
    - {name: high, cidrs: [10.128.0.0/9]}
    - {name: ten, cidrs: [10.0.0.0/8]}
    - {name: one, cidrs: ["2001:db8::1/128", 192.0.2.1/32]}
  network:
    ingress:
      - {name: web-in, action: Allow, from: [one], ports: [{protocol: TCP, port: 8080}]}
      #network
  routes:
    - {name: page, method: GET}
  attributes: {groups: jwt.groups, level: level, hour: clock.hour, amount: "body.json:/amount"}
  authorization:
    schema: |
      entity Group;
      entity User in [Group];
      entity Route;
      action "call" appliesTo { principal: User, resource: Route, context: { "level": String, "hour": Long, "amount"?: Long } };
    cedar: |
      @id("base") permit (principal in Group::"staff", action, resource == Route::"page")
      when { context.hour > 6 && context.level == "normal" && context has amount && context.amount > 5 };
      //cedar
`

// document returns the clean one with lines of network rules, of routes and of Cedar.
func document(network, routes, cedar string) string {
	s := strings.ReplaceAll(clean, "{name: page, method: GET}", "{name: page, match: {method: GET, path: /page}}")
	for _, x := range []struct{ mark, lines string }{{"      #network\n", network}, {"  attributes:", routes}, {"      //cedar\n", cedar}} {
		var b strings.Builder
		for line := range strings.Lines(x.lines) {
			indent := "      "
			if x.mark == "  attributes:" {
				indent = "    "
			}
			b.WriteString(indent + strings.TrimSuffix(line, "\n") + "\n")
		}
		if x.mark == "  attributes:" {
			b.WriteString(x.mark)
		}
		s = strings.Replace(s, x.mark, b.String(), 1)
	}
	return s
}

// shown is a report in lines: severity, kind, what the line is about, message, witness.
func shown(r *Report) string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s %s: %s", f.Severity, f.Kind, f.Message)
		if f.Witness != "" {
			fmt.Fprintf(&b, " > %s", f.Witness)
		}
		fmt.Fprintf(&b, " (%s)\n", f.Fix)
	}
	for _, e := range r.NotAnalysed {
		fmt.Fprintf(&b, "not analysed: %s\n", e.Message)
	}
	return b.String()
}

func lintOf(t *testing.T, text string, steps int64) *Report {
	t.Helper()
	b, err := policy.Parse([]policy.File{{Name: "p.yaml", Data: []byte(text)}})
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	r, err := Lint(context.Background(), b, steps)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		if f.Pos.Line == 0 || f.Fix == "" || f.Text == "" && f.Kind != SecretInDocument {
			t.Errorf("a finding without a place, a text or what to do: %+v", f)
		}
	}
	return r
}

func TestFindings(t *testing.T) {
	cases := []struct{ name, network, routes, cedar, want string }{
		{name: "nothing", want: ""},
		{name: "a rule behind a wider one", network: `- {name: a, action: Deny, from: [one], ports: [{protocol: any}]}
- {name: b, action: Allow, from: [one], ports: [{protocol: TCP, port: 443}]}`,
			want: `warning shadowed-rule: rule "b" can never decide: "a" (line 23) matches everything that it matches (remove it, or move it up)
`},
		{name: "a rule behind several that cover it together", network: `- {name: a, action: Deny, from: [low]}
- {name: b, action: Deny, from: [high], ports: [{protocol: any, portRange: 1-443}]}
- {name: c, action: Deny, from: [high], ports: [{protocol: TCP, portRange: 300-65535}]}
- {name: d, action: Allow, from: [ten], ports: [{protocol: TCP}]}`,
			want: `warning shadowed-rule: rule "d" can never decide: "a" (line 23), "b" (line 24) and "c" (line 25) together match everything that it matches (remove it, or move it up)
`},
		{name: "a rule that a lower level denies", network: `- {name: a, action: Deny, from: [low], maxLevel: normal}
- {name: b, action: Deny, from: [low], minLevel: lockdown}`,
			want: `warning shadowed-rule: rule "b" can never decide: "a" (line 23) matches everything that it matches (remove it, or move it up)
`},
		{name: "a rule that is left at one level", network: `- {name: a, action: Allow, from: [low], maxLevel: normal}
- {name: b, action: Deny, from: [low]}`},
		{name: "an exception before the rule", network: `- {name: a, action: Deny, from: [low], ports: [{protocol: TCP, port: 22}]}
- {name: b, action: Allow, from: [low], ports: [{protocol: TCP}]}`},
		{name: "an overlap", network: `- {name: a, action: Deny, from: [low], ports: [{protocol: TCP}]}
- {name: b, action: Allow, from: [ten], ports: [{protocol: TCP, port: 8080}]}`,
			want: `note overlap: rule "b" (Allow) overlaps with "a" (Deny, line 23), which decides about what both match, because it is first > tcp 10.0.0.1 -> :8080 (leave it where the order is meant; else move the one that should win up)
`},
		{name: "an overlap at one level", network: `- {name: a, action: Deny, from: [low], ports: [{protocol: TCP}], minLevel: lockdown}
- {name: b, action: Allow, from: [ten], ports: [{protocol: TCP, port: 8080}]}`,
			want: `note overlap: rule "b" (Allow) overlaps with "a" (Deny, line 23), which decides about what both match at level lockdown, because it is first > tcp 10.0.0.1 -> :8080 (leave it where the order is meant; else move the one that should win up)
`},
		{name: "what sockets do not see", network: `- {name: a, action: Allow, from: [low], ports: [{protocol: UDP, port: 53}, {protocol: ICMP}]}`,
			want: `warning not-enforced: rule "a" is not about TCP, and workload w has sockets of the host, which see nothing else (write network: direct in the workload, which gives it a stack of its own; or remove the rule)
`},
		{name: "everything from everywhere", network: `- {name: a, action: Allow, from: [any]}`,
			want: `warning wildcard-scope: rule "a" allows everything from everywhere > tcp 10.0.0.1 -> :443 (name the endpoints and ports that are meant)
`},
		{name: "conditions that cannot hold", cedar: `@id("a") permit (principal in Group::"staff", action, resource) when { context.hour > 23 };
@id("b") forbid (principal in Group::"staff", action, resource) when { context has amount && context.amount < 3 && context.amount > 3 };`,
			want: `warning always-false: the conditions of a can never hold (correct the condition, or remove the rule)
warning always-false: the conditions of b can never hold (correct the condition, or remove the rule)
`},
		{name: "conditions that always hold", cedar: `@id("a") permit (principal in Group::"staff", action, resource == Route::"page") when { context.hour >= 0 };`,
			want: `warning always-true: the conditions of a always hold: it says the same without them (remove them, or correct them)
`},
		{name: "a forbid that is behind another", cedar: `@id("a") forbid (principal in Group::"staff", action, resource) when { context.hour > 20 };
@id("b") forbid (principal in Group::"staff", action, resource) when { context.hour == 22 };`,
			want: `warning never-decides: b can never decide: whatever it forbids is forbidden before, as here by "a" (line 35) > page as somebody in staff with hour 22 (remove it: nothing changes)
`},
		{name: "a permit that is behind another", cedar: `@id("a") permit (principal in Group::"staff", action, resource) when { context.hour > 8 && context.level == "normal" && context has amount && context.amount == 7 };`,
			want: `warning never-decides: a can never decide: whatever it permits is permitted before, as here by "base" (line 33) > page as somebody in staff with amount 7, hour 9 (remove it: nothing changes)
`},
		{name: "a permit that is forbidden", routes: `- {name: other, match: {method: GET, path: /other}}`, cedar: `@id("a") permit (principal in Group::"staff", action, resource == Route::"other");
@id("b") forbid (principal, action, resource == Route::"other");`,
			want: `warning route-without-permit: no request to route "other" can be allowed (add a permit for it, or remove the route)
warning never-decides: a can never decide: whatever it permits is denied, as here by "b" (line 37), or permitted by an earlier rule > other as somebody in staff (remove it, or narrow what forbids)
warning unconditional-forbid: b forbids route other to everybody, whatever they ask > other as somebody (add a condition, or remove the route)
`},
		{name: "a route that nobody may call", routes: `- {name: other, match: {method: GET, path: /other}}`,
			want: `warning route-without-permit: no request to route "other" can be allowed (add a permit for it, or remove the route)
`},
		{name: "wildcards", routes: `- {name: other, match: {method: GET, path: /other}}`, cedar: `@id("a") permit (principal in Group::"staff", action, resource);
@id("b") permit (principal, action, resource == Route::"other");`,
			want: `note wildcard-scope: a permits every route, those that are added later as well > page as somebody in staff with hour 5 (leave it where that is meant; else name routes)
note wildcard-scope: b permits route other to everybody who is authenticated > other as somebody (leave it where that is meant; else name a group, or add a condition)
`},
		{name: "everything to everybody", cedar: `@id("a") permit (principal, action, resource);`,
			want: `warning wildcard-scope: a permits everything to everybody > page as somebody with hour 5 (name a group and routes, or add a condition)
`},
		{name: "nothing to anybody", cedar: `@id("a") forbid (principal, action, resource);`, want: `warning route-without-permit: no request to route "page" can be allowed (add a permit for it, or remove the route)
warning never-decides: base can never decide: whatever it permits is denied, as here by "a" (line 35), or permitted by an earlier rule > page as somebody in staff with amount 6, hour 7 (remove it, or narrow what forbids)
warning unconditional-forbid: a forbids everything to everybody: nothing is allowed > page as somebody with hour 5 (add a condition, or a scope)
`},
		{name: "a group that is granted nothing", cedar: `@id("a") forbid (principal in Group::"guests", action, resource);`,
			want: `note group-without-grant: no permit names group "guests", or one that it is in (add a permit for it, or leave it where it is there to be forbidden)
`},
		{name: "what computes", cedar: `@id("a") forbid (principal in Group::"staff", action, resource) when { context has amount && context.amount * context.amount == 7 };`,
			want: "not analysed: whether the conditions of a always or never hold: the attribute amount is computed with\nnot analysed: whether a decides anything: the attribute amount is computed with\n"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := shown(lintOf(t, document(c.network, c.routes, c.cedar), space.DefaultSteps)); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestAttributesThatNobodyReads(t *testing.T) {
	text := strings.Replace(document("", "", ""), "context.hour > 6 && ", "", 1)
	want := "warning unread-attribute: attribute \"hour\" is read by no policy (remove it here and from the schema)\n"
	if got := shown(lintOf(t, text, space.DefaultSteps)); got != want {
		t.Error(got)
	}
}

// Secrets are found, and not repeated.
func TestSecrets(t *testing.T) {
	for text, what := range map[string]string{
		"-----BEGIN EC PRIVATE KEY-----":                        "a private key",
		"postgres://app:hunter2@db.example/":                    "a URL with a password",
		"eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl":  "a token",
		"AKIAIOSFODNN7EXAMPLE":                                  "an access key",
		"$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$RdescudvJC": "the verifier of a password",
		"$pbkdf2-sha256$i=600000$c29tZXNhbHQ$RdescudvJC":        "the verifier of a password",
		"wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEYq9":              "a secret: a long text without any pattern",
	} {
		r := lintOf(t, document("", "", "")+"# "+text+"\n", space.DefaultSteps)
		want := "warning secret-in-document: this looks like " + what + " (put it into a file and name that in spec.secrets; where it was real, change it)\n"
		if got := shown(r); got != want || strings.Contains(fmt.Sprint(r.Findings), text) {
			t.Errorf("%s: %s", text, got)
		}
	}
	for _, text := range []string{"spiffe://acme.internal/ns/payments/sa/api", "https://idp.acme.example/realms/main/protocol/openid-connect",
		"sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "aVeryLongNameOfARouteThatSomebodyWrote2", "-----BEGIN CERTIFICATE-----"} {
		if got := shown(lintOf(t, document("", "", "")+"# "+text+"\n", space.DefaultSteps)); got != "" {
			t.Errorf("%s: %s", text, got)
		}
	}
}

// What the budget does not suffice for is named, and nothing else is said of it.
func TestWhatIsNotAnalysedIsNamed(t *testing.T) {
	text := document(`- {name: a, action: Deny, from: [one]}
- {name: b, action: Allow, from: [one], ports: [{protocol: TCP, port: 443}]}`, "", `@id("c") permit (principal in Group::"staff", action, resource) when { context.hour > 23 };`)
	r := lintOf(t, text, 1)
	if len(r.Findings) != 0 {
		t.Error(shown(r))
	}
	want := `not analysed: whether 2 more network rules can decide
not analysed: whether rule "web-in" can decide: 1 steps were not enough
not analysed: which rules from "web-in" on overlap with earlier ones: the budget is used up
not analysed: whether anything can be allowed on route "page": 1 steps were not enough
not analysed: whether the conditions of base always or never hold: 1 steps were not enough
not analysed: whether base decides anything: 1 steps were not enough
not analysed: whether the conditions of c always or never hold: 1 steps were not enough
not analysed: whether c decides anything: 1 steps were not enough
`
	if got := shown(r); got != want {
		t.Error(got)
	}
}

func TestInterrupted(t *testing.T) {
	b, err := policy.Parse([]policy.File{{Name: "p.yaml", Data: []byte(document("", "", ""))}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if r, err := Lint(ctx, b, space.DefaultSteps); err == nil || r != nil {
		t.Error(r, err)
	}
}
