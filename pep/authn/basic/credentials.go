package basic

import (
	"encoding/base64"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"lorica.dev/lorica/abi/basic"
)

// A longer password is refused before it costs anything.
const maxPassword = 1024

// credentials are what a client claims.
type credentials struct {
	name     string
	password string
}

var errBasic = errors.New("malformed Basic credentials")

// parseBasic reads what follows the scheme: the padded base64 of name, colon and
// password, in UTF-8 and without control characters (RFC 7617, section 2).
func parseBasic(rest string) (credentials, error) {
	if len(rest) > base64.StdEncoding.EncodedLen(basic.MaxName+1+maxPassword) || strings.ContainsAny(rest, "\r\n") {
		return credentials{}, errBasic
	}
	var buf [basic.MaxName + 1 + maxPassword + 2]byte
	n, err := base64.StdEncoding.Strict().Decode(buf[:], []byte(rest))
	if err != nil || !utf8.Valid(buf[:n]) {
		return credentials{}, errBasic
	}
	claim := string(buf[:n])
	name, password, ok := strings.Cut(claim, ":")
	if !ok || name == "" || len(name) > basic.MaxName || len(password) > maxPassword || strings.ContainsFunc(claim, unicode.IsControl) {
		return credentials{}, errBasic
	}
	return credentials{name, password}, nil
}
