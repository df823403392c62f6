// Package mtls takes the principal from the client's certificate, which the TLS
// layer has verified against the trust bundle. A certificate that does not hold
// the name that the policy asks for is refused: it is a credential, and wrong.
package mtls

import (
	"errors"
	"net/http"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/mtls"
	"lorica.dev/lorica/pep"
)

// A Module holds nothing between generations.
type Module struct{}

// New returns the module.
func New() *Module { return &Module{} }

// Prepare reads the section.
func (*Module) Prepare(in *pep.Input) (pep.GuardState, error) {
	s, err := mtls.Decode(in.Section)
	if err != nil {
		return nil, err
	}
	return &state{s}, nil
}

type state struct{ section mtls.Section }

// Judge sets Principal where no method before it has, and the client showed a
// certificate.
func (s *state) Judge(x *pep.Exchange) pep.Decision {
	if x.Principal != "" || x.Peer == nil {
		return pep.Decision{Verdict: abi.Allow, Stage: abi.StageAuthn}
	}
	name, err := s.name(x.Peer)
	switch {
	case err != nil:
		return s.deny(err)
	case !x.Now.Before(x.Peer.NotAfter): // a connection can outlive its certificate
		return s.deny(errors.New("the client's certificate has expired"))
	}
	x.Principal, x.Expires = name, x.Peer.NotAfter
	return pep.Decision{Verdict: abi.Allow, Stage: abi.StageAuthn, Rule: s.section.Rule}
}

// Steady implements pep.Steady: a certificate says the same until it ends.
func (s *state) Steady(*pep.Exchange) bool { return true }

func (s *state) name(p *pep.Peer) (string, error) {
	name := ""
	switch s.section.Principal {
	case mtls.SPIFFE:
		domain, ok := mtls.TrustDomain(p.SPIFFE)
		if !ok {
			return "", errors.New("the client's certificate has no SPIFFE ID of a workload")
		}
		if s.section.TrustDomain != "" && domain != s.section.TrustDomain {
			return "", errors.New("the client's SPIFFE ID is of another trust domain")
		}
		name = p.SPIFFE
	case mtls.DNS:
		if len(p.DNS) > 0 && !strings.Contains(p.DNS[0], "*") {
			name = p.DNS[0]
		}
	case mtls.Subject:
		name = p.Subject
	}
	if !authn.ValidPrincipal(name) {
		return "", errors.New("the client's certificate has no " + s.section.Principal.String() + " that can name a principal")
	}
	return name, nil
}

// deny answers with 403: there is no challenge for a certificate.
func (s *state) deny(err error) pep.Decision {
	return pep.Decision{Stage: abi.StageAuthn, Rule: s.section.Rule, Reason: err.Error(), Status: http.StatusForbidden}
}
