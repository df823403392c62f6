// Package pbkdf2 verifies passwords by PBKDF2 with HMAC (RFC 8018, NIST SP 800-132), for
// HTTP Basic: the one scheme of the three that FIPS 140 knows. Everything that it
// computes with is the standard library's.
package pbkdf2

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"

	"lorica.dev/lorica/abi/basic"
)

// A Scheme is basic.Scheme for PBKDF2. It holds nothing.
type Scheme struct{}

// New returns it.
func New() Scheme { return Scheme{} }

// StandIn is of the cost that `lorica passwd` writes.
func (Scheme) StandIn() string {
	return "$pbkdf2-sha256$i=600000$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
}

// Read implements basic.Scheme.
func (Scheme) Read(verifier string) (memory uint32, problem string) {
	_, problem = basic.ReadPBKDF2(verifier)
	return 8, problem
}

// Matches implements basic.Scheme.
func (Scheme) Matches(verifier, password string) bool {
	v, problem := basic.ReadPBKDF2(verifier)
	if problem != "" {
		return false
	}
	var got []byte
	var err error
	if v.SHA512 {
		got, err = pbkdf2.Key(sha512.New, password, v.Salt, int(v.Iterations), len(v.Hash))
	} else {
		got, err = pbkdf2.Key(sha256.New, password, v.Salt, int(v.Iterations), len(v.Hash))
	}
	return err == nil && subtle.ConstantTimeCompare(got, v.Hash) == 1
}
