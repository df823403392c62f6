package main

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/dryrun"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/pep"
	pepauthz "lorica.dev/lorica/pep/authz"
	"lorica.dev/lorica/pep/filter"
	"lorica.dev/lorica/pep/firewall"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/record"
)

// A trial is the modules of one level, with those that are tried beside them.
type trial struct {
	firewall, tried pep.GateState // tried: nil where nothing is
	guards          pep.Chain     // a known guard stands where authentication does
	let             *abi.Rule
}

// known says who asks, as a test has it.
type known struct{ who func(*pep.Exchange) }

func (k *known) Judge(x *pep.Exchange) pep.Decision {
	k.who(x)
	return pep.Decision{Verdict: abi.Allow, Stage: abi.StageAuthn, Rule: abi.Rule{ID: "basic"}}
}

func trials(t testing.TB, d *policy.Deployment, who *known) (list []trial) {
	t.Helper()
	out, err := compiler.Compile(d)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range out.Levels {
		p := l.Program(d, program.PlanID{}, 1)
		let := must(dryrun.Decode(p.Section(dryrun.Name)))
		in := func(section string) *pep.Input {
			return &pep.Input{Level: l.Name, Levels: p.Levels, Section: p.Section(section), DryRun: let}
		}
		x := trial{firewall: must(firewall.New().Prepare(in(flow.Name))), let: let}
		if name := dryrun.Of(flow.Name); p.Section(name) != nil {
			x.tried = must(firewall.New().Prepare(in(name)))
		}
		last := pep.Link{Stage: abi.StageAuthz, Guard: must(pepauthz.New().Prepare(in(authz.Name))), DryRun: let}
		if name := dryrun.Of(authz.Name); p.Section(name) != nil {
			last.Tried = must(pepauthz.New().Prepare(in(name)))
		}
		x.guards = pep.Chain{{Stage: abi.StageFilter, Guard: must(filter.New().Prepare(in(route.Name))), DryRun: let}, {Stage: abi.StageAuthn, Guard: who}, last}
		list = append(list, x)
	}
	return list
}

func (x *trial) admit(f flow.Flow) pep.Decision {
	var t pep.Trial
	d := x.firewall.Admit(f)
	if x.tried != nil {
		t.Tried(d, x.tried.Admit(f))
	}
	if d.Verdict != abi.Allow && x.let != nil {
		d, _ = t.Release(d)
	}
	return t.End(d, x.let)
}

// TestWhatIsTriedIsJudgedAsTheReferenceSays has rules chosen by chance be tried, and now and
// then the whole policy, and asks images and the reference the same: what is enforced, and
// what would be.
func TestWhatIsTriedIsJudgedAsTheReferenceSays(t *testing.T) {
	for _, c := range []struct {
		name    string
		load    func() *policy.Deployment
		targets []string
		groups  []string
		bodies  []string
	}{
		{"accounts", func() *policy.Deployment { return example(t) }, []string{"GET /accounts", "GET /accounts/7", "POST /accounts/7/transfers", "PUT /accounts", "GET /nowhere"},
			[]string{"staff", "tellers"}, []string{``, `{"amount": 500}`, `{"amount": 5000}`, `{"amount": 50000}`, `{"amount": "many"}`}},
		{"everything", func() *policy.Deployment {
			return load(t, strings.Replace(everything, "network: {ingress: [", `endpoints: [{name: ten, cidrs: [10.0.0.0/8]}, {name: v6, cidrs: ["::/0"]}]
  network: {ingress: [{name: no-ten, action: Deny, from: [ten]}, {name: no-v6, action: Deny, from: [v6]}, `, 1))
		}, []string{"GET /a/7?page=3", "GET /a/101", "HEAD /a/2?page=2", "GET /a/x", "PUT /a/1/b", "PUT /a/101/b"},
			[]string{"ops", "admins"}, []string{``, `{"items": [{"price": 9.99}], "sure": true}`, `{"items": [{"price": "1.0"}], "sure": false}`, `{"items": [{"price": 2}], "net": "10.0.0.0/8", "sure": true}`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := seeded(23)
			seen := map[string]int{}
			for range 60 {
				d := c.load()
				d.Policy.EnforcementPos = api.Pos{File: "p.yaml", Line: 3}
				d.Policy.DryRun = g.IntN(6) == 0
				for i := range d.Authorization.Rules {
					d.Authorization.Rules[i].DryRun = g.IntN(3) == 0
				}
				for i := range d.Policy.Network.Ingress {
					d.Policy.Network.Ingress[i].DryRun = g.IntN(3) == 0
				}
				who := &known{}
				imgs, auditors := trials(t, d, who), auditors(t, d)
				for range 150 {
					i := g.IntN(len(imgs))
					from := netip.MustParseAddr(pick(g, "127.0.0.1", "10.20.1.1", "10.21.1.1", "::1", "2001:db8:20::1", "192.0.2.1"))
					port := pick(g, 22, d.Workload.Listen[0].Port)
					f := flow.Flow{Src: from, DstPort: port, Protocol: flow.TCP}
					got, want := imgs[i].admit(f), d.Classify(d.Policy.Levels.Names[i], api.Packet{From: from, Protocol: "TCP", Port: port})
					seen[same(t, fmt.Sprintf("%s to %d", from, port), got, want)]++

					method, target, _ := strings.Cut(pick(g, c.targets...), " ")
					r := must(http.NewRequest(method, target, strings.NewReader(pick(g, c.bodies...))))
					r.Host, r.RequestURI = "app", target
					r.Header.Set("Content-Type", "application/json")
					who.who = func(x *pep.Exchange) {
						x.Principal = pick(g, "ada", "teller-7", "bob")
						for _, name := range c.groups {
							if g.IntN(3) == 0 {
								x.Groups = append(x.Groups, name)
							}
						}
					}
					x := &pep.Exchange{ID: "id", Request: r, Header: http.Header{}, Now: time.Date(2026, 1, 1+g.IntN(7), g.IntN(24), g.IntN(60), 0, 0, time.UTC), Flow: f}
					got = imgs[i].guards.Judge(x)
					line := kept(t, auditors[i], x, got)
					replayed, err := record.Explain(d, must(record.Parse(line)))
					if err != nil {
						continue // about what a record cannot say
					}
					want = policy.Decision{Verdict: replayed.Verdict, Rule: replayed.Rule}
					if w := replayed.DryRun; w != nil {
						want.Would = &policy.Decision{Verdict: w.Verdict, Rule: w.Rule}
					}
					seen["request: "+same(t, string(line), got, want)]++
				}
			}
			t.Logf("%v", seen)
			for _, kind := range []string{"Allow", "Deny", "Allow, would Deny", "Deny, would Allow"} {
				if seen[kind] == 0 || seen["request: "+kind] == 0 {
					t.Errorf("never %s: %v", kind, seen)
				}
			}
		})
	}
}

// same holds a decision of an image to the reference, and returns what it is.
func same(t *testing.T, about string, got pep.Decision, want policy.Decision) string {
	t.Helper()
	kind, wants := got.Verdict.String(), want.Verdict.String()
	if got.Verdict != want.Verdict || got.Rule != want.Rule {
		t.Fatalf("%s: the image says %s by %v (%s), the reference %s by %v (%s)", about, got.Verdict, got.Rule, got.Reason, want.Verdict, want.Rule, want.Reason)
	}
	var by, wanted abi.Rule
	if w := got.Would; w != nil {
		kind, by = kind+", would "+w.Verdict.String(), w.Rule
	}
	if w := want.Would; w != nil {
		wants, wanted = wants+", would "+w.Verdict.String(), w.Rule
	}
	if kind != wants || by != wanted {
		t.Fatalf("%s: the image says %s by %v, the reference %s by %v", about, kind, by, wants, wanted)
	}
	return kind
}
