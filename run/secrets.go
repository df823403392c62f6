package run

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/run/keys"
)

// refreshInterval is how often development certificates are looked at; one is
// made again when half of its life is over.
const refreshInterval = time.Hour

// secrets reads what a policy names, and makes what it leaves to this machine.
// The values go nowhere but into the tender's pipe.
func (m *Machine) secrets(d *policy.Deployment) ([]control.Secret, error) {
	var list []control.Secret
	for _, s := range d.Policy.Secrets {
		value, err := m.secret(d.Policy.Dir, s)
		if err != nil {
			return nil, fmt.Errorf("%s: secret %s: %w", s.Pos, s.Name, err)
		}
		list = append(list, control.Secret{Name: s.Name, Value: value})
	}
	if developmentTLS(d.Policy) {
		chain, key, err := m.development.Server(time.Now())
		if err != nil {
			return nil, fmt.Errorf("the development certificate: %w", err)
		}
		list = append(list, control.Secret{Name: api.DevelopmentCertificate, Value: chain}, control.Secret{Name: api.DevelopmentKey, Value: key})
	}
	return list, nil
}

func (m *Machine) secret(dir string, s api.Secret) ([]byte, error) {
	switch s.Development {
	case api.DevelopmentJWKS:
		return m.development.JWKS()
	case api.DevelopmentClientCA:
		return m.development.ClientAuthority(time.Now())
	}
	path := s.File
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	return os.ReadFile(path)
}

// Secured reports whether a policy has connections secured.
func Secured(p *api.SecurityPolicy) bool { return p.TLS != nil && p.TLS.Mode != transport.None }

func developmentTLS(p *api.SecurityPolicy) bool { return Secured(p) && p.TLS.Certificate == "" }

// developed reports whether a policy uses anything that this machine makes.
func developed(p *api.SecurityPolicy) bool {
	for _, s := range p.Secrets {
		if s.Development != "" {
			return true
		}
	}
	return developmentTLS(p)
}

// developmentNotice says what a deployment is tried with; empty: nothing.
func (m *Machine) developmentNotice(d *policy.Deployment) string {
	if !developed(d.Policy) {
		return ""
	}
	text := "tried with keys of this machine, for loopback only: `lorica dev` issues tokens and client certificates"
	if !developmentTLS(d.Policy) {
		return text
	}
	path, err := m.development.Authority(time.Now())
	if err != nil {
		return text
	}
	return text + "; the server certificate is vouched for by " + path + ", which ends within a week and is installed nowhere"
}

// Development returns what policies are tried with on this machine.
func (m *Machine) Development() *keys.Development { return m.development }
