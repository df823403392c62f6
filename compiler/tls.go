package compiler

import (
	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/api"
)

// secured reports whether connections have TLS.
func secured(p *api.SecurityPolicy) bool { return p.TLS != nil && p.TLS.Mode != transport.None }

// tlsSection names the development certificate where the policy names none.
func tlsSection(t *api.TLS) *transport.Section {
	s := &transport.Section{Rule: abi.Rule{ID: abi.RuleTLS, Line: t.Pos.Short()}, Mode: t.Mode, MinVersion: t.MinVersion, HTTP2: t.HTTP2,
		Certificate: t.Certificate, Key: t.Key, ClientTrust: t.ClientTrust}
	if s.Certificate == "" {
		s.Certificate, s.Key = api.DevelopmentCertificate, api.DevelopmentKey
	}
	return s
}
