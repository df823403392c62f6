package compiler

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/basic"
	"lorica.dev/lorica/abi/jwt"
	"lorica.dev/lorica/abi/mtls"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// methods is a deployment with every method and two issuers.
func methods(t testing.TB) *policy.Deployment {
	d := accounts(t)
	p, a := *d.Policy, *d.Authorization
	at := func(line int) api.Pos { return api.Pos{File: "policy.yaml", Line: line, Column: 1} }
	p.Authentication = &api.Authentication{Pos: at(5), Require: true,
		JWT: []api.JWT{
			{Pos: at(6), Name: "idp", Issuer: "https://idp", Audiences: []string{"payments"}, Keys: "idp-jwks", Algorithms: []string{"ES256"}, Principal: "sub", Leeway: 30 * time.Second},
			{Pos: at(7), Name: "partner", Issuer: "https://partner", Audiences: []string{"a", "b"}, Keys: "partner", Principal: "email"},
		},
		Basic: p.Authentication.Basic,
		MTLS:  &api.MTLS{Pos: at(9), Name: "mesh", Principal: "spiffe", TrustDomain: "acme.internal"},
	}
	a.GroupClaim = "/groups"
	return &policy.Deployment{Workload: d.Workload, Policy: &p, Authorization: &a}
}

func TestMethodsStandInTheirOrder(t *testing.T) {
	d := methods(t)
	l := &compile(t, d).Levels[0]
	var names []string
	for _, s := range l.Sections {
		names = append(names, s.Name)
	}
	at := slices.Index(names, jwt.Name)
	if at < 0 || !slices.Equal(names[at:at+4], []string{jwt.Name, basic.Name, mtls.Name, authn.Name}) {
		t.Errorf("sections %v", names)
	}
	var asked []string
	for _, r := range l.Requirements {
		asked = append(asked, r.Any...)
	}
	at = slices.Index(asked, "authn")
	if at < 0 || !slices.Equal(asked[at:at+4], []string{"authn", "authn/jwt", "authn/basic", "authn/mtls"}) {
		t.Errorf("requirements %v", asked)
	}
	var rules []string
	for _, e := range l.Enforced {
		if e.Stage == abi.StageAuthn {
			rules = append(rules, e.ID+" "+e.Line)
		}
	}
	basic := "staff-login " + d.Policy.Authentication.Basic.Pos.Short()
	if !slices.Equal(rules, []string{"idp policy.yaml:6", "partner policy.yaml:7", basic, "mesh policy.yaml:9", abi.RuleAuthn + " policy.yaml:5"}) {
		t.Errorf("rules %v", rules)
	}
}

// The schemes of the verifiers that users have are asked for, each; where nobody is in
// the list yet, any would do.
func TestSchemesOfUsersAreRequired(t *testing.T) {
	for _, schemes := range [][]string{nil, {"bcrypt"}, {"argon2id", "pbkdf2"}} {
		d := methods(t)
		b := *d.Policy.Authentication.Basic
		b.Schemes = schemes
		d.Policy.Authentication.Basic = &b
		var asked, want []string
		for _, r := range compile(t, d).Levels[0].Requirements {
			if s, ok := strings.CutPrefix(r.Any[0], "authn/basic/"); ok {
				asked = append(asked, s+" "+r.Pos.Short()+" "+r.Why)
			}
		}
		for _, s := range schemes {
			want = append(want, s+" "+b.Pos.Short()+" users have verifiers of "+s)
		}
		if schemes == nil {
			want = []string{"verifier " + b.Pos.Short() + " passwords are verified"}
		}
		if !slices.Equal(asked, want) {
			t.Errorf("%v: asked for %v", schemes, asked)
		}
	}
}

func TestSectionsOfMethods(t *testing.T) {
	l := &compile(t, methods(t)).Levels[0]
	j, err := jwt.Decode(section(t, l, jwt.Name))
	want := jwt.Section{Realm: "accounts", Groups: "/groups", Issuers: []jwt.Issuer{
		{Rule: abi.Rule{ID: "idp", Line: "policy.yaml:6"}, Issuer: "https://idp", Audiences: []string{"payments"}, Keys: "idp-jwks", Algorithms: jwt.Of(jwt.ES256), Principal: "sub", Leeway: 30 * time.Second},
		{Rule: abi.Rule{ID: "partner", Line: "policy.yaml:7"}, Issuer: "https://partner", Audiences: []string{"a", "b"}, Keys: "partner", Algorithms: jwt.AllAlgorithms, Principal: "email"},
	}}
	if err != nil || !reflect.DeepEqual(j, want) {
		t.Errorf("jwt: %v, %+v", err, j)
	}
	m, err := mtls.Decode(section(t, l, mtls.Name))
	if err != nil || m != (mtls.Section{Rule: abi.Rule{ID: "mesh", Line: "policy.yaml:9"}, Principal: mtls.SPIFFE, TrustDomain: "acme.internal"}) {
		t.Errorf("mtls: %v, %+v", err, m)
	}
	a, err := authn.Decode(section(t, l, authn.Name))
	if err != nil || a.Optional || !slices.Equal(a.Challenges, []string{`Bearer realm="accounts"`, `Basic realm="accounts", charset="UTF-8"`}) {
		t.Errorf("authn: %v, %+v", err, a)
	}
}

func TestNotRequiredIsOptional(t *testing.T) {
	d := methods(t)
	d.Policy.Authentication.Require = false
	a, err := authn.Decode(section(t, &compile(t, d).Levels[0], authn.Name))
	if err != nil || !a.Optional {
		t.Errorf("%v, %+v", err, a)
	}
}
