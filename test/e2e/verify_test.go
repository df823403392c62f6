package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/internal/try"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/run"
	"lorica.dev/lorica/tender"
	"lorica.dev/lorica/verify"
)

// written is a policy with one rule of each kind that can be shown from one machine, and on
// each line what test cases change.
const written = `apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: told, tenant: acme, labels: {app: told}}
spec:
  app:
    handler: {module: ./witness, package: ., func: New}
  listen: [{name: web, port: PORT}]
---
apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: told, tenant: acme}
spec:
  selector: {matchLabels: {app: told}}
  default: {network: Deny, authorization: Deny}
  endpoints:
    - {name: this-machine, cidrs: [127.0.0.1/32]}
    - {name: neighbour, cidrs: [127.0.0.8/30]}
    - {name: nobody, cidrs: [127.0.0.64/30]}
  network:
    ingress:
      - {name: nobody-in, action: Deny, from: [nobody]}
      - {name: web-in, action: Allow, from: [this-machine], ports: [{protocol: TCP, port: PORT}]}
      - {name: neighbour-in, action: Allow, from: [neighbour], ports: [{protocol: TCP, port: PORT}], audit: true}
  tls: {mode: SIMPLE, minVersion: "1.2"}
  authentication:
    require: true
    jwt:
      - {name: idp, issuer: "https://idp.example", audiences: [told], jwks: secret/idp}
  secrets:
    idp: {development: jwks}
  routes:
    - {name: read, match: {method: GET, path: "/read/{id}"}}
    - {name: list, match: {method: GET, path: /list}}
  attributes:
    amount: query.amount
    groups: jwt.groups
  authorization:
    schema: |
      entity Group;
      entity User in [Group];
      entity Route;
      type Request = { "amount"?: Long };
      action "call" appliesTo { principal: User, resource: Route, context: Request };
    cedar: |
      @id("staff-read")
      permit (principal in Group::"staff", action == Action::"call", resource == Route::"read") when { context has amount && context.amount <= 100 };
      @id("all-list")
      permit (principal, action == Action::"call", resource == Route::"list") unless { principal in Group::"staff" };
      @id("nothing-negative")
      forbid (principal, action, resource) when { context has amount && context.amount < 0 };
  rateLimits:
    - {name: reads, key: principal, routes: [read], requests: 400, per: 1h}
`

// What runs is held to what is written: to its own policy it agrees, and of a policy that
// differs in one rule, that very difference is found.
func TestVerify(t *testing.T) {
	u := newUser(t)
	port := freePort(t)
	files := map[string]string{"witness/go.mod": "module example.com/witness\n\ngo 1.26\n", "witness/witness.go": witness,
		"all.yaml": strings.ReplaceAll(written, "PORT", port)}
	dir := u.project(files)
	x, first := u.up(dir)
	users := map[string]try.User{}
	text := "users:\n"
	for name, groups := range map[string]string{"ada": "staff", "bob": "others"} {
		token := strings.TrimSpace(u.run("dev", "token", name, "--groups", groups, "-f", dir))
		users[name] = try.User{Bearer: token}
		text += "  " + name + ": {bearer: " + token + "}\n"
	}
	own := filepath.Join(u.home, "users.yaml")
	write(t, own, text)

	t.Run("documents that differ", func(t *testing.T) {
		files["all.yaml"] = strings.Replace(files["all.yaml"], "amount <= 100 ", "amount <= 101 ", 1)
		before := x.seq()
		out, err := u.command("verify", "told", "-f", u.project(files)).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "does not run what is written") || !strings.Contains(string(out), "the policy at level normal is another") {
			t.Errorf("%v: %s", err, out)
		}
		if after := x.seq(); after != before {
			t.Errorf("%d decisions were made", after-before)
		}
	})

	// What runs is the policy above; what it is held to is one that differs.
	home := filepath.Join(u.home, ".local", "share", "lorica")
	m, err := run.Open(run.Paths{Data: home, Runtime: filepath.Join(home, "run")})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		rule     string // that says what differs
		old, new string // in what is written
	}{
		{"nobody-in", "nobody-in, action: Deny", "nobody-in, action: Allow"},
		{"web-in", "this-machine, cidrs: [127.0.0.1/32]", "this-machine, cidrs: [127.0.0.1/32, 127.0.0.2/32]"},
		{"neighbour-in", "neighbour-in, action: Allow", "neighbour-in, action: Deny"},
		{"default:network", "127.0.0.8/30", "127.0.0.9/32"},
		{"default:authentication", "require: true", "require: false"},
		{"ipd", "name: idp, issuer", "name: ipd, issuer"},
		{"default:tls", `minVersion: "1.2"`, `minVersion: "1.3"`},
		{"default:route", "{name: list, match: {method: GET, path: /list}}", "{name: list, match: {method: GET, path: /lists}}"},
		{"staff-read", "amount <= 100 ", "amount <= 101 "},
		{"default:authorization", "amount <= 100 ", "amount <= 99 "},
		{"all-list", "unless { principal in Group::\"staff\" }", "when { principal in Group::\"staff\" }"},
		{"nothing-negative", "amount < 0", "amount < 1"},
		{"reads", "requests: 400", "requests: 5"},
	} {
		t.Run("another "+c.rule, func(t *testing.T) {
			changed := strings.Replace(written, c.old, c.new, 1)
			if changed == written {
				t.Fatalf("%q is not written", c.old)
			}
			r := askWith(t, m, strings.ReplaceAll(changed, "PORT", port), users, c.rule == "reads")
			var differ []string
			for _, x := range r.Results {
				if x.State == verify.Differs {
					differ = append(differ, x.Rule+": "+x.Witness+": expected "+x.Expected+", got "+x.Got)
				}
			}
			t.Logf("%q", differ)
			if !slices.ContainsFunc(differ, func(s string) bool { return strings.Contains(s, c.rule) }) {
				t.Errorf("nothing says that %s is another: %q", c.rule, differ)
			}
			if r.OK() {
				t.Error("nothing differs")
			}
		})
	}
	t.Run("its own policy", func(t *testing.T) {
		out := u.run("verify", "told", "-f", dir, "--users", own, "--limits", "-o", "json")
		var r verify.Report
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		for _, x := range r.Results {
			if x.State != verify.Shown {
				t.Errorf("%s is %s: %s %+v", x.Rule, x.State, x.Why, x.Sent)
			}
		}
		if _, bypasses := r.Count(verify.Shown); len(r.Results) < 12 || bypasses < 200 || !r.OK() || r.Program != first.Program {
			t.Errorf("%d rules, %d bypasses, program %s", len(r.Results), bypasses, r.Program)
		}
	})
}

// A trusting knows whom clients of this machine trust, and issues nothing.
type trusting struct{ m *run.Machine }

func (a trusting) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	if path, err := a.m.Development().Authority(time.Now()); err == nil {
		if b, err := os.ReadFile(path); err == nil {
			pool.AppendCertsFromPEM(b)
		}
	}
	return pool
}

func (trusting) Token(string, try.Token) (string, error) { return "", errors.ErrUnsupported }

func (trusting) Certificate(string, try.Certificate) (tls.Certificate, error) {
	return tls.Certificate{}, errors.ErrUnsupported
}

// askWith verifies the one instance that runs against documents that may be others.
func askWith(t *testing.T, m *run.Machine, documents string, users map[string]try.User, limits bool) *verify.Report {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"all.yaml": documents, "witness/go.mod": "module example.com/witness\n\ngo 1.26\n", "witness/witness.go": witness} {
		write(t, filepath.Join(dir, name), text)
	}
	b, err := policy.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := b.Deployments[0]
	if network == "direct" || target != "" {
		if err := b.Retarget(target, network); err != nil {
			t.Fatal(err)
		}
	}
	out, err := compiler.Compile(d)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	i, err := m.Find(ctx, "told")
	if err != nil {
		t.Fatal(err)
	}
	l := d.Workload.Listen[0]
	r, err := verify.Run(ctx, verify.Target{Deployment: d, Level: &out.Levels[0], Program: i.Status.Program,
		Listeners: []netip.AddrPort{netip.AddrPortFrom(l.Address, l.Port)},
		Decisions: func(ctx context.Context, _ bool, emit func(tender.Decision) error) error {
			return i.Decisions(ctx, i.Status.Decisions+1, true, emit)
		}}, verify.Options{Identities: trusting{m}, Users: users, Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// seq is the number of the newest decision that the tender keeps.
func (x *upping) seq() uint64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	var n uint64
	for _, d := range x.decisions {
		n = max(n, d.Seq)
	}
	return n
}
