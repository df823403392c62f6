package try

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// A User is what one shows who one is. Written as text it is a password.
type User struct {
	Password    string       `yaml:"password"`
	Bearer      string       `yaml:"bearer"` // a token of a real issuer, as it is
	Token       *Token       `yaml:"token"`
	Certificate *Certificate `yaml:"certificate"`
}

// A Token is a bearer token that is signed for the request.
type Token struct {
	Groups   []string       `yaml:"groups"`
	Claims   map[string]any `yaml:"claims"`
	Audience string         `yaml:"audience"` // empty: the one that the policy asks for
	Issuer   string         `yaml:"issuer"`   // empty: the one that the policy asks for
	For      time.Duration  `yaml:"for"`      // from now; negative: it has ended; 0: an hour
}

// A Certificate is a client certificate that is issued for the request.
type Certificate struct {
	SPIFFE string `yaml:"spiffe"`
}

// UnmarshalYAML reads text as a password, and fields strictly.
func (u *User) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		return n.Decode(&u.Password)
	}
	b, err := yaml.Marshal(n) // a node's own Decode does not know about strictness
	if err != nil {
		return err
	}
	type plain User
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode((*plain)(u)); err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	return nil
}

// Identities issue what users show, and know whom clients trust.
type Identities interface {
	Token(user string, t Token) (string, error)
	Certificate(user string, c Certificate) (tls.Certificate, error)
	Roots() *x509.CertPool // nil: no TLS
}

// present returns the Authorization header of a request and, where the service
// speaks TLS, the client's configuration.
func (f *File) present(r Request, ids Identities) (authorization string, config *tls.Config, err error) {
	u := f.Users[r.As]
	switch {
	case r.Token != "":
		authorization = "Bearer " + r.Token
	case u.Bearer != "":
		authorization = "Bearer " + u.Bearer
	case u.Token != nil && ids != nil:
		token, err := ids.Token(r.As, *u.Token)
		if err != nil {
			return "", nil, err
		}
		authorization = "Bearer " + token
	case r.As != "" && f.password(r) != "":
		req := http.Request{Header: http.Header{}}
		req.SetBasicAuth(r.As, f.password(r))
		authorization = req.Header.Get("Authorization")
	}
	if ids == nil || ids.Roots() == nil {
		return authorization, nil, nil
	}
	config = &tls.Config{RootCAs: ids.Roots(), ServerName: "localhost", NextProtos: []string{"http/1.1"}}
	if u.Certificate != nil {
		c, err := ids.Certificate(r.As, *u.Certificate)
		if err != nil {
			return "", nil, err
		}
		config.Certificates = []tls.Certificate{c}
	}
	return authorization, config, nil
}

func (f *File) password(r Request) string {
	if r.Password != "" {
		return r.Password
	}
	return f.Users[r.As].Password
}

// A Reach is how one gets to a service by hand.
type Reach struct {
	Base      string // begins the URL
	Authority string // for --cacert; empty: no TLS
	Command   string // the lorica command
	Documents string // for its -f
}

// Curl returns a command line for a POSIX shell that makes the same request by
// hand, or false where none does.
func (f *File) Curl(by Reach, r Request) (string, bool) {
	method, target, _ := strings.Cut(r.Send, " ")
	u := f.Users[r.As]
	var issue []string
	args := []string{"curl", "-i"}
	if by.Authority != "" {
		args = append(args, "--cacert", by.Authority)
	}
	if u.Certificate != nil {
		issue = []string{quote(by.Command), "dev", "client", quote(r.As)}
		if u.Certificate.SPIFFE != "" {
			issue = append(issue, "--spiffe", quote(u.Certificate.SPIFFE))
		}
		issue = append(issue, "&&")
		args = append(args, "--cert", quote(r.As+".pem"), "--key", quote(r.As+".key"))
	}
	switch {
	case r.From != "":
		return "", false
	case r.Token != "":
		args = append(args, "-H", quote("Authorization: Bearer "+r.Token))
	case u.Bearer != "":
		args = append(args, "-H", quote("Authorization: Bearer "+u.Bearer))
	case u.Token != nil:
		token, ok := u.Token.command(by, r.As)
		if !ok {
			return "", false
		}
		args = append(args, "-H", `"Authorization: Bearer $(`+token+`)"`)
	case r.As != "" && f.password(r) != "":
		args = append(args, "-u", quote(r.As+":"+f.password(r)))
	}
	switch method {
	case "GET":
	case "HEAD":
		args = append(args, "-I") // with -X, curl would wait for a body
	default:
		args = append(args, "-X", quote(method))
	}
	if r.JSON != "" {
		args = append(args, "--json", quote(r.JSON))
	}
	if strings.ContainsAny(target, "%") || strings.Contains(target, "/.") {
		args = append(args, "--path-as-is")
	}
	if strings.ContainsAny(target, "[]{}") {
		args = append(args, "-g") // which curl would expand
	}
	return strings.Join(append(append(issue, args...), quote(by.Base+target)), " "), true
}

// command is the command line that signs the token, if there is one.
func (t *Token) command(by Reach, user string) (string, bool) {
	if t.Audience != "" || t.Issuer != "" {
		return "", false // for a token that is refused
	}
	args := []string{quote(by.Command), "dev", "token", quote(user)}
	if len(t.Groups) > 0 {
		args = append(args, "--groups", quote(strings.Join(t.Groups, ",")))
	}
	for _, name := range slices.Sorted(maps.Keys(t.Claims)) {
		b, err := json.Marshal(t.Claims[name])
		if err != nil {
			return "", false
		}
		args = append(args, "--claim", quote(name+"="+string(b)))
	}
	if t.For != 0 {
		args = append(args, "--for", t.For.String())
	}
	return strings.Join(append(args, "-f", quote(by.Documents)), " "), true
}

// plainWord is what a shell takes as it is.
var plainWord = regexp.MustCompile(`^[A-Za-z0-9@%_+=:,./-]+$`)

func quote(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
