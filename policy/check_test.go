package policy_test

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lorica.dev/lorica/policy"
)

var update = flag.Bool("update", false, "write the golden files again")

// base is a small policy and a small workload that belong together. Cases change
// one thing in them.
const base = `apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: shop, tenant: acme}
spec:
  selector: {matchLabels: {app: shop}}
  levels: {names: [normal, lockdown], initial: normal}
  endpoints:
    - {name: local, cidrs: [127.0.0.0/8]}
  network:
    ingress:
      - {name: web-in, action: Allow, from: [local], ports: [{protocol: TCP, port: 8080}]}
  authentication:
    {require: true, basic: {name: login, users: secret/users}}
  secrets:
    users: {file: ./users.txt}
  routes:
    - {name: list, group: reads, match: {method: GET, path: /items}}
    - {name: read, group: reads, match: {method: GET, path: "/items/{id}"}}
    - {name: buy, match: {method: POST, path: "/items/{id}/orders"}}
  attributes:
    level: level
    count: "body.json:/count"
    groups: basic.groups
  authorization:
    schema: |
      entity Group;
      entity User in [Group];
      entity RouteGroup;
      entity Route in [RouteGroup];
      action "call" appliesTo { principal: User, resource: Route, context: { "level": String, "count"?: Long } };
    cedar: |
      @id("may-read")
      permit (principal in Group::"staff", action, resource in RouteGroup::"reads");
      @id("may-buy")
      permit (principal, action == Action::"call", resource == Route::"buy")
      when { context has count && context.count < 10 };
  tests:
    - {name: staff reads, as: {user: ann, groups: [staff]}, call: read, expect: Allow, by: may-read}
---
apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: shop, tenant: acme, labels: {app: shop}}
spec:
  app:
    static: {dir: ./public}
  listen:
    - {name: web, port: 8080}
`

// A mistake is one thing that users get wrong: what replaces what in base.
type mistake struct {
	name, old, new string
	more           []string // further pairs of old and new
}

// lv is where base names its levels.
const lv = "levels: {names: [normal, lockdown], initial: normal}"

// triggers are as many as there are letters.
func triggers(names string) string {
	var list []string
	for _, n := range names {
		list = append(list, fmt.Sprintf("{name: %c, on: any.deny, count: 5, window: 1m, to: lockdown, hold: 10m}", n))
	}
	return strings.Join(list, ", ")
}

func mistakes() []mistake {
	network := base[strings.Index(base, "  network:"):strings.Index(base, "  authentication:")]
	return []mistake{
		{"unknown field, near", "endpoints:", "endpoint:", nil},
		{"unknown field, far", "port: 8080}]}", "port: 8080}], because: I say so}", nil},
		{"unknown field in metadata", "{name: shop, tenant: acme}\nspec:\n  selector", "{name: shop, tennant: acme}\nspec:\n  selector", nil},
		{"duplicate key", "  levels: {names", "  levels: {names: [a]}\n  levels: {names", nil},
		{"anchor", "cidrs: [127.0.0.0/8]", "cidrs: &x [127.0.0.0/8]", nil},
		{"alias", "path: /items}", "path: *x}", nil},
		{"merge key", "{name: web, port: 8080}", "{name: web, <<: {port: 8080}}", nil},
		{"tag", "tenant: acme}\nspec:\n  selector", "tenant: !!str acme}\nspec:\n  selector", nil},
		{"tab", "  secrets:\n", "\tsecrets:\n", nil},
		{"text behind a bracket", "[127.0.0.0/8]}", "[127.0.0.0/8]}\n  selector: {}x", nil},
		{"unclosed bracket", "[127.0.0.0/8]", "[127.0.0.0/8", nil},
		{"text that is a number", "{app: shop}}\n  levels", "{app: 12}}\n  levels", nil},
		{"number that is text", "name: web, port: 8080", `name: web, port: "8080"`, nil},
		{"hexadecimal number", "name: web, port: 8080", "name: web, port: 0x1f90", nil},
		{"port too large", "name: web, port: 8080", "name: web, port: 80800", nil},
		{"yes is not true", "require: true", "require: yes", nil},
		{"list wanted", "cidrs: [127.0.0.0/8]", "cidrs: 127.0.0.0/8", nil},
		{"mapping wanted", "levels: {names: [normal, lockdown], initial: normal}", "levels: [normal, lockdown]", nil},
		{"empty value", "initial: normal}", "initial: }", nil},
		{"old version", "v1alpha1\nkind: Workload", "v1\nkind: Workload", nil},
		{"version that is empty", "apiVersion: lorica.dev/v1alpha1\nkind: Workload", "apiVersion: \"\"\nkind: Workload", nil},
		{"kind that is empty", "kind: Workload", "kind: \"\"", nil},
		{"kind misspelt", "kind: Workload", "kind: Worklod", nil},
		{"kind of later", "kind: Workload", "kind: Tenant", nil},
		{"name that is no label", "name: shop, tenant: acme, labels", "name: My_Shop, tenant: acme, labels", nil},
		{"name that climbs", "name: shop, tenant: acme, labels", "name: ../shop, tenant: acme, labels", nil},
		{"no metadata", "metadata: {name: shop, tenant: acme, labels: {app: shop}}\n", "", nil},

		{"tls", "  levels:", "  tls: {mode: MUTUAL}\n  levels:", nil},
		{"jwt without the rest", "basic: {name: login, users: secret/users}", "jwt: [{name: idp, issuer: x}]", nil},
		{"limit of everything wrong", "  tests:", "  rateLimits:\n    - {name: l, key: user, routes: raed, requests: 0, per: 1w, scope: galaxy, burst: 5}\n  tests:", nil},
		{"limit with nothing in it", "  tests:", "  rateLimits:\n    - {}\n  tests:", nil},
		{"limit that counts nothing", "  tests:", "  rateLimits:\n    - {name: l, key: [], routes: [], requests: 5, per: 1m}\n  tests:", nil},
		{"limit that counts twice", "  tests:", "  rateLimits:\n    - {name: l, key: [route, route], routes: [read, read], requests: 5, per: 1m}\n  tests:", nil},
		{"limit on a route misspelt", "  tests:", "  rateLimits:\n    - {name: l, key: source, routes: [raed], requests: 5, per: 1m}\n  tests:", nil},
		{"limit at a level misspelt", "  tests:", "  rateLimits:\n    - {name: l, key: source, requests: 5, per: 1m, minLevel: lokdown}\n  tests:", nil},
		{"limit of a later scope", "  tests:", "  rateLimits:\n    - {name: l, key: source, requests: 5, per: 1m, scope: deployment}\n  tests:", nil},
		{"limit beyond its bounds", "  tests:", "  rateLimits:\n    - {name: l, key: source, requests: 1000001, per: 25h}\n  tests:", nil},
		{"limit with the name of a rule", "  tests:", "  rateLimits:\n    - {name: may-read, key: source, requests: 5, per: 1m}\n  tests:", nil},
		{"limits that are none", "  tests:", "  rateLimits: []\n  tests:", nil},
		{"limits that are a mapping", "  tests:", "  rateLimits: {name: l}\n  tests:", nil},
		{"limit of principals that nobody knows", "    {require: true, basic: {name: login, users: secret/users}}\n", "",
			[]string{"  authentication:\n", "", "  tests:", "  rateLimits:\n    - {name: l, key: [principal, route], requests: 5, per: 1m}\n  tests:"}},
		{"limit of routes that there are not", base[strings.Index(base, "  routes:"):strings.Index(base, "---")],
			"  rateLimits:\n    - {name: l, key: [source, route], requests: 5, per: 1m}\n", nil},
		{"obligations that are none", "  tests:", "  obligations: []\n  tests:", nil},
		{"obligation of everything wrong", "  tests:", "  obligations:\n    - {name: o, on: authn.deny, count: 0, window: 500ms, do: [alert, alert, call], for: 25h, key: source}\n  tests:", nil},
		{"trigger of everything wrong", lv, "levels: {names: [normal, lockdown], triggers: [{name: t, on: authn.failure, count: 0, window: 1ms, key: user, to: lokdown, hold: 0s}], pool: eager}", nil},
		{"trigger with nothing in it", lv, "levels: {names: [normal, lockdown], triggers: [{}]}", nil},
		{"triggers that are none", lv, "levels: {names: [normal, lockdown], triggers: []}", nil},
		{"trigger to an unknown level", lv, "levels: {names: [normal, lockdown], triggers: [{name: t, on: any.deny, count: 5, window: 1m, to: lokdown, hold: manual}]}", nil},
		{"trigger to the lowest level", lv, "levels: {names: [normal, lockdown], triggers: [{name: t, on: any.deny, count: 5, window: 1m, to: normal, hold: 10m}]}", nil},
		{"trigger and pool with one level", lv, "levels: {names: [normal], triggers: [{name: t, on: any.deny, count: 5, window: 1m, to: normal, hold: 10m}], pool: reactive}", nil},
		{"trigger held for ever", lv, "levels: {names: [normal, lockdown], triggers: [{name: t, on: any.deny, count: 5, window: 1m, to: lockdown, hold: forever}]}", nil},
		{"two triggers of one name", lv, "levels: {names: [normal, lockdown], triggers: [{name: t, on: any.deny, count: 5, window: 1m, to: lockdown, hold: 10m}, {name: t, on: request.deny, count: 5, window: 1m, to: lockdown, hold: 10m}]}", nil},
		{"trigger with the name of a rule", lv, "levels: {names: [normal, lockdown], triggers: [{name: may-read, on: any.deny, count: 5, window: 1m, to: lockdown, hold: 10m}]}", nil},
		{"triggers that count what is not known", lv, "levels: {names: [normal, lockdown], triggers: [{name: t, on: authentication.deny, count: 5, window: 1m, key: principal, to: lockdown, hold: 10m}, {name: u, on: network.deny, count: 5, window: 1m, key: route, to: lockdown, hold: 10m}]}", nil},
		{"more triggers than there may be", lv, "levels: {names: [normal, lockdown], triggers: [" + triggers("abcdefghijklmnopq") + "]}", nil},
		{"obligation with nothing in it", "  tests:", "  obligations:\n    - {}\n  tests:", nil},
		{"obligation that does nothing", "  tests:", "  obligations:\n    - {name: o, on: any.deny, count: 5, window: 1m, do: []}\n  tests:", nil},
		{"obligation that counts by a comparison", "  tests:", "  obligations:\n    - {name: o, on: any.deny, count: \">=20\", window: 1m, do: [alert]}\n  tests:", nil},
		{"block without an end", "  tests:", "  obligations:\n    - {name: o, on: any.deny, count: 5, window: 1m, do: [blockSource]}\n  tests:", nil},
		{"time of no block", "  tests:", "  obligations:\n    - {name: o, on: any.deny, count: 5, window: 1m, do: [alert], for: 10m}\n  tests:", nil},
		{"obligation with the name of a rule", "  tests:", "  obligations:\n    - {name: may-read, on: any.deny, count: 5, window: 1m, do: [alert]}\n  tests:", nil},
		{"obligation at a level misspelt", "  tests:", "  obligations:\n    - {name: o, on: any.deny, count: 5, window: 1m, do: [alert], minLevel: lokdown}\n  tests:", nil},
		{"obligations about what there is not", base[strings.Index(base, "  authentication:"):strings.Index(base, "---")],
			"  default: {authorization: Allow}\n  obligations:\n    - {name: o, on: authentication.deny, count: 5, window: 1m, do: [alert]}\n    - {name: p, on: authorization.deny, count: 5, window: 1m, do: [alert]}\n", nil},
		{"introspection", "  tests:", "  introspection: {interval: 10s}\n  tests:", nil},
		{"triggers", "initial: normal}", "initial: normal, triggers: []}", nil},
		{"dry run misspelt", "  levels:", "  enforcement: Dryrun\n  levels:", nil},
		{"dry run of a yes", "  levels:", "  enforcement: true\n  levels:", nil},
		{"dry run of a rule misspelt", "from: [local]", "enforcement: dry, from: [local]", nil},
		{"dry run of the only rule", "from: [local]", "enforcement: DryRun, from: [local]", nil},
		{"dry run of a limit and an obligation misspelt", "  tests:", "  rateLimits:\n    - {name: l, key: source, requests: 5, per: 1m, enforcement: Dry}\n  obligations:\n    - {name: o, on: any.deny, count: 5, window: 1m, do: [alert], enforcement: no}\n  tests:", nil},
		{"dry run of a route", "  - {name: read,", "  - {enforcement: DryRun, name: read,", nil},
		{"dry run of a connection out", network, network + "    egress: [{name: out, action: Allow, enforcement: DryRun, to: [{names: [a.example]}]}]\n", nil},
		{"dry run of a Cedar policy misspelt", `@id("may-read")`, `@id("may-read") @enforcement("dryrun")`, nil},
		{"dry run by another annotation", `@id("may-read")`, `@id("may-read") @enforcment("DryRun")`, nil},
		{"dry run by its own name", `@id("may-read")`, `@id("may-read") @dryRun("true")`, nil},
		{"endpoint by workloads", "cidrs: [127.0.0.0/8]", "workloads: {matchLabels: {app: web}}", nil},
		{"content types that are none", "  tests:", "  requestFilter: {contentTypes: []}\n  tests:", nil},
		{"content types that are malformed", "  tests:", "  requestFilter: {contentTypes: [json, application/json; charset=utf-8, Application/JSON, application/json, \"*/*\", 7]}\n  tests:", nil},
		{"content types without the one that rules read", "  tests:", "  requestFilter: {contentTypes: [text/plain]}\n  tests:", nil},
		{"filter beyond its bounds", "  tests:", "  requestFilter: {maxHeaders: 0, maxStreams: 1001, handshakeTimeout: 1ms, idleTimeout: 2h}\n  tests:", nil},
		{"audit header", "  tests:", "  audit: {sink: siem, redact: [header.authorization]}\n  tests:", nil},
		{"audit sinks none", "  tests:", "  audit: {sinks: {}}\n  tests:", nil},
		{"audit sinks no channel", "  tests:", "  audit: {sinks: {channel: false}}\n  tests:", nil},
		{"audit sinks bare", "  tests:", "  audit: {sinks: {syslog: {}, otlp: {}}}\n  tests:", nil},
		{"audit sinks unknown secrets", "  tests:", "  audit: {sinks: {syslog: {server: logs.example, trust: secret/ca, certificate: secret/cert, onLoss: Deny}}}\n  tests:", nil},
		{"audit sinks forms", "  tests:", "  audit: {sinks: {syslog: {server: \"Logs.example:0\", trust: ca.pem, serverName: A, onLoss: Drop, queue: {records: 0, memory: 1Ki}}, otlp: {url: \"http://c.example\", trust: secret/ca, onLoss: Count}}}\n  tests:", nil},
		{"audit sinks places", "  tests:", "  audit: {sinks: {syslog: {server: \"user@logs.example\", trust: secret/ca, onLoss: Count}, otlp: {url: \"https://u:p@c.example\", trust: secret/ca, onLoss: Count}}}\n  tests:", nil},
		{"audit sinks query", "  tests:", "  audit: {sinks: {syslog: {server: \"[::ffff:10.0.0.1]:6514\", trust: secret/ca, onLoss: Count}, otlp: {url: \"https://c.example/a?b\", trust: secret/ca, onLoss: Count}}}\n  tests:", nil},
		{"audit sinks both deny", "  tests:", "  audit: {sinks: {syslog: {server: logs.example, trust: secret/ca, onLoss: Deny}, otlp: {url: \"https://c.example\", trust: secret/ca, onLoss: Deny}}}\n  tests:", nil},
		{"audit sinks memory", "  tests:", "  audit: {sinks: {syslog: {server: logs.example, trust: secret/users, onLoss: Count}, otlp: {url: \"https://c.example\", trust: secret/users, onLoss: Count, queue: {memory: 17Mi}}}}\n  tests:", nil},
		{"audit sinks denied way", network, network + "    egress: [{name: nowhere, action: Deny, to: [{names: [logs.example]}]}]\n  audit: {sinks: {syslog: {server: logs.example, trust: secret/users, onLoss: Count}}}\n", nil},
		{"allow on error", "  levels:", "  default: {onError: Allow}\n  levels:", nil},
		{"another target", "  app:", "  target: container\n  app:", nil},
		{"another network", "  app:", "  network: drect\n  app:", nil},
		{"sockets in a microvm", "  app:", "  target: microvm\n  network: socket\n  app:", nil},
		{"secret by descriptor", "{file: ./users.txt}", "{descriptor: 3}", nil},
		{"sctp", "{protocol: TCP, port: 8080}]}", "{protocol: SCTP}]}", nil},
		{"icmp with a port", "{protocol: TCP, port: 8080}]}", "{protocol: ICMP, port: 8}]}", nil},
		{"icmp with a range", "{protocol: TCP, port: 8080}]}", "{protocol: ICMP, portRange: 1-8}]}", nil},
		{"a test of icmp with a port", "  tests:", "  tests:\n    - {name: ping, packet: {from: 127.0.0.1, protocol: ICMP, port: 8}, expect: Deny}", nil},
		{"a test of a packet without a port", "  tests:", "  tests:\n    - {name: ping, packet: {from: 127.0.0.1}, expect: Deny}", nil},

		{"host bits", "127.0.0.0/8", "127.0.0.1/8", nil},
		{"address for a network", "127.0.0.0/8", "127.0.0.1", nil},
		{"mapped network", "127.0.0.0/8", `"::ffff:127.0.0.0/104"`, nil},
		{"endpoint misspelt", "from: [local]", "from: [locl]", nil},
		{"nobody in from", "from: [local]", "from: []", nil},
		{"no port in ports", "ports: [{protocol: TCP, port: 8080}]", "ports: []", nil},
		{"protocol missing", "{protocol: TCP, port: 8080}", "{port: 8080}", nil},
		{"range upside down", "{protocol: TCP, port: 8080}", `{protocol: TCP, portRange: "90-80"}`, nil},
		{"any redefined", "name: local", "name: any", nil},
		{"no network at all", network, "", nil},
		{"levels upside down", "port: 8080}]}", "port: 8080}], minLevel: lockdown, maxLevel: normal}", nil},
		{"level misspelt", "port: 8080}]}", "port: 8080}], maxLevel: norml}", nil},
		{"initial level unknown", "initial: normal", "initial: calm", nil},
		{"level twice", "[normal, lockdown]", "[normal, normal]", nil},

		{"network that allows nobody", "action: Allow", "action: Deny", nil},
		{"no ports", "    - {name: web, port: 8080}", "    []", nil},
		{"no routes in routes", base[strings.Index(base, "    - {name: list"):strings.Index(base, "  attributes:")], "    []\n", nil},

		{"selector matches nothing", "selector: {matchLabels: {app: shop}}", "selector: {matchLabels: {app: shpo}}", nil},
		{"selector of everything", "selector: {matchLabels: {app: shop}}", "selector: {matchLabels: {}}", nil},
		{"other tenant", "name: shop, tenant: acme, labels", "name: shop, tenant: other, labels", nil},
		{"app missing", "    static: {dir: ./public}", "    {}", nil},
		{"two apps", "static: {dir: ./public}", "static: {dir: ./public}\n    handler: {module: ./api}", nil},
		{"folder missing", "./public", "./pubic", nil},
		{"passwords in the clear", "{name: web, port: 8080}", "{name: web, port: 8080, address: 0.0.0.0}", nil},
		{"port twice", "    - {name: web, port: 8080}", "    - {name: web, port: 8080}\n    - {name: admin, port: 8080}", nil},
		{"memory without unit", "  app:", "  resources: {memory: 64}\n  app:", nil},
		{"memory with another unit", "  app:", "  resources: {memory: 64MB}\n  app:", nil},
		{"tier unknown", "  app:", "  confinement: {minimum: fulll}\n  app:", nil},

		{"require unstated", "require: true, ", "", nil},
		{"require in the old place", "{require: true, basic: {name: login,", "{basic: {require: true, name: login,", nil},
		{"modules that say nothing", "  levels:", "  modules: {}\n  levels:", nil},
		{"modules that are none", "  levels:", "  modules: {require: [], forbid: [\"\", Pep/Firewall, ../x, 7], maxAttackSurface: 0}\n  levels:", nil},
		{"modules named twice", "  levels:", "  modules: {require: [net, net], forbid: [app/proxy, app/proxy]}\n  levels:", nil},
		{"a module that must and must not", "  levels:", "  modules:\n    require: [audit, tls/server]\n    forbid: [tls/server]\n  levels:", nil},
		{"modules of another form", "  levels:", "  modules: {require: net, allow: [x], maxAttackSurface: \"9\"}\n  levels:", nil},
		{"no method", "{require: true, basic: {name: login, users: secret/users}}", "{require: true}", nil},
		{"jwt of nobody", "basic: {name: login, users: secret/users}", "jwt: []", nil},
		{"jwt with everything wrong", "basic: {name: login, users: secret/users}", "jwt: [{name: i d, issuer: 7, audiences: [], jwks: ./x.json, algorithms: [none, HS256, ES384, ES256, ES256], principal: \"\", leeway: 1.5s, require: true, key: x}]", nil},
		{"principal that is a source", "basic: {name: login, users: secret/users}", "jwt: [{name: idp, issuer: \"https://idp\", audiences: [shop], jwks: secret/users, principal: jwt.sub}]", []string{"users: {file: ./users.txt}", "users: {file: ./jwks.json}", "groups: basic.groups", "groups: jwt.groups"}},
		{"principal that is a pointer", "basic: {name: login, users: secret/users}", "jwt: [{name: idp, issuer: \"https://idp\", audiences: [shop], jwks: secret/users, principal: /realm/name}]", []string{"users: {file: ./users.txt}", "users: {file: ./jwks.json}", "groups: basic.groups", "groups: jwt.groups"}},
		{"an audience twice", "basic: {name: login, users: secret/users}", "jwt: [{name: idp, issuer: \"https://idp\", audiences: [shop, shop], jwks: secret/users}]", []string{"users: {file: ./users.txt}", "users: {file: ./jwks.json}", "groups: basic.groups", "groups: jwt.groups"}},
		{"a claim that is asked otherwise", "basic: {name: login, users: secret/users}", "jwt: [{name: idp, issuer: \"https://idp\", audiences: [shop], jwks: secret/users}]", []string{"users: {file: ./users.txt}", "users: {file: ./jwks.json}", "groups: basic.groups", "groups: jwt.groups", `"body.json:/count"`, `'jwt.amr contains "mfa"'`}},
		{"a source of a later name", "basic: {name: login, users: secret/users}", "jwt: [{name: idp, issuer: \"https://idp\", audiences: [shop], jwks: secret/users}]", []string{"users: {file: ./users.txt}", "users: {file: ./jwks.json}", "groups: basic.groups", "groups: jwt.groups", `"body.json:/count"`, "tls.san"}},
		{"users of no name", "users: secret/users}", "users: \"\"}", []string{"  secrets:\n    users: {file: ./users.txt}\n", ""}},
		{"keys of no name", "basic: {name: login, users: secret/users}", "jwt: [{name: idp, issuer: \"https://idp\", audiences: [shop], jwks: \"\"}]", []string{"  secrets:\n    users: {file: ./users.txt}\n", "", "groups: basic.groups", "groups: jwt.groups"}},
		{"a certificate of no name", "  levels:", "  tls: {mode: SIMPLE, certificate: \"\", key: \"\"}\n  levels:", nil},
		{"a secret with a name of one letter", "users: secret/users}", "users: secret/u}", []string{"    users: {file", "    k: {file"}},
		{"a secret from elsewhere", "{file: ./users.txt}", "{vault: kv/users}", nil},
		{"upgrade that is a truth value", "path: /items}", "path: /items}, upgrade: true", nil},
		{"version of TLS that is a number", "  levels:", "  tls: {mode: SIMPLE, minVersion: 1.2}\n  levels:", nil},
		{"client certificates where TLS asks for none", "basic: {name: login, users: secret/users}", "basic: {name: login, users: secret/users}, mtls: {name: mesh, principal: spiffe}", []string{"  levels:", "  tls: {mode: SIMPLE}\n  levels:"}},
		{"no TLS, and how", "  levels:", "  tls: {mode: NONE, minVersion: \"1.2\", http2: true}\n  levels:", nil},
		{"jwt with a long leeway", "basic: {name: login, users: secret/users}", "jwt: [{name: idp, issuer: \"https://idp\", audiences: [shop], jwks: secret/users, leeway: 1h}]", []string{"users: {file: ./users.txt}", "users: {file: ./jwks.json}", "groups: basic.groups", "groups: jwt.groups"}},
		{"jwt of one issuer twice", "basic: {name: login, users: secret/users}", "jwt: [{name: idp, issuer: \"https://idp\", audiences: [shop], jwks: secret/users}, {name: again, issuer: \"https://idp\", audiences: [pay], jwks: secret/users}]", []string{"users: {file: ./users.txt}", "users: {file: ./jwks.json}", "groups: basic.groups", "groups: jwt.groups"}},
		{"jwt under the name of a rule", "basic: {name: login, users: secret/users}", "jwt: [{name: may-read, issuer: \"https://idp\", audiences: [shop], jwks: secret/users}]", []string{"users: {file: ./users.txt}", "users: {file: ./jwks.json}", "groups: basic.groups", "groups: jwt.groups"}},
		{"keys that are missing", "basic: {name: login, users: secret/users}", "jwt: [{name: idp, issuer: \"https://idp\", audiences: [shop], jwks: secret/users}]", []string{"users: {file: ./users.txt}", "users: {file: ./none.json}", "groups: basic.groups", "groups: jwt.groups"}},
		{"keys that are no keys", "basic: {name: login, users: secret/users}", "jwt: [{name: idp, issuer: \"https://idp\", audiences: [shop], jwks: secret/users}]", []string{"users: {file: ./users.txt}", "users: {file: ./users.txt}", "groups: basic.groups", "groups: jwt.groups"}},
		{"keys that are private", "basic: {name: login, users: secret/users}", "jwt: [{name: idp, issuer: \"https://idp\", audiences: [shop], jwks: secret/users}]", []string{"users: {file: ./users.txt}", "users: {file: ./private.json}", "groups: basic.groups", "groups: jwt.groups"}},
		{"keys of another algorithm", "basic: {name: login, users: secret/users}", "jwt: [{name: idp, issuer: \"https://idp\", audiences: [shop], jwks: secret/users, algorithms: [RS256]}]", []string{"users: {file: ./users.txt}", "users: {file: ./jwks.json}", "groups: basic.groups", "groups: jwt.groups"}},
		{"keys of a client authority", "basic: {name: login, users: secret/users}", "jwt: [{name: idp, issuer: \"https://idp\", audiences: [shop], jwks: secret/users}]", []string{"users: {file: ./users.txt}", "users: {development: client-ca}", "groups: basic.groups", "groups: jwt.groups"}},
		{"a list of users for development", "{file: ./users.txt}", "{development: jwks}", nil},
		{"development of something else", "{file: ./users.txt}", "{development: users}", nil},
		{"a file and for development", "{file: ./users.txt}", "{file: ./users.txt, development: jwks}", nil},
		{"a secret of nothing", "{file: ./users.txt}", "{}", nil},
		{"a secret with a reserved name", "users: {file: ./users.txt}", "users: {file: ./users.txt}\n    development/key: {file: ./users.txt}", nil},
		{"tokens in the clear", "basic: {name: login, users: secret/users}", "jwt: [{name: idp, issuer: \"https://idp\", audiences: [shop], jwks: secret/users}]", []string{"users: {file: ./users.txt}", "users: {file: ./jwks.json}", "groups: basic.groups", "groups: jwt.groups", "port: 8080}\n", "port: 8080, address: 0.0.0.0}\n"}},
		{"development keys on the network", "basic: {name: login, users: secret/users}", "jwt: [{name: idp, issuer: \"https://idp\", audiences: [shop], jwks: secret/users}]", []string{"users: {file: ./users.txt}", "users: {development: jwks}", "groups: basic.groups", "groups: jwt.groups", "port: 8080}\n", "port: 8080, address: 0.0.0.0}\n"}},
		{"certificates without tls", "basic: {name: login", "mtls: {name: mesh, principal: spiffe, trustDomain: acme.internal}, basic: {name: login", nil},
		{"certificates with everything wrong", "basic: {name: login", "mtls: {name: m, principal: email, trustDomain: Acme/x}, basic: {name: login", nil},
		{"a trust domain of DNS names", "basic: {name: login", "mtls: {name: m, principal: dns, trustDomain: acme.internal}, basic: {name: login", nil},

		{"users by file", "users: secret/users", "users: ./users.txt", nil},
		{"secret misspelt", "users: secret/users", "users: secret/user", nil},
		{"secret unused", "users: {file: ./users.txt}", "users: {file: ./users.txt}\n    spare: {file: ./users.txt}", nil},
		{"user list missing", "./users.txt", "./user.txt", nil},
		{"user list wrong", "./users.txt", "./badusers.txt", nil},
		{"window without unit", "users: secret/users", "users: secret/users, window: 60", nil},

		{"route twice", "{name: read,", "{name: list,", nil},
		{"route ambiguous", `path: "/items/{id}"}`, `path: "/items/{key}"}}` + "\n    - {name: again, match: {method: GET, path: \"/items/{other}\"}", nil},
		{"method in lower case", "method: POST", "method: post", nil},
		{"trailing slash", "path: /items}", "path: /items/}", nil},
		{"empty segment", "path: /items}", "path: //items}", nil},
		{"dot segment", "path: /items}", "path: /a/../items}", nil},
		{"escaped character", "path: /items}", "path: /it%65ms}", nil},
		{"wildcard", "path: /items}", `path: "/items/*"}`, nil},
		{"part of a segment", `"/items/{id}"`, `"/items/x{id}"`, nil},
		{"rest before the end", `"/items/{id}"`, `"/items/{rest...}/x"`, nil},
		{"query in a path", "path: /items}", `path: "/items?all=1"}`, nil},

		{"group of routes misspelt", `RouteGroup::"reads"`, `RouteGroup::"read"`, nil},
		{"route misspelt", `resource == Route::"buy"`, `resource == Route::"bye"`, nil},
		{"route in a condition misspelt", "context has count &&", `resource == Route::"bye" && context has count &&`, nil},
		{"cedar syntax", `(principal, action == Action::"call", resource == Route::"buy")`, `(principal, action = Action::"call", resource == Route::"buy")`, nil},
		{"two policies with bad syntax", "permit (principal", "permitt (principal", nil},
		{"semicolon missing", "context.count < 10 };", "context.count < 10 }", nil},
		{"string unclosed", `Group::"staff"`, `Group::"staff`, nil},
		{"id twice", `@id("may-buy")`, `@id("may-read")`, nil},
		{"id with spaces", `@id("may-buy")`, `@id("may buy")`, nil},
		{"attribute misspelt", "context.count < 10", "context.cuont < 10", nil},
		{"optional attribute unguarded", "context has count && ", "", nil},
		{"wrong type", "context.count < 10", `context.count == "ten"`, nil},
		{"type unknown to the schema", `Group::"staff"`, `Team::"staff"`, nil},
		{"brackets without end", "context.count < 10", strings.Repeat("(", 60) + "true" + strings.Repeat(")", 60), nil},
		{"condition without end", "context.count < 10", "1" + strings.Repeat("+1", 250) + " < 10", nil},
		{"schema syntax", "entity Group;", "entity Group", nil},
		{"schema type undefined", "entity User in [Group];", "entity User in [Team];", nil},
		{"second action", `action "call"`, `action "read" appliesTo { principal: User, resource: Route, context: {} };` + "\n      " + `action "call"`, nil},
		{"other action", `action "call"`, `action "request"`, nil},
		{"set attribute", `"count"?: Long`, `"count"?: Set<Long>`, nil},
		{"no authentication", base[strings.Index(base, "  authentication:"):strings.Index(base, "  routes:")], "", nil},

		{"no authorization", base[strings.Index(base, "  authorization:"):strings.Index(base, "  tests:")], "", nil},

		{"source missing", "    count: \"body.json:/count\"\n", "", nil},
		{"source of nothing", "    level: level\n", "    level: level\n    colour: header.X-Colour\n", nil},
		{"source misspelt", "level: level", "level: levle", nil},
		{"source of later", `"body.json:/count"`, "workload.count", nil},
		{"claim without tokens", `"body.json:/count"`, "jwt.count", nil},
		{"claim with a dot", `"body.json:/count"`, "jwt.limits.count", nil},
		{"claim with a space", `"body.json:/count"`, `"jwt.my count"`, nil},
		{"claims as a whole", `"body.json:/count"`, `"jwt:"`, nil},
		{"claim with a lone tilde", `"body.json:/count"`, `"jwt:/a~2"`, nil},
		{"claim that has a word", `"body.json:/count"`, "jwt.amr has mfa", nil},
		{"claim that has a number", `"body.json:/count"`, `'jwt.amr has "mfa"'`, nil},
		{"certificate without tls", `"body.json:/count"`, "tls.spiffe", []string{`"count"?: Long`, `"count"?: String`, "context.count < 10", `context.count == "x"`}},
		{"fact of the connection of later", `"body.json:/count"`, "tls.version", nil},
		{"sources in a list", "level: level", "level: [level, clock.hour]", nil},
		{"groups of tokens that nobody takes", "groups: basic.groups", "groups: [jwt.groups, basic.groups]", nil},
		{"groups twice", "groups: basic.groups", "groups: [basic.groups, basic.groups]", nil},
		{"groups of two claims", "basic: {name: login, users: secret/users}", "jwt: [{name: idp, issuer: \"https://idp\", audiences: [shop], jwks: secret/users}]", []string{"users: {file: ./users.txt}", "users: {file: ./jwks.json}", "groups: basic.groups", "groups: [jwt.groups, \"jwt:/roles\"]"}},
		{"groups of nobody", "groups: basic.groups", "groups: []", nil},
		{"groups of a list that is not there", "basic: {name: login, users: secret/users}", "jwt: [{name: idp, issuer: \"https://idp\", audiences: [shop], jwks: secret/users}]", []string{"users: {file: ./users.txt}", "users: {file: ./jwks.json}", "groups: basic.groups", "groups: basic.groups"}},
		{"groups that leave out the list", "basic: {name: login", "jwt: [{name: idp, issuer: \"https://idp\", audiences: [shop], jwks: secret/keys}], basic: {name: login",
			[]string{"users: {file: ./users.txt}", "users: {file: ./users.txt}\n    keys: {file: ./jwks.json}", "groups: basic.groups", "groups: jwt.groups"}},
		{"pointer without slash", `"body.json:/count"`, `"body.json:count"`, nil},
		{"type that a source cannot give", "level: level", "level: clock.hour", nil},
		{"credential as a source", `"body.json:/count"`, "header.authorization", nil},
		{"header set by Lorica", `"body.json:/count"`, "header.lorica-principal", nil},
		{"groups from nowhere", "    groups: basic.groups\n", "", nil},
		{"parameter missing on a route", `"count"?: Long`, `"count": Long`, []string{`"body.json:/count"`, "route.id", "/items/{id}/orders", "/orders"}},
		{"parameter on no route", `"body.json:/count"`, "route.idd", nil},

		{"groups without parents", "entity User in [Group];", "entity User;", []string{"entity Group;\n      ", "", `principal in Group::"staff"`, "principal"}},
		{"groups from another source", "groups: basic.groups", "groups: level", nil},
		{"groups as an attribute", `"body.json:/count"`, "basic.groups", nil},
		{"header with a space", `"body.json:/count"`, `"header.X Count"`, nil},
		{"query without a name", `"body.json:/count"`, `"query."`, nil},
		{"parameter that cannot be", `"body.json:/count"`, `"route.a-b"`, nil},
		{"pointer with a lone tilde", `"body.json:/count"`, `"body.json:/a~2"`, nil},
		{"groups of routes without parents", "entity Route in [RouteGroup];", "entity Route;", []string{"entity RouteGroup;\n      ", "", `resource in RouteGroup::"reads"`, "resource"}},
		{"two kinds of groups", "entity User in [Group];", "entity Team;\n      entity User in [Group, Team];", nil},
		{"one entity for two things", "entity Route in [RouteGroup];", "entity Route in [Group];", []string{"entity RouteGroup;\n      ", ""}},
		{"action groups", `action "call"`, `action "all"; action "call" in ["all"]`, nil},
		{"two kinds of principals", "principal: User", "principal: [User, Group]", nil},
		{"attribute that an entity has not", "context has count &&", "context has count && principal.count > 1 &&", nil},
		{"entity of an unknown type", "    cedar: |\n", "    entities: |\n      [{\"uid\": {\"type\": \"Usr\", \"id\": \"ada\"}, \"parents\": [], \"attrs\": {}}]\n    cedar: |\n", nil},
		{"entity with an attribute of its own", "    cedar: |\n", "    entities: |\n      [{\"uid\": {\"type\": \"User\", \"id\": \"ada\"},\n        \"attrs\": {\"age\": 7}, \"parents\": []}]\n    cedar: |\n", nil},
		{"entity twice", "    cedar: |\n", "    entities: |\n      [{\"uid\": {\"type\": \"User\", \"id\": \"ada\"}, \"parents\": [], \"attrs\": {}},\n       {\"uid\": {\"type\": \"User\", \"id\": \"ada\"}, \"parents\": [], \"attrs\": {}}]\n    cedar: |\n", nil},
		{"entity in the wrong place", "    cedar: |\n", "    entities: |\n      [{\"uid\": {\"type\": \"User\", \"id\": \"ada\"}, \"parents\": [{\"type\": \"RouteGroup\", \"id\": \"reads\"}], \"attrs\": {}}]\n    cedar: |\n", nil},
		{"entity that is an action", "    cedar: |\n", "    entities: |\n      [{\"uid\": {\"type\": \"Action\", \"id\": \"call\"}, \"parents\": [], \"attrs\": {}}]\n    cedar: |\n", nil},
		{"groups in a circle", "entity Group;", "entity Group in [Group];", []string{"    cedar: |\n", "    entities: |\n      [{\"uid\": {\"type\": \"Group\", \"id\": \"a\"}, \"parents\": [{\"type\": \"Group\", \"id\": \"b\"}], \"attrs\": {}},\n       {\"uid\": {\"type\": \"Group\", \"id\": \"b\"}, \"parents\": [{\"type\": \"Group\", \"id\": \"a\"}], \"attrs\": {}}]\n    cedar: |\n"}},
		{"entities that are no list", "    cedar: |\n", "    entities: |\n      {}\n    cedar: |\n", nil},
		{"entities that break off", "    cedar: |\n", "    entities: |\n      [{\"uid\": {\"type\": \"User\",\n    cedar: |\n", nil},
		{"entities with more behind", "    cedar: |\n", "    entities: |\n      []\n      []\n    cedar: |\n", nil},
		{"set from a query", `"count"?: Long`, `"count"?: Set<Long>`, []string{`"body.json:/count"`, "query.count", "context.count < 10", "context.count.contains(10)"}},
		{"set of sets", `"count"?: Long`, `"count"?: Set<Set<Long>>`, []string{"context.count < 10", "context.count.isEmpty()"}},
		{"route in a set misspelt", "context has count &&", `[Route::"bye", Route::"buy"].contains(resource) && context has count &&`, nil},
		{"attribute named groups", `"count"?: Long`, `"groups"?: Long`, nil},
		{"schema of blanks", "    schema: |\n", "    schema: \"  \"\n    x: |\n", nil},

		{"folder that is a file", "./public", "./users.txt", nil},
		{"folder that is no module", "static: {dir: ./public}", "handler: {module: ./public}", nil},
		{"package outside the module", "static: {dir: ./public}", "handler: {module: ./api, package: ../public}", nil},
		{"package missing", "static: {dir: ./public}", "handler: {module: ./api, package: ./v2}", nil},
		{"function that is not exported", "static: {dir: ./public}", "handler: {module: ./api, func: new}", nil},
		{"path with a control character", "./public", `"./pub\tlic"`, nil},
		{"path that is empty", "./public", `""`, nil},
		{"secret that is a folder", "./users.txt", "./public", nil},
		{"address that is a name", "port: 8080}\n", "port: 8080, address: localhost}\n", nil},
		{"address in disguise", "port: 8080}\n", `port: 8080, address: "::ffff:127.0.0.1"}` + "\n", nil},
		{"address with a zone", "port: 8080}\n", `port: 8080, address: "fe80::1%eth0"}` + "\n", nil},
		{"name that is a date", "{name: web, port", "{name: 2024-01-01, port", nil},
		{"share above one", "  tests:", "  audit: {sampleAllowed: 2}\n  tests:", nil},
		{"all but not all", "  tests:", "  audit: {decisions: all, sampleAllowed: 0.5}\n  tests:", nil},
		{"redact of the unknown", "  tests:", "  audit: {redact: [sources]}\n  tests:", nil},
		{"redact of no attribute", "  tests:", "  audit: {redact: [attribute.counts, groups, attributes, attribute.count, attribute.]}\n  tests:", nil},
		{"body too large", "  tests:", "  requestFilter: {maxBodyBytes: 1Gi, maxConnections: 0, idleTimeout: 5}\n  tests:", nil},
		{"labels as a list", "labels: {app: shop}", "labels: [app]", nil},
		{"label without a value", "labels: {app: shop}", "labels: {app: }", nil},
		{"no level", "names: [normal, lockdown]", "names: []", nil},
		{"endpoint without networks", "{name: local, cidrs: [127.0.0.0/8]}", "{name: local}", nil},
		{"endpoint of no network", "cidrs: [127.0.0.0/8]", "cidrs: []", nil},
		{"network that is a word", "127.0.0.0/8", "loopback", nil},
		{"port and range", "port: 8080}]", `port: 8080, portRange: "1-2"}]`, nil},
		{"TRACE", "method: POST", "method: TRACE", nil},
		{"method with a space", "method: POST", `method: "PO ST"`, nil},
		{"relative path", "path: /items}", "path: items}", nil},
		{"path with a space", "path: /items}", `path: "/my items"}`, nil},
		{"parameter twice", `"/items/{id}/orders"`, `"/items/{id}/{id}"`, nil},
		{"realm with a quote", "users: secret/users", `users: secret/users, realm: 'my "shop"'`, nil},

		{"failing test", "expect: Allow, by: may-read", "expect: Deny", nil},
		{"test of another rule", "by: may-read", "by: may-buy", nil},
		{"test of a rule misspelt", "by: may-read", "by: may-raed", nil},
		{"test of a route misspelt", "call: read,", "call: raed,", nil},
		{"test at an unknown level", "call: read,", "level: locked, call: read,", nil},
		{"test with an unknown attribute", "call: read,", "call: read, context: {cuont: 5},", nil},
		{"test with a wrong value", "call: read,", "call: read, context: {count: five},", nil},
		{"test at a time that is none", "call: read,", "call: read, context: {count: 0},", []string{`"body.json:/count"`, "clock.weekday"}},
		{"test as nobody", "user: ann,", "user: anonymous,", nil},
		{"test as a list", "user: ann,", "user: [ann],", nil},
		{"test of a request that is none", "call: read,", "request: get /items,", nil},
		{"test of a request with a rule misspelt", "call: read,", "request: /items,", []string{"by: may-read", "by: default:routes"}},
		{"test with a field misspelt", "call: read,", "reqeust: GET /items,", nil},
		{"test at a time of day", "call: read,", "call: read, at: 23:10,", nil},
		{"test at a time that nothing reads", "call: read,", "call: read, at: \"2026-11-25T23:10:00Z\",", nil},
		{"test with a body and the same by hand", "call: read,", "call: buy, body: {count: 5}, context: {count: 5},", nil},
		{"test with a body of YAML alone", "call: read,", "call: buy, body: {count: 0x5},", nil},
		{"test of a packet with a body", "as: {user: ann, groups: [staff]}, call: read,", "packet: {from: 127.0.0.1, port: 8080}, body: {count: 5},", nil},
		{"coverage that is missing", "  tests:", "  coverage: Required\n  tests:", nil},
		{"coverage misspelt", "  tests:", "  coverage: required\n  tests:", nil},
		{"test without subject", "call: read, ", "", nil},
	}
}

// jwks is the key of RFC 8037, appendix A.2.
const jwks = `{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`

func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	users, err := os.ReadFile("testdata/payments/users.txt")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.Mkdir(filepath.Join(dir, "public"), 0o755),
		os.Mkdir(filepath.Join(dir, "api"), 0o755),
		os.WriteFile(filepath.Join(dir, "api", "go.mod"), []byte("module example.com/api\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "users.txt"), users, 0o600),
		os.WriteFile(filepath.Join(dir, "jwks.json"), []byte(jwks), 0o600),
		os.WriteFile(filepath.Join(dir, "private.json"), []byte("{\"keys\": [\n"+strings.Replace(jwks[10:len(jwks)-2], "}", `, "d": "c2VjcmV0"}`, 1)+"]}"), 0o600),
		os.WriteFile(filepath.Join(dir, "badusers.txt"), append(users, "eve:staff:$argon2id$v=19$m=19456,t=2,p=1$c2hvcnQ$c2VjcmV0\n"...), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	return dir
}

func parse(dir, text string) (*policy.Bundle, error) {
	return policy.Parse([]policy.File{{Name: "shop.yaml", Data: []byte(text), Dir: dir}})
}

func TestBaseIsGood(t *testing.T) {
	if _, err := parse(folder(t), base); err != nil {
		t.Fatal(err)
	}
}

// TestMistakes holds every message to testdata/mistakes.golden: messages are
// there to be read.
func TestMistakes(t *testing.T) {
	const golden = "testdata/mistakes.golden"
	dir := folder(t)
	var got strings.Builder
	for _, m := range mistakes() {
		text := strings.NewReplacer(append([]string{m.old, m.new}, m.more...)...).Replace(base)
		if m.old == "" || text == base {
			t.Errorf("%s: the case changes nothing", m.name)
			continue
		}
		fmt.Fprintf(&got, "== %s\n", m.name)
		_, err := parse(dir, text)
		var es policy.Errors
		if !errors.As(err, &es) || len(es) == 0 {
			t.Errorf("%s: accepted", m.name)
			continue
		}
		for _, e := range es {
			if e.Fix == "" || e.Pos.Line == 0 {
				t.Errorf("%s: %q lacks a place or a fix", m.name, e.Message)
			}
			fmt.Fprintf(&got, "%s\n    | %s\n", strings.ReplaceAll(e.Error(), dir, "DIR"), e.Text)
		}
		got.WriteByte('\n')
	}
	compareGolden(t, golden, got.String())
}

// Every section of the language is known: what has no module yet is refused by
// name, and nothing is taken for a mistake.
func TestWholeLanguageIsKnown(t *testing.T) {
	data, err := os.ReadFile("testdata/whole.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, err = policy.Parse([]policy.File{{Name: "whole.yaml", Data: data}})
	var es policy.Errors
	if !errors.As(err, &es) {
		t.Fatal("accepted")
	}
	var got strings.Builder
	for _, e := range es {
		if !strings.Contains(e.Message, "not supported yet") {
			t.Errorf("%v", e)
		}
		fmt.Fprintln(&got, e)
	}
	compareGolden(t, "testdata/whole.golden", got.String())
}
