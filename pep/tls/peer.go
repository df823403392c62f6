package tls

import (
	"crypto/x509"
	"net/url"
	"strings"
	"time"

	"lorica.dev/lorica/pep"
)

// newPeer describes a verified client. Of several chains it takes the one that
// is valid longest. A certificate that claims a SPIFFE ID in a form that the
// standard does not allow is nobody's.
func newPeer(chains [][]*x509.Certificate) (*pep.Peer, error) {
	p := &pep.Peer{}
	for _, chain := range chains {
		if len(chain) == 0 {
			continue
		}
		if end := earliest(chain); p.Chain == nil || end.After(p.NotAfter) {
			p.Chain, p.NotAfter = chain, end
		}
	}
	if p.Chain == nil {
		return nil, errAmbiguous // never: a handshake without a chain fails
	}
	leaf := p.Chain[0]
	p.DNS, p.Subject = leaf.DNSNames, leaf.Subject.CommonName
	for _, u := range leaf.URIs {
		if !strings.EqualFold(u.Scheme, "spiffe") {
			continue
		}
		if len(leaf.URIs) != 1 || !isSPIFFE(u) {
			return nil, errAmbiguous
		}
		p.SPIFFE = u.String()
	}
	return p, nil
}

func earliest(chain []*x509.Certificate) time.Time {
	end := chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// Bounds of the SPIFFE ID specification, section 2.
const (
	maxSPIFFE      = 2048
	maxTrustDomain = 255
)

// isSPIFFE reports whether u is a SPIFFE ID with a path: one without names a
// trust domain, not a workload (X.509-SVID, section 4.1).
func isSPIFFE(u *url.URL) bool {
	if u.Scheme != "spiffe" || u.Opaque != "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.RawPath != "" ||
		u.Host == "" || len(u.Host) > maxTrustDomain || len(u.String()) > maxSPIFFE || len(u.Path) < 2 {
		return false
	}
	if strings.Trim(u.Host, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" {
		return false
	}
	for _, segment := range strings.Split(u.Path[1:], "/") {
		if segment == "" || segment == "." || segment == ".." || strings.ContainsFunc(segment, func(r rune) bool {
			return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '.' || r == '-' || r == '_')
		}) {
			return false
		}
	}
	return true
}
