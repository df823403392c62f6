package policy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/api"
)

func (p *parsing) checkSecrets(s *securityPolicy) {
	defined := make(map[string]bool)
	var known []string
	for _, x := range s.Secrets {
		defined[x.Name] = true
		known = append(known, x.Name)
	}
	used := ""
	if s.Authentication != nil {
		b := s.Authentication.Basic
		if used = b.Users; used != "" && !defined[used] && !s.bad["spec.secrets"] {
			fix := "add secrets: {" + used + ": {file: ./users.txt}}"
			if n, ok := nearest(used, known); ok {
				fix = fmt.Sprintf("did you mean %q?", "secret/"+n)
			}
			s.failAt(b.Pos, fix, "there is no secret %q", used)
		}
	}
	for _, x := range s.Secrets {
		switch {
		case x.Name != used && (x.Name == "" || s.bad["spec.authentication"]):
		case x.Name != used:
			s.failAt(x.Pos, "remove it", "secret %q is used by nothing", x.Name)
		case x.File != "" && s.Dir != "":
			p.checkUsers(s, x)
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
