package main

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/wire"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/pep"
	pepaudit "lorica.dev/lorica/pep/audit"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/record"
	"lorica.dev/lorica/tender"
)

// TestWhatIsRecordedReplays sends requests through the modules of an image, records what
// they decide as an image and its tender do, and has the policy decide about the records:
// as it was decided, by the same rule. A record that cannot say is the exception, and why.
func TestWhatIsRecordedReplays(t *testing.T) {
	clinic, err := policy.Load("../../examples/clinic")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		d       *policy.Deployment
		targets []string
		groups  []string
		bodies  []string
		want    int // rules that decide
	}{
		{"accounts", example(t), []string{"GET /accounts", "GET /accounts/7", "POST /accounts/7/transfers", "PUT /accounts", "GET /nowhere"}, []string{"staff", "tellers"},
			[]string{``, `{"amount": 500}`, `{"amount": 5000}`, `{"amount": 50000}`, `{"amount": "many"}`, `{"amount": 9223372036854775807}`}, 7},
		{"clinic", clinic.Deployments[0], []string{"GET /health", "GET /patients/p%31", "POST /patients/p/notes", "POST /patients/p/prescriptions", "GET /patients/p/bill", "GET /export"},
			[]string{"nurses", "doctors", "billing", "auditors"},
			[]string{``, `{"days": 7, "drug": "morphine"}`, `{"days": 31}`, `{"days": 0, "drug": "aspirin"}`, `{"days": 3.5}`, `{"drug": "` + strings.Repeat("x", 300) + `"}`}, 11},
		{"everything", load(t, everything), []string{"GET /a/7?page=3", "GET /a/101", "HEAD /a/2?page=2", "GET /a/x", "PUT /a/1/b", "PUT /a/101/b?page=x"}, []string{"ops", "admins"},
			[]string{``, `{"items": [{"price": 9.99}], "sure": true}`, `{"items": [{"price": "1.0"}], "net": "10.0.0.0/8", "sure": false}`, `{"items": [{"price": 2}], "net": "::ffff:102:304/120", "sure": true}`}, 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := seeded(11)
			by, unsaid := map[string]int{}, map[string]int{}
			imgs, auditors := images(t, c.d), auditors(t, c.d)
			for range 4000 {
				i := g.IntN(len(imgs))
				method, target, _ := strings.Cut(pick(g, c.targets...), " ")
				r, err := http.NewRequest(method, target, strings.NewReader(pick(g, c.bodies...)))
				if err != nil {
					t.Fatal(err)
				}
				r.Host, r.RequestURI = "app", target
				r.Header.Set("Content-Type", "application/json")
				if g.IntN(3) == 0 {
					r.Header.Set("X-Tag", pick(g, "v1", "w", "v\xff"))
				}
				x := &pep.Exchange{ID: "id", Request: r, Header: http.Header{}, Now: time.Date(2026, 1, 1+g.IntN(7), g.IntN(24), g.IntN(60), 0, 0, time.UTC),
					Flow: flow.Flow{Src: netip.MustParseAddr(pick(g, "127.0.0.1", "10.41.3.4", "::1", "192.0.2.1")), DstPort: c.d.Workload.Listen[0].Port, Protocol: flow.TCP}}
				d := imgs[i].firewall.Admit(x.Flow)
				if d.Verdict != abi.Allow {
					x = &pep.Exchange{ID: "id", Flow: x.Flow, Now: x.Now}
				} else if d = imgs[i].filter.Judge(x); d.Verdict == abi.Allow {
					x.Principal, x.Claims = pick(g, "ada", "teller-7", "dr-yes", "bob"), []byte(pick(g, "", `{"amr": ["pwd", "mfa"]}`, `{"amr": "pwd"}`))
					for _, name := range c.groups {
						if g.IntN(3) == 0 {
							x.Groups = append(x.Groups, name)
						}
					}
					d = imgs[i].authz.Judge(x)
				}
				line := kept(t, auditors[i], x, d)
				rec, err := record.Parse(line)
				if err != nil {
					t.Fatalf("%s: %v", line, err)
				}
				got, err := record.Replay(c.d, rec)
				if err != nil {
					unsaid[err.Error()]++
					if d.Verdict == abi.Allow && len(rec.Partial) == 0 || d.Rule.ID != abi.RuleRequest && len(rec.Partial) == 0 {
						t.Fatalf("%s: %v", line, err)
					}
					continue
				}
				if got.Verdict != d.Verdict || got.Rule != d.Rule {
					t.Fatalf("%s:\nthe record says %s by %v, replayed it is %s by %v (%s)", line, d.Verdict, d.Rule, got.Verdict, got.Rule, got.Reason)
				}
				by[got.Rule.ID]++
			}
			t.Logf("replayed by %v; not by records: %v", by, unsaid)
			if len(by) < c.want || len(unsaid) == 0 {
				t.Errorf("only %d rules decided, %d records could not say", len(by), len(unsaid))
			}
		})
	}
}

// auditors are the audit modules of the levels.
func auditors(t testing.TB, d *policy.Deployment) (list []pep.AuditState) {
	t.Helper()
	out, err := compiler.Compile(d)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range out.Levels {
		p := l.Program(d, program.PlanID{}, 1)
		list = append(list, must(pepaudit.New().Prepare(&pep.Input{Level: l.Name, Levels: p.Levels, Revision: 1, Section: p.Section(audit.Name)})))
	}
	return list
}

// kept is what is in a spool of a decision, after its way through a control channel.
func kept(t testing.TB, a pep.AuditState, x *pep.Exchange, d pep.Decision) []byte {
	t.Helper()
	d.Record = true // connections that are let in, too
	r, ok := a.Record(x, d)
	if !ok {
		t.Fatalf("%+v is not kept", d)
	}
	var w wire.Writer
	r.Append(&w)
	in := wire.NewReader(w.Bytes())
	r = audit.Read(in)
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	k := tender.Kept(&r)
	k.Seq, k.Instance, k.Tier = 1, "i", "full"
	line, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	return line
}
