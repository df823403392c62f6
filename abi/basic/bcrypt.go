package basic

import (
	"fmt"
	"strings"
)

// Bounds of bcrypt. Its cost is a power of two: one more takes twice the time, and
// MaxBcryptCost takes about a second of one core.
const (
	MinBcryptCost = 4
	MaxBcryptCost = 14
)

// MaxBcryptPassword is how many bytes of a password bcrypt sees. A longer one is
// never right: what comes behind would not count.
const MaxBcryptPassword = 72

// A Bcrypt is a verifier of that scheme (Provos and Mazières, "A Future-Adaptable
// Password Scheme", USENIX 1999).
type Bcrypt struct{ Cost uint32 }

// ReadBcrypt reads a verifier of the modular crypt format,
//
//	$2b$12$SALT22CHARACTERSHASH31CHARACTERS
//
// and returns what is wrong with it. 2a and 2y are the same algorithm as 2b as far
// as passwords of at most 72 bytes of UTF-8 can show; 2x was not, and is refused.
func ReadBcrypt(s string) (Bcrypt, string) {
	p := strings.Split(s, "$")
	if len(p) != 4 || p[0] != "" || SchemeOf(s) != SchemeBcrypt {
		return Bcrypt{}, "the verifier is not of the form $2b$COST$SALTANDHASH"
	}
	if len(p[2]) != 2 {
		return Bcrypt{}, "the cost of bcrypt has two digits"
	}
	cost, ok := parameter(strings.TrimPrefix(p[2], "0"), "", MinBcryptCost, MaxBcryptCost)
	if !ok {
		return Bcrypt{}, fmt.Sprintf("the cost of bcrypt must be from %02d to %d", MinBcryptCost, MaxBcryptCost)
	}
	const alphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	if len(p[3]) != 22+31 || strings.Trim(p[3], alphabet) != "" {
		return Bcrypt{}, "salt and hash of bcrypt are 53 characters of its own base64"
	}
	return Bcrypt{cost}, ""
}

// weak compares with the OWASP Password Storage Cheat Sheet.
func (b Bcrypt) weak() string {
	if b.Cost < 10 {
		return fmt.Sprintf("bcrypt of cost %d; 10 is the least that is recommended", b.Cost)
	}
	return ""
}
