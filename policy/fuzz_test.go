package policy_test

import (
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/policy"
)

func replace(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("%q is not there", pairs[i])
		}
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// Whatever a file holds, it is either a checked bundle, whose tests pass and
// which answers, or Errors that say where and what.
func FuzzParse(f *testing.F) {
	example, err := os.ReadFile("testdata/payments/policy.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(base))
	f.Add([]byte(front))
	f.Add([]byte(strings.ReplaceAll(front, "http://127.0.0.1:9000", "https://api.acme.internal:443\", trust: \"./ca.pem")))
	f.Add(example)
	f.Add([]byte(strings.ReplaceAll(string(example), "call: transfer, context: {amount: 500, hour: 12, srcIP: 10.20.1.1}", `request: "POST /accounts/%37/transfers?a=b", body: {amount: 500}, at: "2026-11-25T12:00:00Z", from: 10.20.1.1`)))
	f.Add([]byte("---\n---\n"))
	f.Add([]byte("apiVersion: lorica.dev/v1alpha1\nkind: Workload\nmetadata: {name: x}\nspec: {app: {}, listen: 5}\n"))
	for i, m := range mistakes() {
		if i%5 == 0 {
			f.Add([]byte(strings.NewReplacer(append([]string{m.old, m.new}, m.more...)...).Replace(base)))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := policy.Parse([]policy.File{{Name: "f.yaml", Data: data}})
		if err != nil {
			var es policy.Errors
			if !errors.As(err, &es) || len(es) == 0 || b != nil {
				t.Fatalf("%T %v", err, b)
			}
			for _, e := range es {
				if e.Message == "" {
					t.Fatal("an error without a message")
				}
			}
			return
		}
		for _, d := range b.Deployments {
			for _, r := range d.RunTests() {
				if r.Problem != "" {
					t.Fatalf("accepted with a failing test: %s", r.Problem)
				}
			}
			for _, r := range d.Policy.Routes {
				if _, err := d.Why(policy.Query{Request: "GET " + r.Path, User: "ann", Groups: []string{"staff"}}); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// Cedar text comes from the same stranger, through a parser that recurses.
func FuzzCedar(f *testing.F) {
	f.Add(`permit (principal, action, resource);`)
	f.Add(`@id("a") forbid (principal in Group::"x", action, resource in RouteGroup::"reads") when { context.level like "n*" } unless { [1, 2].contains(3) };`)
	f.Add(`permit (principal, action, resource) when { if true then context.level == "a" else !!!!false };`)
	f.Add(`permit (principal is User in Group::"x", action, resource is Route) when { ip("10.0.0.0/8").isInRange(ip("::1")) || decimal("1.0").lessThan(decimal("2.0")) };`)
	f.Add("// only a comment")
	f.Add(`permit (principal, action, resource) when { {a: [{}]}.a.contains(principal["x"]) };`)
	before, rest, _ := strings.Cut(base, "    cedar: |\n")
	_, after, _ := strings.Cut(rest, "---\n")
	f.Fuzz(func(t *testing.T, cedar string) {
		text := before + "    cedar: |2\n      " + strings.ReplaceAll(cedar, "\n", "\n      ") + "\n---\n" + after
		b, err := policy.Parse([]policy.File{{Name: "f.yaml", Data: []byte(text)}})
		if err != nil {
			return
		}
		d := b.Deployments[0]
		for _, r := range d.Policy.Routes {
			for _, l := range d.Policy.Levels.Names {
				d.Authorize(policy.Call{Level: l, Principal: "ann", Groups: []string{"staff"}, Route: r.Name})
			}
		}
	})
}

func FuzzWhy(f *testing.F) {
	b, err := policy.Load("testdata/payments")
	if err != nil {
		f.Fatal(err)
	}
	d := b.Deployments[0]
	f.Add("GET /accounts/7?x=1", "", "staff-3", "amount", "5")
	f.Add("/accounts/%37%2f", "", "", "srcIP", "10.0.0.0/8")
	f.Add("", "udp ::1%eth0 -> :8443", "", "", "")
	f.Add("POST /accounts/a;b/refunds", "", "teller-7", "hour", "-1")
	f.Fuzz(func(t *testing.T, request, packet, user, name, value string) {
		a, err := d.Why(policy.Query{Request: request, Packet: packet, User: user, Groups: []string{"staff"}, Set: map[string]string{name: value}})
		if err == nil && (a.Stage == "" || a.Rule.ID == "") {
			t.Fatalf("no stage or no rule: %+v", a)
		}
	})
}

// A body that is written in YAML is JSON that says the same; text stays as it is.
func FuzzTestBody(f *testing.F) {
	for _, s := range []string{`{amount: 500}`, `[1, -2.5, 1e3, true, null, "x", {a: {}, "b c": []}]`, `'{"a": 1, "a": 2}'`, `.5`, `0x10`, `"\u0085<\x01"`, `{a: 2026-11-25}`, `!!int 5`, "|\n        text"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		b, err := policy.Parse([]policy.File{{Name: "f.yaml", Data: []byte(strings.Replace(base, "call: read, expect", "call: read, body: "+body+", expect", 1))}})
		if err != nil {
			return
		}
		got := b.Deployments[0].Policy.Tests[0].Body
		var node yaml.Node
		if err := yaml.Unmarshal([]byte("a: [{body: "+body+", expect: 1}]"), &node); err != nil {
			return // not one value
		}
		var want any
		if err := node.Content[0].Content[1].Content[0].Content[1].Decode(&want); err != nil {
			return // package yaml has no value for it
		}
		if text, ok := want.(string); ok {
			if string(got) != text {
				t.Errorf("%q became %q", text, got)
			}
			return
		}
		var have any
		if err := json.Unmarshal(got, &have); err != nil {
			t.Fatalf("%q became %s: %v", body, got, err)
		}
		// Numbers are compared as JSON has them.
		again, err := json.Marshal(want)
		if err == nil {
			err = json.Unmarshal(again, &want)
		}
		if err == nil && !reflect.DeepEqual(have, want) {
			t.Errorf("%q became %s, want %s", body, got, again)
		}
	})
}
