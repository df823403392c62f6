package policy

import (
	"crypto/x509"
	"errors"
	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/api"
)

func (d *decoder) tls(s *api.SecurityPolicy) func(*yaml.Node) {
	return func(n *yaml.Node) {
		const p = "spec.tls."
		t := &api.TLS{Pos: d.pos(n), HTTP2: true}
		mode, version := "", transport.TLS13.String()
		d.object(n, "spec.tls",
			// Never a default: whether clients are verified is said.
			field{name: "mode", must: true, read: d.choice(&mode, p+"mode", []string{"NONE", "SIMPLE", "OPTIONAL_MUTUAL", "MUTUAL"})},
			field{name: "minVersion", read: d.choice(&version, p+"minVersion", []string{"1.3", "1.2"})},
			field{name: "http2", read: d.boolean(&t.HTTP2, p+"http2")},
			field{name: "certificate", read: d.secretName(&t.Certificate, p+"certificate", "./server.pem")},
			field{name: "key", read: d.secretName(&t.Key, p+"key", "./server.key")},
			field{name: "clientTrust", read: d.secretName(&t.ClientTrust, p+"clientTrust", "./clients.pem")})
		t.Mode, _ = transport.ParseMode(mode)
		if mode == transport.None.String() {
			for _, name := range []string{"minVersion", "http2"} {
				if at := value(n, name); at != n {
					d.fail(at, "write mode: SIMPLE, or remove "+name, "%s%s is used by nothing: mode is NONE", p, name)
				}
			}
		}
		if version == transport.TLS12.String() {
			t.MinVersion = transport.TLS12
		}
		s.TLS = t
	}
}

// secured reports whether connections of the policy have TLS.
func secured(s *api.SecurityPolicy) bool { return s.TLS != nil && s.TLS.Mode != transport.None }

// checkTLS checks what the fields say together.
func (p *parsing) checkTLS(s *securityPolicy) {
	t := s.TLS
	if t == nil || s.bad["spec.tls"] {
		return
	}
	if t.Mode == transport.None {
		if t.Certificate != "" || t.Key != "" || t.ClientTrust != "" {
			fix := "write mode: SIMPLE, or remove them"
			if t.ClientTrust != "" {
				fix = "write mode: MUTUAL or OPTIONAL_MUTUAL, or remove them"
			}
			s.failAt(t.Pos, fix, "spec.tls: mode is NONE, and certificate, key or clientTrust are written")
		}
		return
	}
	switch {
	case t.Certificate == "" && t.Key != "":
		s.failAt(t.Pos, "add certificate: secret/NAME", "spec.tls: there is a key without its certificate")
	case t.Certificate != "" && t.Key == "":
		s.failAt(t.Pos, "add key: secret/NAME", "spec.tls: there is a certificate without its key")
	case t.Mode.Clients() && t.ClientTrust == "":
		s.failAt(t.Pos, "add clientTrust: secret/NAME, with the certificates of the authorities that issue to clients", "spec.tls: mode is %s, and nothing says which clients are trusted", t.Mode)
	case !t.Mode.Clients() && t.ClientTrust != "":
		s.failAt(t.Pos, "write mode: MUTUAL or OPTIONAL_MUTUAL, or remove clientTrust", "spec.tls: mode is %s, which asks no client for a certificate", t.Mode)
	}
}

// tlsUses lists the secrets of spec.tls and how each is read.
func tlsUses(s *api.SecurityPolicy) []use {
	t := s.TLS
	if t == nil {
		return nil
	}
	var chain []*x509.Certificate
	return []use{
		{t.Certificate, t.Pos, "./server.pem", "", func(p *parsing, s *securityPolicy, x api.Secret) {
			if data, ok := p.readPEM(s, x); ok {
				var err error
				chain, err = transport.ParseChain(data)
				p.failPEM(x, err, "write the server's certificate in PEM, then those that lead to its authority")
			}
		}},
		{t.Key, t.Pos, "./server.key", "", func(p *parsing, s *securityPolicy, x api.Secret) {
			data, ok := p.readPEM(s, x)
			if !ok {
				return
			}
			key, err := transport.ParseKey(data)
			p.failPEM(x, err, "write one private key in PEM: ECDSA P-256, Ed25519, or RSA of 2048 bits or more")
			if err == nil && chain != nil && !transport.Matches(chain[0], key) {
				s.failAt(t.Pos, "name the certificate and the key that were made together", "the key in secret %q is not that of the certificate in secret %q", t.Key, t.Certificate)
			}
		}},
		{t.ClientTrust, t.Pos, "./clients.pem", api.DevelopmentClientCA, func(p *parsing, s *securityPolicy, x api.Secret) {
			if data, ok := p.readPEM(s, x); ok {
				_, err := transport.ParseTrust(data)
				p.failPEM(x, err, "write the certificates of the authorities that issue to clients, in PEM")
			}
		}},
	}
}

func (p *parsing) readPEM(s *securityPolicy, x api.Secret) ([]byte, bool) {
	return p.readSecret(s, x, transport.MaxPEM, "name a file that exists; `lorica up` makes a development certificate where spec.tls names none", "keep only what is needed in it")
}

// failPEM reports what is wrong in a file of PEM, with its line there.
func (p *parsing) failPEM(x api.Secret, err error, fix string) {
	if err == nil {
		return
	}
	line, message := 1, err.Error()
	var pe *transport.PEMError
	if errors.As(err, &pe) {
		line, message = pe.Line, pe.Message
	}
	p.failIn(x, line, fix, message)
}

// checkPairTLS checks TLS against where the workload listens.
func (p *parsing) checkPairTLS(w *workload, s *securityPolicy) {
	if !secured(s.SecurityPolicy) || s.TLS.Certificate != "" || s.bad["spec.tls"] {
		return
	}
	for _, l := range w.Listen {
		if !l.Address.IsLoopback() {
			w.failAt(l.Pos, "add certificate: secret/NAME and key: secret/NAME to spec.tls, or listen on 127.0.0.1",
				"the development certificate (spec.tls at %s names none) is for this machine only, and the workload listens on %s", s.TLS.Pos.Short(), l.Address)
		}
	}
}
