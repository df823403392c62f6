package compiler

import (
	"slices"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/basic"
	"lorica.dev/lorica/abi/jwt"
	"lorica.dev/lorica/abi/mtls"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/policy"
)

// authenticate adds the sections of authentication, in the order in which the
// methods are asked.
func (l *Level) authenticate(d *policy.Deployment) {
	a := d.Policy.Authentication
	if a == nil {
		return
	}
	end := &authn.Section{Rule: policy.AuthenticationDefault(a), Optional: !a.Require}
	if len(a.JWT) > 0 {
		s := jwtSection(d)
		end.Challenges = append(end.Challenges, s.Challenge())
		l.add(jwt.Name, s.Encode())
	}
	if b := a.Basic; b != nil {
		s := &basic.Section{Rule: abi.Rule{ID: b.Name, Line: b.Pos.Short()}, Realm: b.Realm, Secret: b.Users, Attempts: b.Attempts, Window: b.Window}
		end.Challenges = append(end.Challenges, s.Challenge())
		l.add(basic.Name, s.Encode())
	}
	if m := a.MTLS; m != nil {
		s := &mtls.Section{Rule: abi.Rule{ID: m.Name, Line: m.Pos.Short()}, TrustDomain: m.TrustDomain}
		s.Principal, _ = mtls.ParsePrincipal(m.Principal)
		l.add(mtls.Name, s.Encode())
	}
	l.add(authn.Name, end.Encode())
}

func jwtSection(d *policy.Deployment) *jwt.Section {
	s := &jwt.Section{Realm: d.Policy.Metadata.Name}
	if d.Authorization != nil {
		s.Groups = d.Authorization.GroupClaim
	}
	for _, j := range d.Policy.Authentication.JWT {
		s.Issuers = append(s.Issuers, jwt.Issuer{Rule: abi.Rule{ID: j.Name, Line: j.Pos.Short()}, Issuer: j.Issuer, Audiences: j.Audiences,
			Keys: j.Keys, Algorithms: policy.Algorithms(&j), Principal: j.Principal, Leeway: j.Leeway})
	}
	return s
}

// authentication returns the capabilities that the methods ask for, each once.
func authentication(a *api.Authentication) []catalog.Requirement {
	if a == nil {
		return nil
	}
	list := []catalog.Requirement{{Any: catalog.Clause{"authn"}, Why: "requests without credentials are decided", Pos: a.Pos}}
	for _, m := range policy.Methods(a) {
		if !slices.ContainsFunc(list, func(r catalog.Requirement) bool { return slices.Contains(r.Any, m.Capability) }) {
			list = append(list, catalog.Requirement{Any: catalog.Clause{m.Capability}, Why: m.Why, Pos: m.Pos})
		}
	}
	if b := a.Basic; b != nil {
		if len(b.Schemes) == 0 { // the list has nobody yet: any would do
			list = append(list, catalog.Requirement{Any: catalog.Clause{"authn/basic/verifier"}, Why: "passwords are verified", Pos: b.Pos})
		}
		for _, s := range b.Schemes {
			list = append(list, catalog.Requirement{Any: catalog.Clause{"authn/basic/" + s}, Why: "users have verifiers of " + s, Pos: b.Pos})
		}
	}
	return list
}
