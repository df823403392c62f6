package try

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// A User is what one shows who one is. Written as text it is a password.
type User struct {
	Password    string       `yaml:"password"`
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

// Curl returns a command line that makes the same request by hand.
func (f *File) Curl(by Reach, r Request) string {
	method, target, _ := strings.Cut(r.Send, " ")
	var b strings.Builder
	b.WriteString("curl -i")
	if by.Authority != "" {
		fmt.Fprintf(&b, " --cacert %s", by.Authority)
	}
	u := f.Users[r.As]
	if u.Certificate != nil {
		fmt.Fprintf(&b, " --cert %s.pem --key %s.key", r.As, r.As)
	}
	switch {
	case u.Token != nil:
		fmt.Fprintf(&b, " -H \"Authorization: Bearer $(%s dev token %s%s -f %s)\"", by.Command, r.As, groupFlag(u.Token.Groups), by.Documents)
	case r.As != "" && f.password(r) != "":
		fmt.Fprintf(&b, " -u '%s:%s'", r.As, f.password(r))
	}
	if method != "GET" {
		fmt.Fprintf(&b, " -X %s", method)
	}
	if r.JSON != "" {
		fmt.Fprintf(&b, " --json '%s'", r.JSON)
	}
	if strings.ContainsAny(target, "%") || strings.Contains(target, "/.") {
		b.WriteString(" --path-as-is")
	}
	fmt.Fprintf(&b, " %s%s", by.Base, target)
	return b.String()
}

func groupFlag(groups []string) string {
	if len(groups) == 0 {
		return ""
	}
	return " --groups " + strings.Join(groups, ",")
}
