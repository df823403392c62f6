// Package authn ends authentication. The methods that a policy asks for stand
// before it, each a module of its own (folders jwt, basic, mtls, in this order);
// each takes its kind of credential and leaves the rest. A credential of its kind
// that is wrong is denied there: no later method gets a second try.
//
// What arrives here either has a principal, or came without any credential that
// is known. A header of a scheme that nobody took is refused, whoever the client
// is otherwise: it was meant to say something, and the application must not read
// what was not judged.
package authn

import (
	"errors"
	"net/http"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/pep"
)

// A Module holds nothing between generations.
type Module struct{}

// New returns the module.
func New() *Module { return &Module{} }

// Prepare reads the section.
func (*Module) Prepare(in *pep.Input) (pep.GuardState, error) {
	s, err := authn.Decode(in.Section)
	if err != nil {
		return nil, err
	}
	return &state{s}, nil
}

type state struct{ section authn.Section }

// Judge lets a principal pass, or decides what a request without one is.
func (s *state) Judge(x *pep.Exchange) pep.Decision {
	h := x.Request.Header
	switch headers := h[header]; {
	case len(headers) > 1:
		delete(h, header)
		return s.deny(http.StatusBadRequest, errSeveral.Error())
	case len(headers) == 1:
		delete(h, header)
		return s.refuse(x, "credentials of a scheme that is not accepted")
	case x.Principal != "":
		return pep.Decision{Verdict: abi.Allow, Stage: abi.StageAuthn} // the method's rule stands
	case !s.section.Optional:
		return s.refuse(x, authn.NoCredentials)
	}
	x.Principal, x.Groups = authn.Anonymous, nil
	return pep.Decision{Verdict: abi.Allow, Stage: abi.StageAuthn, Rule: s.section.Rule}
}

// Steady implements pep.Steady.
func (s *state) Steady(*pep.Exchange) bool { return true }

func (s *state) refuse(x *pep.Exchange, reason string) pep.Decision {
	for _, c := range s.section.Challenges {
		x.Header.Add("WWW-Authenticate", c)
	}
	return s.deny(http.StatusUnauthorized, reason)
}

func (s *state) deny(status int, reason string) pep.Decision {
	return pep.Decision{Stage: abi.StageAuthn, Rule: s.section.Rule, Reason: reason, Status: status}
}

// header holds credentials (RFC 9110, section 11.6.2).
const header = "Authorization"

var errSeveral = errors.New("several Authorization headers")

// Take takes credentials of a scheme out of the request, so that the application
// never sees them, and returns what follows the scheme's name. Where the header
// is absent or of another scheme it stays as it is, and ok is false. The error
// is about requests that no method can be sure of.
func Take(x *pep.Exchange, scheme string) (rest string, ok bool, err error) {
	headers := x.Request.Header[header]
	if len(headers) == 0 {
		return "", false, nil
	}
	if len(headers) > 1 {
		delete(x.Request.Header, header)
		return "", false, errSeveral
	}
	name, rest, _ := strings.Cut(headers[0], " ")
	if !strings.EqualFold(name, scheme) {
		return "", false, nil
	}
	delete(x.Request.Header, header)
	return strings.TrimLeft(rest, " "), true, nil
}
