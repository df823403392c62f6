package basic

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// Schemes of password hashing. Each is a module of its own in an image, which
// provides the capability authn/basic/SCHEME.
const (
	SchemeArgon2id = "argon2id"
	SchemeBcrypt   = "bcrypt"
	SchemePBKDF2   = "pbkdf2"
)

// Schemes lists them by name.
func Schemes() []string { return []string{SchemeArgon2id, SchemeBcrypt, SchemePBKDF2} }

// Forms is how verifiers begin, for messages.
const Forms = "$argon2id$v=19$m=,t=,p=$SALT$HASH, $2b$COST$SALTANDHASH or $pbkdf2-sha256$i=$SALT$HASH"

// SchemeOf returns the scheme of a verifier, seen from how it begins; empty for
// what begins as none.
func SchemeOf(verifier string) string {
	id, _, _ := strings.Cut(strings.TrimPrefix(verifier, "$"), "$")
	switch {
	case !strings.HasPrefix(verifier, "$"):
	case id == "argon2id":
		return SchemeArgon2id
	case id == "2a" || id == "2b" || id == "2y":
		return SchemeBcrypt
	case id == "pbkdf2-sha256" || id == "pbkdf2-sha512":
		return SchemePBKDF2
	}
	return ""
}

// Problem returns what is wrong with a verifier of any scheme; empty: nothing. It
// never holds a salt or a hash.
func Problem(verifier string) (problem string) {
	switch SchemeOf(verifier) {
	case SchemeArgon2id:
		_, problem = ReadArgon2id(verifier)
	case SchemeBcrypt:
		_, problem = ReadBcrypt(verifier)
	case SchemePBKDF2:
		_, problem = ReadPBKDF2(verifier)
	default:
		problem = "the verifier is not of the form " + Forms
	}
	return problem
}

// Weak returns in which way a good verifier costs less to guess at than is
// recommended today; empty: in none.
func Weak(verifier string) string {
	if a, problem := ReadArgon2id(verifier); problem == "" {
		return a.weak()
	}
	if b, problem := ReadBcrypt(verifier); problem == "" {
		return b.weak()
	}
	if p, problem := ReadPBKDF2(verifier); problem == "" {
		return p.weak()
	}
	return ""
}

// Bounds of what verifiers of the PHC string format hold, in bytes. Salts of less
// than 16 are read, as others write them, and called weak.
const (
	MinSalt = 8
	MaxSalt = 64
	MinHash = 16
	MaxHash = 64
)

// secretParts reads salt and hash of the PHC string format.
func secretParts(salt, hash string, maxHash int) (s, h []byte, problem string) {
	if strings.ContainsAny(salt+hash, "\r\n") { // which base64 would skip
		return nil, nil, "a line break inside the verifier"
	}
	raw := base64.RawStdEncoding.Strict()
	var err error
	if s, err = raw.DecodeString(salt); err != nil || len(s) < MinSalt || len(s) > MaxSalt {
		return nil, nil, fmt.Sprintf("the salt is not raw base64 of %d to %d bytes", MinSalt, MaxSalt)
	}
	if h, err = raw.DecodeString(hash); err != nil || len(h) < MinHash || len(h) > maxHash {
		return nil, nil, fmt.Sprintf("the hash is not raw base64 of %d to %d bytes", MinHash, maxHash)
	}
	return s, h, ""
}

// shortSalt says so of a salt below what NIST SP 800-132 (5.1) and RFC 9106 (4)
// ask for.
func shortSalt(salt []byte) string {
	if len(salt) < 16 {
		return fmt.Sprintf("a salt of %d bytes; 16 are recommended", len(salt))
	}
	return ""
}

func parameter(s, prefix string, lo, hi uint32) (uint32, bool) {
	s, ok := strings.CutPrefix(s, prefix)
	v, err := strconv.ParseUint(s, 10, 32)
	return uint32(v), ok && err == nil && s[0] != '0' && uint32(v) >= lo && uint32(v) <= hi
}
