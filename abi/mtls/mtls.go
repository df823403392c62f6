// Package mtls is the section of a program that says which name in a client's
// certificate is the principal.
package mtls

import (
	"errors"
	"fmt"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/wire"
)

// Name of the section.
const Name = "authn-mtls"

// A Principal is a name that certificates hold. The zero Principal is none.
type Principal uint8

const (
	SPIFFE  Principal = 1 + iota // the URI subject alternative name spiffe://...
	DNS                          // the first DNS subject alternative name
	Subject                      // the common name of the subject
)

var principalNames = [...]string{SPIFFE: "spiffe", DNS: "dns", Subject: "subject"}

// PrincipalNames returns the names of all kinds.
func PrincipalNames() []string { return append([]string(nil), principalNames[1:]...) }

func (p Principal) String() string {
	if p > 0 && int(p) < len(principalNames) {
		return principalNames[p]
	}
	return "unknown"
}

// ParsePrincipal is the inverse of String.
func ParsePrincipal(s string) (Principal, bool) {
	for i, n := range principalNames[1:] {
		if n == s {
			return Principal(i + 1), true
		}
	}
	return 0, false
}

// Characters of SPIFFE IDs.
const (
	domainChars  = "abcdefghijklmnopqrstuvwxyz0123456789.-_"
	segmentChars = domainChars + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// ValidTrustDomain reports whether s is the name of a trust domain (SPIFFE-ID,
// section 2.1).
func ValidTrustDomain(s string) bool {
	return s != "" && len(s) <= 255 && strings.Trim(s, domainChars) == ""
}

// TrustDomain returns the trust domain of the SPIFFE ID of a workload (SPIFFE-ID,
// section 2; X509-SVID, section 2: a workload's has a path). ok is false for
// anything else.
func TrustDomain(id string) (domain string, ok bool) {
	rest, ok1 := strings.CutPrefix(id, "spiffe://")
	domain, path, ok2 := strings.Cut(rest, "/")
	if !ok1 || !ok2 || !ValidTrustDomain(domain) {
		return "", false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." || strings.Trim(segment, segmentChars) != "" {
			return "", false
		}
	}
	return domain, true
}

// A Section takes the principal from the client's certificate. The zero Section
// is refused.
type Section struct {
	Rule        abi.Rule // names its decisions
	Principal   Principal
	TrustDomain string // of SPIFFE IDs; empty: any that the trust bundle vouches for
}

// Encode returns the section's bytes.
func (s *Section) Encode() []byte {
	var w wire.Writer
	w.String(s.Rule.ID)
	w.String(s.Rule.Line)
	w.U8(uint8(s.Principal))
	w.String(s.TrustDomain)
	return w.Bytes()
}

// Decode reads a section. What it returns without an error is complete.
func Decode(b []byte) (Section, error) {
	if len(b) == 0 {
		return Section{}, errors.New("mtls: no section")
	}
	r := wire.NewReader(b)
	s := Section{Rule: abi.Rule{ID: r.String(), Line: r.String()}, Principal: Principal(r.U8()), TrustDomain: r.String()}
	if err := s.check(); r.Err() == nil && err != nil {
		r.Fail(err)
	}
	if err := r.Close(); err != nil {
		return Section{}, fmt.Errorf("mtls: %w", err)
	}
	return s, nil
}

func (s *Section) check() error {
	switch {
	case s.Principal < SPIFFE || s.Principal > Subject:
		return fmt.Errorf("principal %d", s.Principal)
	case s.TrustDomain != "" && (s.Principal != SPIFFE || !ValidTrustDomain(s.TrustDomain)):
		return fmt.Errorf("trust domain %.64q", s.TrustDomain)
	}
	return nil
}
