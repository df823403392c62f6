package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

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
		Args: args(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, list []string) error {
			var err error
			if t.Claims, err = parseClaims(claims); err != nil {
				return usageError{err}
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
			token, err := identities{m.Development(), d}.Token(list[0], t)
			if err != nil {
				return err
			}
			return c.print(map[string]string{"token": token}, func(w io.Writer) { fmt.Fprintln(w, token) })
		},
	}
	fileFlag(cmd, &path)
	cmd.Flags().StringVar(&workload, "workload", "", "which workload, where the documents have several")
	cmd.Flags().StringVar(&issuer, "issuer", "", "which issuer, where the policy has several")
	cmd.Flags().StringSliceVar(&t.Groups, "groups", nil, "the claim groups, separated by commas")
	cmd.Flags().StringArrayVar(&claims, "claim", nil, "another claim, NAME=JSON; text may go without quotes; may be repeated")
	cmd.Flags().DurationVar(&t.For, "for", time.Hour, "how long the token lasts")
	return cmd
}

// parseClaims reads NAME=JSON; what is not JSON is text.
func parseClaims(list []string) (map[string]any, error) {
	claims := map[string]any{}
	for _, s := range list {
		name, text, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--claim %s: write NAME=VALUE", s)
		}
		var value any
		if json.Unmarshal([]byte(text), &value) != nil {
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
		Args: args(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, list []string) error {
			name := list[0]
			if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
				return usageError{fmt.Errorf("%q cannot be the name of a file", name)}
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
	if x.Issuer == "" {
		x.Issuer = j.Issuer
	}
	if x.Audience == "" && len(j.Audiences) > 0 {
		x.Audience = j.Audiences[0]
	}
	return i.keys.Sign(x, time.Now())
}

// issuer returns the JWT section whose keys are development keys. One that is
// named and unknown is for a token that must be refused.
func (i identities) issuer(name string) (*api.JWT, error) {
	p := i.deployment.Policy
	var found []*api.JWT
	if p.Authentication != nil {
		for n := range p.Authentication.JWT {
			j := &p.Authentication.JWT[n]
			for _, s := range p.Secrets {
				if s.Name == j.Keys && s.Development == api.DevelopmentJWKS {
					found = append(found, j)
				}
			}
		}
	}
	for _, j := range found {
		if len(found) == 1 || j.Issuer == name || j.Name == name {
			return j, nil
		}
	}
	if len(found) == 0 {
		return nil, errors.New("the policy takes no development tokens: write authentication.jwt with jwks: secret/NAME, and secrets: {NAME: {development: jwks}}")
	}
	return nil, errors.New("the policy has several issuers: choose one with --issuer")
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
