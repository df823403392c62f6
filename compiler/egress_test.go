package compiler

import (
	"net/netip"
	"slices"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// A proxy has its rules, at each level those that exist there, and its modules; plan
// says that the tender enforces them. Other applications have none of it.
func TestEgressOfEachLevel(t *testing.T) {
	d := accounts(t)
	if s := compile(t, d).Levels[0]; slices.ContainsFunc(s.Enforced, func(e Enforced) bool { return e.Where == WhereTender }) || s.Egress != nil {
		t.Error("a handler has rules for connections")
	}
	p, w := *d.Policy, *d.Workload
	network := *p.Network
	p.Network = &network
	w.App = api.App{Proxy: &api.ProxyApp{Host: "127.0.0.1", Port: 9000}}
	d = &policy.Deployment{Workload: &w, Policy: &p, Authorization: d.Authorization}
	at := api.Pos{File: "policy.yaml", Line: 30}
	network.Egress = []api.EgressRule{
		{Pos: at, Name: "never", Action: abi.Deny, To: []api.Destination{{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}, MinLevel: "elevated"},
		{Pos: at, Name: "legacy", Action: abi.Allow, To: []api.Destination{{CIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}, {Names: []string{"a.b"}}},
			Ports: []api.Port{{Protocol: "TCP", Lo: 9000, Hi: 9001}}, MaxLevel: "elevated"},
	}
	p.Network = &network
	target := egress.Target{Addr: netip.MustParseAddr("127.0.0.1"), Port: 9000}
	for i, l := range compile(t, d).Levels {
		s, err := egress.Decode(section(t, &l, egress.Name))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Decide(target); (got.Verdict == abi.Allow) != (i < 2) {
			t.Errorf("%s: %+v", l.Name, got)
		}
		var rules, shown []string
		for _, e := range l.Enforced {
			if e.Where == WhereTender && e.Stage == abi.StageEgress {
				rules = append(rules, e.ID)
			}
		}
		for _, o := range l.Egress {
			shown = append(shown, o.String())
		}
		want := [][]string{{"legacy"}, {"never", "legacy"}, {"never"}}[i]
		if !slices.Equal(rules, append(want, abi.RuleEgress)) || len(shown) != len(rules) {
			t.Errorf("%s: plan says %v and shows %q", l.Name, rules, shown)
		}
		if i == 0 && shown[0] != "allow 127.0.0.1/32, a.b port 9000-9001 by legacy (policy.yaml:30)" {
			t.Errorf("%q", shown)
		}
		var asked []string
		for _, r := range l.Requirements {
			asked = append(asked, r.Any...)
		}
		if !slices.Contains(asked, "egress") || !slices.Contains(asked, "app/proxy") {
			t.Errorf("%s asks for %v", l.Name, asked)
		}
	}
}
