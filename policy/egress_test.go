package policy_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/policy"
)

// front is a proxy and its policy. Cases change one thing in them.
const front = `apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: front}
spec:
  selector: {matchLabels: {app: front}}
  default: {authorization: Allow}
  levels: {names: [normal, lockdown], initial: normal}
  network:
    ingress:
      - {name: web-in, action: Allow, from: [any], ports: [{protocol: TCP, port: 8080}]}
    egress:
      - {name: never, action: Deny, to: [{cidrs: [10.9.0.0/16]}]}
      - {name: legacy, action: Allow, to: [{cidrs: [127.0.0.1/32]}], ports: [{protocol: TCP, port: 9000}], maxLevel: normal}
      - {name: idp, action: Allow, to: [{names: [api.acme.internal]}, {cidrs: ["2001:db8::/32"]}], ports: [{protocol: TCP, portRange: 443-445}]}
  routes:
    - {name: chat, match: {method: GET, path: /chat}, upgrade: websocket}
---
apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: front, labels: {app: front}}
spec:
  app:
    proxy: {upstream: "http://127.0.0.1:9000"}
  listen: [{name: web, port: 8080}]
`

func frontFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"key.pem": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "bad.pem": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
		"text.pem": "certificates, later\n", "public/index.html": "hello"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func frontPolicy(t *testing.T) *policy.Deployment {
	t.Helper()
	b, err := parse(frontFolder(t), front)
	if err != nil {
		t.Fatal(err)
	}
	return b.Deployments[0]
}

func TestAProxyIsReadAsItIsWritten(t *testing.T) {
	d := frontPolicy(t)
	x := d.Workload.App.Proxy
	if x.Host != "127.0.0.1" || x.Port != 9000 || x.TLS || x.MaxConnections != 64 || x.ConnectTimeout.String() != "5s" || x.ResponseTimeout.String() != "30s" {
		t.Errorf("%+v", x)
	}
	if r := d.Policy.Routes[0]; r.Upgrade != "websocket" {
		t.Errorf("%+v", r)
	}
}

func TestHigherLevelsOnlyRemoveConnections(t *testing.T) {
	p := frontPolicy(t).Policy
	for host, want := range map[string][2]string{ // at normal, at lockdown
		"127.0.0.1:9000": {"legacy", ""}, "127.0.0.1:9001": {"", ""}, "10.9.1.1:443": {"", ""}, "2001:db8::1:443": {"idp", "idp"},
		"api.acme.internal:445": {"idp", "idp"}, "api.acme.internal:446": {"", ""},
	} {
		at := strings.LastIndexByte(host, ':')
		tg := egress.Target{Name: host[:at]}
		fmt.Sscan(host[at+1:], &tg.Port)
		if a, err := netip.ParseAddr(tg.Name); err == nil {
			tg.Name, tg.Addr = "", a
		}
		for i, rule := range want {
			res := policy.EgressSection(p, i).Decide(tg)
			if (res.Verdict == abi.Allow) != (rule != "") || rule != "" && res.Rule.ID != rule {
				t.Errorf("%s at level %d: %+v, want %q", host, i, res, rule)
			}
		}
	}
}

func TestEgressMistakes(t *testing.T) {
	dir := frontFolder(t)
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil { // nobody will ever write to it
		t.Fatal(err)
	}
	var got strings.Builder
	rule := "{name: idp, action: Allow, to: [{names: [api.acme.internal]}, {cidrs: [\"2001:db8::/32\"]}], ports: [{protocol: TCP, portRange: 443-445}]}"
	up := `upstream: "http://127.0.0.1:9000"`
	for _, m := range []mistake{
		{"no rule for the upstream", "port: 9000}], maxLevel", "port: 9001}], maxLevel", nil},
		{"the upstream is denied", "cidrs: [10.9.0.0/16]", "cidrs: [127.0.0.0/8]", nil},
		{"the upstream is allowed at another level only", "initial: normal", "initial: lockdown", nil},
		{"the upstream is a name without a rule", up, `upstream: "http://legacy"`, nil},
		{"no network at all", front[strings.Index(front, "  network:"):strings.Index(front, "  routes:")], "", []string{"default: {authorization: Allow}", "default: {authorization: Allow, network: Allow}"}},
		{"rules that nobody uses", "proxy: {" + up + "}", "static: {dir: ./public}", nil},
		{"empty rules", front[strings.Index(front, "    egress:"):strings.Index(front, "  routes:")], "    egress: []\n", nil},
		{"a rule about nothing", rule, "{}", nil},
		{"empty lists", rule, "{name: idp, action: Allow, to: [], ports: []}", nil},
		{"an empty destination", rule, "{name: idp, action: Allow, to: [{cidrs: []}, {names: []}, {}]}", nil},
		{"both in one", rule, "{name: idp, action: Allow, to: [{cidrs: [10.0.0.0/8], names: [a.b]}]}", nil},
		{"a destination as an endpoint", rule, "{name: idp, action: Allow, to: [{endpoints: [corp]}]}", nil},
		{"a destination as a word", rule, "{name: idp, action: Allow, to: [any]}", nil},
		{"an address", rule, "{name: idp, action: Allow, to: [{cidrs: [10.0.0.1]}]}", nil},
		{"host bits", rule, "{name: idp, action: Allow, to: [{cidrs: [10.0.0.1/8]}]}", nil},
		{"an IPv4-mapped network", rule, "{name: idp, action: Allow, to: [{cidrs: [\"::ffff:10.0.0.0/104\"]}]}", nil},
		{"capitals", rule, "{name: idp, action: Allow, to: [{names: [API.acme.internal.]}]}", nil},
		{"a wildcard", rule, "{name: idp, action: Allow, to: [{names: [\"*.acme.internal\"]}]}", nil},
		{"a URL for a name", rule, "{name: idp, action: Allow, to: [{names: [\"https://api.acme.internal:443\"]}]}", nil},
		{"an address for a name", rule, "{name: idp, action: Allow, to: [{names: [10.0.0.1]}]}", nil},
		{"UDP", rule, "{name: idp, action: Allow, to: [{names: [a.b]}], ports: [{protocol: UDP, port: 53}]}", nil},
		{"a level misspelt", "maxLevel: normal", "maxLevel: nomal", nil},
		{"the name of another rule", "{name: never", "{name: web-in", nil},
		{"a protocol that is none", "upgrade: websocket", "upgrade: h2c", nil},
		{"an upgrade of POST", "method: GET", "method: POST", nil},
		{"an upgrade of files", "proxy: {" + up + "}", "static: {dir: ./public}", []string{front[strings.Index(front, "    egress:"):strings.Index(front, "  routes:")], ""}},

		{"two applications", "proxy: {" + up + "}", "proxy: {" + up + "}\n    static: {dir: ./public}", nil},
		{"no upstream", "proxy: {" + up + "}", "proxy: {maxConnections: 0, connectTimeout: 1ns, responseTimeout: 2h, retries: 3}", nil},
		{"an upstream without a scheme", up, `upstream: "127.0.0.1:9000"`, nil},
		{"an upstream of another scheme", up, `upstream: "ftp://127.0.0.1:9000"`, nil},
		{"an upstream with a path", up, `upstream: "http://127.0.0.1:9000/"`, nil},
		{"an upstream with a query", up, `upstream: "http://127.0.0.1:9000?"`, nil},
		{"an upstream with a fragment", up, `upstream: "http://127.0.0.1:9000#"`, nil},
		{"an upstream with a password", up, `upstream: "http://u:p@127.0.0.1:9000"`, nil},
		{"an upstream without a host", up, `upstream: "http://:9000"`, nil},
		{"an upstream with no port behind the colon", up, `upstream: "http://127.0.0.1:"`, nil},
		{"an upstream at port 0", up, `upstream: "http://127.0.0.1:0"`, nil},
		{"an upstream at a port too large", up, `upstream: "http://127.0.0.1:90000"`, nil},
		{"an upstream at a port that is text", up, `upstream: "http://127.0.0.1:http"`, nil},
		{"an upstream in capitals", up, `upstream: "http://Legacy.Acme"`, nil},
		{"an upstream with a short address", up, `upstream: "http://127.1:9000"`, nil},
		{"an upstream with a zone", up, `upstream: "http://[fe80::1%25eth0]:9000"`, nil},
		{"an IPv4-mapped upstream", up, `upstream: "http://[::ffff:127.0.0.1]:9000"`, nil},
		{"the unspecified address", up, `upstream: "http://0.0.0.0:9000"`, nil},
		{"https without trust", up, `upstream: "https://127.0.0.1:9000"`, nil},
		{"trust without https", up, up + `, trust: ./ca.pem, serverName: a.b`, nil},
		{"a trust file that is not there", up, `upstream: "https://127.0.0.1:9000", trust: ./ca.pem`, nil},
		{"a private key as trust", up, `upstream: "https://127.0.0.1:9000", trust: ./key.pem`, nil},
		{"a broken certificate", up, `upstream: "https://127.0.0.1:9000", trust: ./bad.pem`, nil},
		{"text as trust", up, `upstream: "https://127.0.0.1:9000", trust: ./text.pem`, nil},
		{"a folder as trust", up, `upstream: "https://127.0.0.1:9000", trust: ./public`, nil},
		{"a pipe as trust", up, `upstream: "https://127.0.0.1:9000", trust: ./pipe`, nil},
		{"a server name that is none", up, `upstream: "https://127.0.0.1:9000", trust: ./ca.pem, serverName: "https://x"`, nil},
	} {
		text := strings.NewReplacer(append([]string{m.old, m.new}, m.more...)...).Replace(front)
		if text == front {
			t.Errorf("%s: the case changes nothing", m.name)
		}
		fmt.Fprintf(&got, "== %s\n", m.name)
		_, err := parse(dir, text)
		var es policy.Errors
		if !errors.As(err, &es) || len(es) == 0 {
			t.Errorf("%s: accepted", m.name)
		}
		for _, e := range es {
			if e.Fix == "" || e.Pos.Line == 0 {
				t.Errorf("%s: %q lacks a place or a fix", m.name, e.Message)
			}
			fmt.Fprintln(&got, strings.ReplaceAll(e.Error(), dir, "DIR"))
		}
	}
	compareGolden(t, "testdata/egress.golden", got.String())
}
