// Package argon2id verifies passwords by argon2id (RFC 9106), for HTTP Basic.
package argon2id

import (
	"crypto/subtle"

	"golang.org/x/crypto/argon2"

	"lorica.dev/lorica/abi/basic"
)

// A Scheme is basic.Scheme for argon2id. It holds nothing.
type Scheme struct{}

// New returns it.
func New() Scheme { return Scheme{} }

// StandIn is of the cost that `lorica passwd` writes.
func (Scheme) StandIn() string {
	return "$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
}

// Read implements basic.Scheme.
func (Scheme) Read(verifier string) (memory uint32, problem string) {
	v, problem := basic.ReadArgon2id(verifier)
	return v.Memory, problem
}

// Matches implements basic.Scheme.
func (Scheme) Matches(verifier, password string) bool {
	v, problem := basic.ReadArgon2id(verifier)
	if problem != "" {
		return false
	}
	got := argon2.IDKey([]byte(password), v.Salt, v.Time, v.Memory, v.Threads, uint32(len(v.Hash)))
	return subtle.ConstantTimeCompare(got, v.Hash) == 1
}
