package verify

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/basic"
	"lorica.dev/lorica/abi/mtls"
	"lorica.dev/lorica/abi/strictjson"
	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/internal/try"
)

// A login is what a request shows of who makes it, and what the policy reads in it.
type login struct {
	user          string // empty: nobody in particular
	groups        []string
	authorization string // header
	claims        any    // of the token; nil: there is none
	certificate   *tls.Certificate
	spiffe        string // of the certificate
	subject       string
	how           string // in words
}

// people are those that requests can be made as.
type people struct {
	known   []*login   // of the users that were given, and nobody where that is somebody
	issuers []*api.JWT // whose tokens can be signed here, for anybody
	clients bool       // certificates can be issued here, for anybody
	wrong   []string   // users that cannot be used, with the reason
}

// gather finds out who there is.
func (v *verifier) gather() (p people) {
	d := v.Deployment.Policy
	a := d.Authentication
	if v.Identities != nil {
		p.clients = d.TLS != nil && d.TLS.Mode.Clients() && development(d, d.TLS.ClientTrust) == api.DevelopmentClientCA
	}
	if a != nil && v.Identities != nil {
		for i := range a.JWT {
			if development(d, a.JWT[i].Keys) == api.DevelopmentJWKS {
				p.issuers = append(p.issuers, &a.JWT[i])
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.Users)) {
		l, err := v.known(&p, name, v.Users[name])
		if err != nil {
			p.wrong = append(p.wrong, name+": "+err.Error())
			continue
		}
		p.known = append(p.known, l)
	}
	if a != nil && !a.Require {
		p.known = append(p.known, &login{how: "without credentials"})
	}
	return p
}

// development returns what a secret is made of on this machine; empty: it is a file.
func development(d *api.SecurityPolicy, secret string) string {
	for _, s := range d.Secrets {
		if s.Name == secret {
			return s.Development
		}
	}
	return ""
}

// known returns the login of a user that was given.
func (v *verifier) known(p *people, name string, u try.User) (*login, error) {
	a := v.Deployment.Policy.Authentication
	switch {
	case a == nil:
		return nil, errors.New("the policy has no authentication")
	case u.Bearer != "":
		return v.bearer(u.Bearer)
	case u.Token != nil:
		if len(p.issuers) == 0 {
			return nil, errors.New("the policy takes no development tokens: write bearer, with a token of its issuer")
		}
		token, err := v.Identities.Token(name, *u.Token)
		if err != nil {
			return nil, err
		}
		return v.bearer(token)
	case u.Certificate != nil:
		if !p.clients || a.MTLS == nil {
			return nil, errors.New("the policy takes no development certificates")
		}
		return v.certified(name, *u.Certificate)
	case a.Basic == nil:
		return nil, errors.New("the policy takes no passwords")
	}
	groups, err := v.groupsOf(name)
	if err != nil {
		return nil, err
	}
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(name, u.Password)
	return &login{user: name, groups: groups, authorization: r.Header.Get("Authorization"), how: "as " + name + " with a password"}, nil
}

// groupsOf reads those of a user in the list of the policy.
func (v *verifier) groupsOf(name string) ([]string, error) {
	p := v.Deployment.Policy
	for _, s := range p.Secrets {
		if s.Name != p.Authentication.Basic.Users || s.File == "" {
			continue
		}
		b, err := os.ReadFile(beside(p.Dir, s.File))
		if err != nil {
			return nil, err
		}
		users, err := basic.ParseUsers(b, basic.Problem)
		if err != nil {
			return nil, err
		}
		u := users[name]
		if u == nil {
			return nil, errors.New("is not among the users of the policy")
		}
		if !slices.ContainsFunc(p.Attributes, func(x api.Attribute) bool { return x.Name == "groups" && x.Source == "basic.groups" }) {
			return nil, nil
		}
		return u.Groups, nil
	}
	return nil, errors.New("the policy's list of users is not a file")
}

func beside(dir, file string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(dir, file)
}

// bearer reads what a token says. Whether it is genuine the image decides.
func (v *verifier) bearer(token string) (*login, error) {
	a := v.Deployment.Policy.Authentication
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errors.New("the token is not a JWT")
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, errors.New("the token is not a JWT")
	}
	l := &login{authorization: "Bearer " + token}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&l.claims); err != nil {
		return nil, fmt.Errorf("the claims of the token: %w", err)
	}
	claims, _ := l.claims.(map[string]any)
	principal := "sub"
	for _, j := range a.JWT {
		if j.Issuer == claims["iss"] {
			principal = j.Principal
		}
	}
	l.user, _ = claims[principal].(string)
	if !authn.ValidPrincipal(l.user) {
		return nil, fmt.Errorf("the claim %s of the token cannot name a user", principal)
	}
	if z := v.Deployment.Authorization; z != nil && z.GroupClaim != "" {
		x, _ := pointed(l.claims, z.GroupClaim)
		list, _ := x.([]any)
		for _, g := range list {
			if s, ok := g.(string); ok {
				l.groups = append(l.groups, s)
			}
		}
	}
	l.how = "as " + l.user + inGroups(l.groups) + " with a token"
	return l, nil
}

func inGroups(groups []string) string {
	if len(groups) == 0 {
		return ""
	}
	return " of " + strings.Join(groups, ", ")
}

// certified issues a client certificate, and says whom the policy takes its holder for.
func (v *verifier) certified(name string, c try.Certificate) (*login, error) {
	cert, err := v.Identities.Certificate(name, c)
	if err != nil {
		return nil, err
	}
	l := &login{certificate: &cert, spiffe: c.SPIFFE, subject: name, how: "as " + name + " with a certificate"}
	if m := v.Deployment.Policy.Authentication.MTLS; m != nil {
		switch m.Principal {
		case mtls.SPIFFE.String():
			l.user = c.SPIFFE
		case mtls.Subject.String():
			l.user = name
		}
		if domain, _ := mtls.TrustDomain(l.user); m.TrustDomain != "" && domain != m.TrustDomain || !authn.ValidPrincipal(l.user) {
			return nil, fmt.Errorf("a development certificate has no %s that the policy takes", m.Principal)
		}
	}
	return l, nil
}

// issue returns a login that is made here for a user, if there can be one: with a token
// that has the claims, or with a certificate.
func (v *verifier) issue(user string, groups []string, claims map[string]any, spiffe, subject string) (list []*login) {
	if user == "" || v.Identities == nil {
		return nil
	}
	for _, j := range v.people.issuers {
		token, err := v.Identities.Token(user, try.Token{Groups: groups, Claims: claims, Issuer: j.Name})
		if err != nil {
			continue
		}
		if l, err := v.bearer(token); err == nil {
			list = append(list, l)
		}
	}
	a := v.Deployment.Policy.Authentication
	if v.people.clients && a.MTLS != nil && len(groups) == 0 {
		name, id := user, spiffe
		if a.MTLS.Principal == mtls.SPIFFE.String() {
			id, name = user, subject
		}
		if l, err := v.certified(name, try.Certificate{SPIFFE: id}); err == nil && l.user == user {
			list = append(list, l)
		}
	}
	return list
}

// roots returns what the server's certificate is held to; nil: no TLS.
func (v *verifier) roots() (*tls.Config, error) {
	p := v.Deployment.Policy
	if p.TLS == nil || p.TLS.Mode == transport.None {
		return nil, nil
	}
	if p.TLS.Certificate == "" {
		if v.Identities == nil {
			return nil, errors.New("the service has a development certificate, and nobody knows its authority")
		}
		return &tls.Config{RootCAs: v.Identities.Roots(), ServerName: "localhost"}, nil
	}
	for _, s := range p.Secrets {
		if s.Name != p.TLS.Certificate {
			continue
		}
		b, err := os.ReadFile(beside(p.Dir, s.File))
		if err != nil {
			return nil, err
		}
		chain, err := transport.ParseChain(b)
		if err != nil {
			return nil, err
		}
		// Whatever names it has: it is the very certificate that the policy names.
		return &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || !s.PeerCertificates[0].Equal(chain[0]) {
				return errors.New("the server has another certificate than the policy names")
			}
			return nil
		}}, nil
	}
	return nil, errors.New("the policy's certificate is not a file")
}

// pointed finds a value in a JSON document.
func pointed(doc any, pointer string) (any, bool) {
	p, err := strictjson.ParsePointer(pointer)
	if err != nil {
		return nil, false
	}
	for _, name := range p {
		m, ok := doc.(map[string]any)
		if !ok {
			return nil, false
		}
		if doc, ok = m[name]; !ok {
			return nil, false
		}
	}
	return doc, true
}

// put stores a value where a pointer leads in a document, which it returns. Another value
// that is there already is an error.
func put(doc any, pointer string, value any) (any, error) {
	p, err := strictjson.ParsePointer(pointer)
	if err != nil {
		return nil, err
	}
	return putAt(doc, p, value)
}

func putAt(doc any, path []string, value any) (any, error) {
	if len(path) == 0 {
		if doc != nil {
			return nil, errors.New("two attributes are read in one place")
		}
		return value, nil
	}
	m, ok := doc.(map[string]any)
	if doc != nil && !ok {
		return nil, errors.New("an attribute is read within another")
	}
	if m == nil {
		m = map[string]any{}
	}
	x, err := putAt(m[path[0]], path[1:], value)
	if err != nil {
		return nil, err
	}
	m[path[0]] = x
	return m, nil
}
