// Package bcrypt verifies passwords by bcrypt (Provos and Mazières, USENIX 1999), for
// HTTP Basic: user lists of before, which nobody can write anew without the passwords.
package bcrypt

import (
	"strings"

	"golang.org/x/crypto/bcrypt"

	"lorica.dev/lorica/abi/basic"
)

// A Scheme is basic.Scheme for bcrypt. It holds nothing.
type Scheme struct{}

// New returns it.
func New() Scheme { return Scheme{} }

// StandIn is of the cost that `lorica passwd` writes.
func (Scheme) StandIn() string { return "$2b$12$" + strings.Repeat(".", 22+31) }

// Read implements basic.Scheme. The memory is Blowfish's tables, which have 4 KiB.
func (Scheme) Read(verifier string) (memory uint32, problem string) {
	_, problem = basic.ReadBcrypt(verifier)
	return 8, problem
}

// Matches implements basic.Scheme. bcrypt sees 72 bytes of a password: one that is
// longer costs the same and is wrong, or whoever knows its beginning could write
// anything behind.
func (Scheme) Matches(verifier, password string) bool {
	if _, problem := basic.ReadBcrypt(verifier); problem != "" {
		return false
	}
	ok := bcrypt.CompareHashAndPassword([]byte(verifier), []byte(password)) == nil
	return ok && len(password) <= basic.MaxBcryptPassword
}
