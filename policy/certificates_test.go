package policy

import (
	"strings"
	"testing"

	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/api"
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

// checkUnder checks text as if its policy had said this about TLS.
func checkUnder(t *testing.T, text string, tls *api.TLS) string {
	t.Helper()
	var p parsing
	src := newSource(File{Name: "p.yaml", Data: []byte(text)})
	for _, n := range p.documents(src, []byte(text)) {
		p.resource(&decoder{report: &p.report, src: src, bad: map[string]bool{}}, n)
	}
	if len(p.errs) > 0 || len(p.policies) != 1 {
		t.Fatal(p.errs)
	}
	p.policies[0].TLS = tls
	p.bundle()
	return p.errs.Error()
}

func TestCertificatesNeedTLSThatAsksForThem(t *testing.T) {
	optional := strings.NewReplacer("who: String", "who?: String", "{ context.who", "{ context has who && context.who").Replace(certified)
	tokens := strings.NewReplacer("mtls: {name: mesh, principal: spiffe}", "jwt: [{name: idp, issuer: i, audiences: [a], jwks: secret/k}]",
		"  attributes: {who: tls.spiffe}", "  secrets: {k: {file: k.json}}\n  attributes: {who: jwt.who}").Replace(certified)
	development := strings.Replace(tokens, "{file: k.json}", "{development: jwks}", 1)
	for name, c := range map[string]struct {
		text string
		tls  *api.TLS
		want string // part of the error; empty: accepted
	}{
		"none":                                   {certified, nil, "authentication.mtls needs client certificates"},
		"none, for the attribute":                {certified, nil, "tls.spiffe reads a client certificate"},
		"simple":                                 {certified, &api.TLS{Mode: transport.Simple}, "authentication.mtls needs client certificates"},
		"optional, required by the schema":       {certified, &api.TLS{Mode: transport.OptionalMutual}, "clients without a certificate have no tls.spiffe"},
		"optional, optional in the schema":       {optional, &api.TLS{Mode: transport.OptionalMutual}, ""},
		"mutual":                                 {certified, &api.TLS{Mode: transport.Mutual}, ""},
		"tokens in the clear":                    {tokens, &api.TLS{Mode: transport.None}, "bearer tokens (p.yaml:14) would cross the network in the clear"},
		"tokens over TLS":                        {tokens, &api.TLS{Mode: transport.Simple}, ""},
		"development keys, over TLS and network": {development, &api.TLS{Mode: transport.Simple}, "is for development on this machine"},
	} {
		got := checkUnder(t, c.text, c.tls)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
