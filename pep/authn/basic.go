package authn

import (
	"encoding/base64"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"lorica.dev/lorica/abi/authn"
)

// A longer password is refused before it costs anything.
const maxPassword = 1024

// credentials are what a client claims.
type credentials struct {
	name     string
	password string
}

var (
	errScheme = errors.New("the scheme is not Basic")
	errBasic  = errors.New("malformed Basic credentials")
)

// parseBasic reads the value of an Authorization header: the scheme, in any
// case, one space or more, and the padded base64 of name, colon and password, in
// UTF-8 and without control characters (RFC 7617, section 2).
func parseBasic(header string) (credentials, error) {
	scheme, rest, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return credentials{}, errScheme
	}
	rest = strings.TrimLeft(rest, " ")
	if len(rest) > base64.StdEncoding.EncodedLen(authn.MaxName+1+maxPassword) || strings.ContainsAny(rest, "\r\n") {
		return credentials{}, errBasic
	}
	var buf [authn.MaxName + 1 + maxPassword + 2]byte
	n, err := base64.StdEncoding.Strict().Decode(buf[:], []byte(rest))
	if err != nil || !utf8.Valid(buf[:n]) {
		return credentials{}, errBasic
	}
	claim := string(buf[:n])
	name, password, ok := strings.Cut(claim, ":")
	if !ok || name == "" || len(name) > authn.MaxName || len(password) > maxPassword || strings.ContainsFunc(claim, unicode.IsControl) {
		return credentials{}, errBasic
	}
	return credentials{name, password}, nil
}
