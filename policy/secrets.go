package policy

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"lorica.dev/lorica/abi/basic"
	"lorica.dev/lorica/abi/jwt"
	"lorica.dev/lorica/api"
)

// A use is a place where a policy names a secret.
type use struct {
	secret      string
	at          api.Pos
	file        string // an example
	development string // what may stand in its place on one machine; empty: nothing
	check       func(*parsing, *securityPolicy, api.Secret)
}

// uses lists where a policy names secrets.
func uses(s *api.SecurityPolicy) []use {
	list := append(tlsUses(s), sinkUses(s)...)
	a := s.Authentication
	if a == nil {
		return list
	}
	for _, j := range a.JWT {
		list = append(list, use{j.Keys, j.Pos, "./jwks.json", api.DevelopmentJWKS, (*parsing).checkKeys})
	}
	if a.Basic != nil {
		list = append(list, use{a.Basic.Users, a.Basic.Pos, "./users.txt", "", (*parsing).checkUsers})
	}
	return list
}

func (p *parsing) checkSecrets(s *securityPolicy) {
	defined := make(map[string]api.Secret)
	var known []string
	for _, x := range s.Secrets {
		defined[x.Name] = x
		known = append(known, x.Name)
	}
	list := uses(s.SecurityPolicy)
	checked := make(map[string]bool)
	for _, u := range list {
		x, ok := defined[u.secret]
		switch {
		case u.secret == "":
		case !ok && s.bad["spec.secrets"]:
		case !ok:
			fix := u.secret + ": {file: " + u.file + "}"
			if len(known) > 0 {
				fix = "add " + fix + " to spec.secrets"
			} else {
				fix = "add secrets: {" + fix + "}"
			}
			if n, ok := nearest(u.secret, known); ok {
				fix = fmt.Sprintf("did you mean %q?", "secret/"+n)
			}
			s.failAt(u.at, fix, "there is no secret %q", u.secret)
		case x.Development != "" && x.Development != u.development:
			s.failAt(x.Pos, "write {file: "+u.file+"}", "secret %q: development: %s cannot stand for what line %d needs", x.Name, x.Development, u.at.Line)
		case x.File != "" && s.Dir != "" && !checked[x.Name+u.file]:
			checked[x.Name+u.file] = true // once, however many name it
			u.check(p, s, x)
		}
	}
	for _, x := range s.Secrets {
		used := slices.ContainsFunc(list, func(u use) bool { return u.secret == x.Name })
		if !used && x.Name != "" && !s.bad["spec.authentication"] && !s.bad["spec.tls"] && !s.bad["spec.audit"] {
			s.failAt(x.Pos, "remove it", "secret %q is used by nothing", x.Name)
		}
	}
}

// readSecret reads the file of a secret the way the image will get it.
func (p *parsing) readSecret(s *securityPolicy, x api.Secret, limit int64, missing, large string) ([]byte, bool) {
	full := resolve(s.Dir, x.File)
	info, err := os.Stat(full)
	switch {
	case err != nil:
		s.failAt(x.Pos, missing, "secret %q: %s", x.Name, fileProblem(x.File, err))
		return nil, false
	case !info.Mode().IsRegular():
		s.failAt(x.Pos, "name a file", "secret %q: %s is not a regular file", x.Name, x.File)
		return nil, false
	case info.Size() > limit:
		s.failAt(x.Pos, large, "secret %q: %s has %d bytes; the limit is %d", x.Name, x.File, info.Size(), limit)
		return nil, false
	}
	data, err := os.ReadFile(full)
	if err != nil {
		s.failAt(x.Pos, "make it readable", "secret %q: %s", x.Name, fileProblem(x.File, err))
	}
	return data, err == nil
}

// failIn reports what is wrong inside of a secret. It shows no source text: a
// line of this file is a secret.
func (p *parsing) failIn(x api.Secret, line int, fix, message string) {
	at := api.Pos{File: filepath.Clean(x.File), Line: max(1, line), Column: 1}
	p.errs = append(p.errs, &Error{Pos: at, Message: fmt.Sprintf("secret %q: %s", x.Name, message), Fix: fix})
}

// checkUsers reads a user list the way the image will.
func (p *parsing) checkUsers(s *securityPolicy, x api.Secret) {
	data, ok := p.readSecret(s, x, basic.MaxUsersSize, "`lorica passwd` writes one", "split it over several workloads")
	if !ok {
		return
	}
	users, err := basic.ParseUsers(data, basic.Problem)
	if err != nil {
		line, message := 1, err.Error()
		var ue *basic.UsersError
		if errors.As(err, &ue) {
			line, message = ue.Line, ue.Message
		}
		p.failIn(x, line, "`lorica passwd` writes lines of the form name:groups:verifier", message)
		return
	}
	weak := make(map[string]*Error) // by what is said, with its first line
	for _, u := range users {
		b := s.Authentication.Basic
		if scheme := basic.SchemeOf(u.Verifier); !slices.Contains(b.Schemes, scheme) {
			b.Schemes = append(b.Schemes, scheme)
			slices.Sort(b.Schemes)
		}
		if a, problem := basic.ReadArgon2id(u.Verifier); problem == "" {
			b.Memory = max(b.Memory, uint64(a.Memory)<<10)
		}
		if why := basic.Weak(u.Verifier); why != "" && (weak[why] == nil || weak[why].Pos.Line > u.Line) {
			weak[why] = &Error{Pos: api.Pos{File: filepath.Clean(x.File), Line: u.Line, Column: 1}, Message: fmt.Sprintf("secret %q: this verifier costs little to guess at: %s", x.Name, why),
				Fix: "`lorica passwd` writes one that costs more; its user has to give the password again"}
		}
	}
	for _, why := range slices.Sorted(maps.Keys(weak)) {
		p.warnings = append(p.warnings, weak[why])
	}
}

// checkKeys reads a key set the way the image will, for every issuer that it is
// of.
func (p *parsing) checkKeys(s *securityPolicy, x api.Secret) {
	data, ok := p.readSecret(s, x, jwt.MaxKeysSize, "fetch it from the issuer: its metadata names the address as jwks_uri", "keep the keys that sign today")
	if !ok {
		return
	}
	keys, err := jwt.ParseKeys(data)
	if err != nil {
		line, message := 1, err.Error()
		var ke *jwt.KeysError
		if errors.As(err, &ke) {
			line, message = ke.Line, ke.Message
		}
		p.failIn(x, line, `write a JWK set of public keys: {"keys": [...]} (RFC 7517)`, message)
		return
	}
	for _, j := range s.Authentication.JWT {
		allowed := Algorithms(&j)
		if j.Keys == x.Name && !slices.ContainsFunc(keys, func(k jwt.Key) bool { return allowed.Has(k.Algorithm) }) {
			s.failAt(j.Pos, "add an algorithm, or a key", "issuer %q: no key of %s is of an algorithm that it may sign with", j.Name, x.File)
		}
	}
}

// Algorithms returns what an issuer may sign with: everything where nothing is
// written.
func Algorithms(j *api.JWT) jwt.Algorithms {
	if len(j.Algorithms) == 0 {
		return jwt.AllAlgorithms
	}
	var set jwt.Algorithms
	for _, n := range j.Algorithms {
		if a, ok := jwt.ParseAlgorithm(n); ok {
			set |= jwt.Of(a)
		}
	}
	return set
}
