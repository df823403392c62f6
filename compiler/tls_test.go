package compiler

import (
	"slices"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/policy"
)

func securedBy(t *testing.T, x *api.TLS) *Output {
	t.Helper()
	d := *accounts(t)
	p := *d.Policy
	p.TLS = x
	d.Policy = &p
	return compile(t, &policy.Deployment{Workload: d.Workload, Policy: &p, Authorization: d.Authorization})
}

func TestTLSIsCompiled(t *testing.T) {
	at := api.Pos{File: "policy.yaml", Line: 12, Column: 3}
	rule := abi.Rule{ID: abi.RuleTLS, Line: "policy.yaml:12"}
	mutual := api.TLS{Pos: at, Mode: transport.Mutual, MinVersion: transport.TLS12, HTTP2: true, Certificate: "c", Key: "k", ClientTrust: "t"}
	simple := api.TLS{Pos: at, Mode: transport.Simple}
	for _, c := range []struct {
		in   api.TLS
		want transport.Section
	}{
		{mutual, transport.Section{Rule: rule, Mode: transport.Mutual, MinVersion: transport.TLS12, HTTP2: true, Certificate: "c", Key: "k", ClientTrust: "t"}},
		{simple, transport.Section{Rule: rule, Mode: transport.Simple, Certificate: api.DevelopmentCertificate, Key: api.DevelopmentKey}},
	} {
		for _, l := range securedBy(t, &c.in).Levels {
			got, err := transport.Decode(section(t, &l, transport.Name))
			if err != nil || got != c.want {
				t.Errorf("%s: %+v, %v", l.Name, got, err)
			}
			if i := slices.IndexFunc(l.Sections, named(transport.Name)); i < 0 || i+1 != slices.IndexFunc(l.Sections, named(route.Name)) {
				t.Errorf("%s: the section is not before the filter's", l.Name)
			}
			if !slices.ContainsFunc(l.Requirements, func(r catalog.Requirement) bool { return slices.Contains(r.Any, "tls/server") && r.Pos == at }) {
				t.Errorf("%s: nothing asks for it", l.Name)
			}
			if !slices.Contains(l.Enforced, Enforced{rule, abi.StageTLS, WhereHandshake, false}) {
				t.Errorf("%s: it is not shown as enforced", l.Name)
			}
		}
	}
}

func TestNoneIsNoModule(t *testing.T) {
	for _, x := range []*api.TLS{nil, {Mode: transport.None}} {
		for _, l := range securedBy(t, x).Levels {
			if slices.ContainsFunc(l.Sections, named(transport.Name)) || slices.ContainsFunc(l.Requirements, func(r catalog.Requirement) bool { return slices.Contains(r.Any, "tls/server") }) {
				t.Errorf("%s: TLS is asked for", l.Name)
			}
		}
	}
}

func named(name string) func(program.Section) bool {
	return func(s program.Section) bool { return s.Name == name }
}
