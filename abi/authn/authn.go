// Package authn is the section of a program that ends authentication: what
// becomes of a request that no method took. The methods have sections of their
// own (packages jwt, basic, mtls of abi).
package authn

import (
	"errors"
	"fmt"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/wire"
)

// Name of the section.
const Name = abi.StageAuthn

// Anonymous is the principal of a request without credentials where the policy
// does not require any. Nobody else may have this name.
const Anonymous = "anonymous"

// MaxPrincipal bounds the name of a principal or a group, in bytes: every record
// of a decision repeats it.
const MaxPrincipal = 255

// NoCredentials is the reason for the denial of a request that brings none.
const NoCredentials = "no credentials"

// ValidPrincipal reports whether s can name a principal or a group: printable
// ASCII without what a header, a list or a quoted string could mistake.
func ValidPrincipal(s string) bool {
	if s == "" || len(s) > MaxPrincipal || s == Anonymous {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ', c > '~', c == ',', c == '"', c == '\\':
			return false
		}
	}
	return true
}

// Bounds of a section.
const (
	MaxChallenges = 8
	MaxChallenge  = 256
)

// A Section says what becomes of a request without credentials. The zero Section
// refuses it.
type Section struct {
	Rule       abi.Rule // names refusals, and what goes on as Anonymous
	Optional   bool     // no credentials: go on as Anonymous (true) or refuse
	Challenges []string // WWW-Authenticate, one for each method that clients can be asked for
}

// Encode returns the section's bytes.
func (s *Section) Encode() []byte {
	var w wire.Writer
	w.String(s.Rule.ID)
	w.String(s.Rule.Line)
	w.Bool(s.Optional)
	w.Strings(s.Challenges)
	return w.Bytes()
}

// Decode reads a section.
func Decode(b []byte) (Section, error) {
	if len(b) == 0 {
		return Section{}, errors.New("authn: no section")
	}
	r := wire.NewReader(b)
	s := Section{Rule: abi.Rule{ID: r.String(), Line: r.String()}, Optional: r.Bool(), Challenges: r.Strings()}
	if len(s.Challenges) > MaxChallenges {
		r.Fail(fmt.Errorf("%d challenges", len(s.Challenges)))
	}
	for _, c := range s.Challenges {
		if !isChallenge(c) {
			r.Fail(fmt.Errorf("challenge %.64q", c))
		}
	}
	if err := r.Close(); err != nil {
		return Section{}, fmt.Errorf("authn: %w", err)
	}
	return s, nil
}

// isChallenge keeps what becomes a header inside of it.
func isChallenge(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= MaxChallenge
}

// Challenge writes scheme and realm as a challenge (RFC 9110, section 11.3); more
// are parameters that are written already, or empty.
func Challenge(scheme, realm, more string) string {
	b := []byte(scheme + ` realm="`)
	for i := range len(realm) {
		if realm[i] == '"' || realm[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, realm[i])
	}
	b = append(b, '"')
	if more != "" {
		b = append(b, ", "+more...)
	}
	return string(b)
}

// ValidRealm reports whether Challenge can write the realm: printable ASCII.
func ValidRealm(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return len(s) <= MaxRealm
}

// MaxRealm bounds a realm.
const MaxRealm = 64
