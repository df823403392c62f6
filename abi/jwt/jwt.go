// Package jwt is the section of a program for bearer tokens (RFC 7519), and the
// form of the key sets (RFC 7517) that they are verified with. The keys travel
// beside the program as secrets and rotate without it.
package jwt

import (
	"errors"
	"fmt"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/strictjson"
	"lorica.dev/lorica/abi/wire"
)

// Name of the section.
const Name = "authn-jwt"

// An Algorithm signs tokens. It is a property of a key; a token only repeats it.
// The zero Algorithm is none.
type Algorithm uint8

const (
	ES256 Algorithm = 1 + iota // ECDSA on P-256 with SHA-256
	EdDSA                      // Ed25519
	RS256                      // RSASSA-PKCS1-v1_5 with SHA-256
)

var algorithmNames = [...]string{ES256: "ES256", EdDSA: "EdDSA", RS256: "RS256"}

// AlgorithmNames returns the names of all algorithms.
func AlgorithmNames() []string { return append([]string(nil), algorithmNames[1:]...) }

func (a Algorithm) String() string {
	if a > 0 && int(a) < len(algorithmNames) {
		return algorithmNames[a]
	}
	return "none"
}

// ParseAlgorithm is the inverse of String, for what signs.
func ParseAlgorithm(s string) (Algorithm, bool) {
	for i, n := range algorithmNames[1:] {
		if n == s {
			return Algorithm(i + 1), true
		}
	}
	return 0, false
}

// Algorithms is a set: bit n-1 for algorithm n. The empty set allows nothing.
type Algorithms uint8

// AllAlgorithms holds every algorithm.
const AllAlgorithms Algorithms = 1<<(len(algorithmNames)-1) - 1

// Of returns the set that holds a alone.
func Of(a Algorithm) Algorithms {
	if a == 0 || int(a) >= len(algorithmNames) {
		return 0
	}
	return 1 << (a - 1)
}

// Has reports whether a is in the set.
func (s Algorithms) Has(a Algorithm) bool { return s&Of(a) != 0 }

// Bounds of a section.
const (
	MaxIssuers   = 16
	MaxAudiences = 16  // of one issuer
	MaxText      = 512 // bytes of an issuer, an audience, a claim's name or a pointer
	MaxLeeway    = 5 * time.Minute
)

// A Section says whose tokens are taken. The zero Section takes none.
type Section struct {
	Realm   string
	Groups  string // JSON pointer to the claim that holds the groups; empty: none
	Issuers []Issuer
}

// An Issuer is who signs tokens, and what they must say.
type Issuer struct {
	Rule       abi.Rule // names decisions about its tokens
	Issuer     string   // claim iss, exactly
	Audiences  []string // claim aud must hold one of them
	Keys       string   // name of the secret that holds the key set
	Algorithms Algorithms
	Principal  string // name of the claim that names the principal
	Leeway     time.Duration
}

// Challenge is what asks a client for a token (RFC 6750, section 3).
func (s *Section) Challenge() string { return authn.Challenge("Bearer", s.Realm, "") }

// Encode returns the section's bytes.
func (s *Section) Encode() []byte {
	var w wire.Writer
	w.String(s.Realm)
	w.String(s.Groups)
	w.U32(uint32(len(s.Issuers)))
	for _, i := range s.Issuers {
		w.String(i.Rule.ID)
		w.String(i.Rule.Line)
		w.String(i.Issuer)
		w.Strings(i.Audiences)
		w.String(i.Keys)
		w.U8(uint8(i.Algorithms))
		w.String(i.Principal)
		w.I64(int64(i.Leeway))
	}
	return w.Bytes()
}

// Decode reads a section. What it returns without an error is complete.
func Decode(b []byte) (Section, error) {
	if len(b) == 0 {
		return Section{}, errors.New("jwt: no section")
	}
	r := wire.NewReader(b)
	s := Section{Realm: r.String(), Groups: r.String()}
	for range r.Count(33) {
		s.Issuers = append(s.Issuers, Issuer{
			Rule: abi.Rule{ID: r.String(), Line: r.String()}, Issuer: r.String(), Audiences: r.Strings(), Keys: r.String(),
			Algorithms: Algorithms(r.U8()), Principal: r.String(), Leeway: time.Duration(r.I64()),
		})
	}
	if err := s.check(); r.Err() == nil && err != nil {
		r.Fail(err)
	}
	if err := r.Close(); err != nil {
		return Section{}, fmt.Errorf("jwt: %w", err)
	}
	return s, nil
}

func (s *Section) check() error {
	if !authn.ValidRealm(s.Realm) {
		return errors.New("a realm that no header can hold")
	}
	if _, err := strictjson.ParsePointer(s.Groups); err != nil || len(s.Groups) > MaxText {
		return errors.New("the claim of the groups is no pointer")
	}
	if len(s.Issuers) == 0 || len(s.Issuers) > MaxIssuers {
		return fmt.Errorf("%d issuers", len(s.Issuers))
	}
	seen := make(map[string]bool)
	for i := range s.Issuers {
		x := &s.Issuers[i]
		if seen[x.Issuer] {
			return fmt.Errorf("issuer %.64q twice", x.Issuer)
		}
		seen[x.Issuer] = true
		if err := x.check(); err != nil {
			return fmt.Errorf("issuer %d: %w", i, err)
		}
	}
	return nil
}

func (i *Issuer) check() error {
	text := func(s string) bool { return s != "" && len(s) <= MaxText }
	switch {
	case !text(i.Issuer):
		return errors.New("it has no name")
	case len(i.Audiences) == 0 || len(i.Audiences) > MaxAudiences:
		return fmt.Errorf("%d audiences", len(i.Audiences))
	case !text(i.Keys) || !text(i.Principal):
		return errors.New("no keys, or no claim for the principal")
	case i.Algorithms == 0 || i.Algorithms&^AllAlgorithms != 0:
		return fmt.Errorf("algorithms %#x", i.Algorithms)
	case i.Leeway < 0 || i.Leeway > MaxLeeway || i.Leeway%time.Second != 0:
		return fmt.Errorf("leeway %v", i.Leeway)
	}
	for _, a := range i.Audiences {
		if !text(a) {
			return errors.New("an audience without a name")
		}
	}
	return nil
}
