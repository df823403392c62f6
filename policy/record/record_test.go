package record_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/record"
)

func text(s string) *string { return &s }

// sample is what an image recorded about a transfer.
func sample() record.Decision {
	return record.Decision{
		Seq: 1, Time: time.Date(2026, 1, 2, 12, 30, 0, 5, time.UTC), Instance: "acme.payments.1", Tier: "full", ID: "00112233445566778899aabbccddeeff",
		Decision: "Deny", Stage: "authz", Rule: "default:authorization", Line: "policy.yaml:9", Reason: "no rule matched", Status: 403, Principal: "teller-7",
		Source: "10.20.1.1", Protocol: "TCP", Port: 8443, Method: "POST", Route: "transfer", Path: "/accounts/7/transfers", Level: "normal", Revision: 3,
		Program: "sha256:" + strings.Repeat("0a", 32), Groups: []string{"tellers"},
		Facts: map[string]*string{"amount": text("50000"), "hour": text("12"), "srcIP": text("10.20.1.1"), "account": nil}, Partial: []string{"attribute.other"},
	}
}

func line(t testing.TB, d record.Decision) string {
	t.Helper()
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestReadsWhatIsRecorded(t *testing.T) {
	second := sample()
	second.Seq, second.Groups, second.Facts, second.Partial = 2, nil, nil, nil
	var got []record.Decision
	// The last line may lack its end, and an empty one between others says nothing.
	passed, err := record.Read(strings.NewReader(line(t, sample())+"\n\n"+line(t, second)), "log", false, func(d record.Decision) error {
		got = append(got, d)
		return nil
	})
	if err != nil || passed.Lines != 0 || !reflect.DeepEqual(got, []record.Decision{sample(), second}) {
		t.Errorf("%v, %+v, %+v", err, passed, got)
	}
}

func TestForeignAndDamagedLines(t *testing.T) {
	good := line(t, sample())
	for name, c := range map[string]struct{ line, want string }{
		"half a line":              {good[:len(good)/2], "not a record: not well-formed JSON"},
		"text":                     {"12:00:00 Deny GET /accounts", "not a record: not well-formed JSON"},
		"another object":           {`{"level":"info","msg":"started"}`, `not a record of this version: the member "msg" is unknown`},
		"an array":                 {`[]`, "not a record: it is no JSON object"},
		"null":                     {`null`, "not a record: it is no JSON object"},
		"a member in capitals":     {strings.Replace(good, `"seq"`, `"SEQ"`, 1), `the member "SEQ" is unknown`},
		"a member twice":           {strings.Replace(good, `"seq":1`, `"seq":1,"seq":2`, 1), "not a record"},
		"a number for a text":      {strings.Replace(good, `"normal"`, `7`, 1), `the member "level" cannot be a number`},
		"another verdict":          {strings.Replace(good, `"Deny"`, `"deny"`, 1), `the member "decision"`},
		"no id":                    {strings.Replace(good, `"id":"00112233445566778899aabbccddeeff",`, "", 1), `the member "id"`},
		"no number":                {strings.Replace(good, `"seq":1`, `"seq":0`, 1), `the member "seq"`},
		"no program":               {strings.Replace(good, "sha256:", "sha1:", 1), `the member "program"`},
		"half a digest":            {strings.Replace(good, "0a0a", "0a", 1), `the member "program"`},
		"no time":                  {strings.Replace(good, "2026-01-02T12:30:00.000000005Z", "0001-01-01T00:00:00Z", 1), `the member "time"`},
		"an unknown part":          {strings.Replace(good, "attribute.other", "other", 1), `the member "partial"`},
		"something behind it":      {good + "{}", "not a record: not well-formed JSON"},
		"a line that is longer":    {strings.Repeat(" ", 64<<10+3) + good, "the line has more than 65536 bytes"},
		"bytes that are not UTF-8": {strings.Replace(good, "no rule", "\xff", 1), "not a record"},
	} {
		log := good + "\n" + c.line + "\n" + good + "\n"
		n := 0
		count := func(record.Decision) error { n++; return nil }
		_, err := record.Read(strings.NewReader(log), "audit.jsonl", false, count)
		var at *policy.Error
		if !errors.As(err, &at) || at.Pos.File != "audit.jsonl" || at.Pos.Line != 2 || !strings.Contains(at.Message, c.want) || n != 1 {
			t.Errorf("%s: %d, %v", name, n, err)
		}
		n = 0
		passed, err := record.Read(strings.NewReader(log), "audit.jsonl", true, count)
		if err != nil || n != 2 || passed.Lines != 1 || passed.First == nil || passed.First.Pos.Line != 2 {
			t.Errorf("%s, passed over: %d, %v, %+v", name, n, err, passed)
		}
	}
}

func TestWhoeverReadsMayEnd(t *testing.T) {
	enough := errors.New("enough")
	if _, err := record.Read(strings.NewReader(line(t, sample())), "log", true, func(record.Decision) error { return enough }); err != enough {
		t.Error(err)
	}
	broken := errors.New("broken")
	if _, err := record.Read(failing{broken}, "log", true, nil); !errors.Is(err, broken) || !strings.Contains(err.Error(), "log: ") {
		t.Error(err)
	}
}

type failing struct{ error }

func (f failing) Read([]byte) (int, error) { return 0, f.error }

func payments(t testing.TB) *policy.Deployment {
	t.Helper()
	b, err := policy.Load("../testdata/payments")
	if err != nil {
		t.Fatal(err)
	}
	return b.Deployments[0]
}

func TestReplay(t *testing.T) {
	d := payments(t)
	open, err := policy.Load("../../examples/site")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*record.Decision)
		want   string // decision, rule and level; or the error
	}{
		{"as it was", func(*record.Decision) {}, "Deny default:authorization normal"},
		{"a smaller amount", func(r *record.Decision) { r.Facts["amount"] = text("500") }, "Allow teller-transfer normal"},
		{"no amount", func(r *record.Decision) { r.Facts["amount"] = nil }, "Deny default:authorization normal"},
		{"an amount that nobody recorded", func(r *record.Decision) { delete(r.Facts, "amount") }, "the record does not hold attribute amount, which the policy then did not read for this route"},
		{"an amount that was left out", func(r *record.Decision) { delete(r.Facts, "amount"); r.Partial = []string{"attributes"} }, "the record does not hold attribute amount: some were too large"},
		{"a redacted amount", func(r *record.Decision) {
			r.Facts["amount"], r.Partial = text("[redacted]"), []string{"attribute.amount"}
		}, "the record does not hold attribute amount, which was redacted or cut"},
		{"an amount that was malformed", func(r *record.Decision) { delete(r.Facts, "amount"); r.Partial = []string{"attribute.amount"} }, "what the request had for attribute amount could not be read"},
		{"an amount of another type", func(r *record.Decision) { r.Facts["amount"] = text("much") }, `attribute amount was recorded as another type: "much" is not a whole number`},
		{"the hour is that of the record", func(r *record.Decision) { r.Facts["amount"], r.Time = text("500"), r.Time.Add(10*time.Hour) }, "Deny default:authorization normal"},
		{"a fact that the record has anyway", func(r *record.Decision) { delete(r.Facts, "hour"); delete(r.Facts, "srcIP") }, "Deny default:authorization normal"},
		{"redacted groups", func(r *record.Decision) { r.Partial = []string{"groups"} }, "the record does not hold groups, which was redacted or cut"},
		{"a redacted principal", func(r *record.Decision) { r.Partial = []string{"principal"} }, "the record does not hold principal, which was redacted or cut"},
		{"a redacted source", func(r *record.Decision) { r.Partial = []string{"source"} }, "the record does not hold source, which was redacted or cut"},
		{"a redacted path", func(r *record.Decision) { r.Path, r.Partial = "[redacted]", []string{"path"} }, "Deny default:authorization normal"},
		{"neither path nor route", func(r *record.Decision) { r.Path, r.Route = "", "" }, "the record holds neither the path nor the route"},
		{"a route that is gone", func(r *record.Decision) { r.Path, r.Route = "", "send" }, `its path is not known, and the policy has no route "send"`},
		{"the path says the route", func(r *record.Decision) { r.Route = "other" }, "Deny default:authorization normal"},
		{"the path says the parameter", func(r *record.Decision) {
			r.Path, r.Facts = "/accounts/7/refunds", map[string]*string{"amount": text("5"), "account": text("8")}
		}, "Allow own-refund normal"},
		{"another level", func(r *record.Decision) { r.Level, r.Facts["amount"] = "lockdown", text("5000") }, "Deny default:network lockdown"},
		{"from where it may at that level", func(r *record.Decision) { r.Level, r.Facts["amount"], r.Source = "lockdown", text("5000"), "127.0.0.1" }, "Deny elevated-small elevated"},
		{"no such level", func(r *record.Decision) { r.Level = "calm" }, `the policy has no level "calm"`},
		{"a source that may not connect", func(r *record.Decision) { r.Source = "192.0.2.1" }, "Deny default:network normal"},
		{"a port that none may connect to", func(r *record.Decision) { r.Port = 22 }, "Deny ssh-never normal"},
		{"no port", func(r *record.Decision) { r.Port = 0 }, "the record does not say which port was asked for"},
		{"no such route", func(r *record.Decision) {
			r.Path, r.Stage, r.Rule, r.Principal = "/nowhere", "filter", "default:route", ""
		}, "Deny default:route normal"},
		{"a route that exists now", func(r *record.Decision) { r.Stage, r.Rule, r.Principal = "filter", "default:route", "" }, "the request was denied before anybody asked who made it"},
		{"another method", func(r *record.Decision) { r.Method = "PUT" }, "Deny default:method normal"},
		{"nobody asked who", func(r *record.Decision) { r.Decision, r.Stage, r.Rule, r.Principal = "Allow", "filter", "transfer", "" }, "the policy then asked nobody for credentials: who made the request, the record does not hold"},
		{"no credentials", func(r *record.Decision) {
			r.Stage, r.Rule, r.Reason, r.Principal = "authn", "default:authentication", "no credentials", ""
		}, "Deny default:authentication normal"},
		{"as anonymous", func(r *record.Decision) { r.Principal = "anonymous" }, "Deny default:authentication normal"},
		{"a wrong password", func(r *record.Decision) { r.Stage, r.Rule, r.Reason, r.Principal = "authn", "staff-login", "wrong", "" }, "Deny staff-login normal"},
		{"a limit", func(r *record.Decision) { r.Stage, r.Rule = "limit-principal", "careful" }, "careful decided by what came before, which the record does not hold"},
		{"an obligation", func(r *record.Decision) { r.Stage, r.Rule = "obligations", "guessing" }, "guessing decided by what came before, which the record does not hold"},
		{"a malformed request", func(r *record.Decision) { r.Stage, r.Rule = "filter", "default:request" }, "the request was malformed, or beyond a limit, and a record holds only what was well formed"},
		{"a handshake", func(r *record.Decision) { r.Stage, r.Rule, r.Method = "tls", "default:tls", "" }, "no request was made: the handshake was refused, of which a record holds nothing"},
		{"outgoing", func(r *record.Decision) { r.Stage, r.Method = "egress", "" }, "the connection went out of the image; only what comes in is replayed"},
		{"an error", func(r *record.Decision) { r.Rule = "default:error" }, "an error of the image denied, not the policy"},
		{"a connection", func(r *record.Decision) { r.Stage, r.Method, r.Port = "firewall", "", 22 }, "Deny ssh-never normal"},
		{"a connection that may be", func(r *record.Decision) { r.Stage, r.Method = "firewall", "" }, "Allow corp-in normal"},
		{"an echo", func(r *record.Decision) { r.Stage, r.Method, r.Protocol, r.Port = "firewall", "", "ICMP", 0 }, "Deny default:network normal"},
		{"a connection from nowhere", func(r *record.Decision) { r.Stage, r.Method, r.Source = "firewall", "", "" }, "the record has no source, and the policy has network rules"},
		{"neither", func(r *record.Decision) { r.Method = "" }, "stage authz decided about what is neither a request nor a connection"},
	} {
		r := sample()
		r.Partial = nil
		c.change(&r)
		dec, err := record.Replay(d, r)
		got := fmt.Sprintf("%s %s %s", dec.Verdict, dec.Rule.ID, dec.Level)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %s\nwant %s", c.name, got, c.want)
		}
	}
	r := sample()
	r.Method, r.Path, r.Source = "GET", "/index.html", "127.0.0.1"
	r.Port, r.Level = 8080, open.Deployments[0].Policy.Levels.Initial
	if dec, err := record.Replay(open.Deployments[0], r); err != nil || dec.Rule.ID == "" {
		t.Errorf("%+v, %v", dec, err)
	}
}

func TestExplain(t *testing.T) {
	r := sample()
	r.Partial, r.Source = []string{"source"}, "[redacted]"
	a, err := record.Explain(payments(t), r)
	if err != nil || len(a.Nearest) == 0 || a.Nearest[0].Rule.ID != "teller-transfer" || len(a.Considered) == 0 || !strings.Contains(a.Nearest[0].Failed[0], "amount is 50000") {
		t.Errorf("%+v, %v", a, err)
	}
	r = sample()
	r.Stage, r.Method, r.Port, r.Partial = "firewall", "", 22, nil
	if a, err := record.Explain(payments(t), r); err != nil || a.Rule.ID != "ssh-never" || len(a.Considered) == 0 {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := record.Explain(payments(t), record.Decision{Stage: "firewall", Source: "10.0.0.1", Protocol: "TCP", Port: 1, Level: "x"}); err == nil {
		t.Error("there is no such level")
	}
}

// The permits that came nearest are those with the fewest clauses that failed.
func TestTheNearestComesFirst(t *testing.T) {
	b, err := policy.Load("../../examples/clinic")
	if err != nil {
		t.Fatal(err)
	}
	r := sample()
	r.Method, r.Path, r.Principal, r.Groups = "POST", "/patients/1/prescriptions", "dr-who", []string{"doctors"}
	r.Facts, r.Partial = map[string]*string{"days": text("0"), "drug": text("aspirin"), "mfa": nil}, nil
	a, err := record.Explain(b.Deployments[0], r)
	if err != nil || len(a.Nearest) != 2 || a.Nearest[0].Rule.ID != "doctors-prescribe" || len(a.Nearest[0].Failed) >= len(a.Nearest[1].Failed) {
		t.Errorf("%+v, %v", a.Nearest, err)
	}
}

// What the clock said is in the time of the record.
func TestTheClockOfARecord(t *testing.T) {
	const doc = `
apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: w, labels: {app: w}}
spec:
  app: {static: {dir: public}}
  listen: [{name: api, port: 8080}]
---
apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: p}
spec:
  selector: {matchLabels: {app: w}}
  default: {network: Allow}
  authentication: {require: true, basic: {name: login, realm: r, users: secret/users}}
  secrets: {users: {file: users.txt}}
  routes: [{name: get, match: {method: GET, path: /x}}]
  attributes: {minute: clock.minute, hour: clock.hour, weekday: clock.weekday}
  authorization:
    schema: |
      entity User; entity Route;
      action "call" appliesTo { principal: User, resource: Route, context: { minute: Long, hour: Long, weekday: Long } };
    cedar: |
      @id("then")
      permit (principal, action, resource) when { context.minute == 1415 && context.hour == 23 && context.weekday == 7 };
`
	b, err := policy.Parse([]policy.File{{Name: "p.yaml", Data: []byte(doc)}})
	if err != nil {
		t.Fatal(err)
	}
	r := sample()
	r.Time = time.Date(2026, 1, 5, 0, 35, 0, 0, time.FixedZone("", 3600)) // Sunday night in UTC
	r.Method, r.Path, r.Facts, r.Partial = "GET", "/x", nil, nil
	if dec, err := record.Replay(b.Deployments[0], r); err != nil || dec.Rule.ID != "then" {
		t.Errorf("%+v, %v", dec, err)
	}
}

// Whatever stands in a log, what is read is what a tender would write again.
func FuzzParse(f *testing.F) {
	f.Add([]byte(line(f, sample())))
	f.Add([]byte(`{"seq":1,"facts":{"a":null}}`))
	d := payments(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := record.Parse(b)
		if err != nil {
			return
		}
		again, err := record.Parse([]byte(line(t, x)))
		if err != nil || line(t, again) != line(t, x) {
			t.Fatalf("%q became %q, %v", b, line(t, x), err)
		}
		dec, err := record.Replay(d, x)
		if err == nil && dec.Rule.ID == "" {
			t.Fatalf("%q: %+v", b, dec)
		}
	})
}
