package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lorica.dev/lorica/abi/authn"
	"lorica.dev/lorica/abi/mtls"
	"lorica.dev/lorica/abi/strictjson"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/internal/try"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/run"
	"lorica.dev/lorica/run/keys"
)

func (c *cli) devCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "dev",
		GroupID: "write",
		Short:   "Issue tokens and client certificates to try a policy with",
		Long: `Issues what a policy is tried with on this machine before there are real certificates
and an identity provider. All of it is short-lived, constrained to loopback, known to
this user only, and installed nowhere. A policy says that it takes it:

  secrets:
    idp-jwks: {development: jwks}            # tokens of 'lorica dev token'
    clients:  {development: client-ca}       # certificates of 'lorica dev client'

and a TLS section without a certificate is served with a development certificate.`,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.devAuthorityCommand(), c.devTokenCommand(), c.devClientCommand())
	return cmd
}

func (c *cli) devAuthorityCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ca",
		Short:   "Show the certificate that vouches for development servers",
		Example: "  curl --cacert \"$(lorica dev ca)\" https://localhost:8443/",
		Args:    args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			m, err := machine()
			if err != nil {
				return err
			}
			path, err := m.Development().Authority(time.Now())
			if err != nil {
				return err
			}
			return c.print(map[string]string{"certificate": path}, func(w io.Writer) { fmt.Fprintln(w, path) })
		},
	}
}

func (c *cli) devTokenCommand() *cobra.Command {
	var path, workload, issuer string
	var claims []string
	t := try.Token{For: time.Hour}
	cmd := &cobra.Command{
		Use:   "token USER",
		Short: "Sign a bearer token as the policy's issuer",
		Long: `Signs a token that the policy takes: issuer and audience are those of the policy's JWT
section whose keys are {development: jwks}.`,
		Example: `  lorica dev token staff-3 --groups staff -f examples/payments
  lorica dev token ops-1 --claim mfa=true --claim 'amr=["mfa"]' --for 5m`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(_ *cobra.Command, list []string) error {
			var err error
			if t.Claims, err = parseClaims(claims); err != nil {
				return usageError{err}
			}
			if t.For > maxLife {
				return usageError{fmt.Errorf("--for %s: development tokens are short-lived; at most %s", t.For, maxLife)}
			}
			for _, s := range append([]string{list[0]}, t.Groups...) {
				if !authn.ValidPrincipal(s) {
					return usageError{fmt.Errorf("%q cannot be the name of a user or a group, and no policy would take it", s)}
				}
			}
			t.Issuer = issuer
			m, err := machine()
			if err != nil {
				return err
			}
			b, err := c.load(path)
			if err != nil {
				return err
			}
			d, err := pick(b, workload)
			if err != nil {
				return err
			}
			ids := identities{m.Development(), d}
			if err := ids.known(issuer); err != nil {
				return err
			}
			token, err := ids.Token(list[0], t)
			if err != nil {
				return err
			}
			return c.print(map[string]string{"token": token}, func(w io.Writer) { fmt.Fprintln(w, token) })
		},
	}
	fileFlag(cmd, &path)
	cmd.Flags().StringVar(&workload, "workload", "", "which workload, where the documents have several")
	cmd.Flags().StringVar(&issuer, "issuer", "", "which issuer, by its name in the policy, where that has several")
	cmd.Flags().StringSliceVar(&t.Groups, "groups", nil, "the groups, separated by commas, in the claim that the policy reads")
	cmd.Flags().StringArrayVar(&claims, "claim", nil, "another claim, NAME=JSON; text may go without quotes; may be repeated")
	cmd.Flags().DurationVar(&t.For, "for", time.Hour, "how long the token lasts")
	return cmd
}

// maxLife bounds tokens: whoever finds one can use it until it ends.
const maxLife = 24 * time.Hour

// parseClaims reads NAME=JSON; a word that is not JSON is text.
func parseClaims(list []string) (map[string]any, error) {
	claims := map[string]any{}
	for _, s := range list {
		name, text, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--claim %s: write NAME=VALUE", s)
		}
		switch name {
		case "iss", "aud", "sub", "exp", "iat":
			return nil, fmt.Errorf("--claim %s: %s is what the policy asks for, the USER, or what --for says", s, name)
		}
		var value any
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			if strings.HasPrefix(text, "[") || strings.HasPrefix(text, "{") || strings.HasPrefix(text, `"`) {
				return nil, fmt.Errorf("--claim %s: not JSON: %w", s, err)
			}
			value = text
		}
		claims[name] = value
	}
	return claims, nil
}

func (c *cli) devClientCommand() *cobra.Command {
	var spiffe, dir string
	cmd := &cobra.Command{
		Use:   "client NAME",
		Short: "Issue a client certificate: NAME.pem and NAME.key",
		Example: `  lorica dev client ops-1
  curl --cacert "$(lorica dev ca)" --cert ops-1.pem --key ops-1.key https://localhost:8443/admin/`,
		Args:              args(cobra.ExactArgs(1)),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(_ *cobra.Command, list []string) error {
			name := list[0]
			if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
				return usageError{fmt.Errorf("%q cannot be the name of a file", name)}
			}
			if _, ok := mtls.TrustDomain(spiffe); spiffe != "" && !ok {
				return usageError{fmt.Errorf("--spiffe %s: write spiffe://trust.domain/name", spiffe)}
			}
			m, err := machine()
			if err != nil {
				return err
			}
			chain, key, err := m.Development().Client(name, spiffe, time.Now())
			if err != nil {
				return err
			}
			files := []string{filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")}
			for i, b := range [][]byte{chain, key} {
				if err := keys.Write(files[i], b); err != nil {
					return err
				}
			}
			return c.print(map[string]any{"files": files}, func(w io.Writer) { fmt.Fprintf(w, "wrote %s\nwrote %s\n", files[0], files[1]) })
		},
	}
	cmd.Flags().StringVar(&spiffe, "spiffe", "", "the SPIFFE ID of the client, spiffe://trust.domain/name")
	cmd.Flags().StringVar(&dir, "out", ".", "the folder to write to")
	_ = cmd.MarkFlagDirname("out")
	return cmd
}

// identities issue what a deployment takes from users that are tried.
type identities struct {
	keys       *keys.Development
	deployment *policy.Deployment
}

// Token signs as the issuer of the policy that takes development tokens.
func (i identities) Token(user string, t try.Token) (string, error) {
	x := keys.Token{Issuer: t.Issuer, Audience: t.Audience, Subject: user, Groups: t.Groups, Claims: t.Claims, Life: t.For}
	if x.Life == 0 {
		x.Life = time.Hour
	}
	j, err := i.issuer(t.Issuer)
	if err != nil {
		return "", err
	}
	if x.Issuer == "" || x.Issuer == j.Name {
		x.Issuer = j.Issuer
	}
	// What the policy reads is where it reads it.
	x.Claims = maps.Clone(x.Claims)
	if x.Claims == nil {
		x.Claims = map[string]any{}
	}
	if _, written := x.Claims[j.Principal]; !written {
		x.Claims[j.Principal] = user
	}
	if a := i.deployment.Authorization; a != nil && a.GroupClaim != "" && x.Groups != nil {
		if err := put(x.Claims, a.GroupClaim, x.Groups); err != nil {
			return "", err
		}
		x.Groups = nil
	}
	if x.Audience == "" && len(j.Audiences) > 0 {
		x.Audience = j.Audiences[0]
	}
	return i.keys.Sign(x, time.Now())
}

// put stores a value where a JSON pointer leads.
func put(claims map[string]any, pointer string, value any) error {
	p, err := strictjson.ParsePointer(pointer)
	if err != nil || len(p) == 0 {
		return fmt.Errorf("the groups cannot be put at %q", pointer)
	}
	last := len(p) - 1
	for _, name := range p[:last] {
		inner, ok := claims[name].(map[string]any)
		if !ok {
			inner = map[string]any{}
			claims[name] = inner
		}
		claims = inner
	}
	claims[p[last]] = value
	return nil
}

// issuers returns the JWT sections whose keys are development keys.
func (i identities) issuers() []*api.JWT {
	p := i.deployment.Policy
	if p.Authentication == nil {
		return nil
	}
	var found []*api.JWT
	for n := range p.Authentication.JWT {
		j := &p.Authentication.JWT[n]
		for _, s := range p.Secrets {
			if s.Name == j.Keys && s.Development == api.DevelopmentJWKS {
				found = append(found, j)
			}
		}
	}
	return found
}

// issuer returns one of them. A name that is unknown is for a token that must be
// refused, where one can tell whose it would be.
func (i identities) issuer(name string) (*api.JWT, error) {
	found := i.issuers()
	for _, j := range found {
		if len(found) == 1 || j.Issuer == name || j.Name == name {
			return j, nil
		}
	}
	if len(found) == 0 {
		return nil, errors.New("the policy takes no development tokens: write authentication.jwt with jwks: secret/NAME, and secrets: {NAME: {development: jwks}}")
	}
	return nil, fmt.Errorf("choose one of the policy's issuers of development tokens with --issuer: %s", issuerNames(found))
}

// known refuses an issuer whose tokens the policy would refuse.
func (i identities) known(name string) error {
	found := i.issuers()
	if name == "" || len(found) == 0 || slices.ContainsFunc(found, func(j *api.JWT) bool { return j.Name == name || j.Issuer == name }) {
		return nil
	}
	return usageError{fmt.Errorf("--issuer %s: the policy takes development tokens of %s", name, issuerNames(found))}
}

func issuerNames(list []*api.JWT) string {
	var names []string
	for _, j := range list {
		names = append(names, j.Name)
	}
	return strings.Join(names, ", ")
}

// Certificate issues a client certificate.
func (i identities) Certificate(user string, c try.Certificate) (tls.Certificate, error) {
	chain, key, err := i.keys.Client(user, c.SPIFFE, time.Now())
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(chain, key)
}

// Roots returns what vouches for the deployment's server, nil where it does not
// speak TLS or has a certificate of its own that this machine did not issue.
func (i identities) Roots() *x509.CertPool {
	if !run.Secured(i.deployment.Policy) {
		return nil
	}
	pool := x509.NewCertPool()
	if path, err := i.keys.Authority(time.Now()); err == nil {
		if b, err := os.ReadFile(path); err == nil {
			pool.AppendCertsFromPEM(b)
		}
	}
	return pool
}
