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
	password []byte
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
	b, err := base64.StdEncoding.Strict().DecodeString(rest)
	if err != nil || !utf8.Valid(b) {
		return credentials{}, errBasic
	}
	name, password, ok := strings.Cut(string(b), ":")
	if !ok || name == "" || len(name) > authn.MaxName || len(password) > maxPassword || strings.ContainsFunc(string(b), unicode.IsControl) {
		return credentials{}, errBasic
	}
	return credentials{name, []byte(password)}, nil
}
