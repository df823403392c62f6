package main

import (
	"fmt"
	"path/filepath"
	"strings"
)

// app is the benchmarks' application, as a workload names it.
func (b *bench) app() string {
	return "handler: {module: " + filepath.Join(b.root, "test", "bench", "testdata", "app") + "}"
}

// workload is an application under a name of its own, listening on a port.
func workload(name, app string, port int) string {
	return fmt.Sprintf(`apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: %s, labels: {app: bench}}
spec:
  app: {%s}
  listen: [{name: web, port: %d}]
  resources: {memory: 256Mi}
  confinement: {minimum: no-landlock}
`, name, app, port)
}

const policyHead = `apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: bench}
spec:
  selector: {matchLabels: {app: bench}}
`

// plainPolicy allows everything and records denials only.
const plainPolicy = policyHead + `  default: {network: Allow, authorization: Allow}
  audit: {decisions: denied}
`

// A size is how much policy an image gets.
type size struct{ rules, policies int }

// fullPolicy has every module on the way of a request but TLS, which is measured
// by itself: network rules, the filter with routes, limits by source and
// principal, tokens, Cedar policies, obligations and the audit of denials. The
// rules that allow stand last.
func fullPolicy(port int, s size) string {
	var w strings.Builder
	w.WriteString(policyHead)
	w.WriteString("  default: {network: Deny, authorization: Deny}\n  endpoints:\n    - {name: me, cidrs: [127.0.0.1/32]}\n")
	for i := range 250 {
		fmt.Fprintf(&w, "    - {name: e%d, cidrs: [10.%d.0.0/16]}\n", i, i)
	}
	w.WriteString("  network:\n    ingress:\n")
	for i := range s.rules - 1 {
		fmt.Fprintf(&w, "    - {name: r%d, action: Deny, from: [e%d], ports: [{protocol: TCP, port: %d}]}\n", i, i%250, 1000+i/250)
	}
	fmt.Fprintf(&w, "    - {name: me-in, action: Allow, from: [me], ports: [{protocol: TCP, port: %d}]}\n", port)
	w.WriteString(`  authentication:
    require: true
    jwt: [{name: idp, issuer: "https://idp.example", audiences: [bench], jwks: secret/keys}]
  secrets:
    keys: {development: jwks}
  routes:
    - {name: read, group: all, match: {method: GET, path: "/accounts/{id}"}}
    - {name: pay, group: all, match: {method: POST, path: "/accounts/{id}/transfers"}}
  attributes:
    amount: "body.json:/amount"
    groups: jwt.groups
  rateLimits:
    - {name: per-source, key: source, requests: 1000000, per: 1s}
    - {name: per-user, key: principal, requests: 1000000, per: 1s}
  obligations:
    - {name: guessing, on: any.deny, count: 1000, window: 1m, do: [alert]}
  audit: {decisions: denied}
  authorization:
    schema: |
      entity Group;
      entity User in [Group];
      entity RouteGroup;
      entity Route in [RouteGroup];
      type Request = { "amount"?: Long };
      action "call" appliesTo { principal: User, resource: Route, context: Request };
    cedar: |
`)
	for i := range s.policies {
		fmt.Fprintf(&w, "      @id(\"p%d\") permit (principal in Group::\"g%d\", action, resource in RouteGroup::\"all\") unless { context has amount && context.amount > %d };\n", i, i, 100_000+i)
	}
	return w.String()
}
