// Package tls secures connections: it makes the server's side of the handshake
// and verifies client certificates against the trust bundle of the program, and
// against nothing else. It judges who is on a connection, not what they may do.
//
// Certificates are read when a program is prepared; a program whose certificate,
// key or trust bundle is missing, malformed or out of date is refused, and the
// one before it stays. There is no list of revoked certificates: a client is
// revoked by a bundle without its authority, or by a short life. Both are asked
// again of open connections (Remain). For the same reason nobody resumes a session:
// every handshake is a whole one, under the program in force.
package tls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/pep"
)

// A Module has no state of its own.
type Module struct{}

// New returns the module.
func New() *Module { return &Module{} }

// Protocols that are negotiated (RFC 7301).
const (
	protocolHTTP1 = "http/1.1"
	protocolHTTP2 = "h2"
)

// suites of TLS 1.2: forward secrecy and authenticated encryption. Those of
// TLS 1.3 all have both.
var suites = [...]uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// Prepare reads the certificates that the section names.
func (*Module) Prepare(in *pep.Input) (pep.TransportState, error) {
	s, err := transport.Decode(in.Section)
	if err != nil {
		return nil, err
	}
	chain, err := secret(in, s.Certificate)
	if err != nil {
		return nil, err
	}
	key, err := secret(in, s.Key)
	if err != nil {
		return nil, err
	}
	pair, err := transport.KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("tls: secrets %q and %q: %w", s.Certificate, s.Key, err)
	}
	switch now := time.Now(); {
	case now.After(pair.Leaf.NotAfter):
		return nil, fmt.Errorf("tls: secret %q: the certificate expired at %s", s.Certificate, pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(pair.Leaf.NotBefore):
		return nil, fmt.Errorf("tls: secret %q: the certificate is not valid before %s", s.Certificate, pair.Leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	st := &state{rule: s.Rule, mode: s.Mode, config: &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   tls.VersionTLS13,
		CipherSuites: suites[:],
		NextProtos:   []string{protocolHTTP1},
		ClientCAs:    x509.NewCertPool(), // never nil, which would mean the system's

		SessionTicketsDisabled: true,
	}}
	if s.HTTP2 {
		st.config.NextProtos = []string{protocolHTTP2, protocolHTTP1}
	}
	if s.MinVersion == transport.TLS12 {
		st.config.MinVersion = tls.VersionTLS12
	}
	if s.Mode.Clients() {
		if err := st.verifyClients(in, s.ClientTrust); err != nil {
			return nil, err
		}
	}
	return st, nil
}

func secret(in *pep.Input, name string) ([]byte, error) {
	b, ok := in.Secrets[name]
	if !ok {
		return nil, fmt.Errorf("tls: there is no secret %q", name)
	}
	return b, nil
}

type state struct {
	rule   abi.Rule
	mode   transport.Mode
	config *tls.Config
}

func (s *state) verifyClients(in *pep.Input, name string) error {
	b, err := secret(in, name)
	if err != nil {
		return err
	}
	trust, err := transport.ParseTrust(b)
	if err != nil {
		return fmt.Errorf("tls: secret %q: %w", name, err)
	}
	for _, c := range trust {
		s.config.ClientCAs.AddCert(c)
	}
	s.config.ClientAuth = tls.VerifyClientCertIfGiven
	if s.mode == transport.Mutual {
		s.config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	s.config.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return nil
		}
		_, err := newPeer(cs.VerifiedChains)
		return err
	}
	return nil
}

// Secure makes the handshake. Nothing that the client sent is in a reason.
func (s *state) Secure(ctx context.Context, c net.Conn) (pep.Secured, pep.Decision) {
	conn := tls.Server(c, s.config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return pep.Secured{}, s.deny(reason(ctx, err))
	}
	cs := conn.ConnectionState()
	out := pep.Secured{Conn: conn, State: &cs, HTTP2: cs.NegotiatedProtocol == protocolHTTP2}
	if len(cs.PeerCertificates) > 0 {
		var err error
		if out.Peer, err = newPeer(cs.VerifiedChains); err != nil {
			return pep.Secured{}, s.deny(reason(ctx, err))
		}
	}
	if s.mode == transport.Mutual && out.Peer == nil {
		return pep.Secured{}, s.deny(reasonNoCertificate)
	}
	return out, pep.Decision{Verdict: abi.Allow, Stage: abi.StageTLS, Rule: s.rule}
}

// Remain verifies the chain of a client again. Whoever showed none may stay where
// none is demanded.
func (s *state) Remain(p *pep.Peer, at time.Time) pep.Decision {
	allow := pep.Decision{Verdict: abi.Allow, Stage: abi.StageTLS, Rule: s.rule}
	switch {
	case p == nil && s.mode == transport.Mutual:
		return s.deny(reasonNoCertificate)
	case p == nil:
		return allow
	case !s.mode.Clients():
		return s.deny("client certificates are not asked for any more")
	case len(p.Chain) == 0:
		return s.deny(reasonUnverified)
	}
	if err := verify(p.Chain, s.config.ClientCAs, at); err != nil {
		return s.deny(verification(err))
	}
	return allow
}

func verify(chain []*x509.Certificate, roots *x509.CertPool, at time.Time) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

func (s *state) deny(reason string) pep.Decision {
	return pep.Decision{Stage: abi.StageTLS, Rule: abi.Rule{ID: abi.RuleTLS, Line: s.rule.Line}, Reason: reason}
}

var errAmbiguous = errors.New("tls: the client certificate has no unambiguous SPIFFE ID")
