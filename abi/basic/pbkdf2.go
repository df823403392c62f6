package basic

import (
	"fmt"
	"strings"
)

// Bounds of PBKDF2: fewer iterations than NIST SP 800-132 (5.2) allows are refused,
// and MaxIterations takes some seconds of one core.
const (
	MinIterations = 1000
	MaxIterations = 4_000_000
)

// A PBKDF2 is a verifier of that scheme (RFC 8018, 5.2), with HMAC.
type PBKDF2 struct {
	SHA512     bool // or SHA-256
	Iterations uint32
	Salt, Hash []byte
}

// ReadPBKDF2 reads a verifier in the PHC string format,
//
//	$pbkdf2-sha256$i=600000$SALT$HASH
//
// or as passlib writes it, with the number alone and '.' for '+', and returns what
// is wrong with it. A hash longer than the digest would cost us more than who
// guesses, and is refused.
func ReadPBKDF2(s string) (PBKDF2, string) {
	p := strings.Split(s, "$")
	if len(p) != 5 || p[0] != "" || SchemeOf(s) != SchemePBKDF2 {
		return PBKDF2{}, "the verifier is not of the form $pbkdf2-sha256$i=$SALT$HASH or $pbkdf2-sha512$..."
	}
	v, size := PBKDF2{SHA512: p[1] == "pbkdf2-sha512"}, 32
	if v.SHA512 {
		size = 64
	}
	var ok bool
	if v.Iterations, ok = parameter(strings.TrimPrefix(p[2], "i="), "", MinIterations, MaxIterations); !ok {
		return PBKDF2{}, fmt.Sprintf("i must be from %d to %d", MinIterations, MaxIterations)
	}
	var problem string
	v.Salt, v.Hash, problem = secretParts(strings.ReplaceAll(p[3], ".", "+"), strings.ReplaceAll(p[4], ".", "+"), size)
	if problem != "" {
		return PBKDF2{}, problem
	}
	return v, ""
}

// weak compares with the OWASP Password Storage Cheat Sheet.
func (p PBKDF2) weak() string {
	name, least := "sha256", uint32(600_000)
	if p.SHA512 {
		name, least = "sha512", 210_000
	}
	if p.Iterations < least {
		return fmt.Sprintf("pbkdf2-%s of %d iterations; %d is the least that is recommended", name, p.Iterations, least)
	}
	return shortSalt(p.Salt)
}
