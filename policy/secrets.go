package policy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/api"
)

// A use is a secret that a section names, and how the image will read it.
type use struct {
	name  string
	at    api.Pos // of the section
	file  string  // an example
	check func(*securityPolicy, api.Secret)
}

// uses lists the secrets that the policy names, in the order of its sections.
func (p *parsing) uses(s *securityPolicy) []use {
	list := p.tlsUses(s)
	if a := s.Authentication; a != nil && a.Basic != nil && a.Basic.Users != "" {
		list = append(list, use{a.Basic.Users, a.Basic.Pos, "./users.txt", func(s *securityPolicy, x api.Secret) {
			if x.File != "" && s.Dir != "" {
				p.checkUsers(s, x)
			}
		}})
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
	used := make(map[string]bool)
	for _, u := range p.uses(s) {
		used[u.name] = true
		x, ok := defined[u.name]
		if ok {
			u.check(s, x)
			continue
		}
		if s.bad["spec.secrets"] {
			continue
		}
		fix := "add secrets: {" + u.name + ": {file: " + u.file + "}}"
		if n, ok := nearest(u.name, known); ok {
			fix = fmt.Sprintf("did you mean %q?", "secret/"+n)
		}
		s.failAt(u.at, fix, "there is no secret %q", u.name)
	}
	for _, x := range s.Secrets {
		if x.Name != "" && !used[x.Name] && !s.bad["spec.authentication"] && !s.bad["spec.tls"] {
			s.failAt(x.Pos, "remove it", "secret %q is used by nothing", x.Name)
		}
	}
}

// checkUsers reads a user list the way the image will.
func (p *parsing) checkUsers(s *securityPolicy, x api.Secret) {
	full := resolve(s.Dir, x.File)
	info, err := os.Stat(full)
	switch {
	case err != nil:
		s.failAt(x.Pos, "`lorica passwd` writes one", "secret %q: %s", x.Name, fileProblem(x.File, err))
		return
	case !info.Mode().IsRegular():
		s.failAt(x.Pos, "name a file", "secret %q: %s is not a regular file", x.Name, x.File)
		return
	case info.Size() > authn.MaxUsersSize:
		s.failAt(x.Pos, "split it over several workloads", "secret %q: %s has %d bytes; the limit is %d", x.Name, x.File, info.Size(), authn.MaxUsersSize)
		return
	}
	data, err := os.ReadFile(full)
	if err != nil {
		s.failAt(x.Pos, "make it readable", "secret %q: %s", x.Name, fileProblem(x.File, err))
		return
	}
	if _, err := authn.ParseUsers(data); err != nil {
		at := api.Pos{File: filepath.Clean(x.File), Line: 1, Column: 1}
		var ue *authn.UsersError
		if errors.As(err, &ue) {
			at.Line = max(1, ue.Line)
			err = errors.New(ue.Message)
		}
		// No source text here: a line of this file is a secret.
		p.errs = append(p.errs, &Error{Pos: at, Message: fmt.Sprintf("secret %q: %s", x.Name, err), Fix: "`lorica passwd` writes lines of the form name:groups:verifier"})
	}
}
