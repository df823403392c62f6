package run

import (
	"slices"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/policy"
)

// A trial may let in what should be kept from the upstream of a proxy: nothing goes there.
func TestTheProgramOfATrial(t *testing.T) {
	b, err := policy.Load("../examples/payments")
	if err != nil {
		t.Fatal(err)
	}
	d := b.Deployments[0]
	out, err := compiler.Compile(d)
	if err != nil {
		t.Fatal(err)
	}
	l := &Level{Level: &out.Levels[0]}
	target := egress.Target{Addr: d.Workload.Listen[0].Address, Port: 9000} // loopback
	verdict := func(p *program.Program) abi.Verdict {
		s, err := egress.Decode(p.Section(egress.Name))
		if err != nil {
			t.Fatal(err)
		}
		return s.Decide(target).Verdict
	}
	if v := verdict(l.Program(d, program.PlanID{}, 1)); v != abi.Allow {
		t.Fatalf("the policy itself says %s of %s", v, target)
	}
	for _, section := range []string{"", "firewall", "authz"} {
		p := trialProgram(d, l, program.PlanID{}, section)
		if v := verdict(p); v != abi.Deny {
			t.Errorf("without %q: a trial may connect to %s: %s", section, target, v)
		}
		whole := l.Program(d, program.PlanID{}, 1)
		for _, s := range whole.Sections {
			if there := p.Section(s.Name) != nil; there == (s.Name == section) {
				t.Errorf("without %q: section %q: %v", section, s.Name, there)
			}
		}
		if !slices.Equal(p.Levels, []string{l.Name}) {
			t.Errorf("levels %q", p.Levels)
		}
	}
}
