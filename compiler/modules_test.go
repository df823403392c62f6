package compiler

import (
	"strings"
	"testing"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/policy"
)

// steered is a deployment whose policy names modules.
func steered(t *testing.T, m *api.Modules) *policy.Deployment {
	d := accounts(t)
	p := *d.Policy
	p.Modules = m
	return &policy.Deployment{Workload: d.Workload, Policy: &p, Authorization: d.Authorization}
}

func moduleNames(line int, names ...string) (list []api.ModuleName) {
	for i, n := range names {
		list = append(list, api.ModuleName{Pos: api.Pos{File: "policy.yaml", Line: line + i, Column: 5}, Name: n})
	}
	return list
}

func TestModulesOfThePolicyAreCarriedWithTheirLines(t *testing.T) {
	at := api.Pos{File: "policy.yaml", Line: 9, Column: 23}
	d := steered(t, &api.Modules{Require: moduleNames(3, "authn/basic/bcrypt", "net/socket"), Forbid: moduleNames(7, "app/proxy"), MaxAttackSurface: 900, MaxAttackSurfacePos: at})
	for _, l := range compile(t, d).Levels {
		n := len(l.Requirements)
		last := l.Requirements[n-2:]
		if n < 3 || last[0].Any.String() != "authn/basic/bcrypt" || last[0].Pos.Short() != "policy.yaml:3" || last[0].Why != "modules.require names it" || last[1].Pos.Short() != "policy.yaml:4" {
			t.Errorf("required: %+v", last)
		}
		if len(l.Prohibitions) != 1 || l.Prohibitions[0].Any.String() != "app/proxy" || l.Prohibitions[0].Pos.Short() != "policy.yaml:7" || l.Prohibitions[0].Why != "modules.forbid names it" {
			t.Errorf("forbidden: %+v", l.Prohibitions)
		}
		if l.MaxSurface != 900 || l.MaxSurfacePos != at {
			t.Errorf("bounded: %d at %v", l.MaxSurface, l.MaxSurfacePos)
		}
	}
	plain := compile(t, accounts(t)).Levels[0]
	if len(plain.Prohibitions) > 0 || plain.MaxSurface != 0 {
		t.Errorf("%+v", plain)
	}
}

func TestNamesThatTheCatalogDoesNotHave(t *testing.T) {
	c, err := catalog.New(&catalog.Module{ID: "pep/firewall", Provides: []string{"firewall"}}, &catalog.Module{ID: "app/proxy"})
	if err != nil {
		t.Fatal(err)
	}
	p := &api.SecurityPolicy{Modules: &api.Modules{Require: moduleNames(3, "firewall", "pep/firewal"), Forbid: moduleNames(7, "app/proxy", "something/else")}}
	errs := Known(c, p)
	if len(errs) != 2 || !strings.HasPrefix(errs[0].Error(), `policy.yaml:4:5: spec.modules: there is no module and no capability "pep/firewal" (did you mean "pep/firewall"?)`) ||
		!strings.HasPrefix(errs[1].Error(), `policy.yaml:8:5: spec.modules: there is no module and no capability "something/else" (known: app/proxy, firewall, pep/firewall`) {
		t.Errorf("%v", errs)
	}
	if errs := Known(c, &api.SecurityPolicy{}); errs != nil {
		t.Error(errs)
	}
}

func TestAModuleThatNothingConfigures(t *testing.T) {
	d := steered(t, &api.Modules{Pos: api.Pos{File: "policy.yaml", Line: 2, Column: 3}, Require: moduleNames(3, "authn/jwt")})
	l := &compile(t, d).Levels[0]
	jwt := &catalog.Module{ID: "pep/authn/jwt", Provides: []string{"authn/jwt"}, Section: "authn-jwt"}
	filter, core, tls := &catalog.Module{ID: "pep/filter", Section: "filter"}, &catalog.Module{ID: "unikernel"}, &catalog.Module{ID: "pep/tls", Section: "tls"}
	for want, set := range map[string][]*catalog.Module{
		"policy.yaml:3 spec.modules brings in pep/authn/jwt, and at level normal nothing in the policy says what it is to enforce": {core, filter, jwt, tls},
		"policy.yaml:2 spec.modules brings in pep/tls, and at level normal nothing in the policy says what it is to enforce":       {core, filter, tls},
	} {
		if errs := l.Configured(d.Policy, set); len(errs) != 1 || errs[0].Pos.Short()+" "+errs[0].Message != want {
			t.Errorf("%v, want %s", errs, want)
		}
	}
	if errs := l.Configured(d.Policy, []*catalog.Module{core, filter}); len(errs) > 0 {
		t.Error(errs)
	}
}
