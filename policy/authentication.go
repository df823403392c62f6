package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/jwt"
	"lorica.dev/lorica/abi/mtls"
	"lorica.dev/lorica/api"
)

func (d *decoder) authentication(s *api.SecurityPolicy) func(*yaml.Node) {
	return func(n *yaml.Node) {
		const p = "spec.authentication."
		a := &api.Authentication{Pos: d.pos(n)}
		d.object(n, "spec.authentication",
			// Never a default: a service that lets strangers through says so.
			field{name: "require", must: true, read: d.boolean(&a.Require, p+"require")},
			field{name: "jwt", read: func(n *yaml.Node) {
				d.list(p+"jwt", func(n *yaml.Node) { a.JWT = append(a.JWT, d.jwt(n)) })(n)
				if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
					d.fail(n, "write the issuers, or remove the field", "%sjwt is empty", p)
				}
			}},
			field{name: "basic", read: func(n *yaml.Node) { a.Basic = d.basic(n, s.Metadata.Name) }},
			field{name: "mtls", read: func(n *yaml.Node) { a.MTLS = d.mtls(n) }})
		if d.written(n, false, "jwt", "basic", "mtls") == 0 {
			d.fail(n, "add jwt: [...], basic: {...} or mtls: {...}", "spec.authentication has no method")
		}
		if len(a.JWT) > 0 || a.Basic != nil || a.MTLS != nil {
			s.Authentication = a
		}
	}
}

// realmForm keeps a realm inside a quoted string of RFC 9110 without escapes.
var realmForm = regexp.MustCompile(`^[ !#-\[\]-~]{1,64}$`)

func (d *decoder) basic(n *yaml.Node, realm string) *api.Basic {
	const p = "spec.authentication.basic."
	b := &api.Basic{Pos: d.pos(n), Realm: realm, Attempts: 10, Window: time.Minute}
	attempts := uint64(b.Attempts)
	d.object(n, "spec.authentication.basic",
		field{name: "name", must: true, read: d.word(&b.Name, p+"name")},
		field{name: "realm", read: d.form(&b.Realm, p+"realm", realmForm, `printable ASCII without '"' and '\'`)},
		field{name: "users", must: true, read: d.secretName(&b.Users, p+"users", "./users.txt")},
		field{name: "require", never: true, read: func(n *yaml.Node) {
			d.fail(n, "write require: "+n.Value+" under spec.authentication, beside basic", "%srequire is about all methods together", p)
		}},
		field{name: "attempts", read: d.number(&attempts, p+"attempts", 1, 1000)},
		field{name: "window", read: d.duration(&b.Window, p+"window", time.Second, 24*time.Hour)})
	b.Attempts = uint32(attempts)
	return b
}

// defaultLeeway is what clocks may differ where the policy does not say.
const defaultLeeway = 30 * time.Second

func (d *decoder) jwt(n *yaml.Node) api.JWT {
	const p = "spec.authentication.jwt."
	j := api.JWT{Pos: d.pos(n), Principal: "sub", Leeway: defaultLeeway}
	d.object(n, "spec.authentication.jwt",
		field{name: "name", must: true, read: d.word(&j.Name, p+"name")},
		field{name: "issuer", must: true, read: d.claimText(&j.Issuer, p+"issuer")},
		field{name: "audiences", must: true, read: func(n *yaml.Node) {
			d.list(p+"audiences", func(n *yaml.Node) {
				var s string
				if d.claimText(&s, p+"audiences")(n); slices.Contains(j.Audiences, s) {
					d.fail(n, "name each audience once", "%saudiences names %q twice", p, clip(s))
				} else if s != "" {
					j.Audiences = append(j.Audiences, s)
				}
			})(n)
			// An empty list must not read as "tokens for anybody".
			if n.Kind == yaml.SequenceNode && (len(n.Content) == 0 || len(n.Content) > jwt.MaxAudiences) {
				d.fail(n, fmt.Sprintf("name 1 to %d audiences, one of which tokens must be for", jwt.MaxAudiences), "%saudiences has %d entries", p, len(n.Content))
			}
		}},
		field{name: "jwks", must: true, read: d.secretName(&j.Keys, p+"jwks", "./jwks.json")},
		field{name: "algorithms", read: d.algorithms(&j.Algorithms, p+"algorithms")},
		field{name: "principal", read: func(n *yaml.Node) {
			// A source or a pointer is a mistake that nothing else would show: no
			// token has a claim of that name, and each would be refused.
			s := n.Value
			for _, prefix := range []string{"jwt.", "jwt:/", "/"} {
				if name, ok := strings.CutPrefix(s, prefix); ok && n.Tag == "!!str" {
					fix := "write the name of a claim of the token itself, such as sub"
					if claimForm.MatchString(name) {
						fix = "write " + name
					}
					d.fail(n, fix, "%sprincipal %q is not the name of a claim", p, clip(s))
					return
				}
			}
			d.claimText(&j.Principal, p+"principal")(n)
		}},
		field{name: "leeway", read: func(n *yaml.Node) {
			before := d.count()
			if d.duration(&j.Leeway, p+"leeway", 0, jwt.MaxLeeway)(n); d.count() == before && j.Leeway%time.Second != 0 {
				d.fail(n, "write whole seconds", "%sleeway cannot be %s", p, shown(n))
			}
		}},
		field{name: "require", never: true, read: func(n *yaml.Node) {
			d.fail(n, "write require: "+n.Value+" under spec.authentication, beside jwt", "%srequire is about all methods together", p)
		}})
	return j
}

// claimText reads what is compared with a claim, or the name of one.
func (d *decoder) claimText(dst *string, path string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		var s string
		if d.str(&s, path)(n); n.Tag != "!!str" {
			return
		}
		if s == "" || len(s) > jwt.MaxText || !printable(s) {
			d.fail(n, fmt.Sprintf("use 1 to %d printable characters", jwt.MaxText), "%s cannot be %s", path, shown(n))
			return
		}
		*dst = s
	}
}

func (d *decoder) algorithms(dst *[]string, path string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		d.list(path, func(n *yaml.Node) {
			if n.Kind == yaml.ScalarNode && strings.HasPrefix(n.Value, "HS") {
				d.fail(n, "write "+strings.Join(jwt.AlgorithmNames(), " or "), "%s: %s is symmetric: whoever can verify a token could sign one", path, clip(n.Value))
				return
			}
			var s string
			d.choice(&s, path, jwt.AlgorithmNames(), "ES384", "ES512", "RS384", "RS512", "PS256", "PS384", "PS512")(n)
			if s != "" && slices.Contains(*dst, s) {
				d.fail(n, "name each algorithm once", "%s names %s twice", path, s)
			}
			if s != "" {
				*dst = append(*dst, s)
			}
		})(n)
		if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
			d.fail(n, "write "+strings.Join(jwt.AlgorithmNames(), ", ")+" or some of them, or remove the field for all", "%s is empty", path)
		}
	}
}

func (d *decoder) mtls(n *yaml.Node) *api.MTLS {
	const p = "spec.authentication.mtls."
	m := &api.MTLS{Pos: d.pos(n)}
	d.object(n, "spec.authentication.mtls",
		field{name: "name", must: true, read: d.word(&m.Name, p+"name")},
		field{name: "principal", must: true, read: d.choice(&m.Principal, p+"principal", mtls.PrincipalNames())},
		field{name: "trustDomain", read: func(n *yaml.Node) {
			if d.str(&m.TrustDomain, p+"trustDomain")(n); n.Tag == "!!str" && !mtls.ValidTrustDomain(m.TrustDomain) {
				d.fail(n, "write a trust domain such as acme.internal, in lower case", "%strustDomain cannot be %s", p, shown(n))
			}
		}})
	if at := value(n, "trustDomain"); at != n && m.Principal != "" && m.Principal != mtls.SPIFFE.String() {
		d.fail(at, "write principal: spiffe, or remove trustDomain", "%strustDomain: only SPIFFE IDs have one", p)
	}
	return m
}

// secretName reads a reference to a secret; file is an example of what it holds.
func (d *decoder) secretName(dst *string, path, file string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		var s string
		if d.str(&s, path)(n); n.Tag != "!!str" {
			return
		}
		name, ok := strings.CutPrefix(s, "secret/")
		if !ok || !wordForm.MatchString(name) {
			d.fail(n, "write secret/NAME, and NAME: {file: "+file+"} under spec.secrets", "%s %q does not name a secret", path, clip(s))
			return
		}
		*dst = name
	}
}

// person reads the name of a user or a group.
func (d *decoder) person(dst *string, path string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		var s string
		if d.str(&s, path)(n); n.Tag != "!!str" {
			return
		}
		if !authn.ValidPrincipal(s) {
			d.fail(n, "use printable ASCII without spaces, commas, quotes and backslashes, at most 255", "%s %q cannot be the name of a user or a group", path, clip(s))
			return
		}
		*dst = s
	}
}

// A Method is a way to authenticate that a policy names.
type Method struct {
	Name       string
	Capability string // of the module that has it
	Why        string
	Pos        api.Pos
}

// Rule is what decisions of the method cite.
func (m Method) Rule() abi.Rule { return abi.Rule{ID: m.Name, Line: m.Pos.Short()} }

// Methods returns the methods of a policy in the order in which they are asked;
// each issuer of tokens is one.
func Methods(a *api.Authentication) []Method {
	if a == nil {
		return nil
	}
	var list []Method
	for _, j := range a.JWT {
		list = append(list, Method{j.Name, "authn/jwt", "users are known by bearer tokens", j.Pos})
	}
	if b := a.Basic; b != nil {
		list = append(list, Method{b.Name, "authn/basic", "users are known by HTTP Basic", b.Pos})
	}
	if m := a.MTLS; m != nil {
		list = append(list, Method{m.Name, "authn/mtls", "users are known by client certificates", m.Pos})
	}
	return list
}

// AuthenticationDefault is the rule that decides requests without credentials.
func AuthenticationDefault(a *api.Authentication) abi.Rule {
	return abi.Rule{ID: abi.RuleAuthn, Line: a.Pos.Short()}
}

func (p *parsing) checkAuthentication(s *securityPolicy) {
	a := s.Authentication
	if a == nil {
		return
	}
	if n := len(a.JWT); n > jwt.MaxIssuers {
		s.failAt(a.JWT[jwt.MaxIssuers].Pos, "split the workload", "there are %d issuers of tokens; the limit is %d", n, jwt.MaxIssuers)
	}
	first := make(map[string]int)
	for _, j := range a.JWT {
		if line, dup := first[j.Issuer]; dup && j.Issuer != "" {
			s.failAt(j.Pos, "name each issuer once, with all its audiences", "the issuer %q is named already, at line %d", clip(j.Issuer), line)
		}
		first[j.Issuer] = j.Pos.Line
	}
	if a.MTLS != nil && !clientCertificates(s.SecurityPolicy) && !s.bad["spec.tls"] {
		s.failAt(a.MTLS.Pos, askClients(s.SecurityPolicy), "authentication.mtls needs client certificates, and tls does not ask for any")
	}
}

// askClients is what to write where client certificates are missing.
func askClients(s *api.SecurityPolicy) string {
	if s.TLS != nil {
		return "write mode: MUTUAL or OPTIONAL_MUTUAL in spec.tls, and clientTrust: secret/NAME"
	}
	return "add tls: {mode: MUTUAL, clientTrust: secret/NAME}, or OPTIONAL_MUTUAL"
}

// clientCertificates reports whether TLS asks clients for certificates.
func clientCertificates(s *api.SecurityPolicy) bool { return s.TLS != nil && s.TLS.Mode.Clients() }
