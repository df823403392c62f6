package policy

import (
	"strings"
	"testing"
)

const certified = `apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: w, labels: {app: w}}
spec:
  app: {static: {dir: public}}
  listen: [{name: api, port: 8080, address: 0.0.0.0}]
---
apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: p}
spec:
  selector: {matchLabels: {app: w}}
  default: {network: Allow}
  authentication: {require: true, mtls: {name: mesh, principal: spiffe}}
  routes: [{name: get, match: {method: GET, path: /}}]
  attributes: {who: tls.spiffe}
  authorization:
    schema: |
      entity User;
      entity Route;
      action "call" appliesTo { principal: User, resource: Route, context: { who: String } };
    cedar: permit (principal, action, resource) when { context.who like "spiffe://acme/*" };
`

// checkUnder checks text with a TLS section, which may be empty, and the secrets
// that it names.
func checkUnder(text, tls string) string {
	if tls != "" {
		text = strings.Replace(text, "  routes:", "  tls: {"+tls+", certificate: secret/chain, key: secret/key}\n  routes:", 1)
		secrets := "chain: {file: s.pem}, key: {file: s.key}"
		if strings.Contains(tls, "clientTrust") {
			secrets += ", clients: {file: c.pem}"
		}
		if strings.Contains(text, "secrets: {") {
			text = strings.Replace(text, "secrets: {", "secrets: {"+secrets+", ", 1)
		} else {
			text = strings.Replace(text, "  routes:", "  secrets: {"+secrets+"}\n  routes:", 1)
		}
	}
	if _, err := Parse([]File{{Name: "p.yaml", Data: []byte(text)}}); err != nil {
		return err.Error()
	}
	return ""
}

func TestCertificatesNeedTLSThatAsksForThem(t *testing.T) {
	optional := strings.NewReplacer("who: String", "who?: String", "{ context.who", "{ context has who && context.who").Replace(certified)
	tokens := strings.NewReplacer("mtls: {name: mesh, principal: spiffe}", "jwt: [{name: idp, issuer: i, audiences: [a], jwks: secret/k}]",
		"  attributes: {who: tls.spiffe}", "  secrets: {k: {file: k.json}}\n  attributes: {who: jwt.who}").Replace(certified)
	development := strings.Replace(tokens, "{file: k.json}", "{development: jwks}", 1)
	for name, c := range map[string]struct {
		text string
		tls  string // fields; empty: no section
		want string // part of the error; empty: accepted
	}{
		"none":                                   {certified, "", "authentication.mtls needs client certificates"},
		"none, for the attribute":                {certified, "", "tls.spiffe reads a client certificate"},
		"simple":                                 {certified, "mode: SIMPLE", "authentication.mtls needs client certificates"},
		"optional, required by the schema":       {certified, "mode: OPTIONAL_MUTUAL, clientTrust: secret/clients", "clients without a certificate have no tls.spiffe"},
		"optional, optional in the schema":       {optional, "mode: OPTIONAL_MUTUAL, clientTrust: secret/clients", ""},
		"mutual":                                 {certified, "mode: MUTUAL, clientTrust: secret/clients", ""},
		"tokens in the clear":                    {tokens, "", "bearer tokens (p.yaml:14) would cross the network in the clear"},
		"tokens over TLS":                        {tokens, "mode: SIMPLE", ""},
		"development keys, over TLS and network": {development, "mode: SIMPLE", "is for development on this machine"},
	} {
		got := checkUnder(c.text, c.tls)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
