package verify

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/internal/corpus"
	"lorica.dev/lorica/internal/try"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/tender"
)

// unsigned issues tokens that say what was asked for, and nothing else.
type unsigned struct{}

func (unsigned) Token(user string, t try.Token) (string, error) {
	claims := map[string]any{"iss": "https://idp.acme.example", "sub": user, "groups": t.Groups}
	for k, v := range t.Claims {
		claims[k] = v
	}
	b, err := json.Marshal(claims)
	return "e30." + base64.RawURLEncoding.EncodeToString(b) + ".x", err
}

func (unsigned) Certificate(string, try.Certificate) (tls.Certificate, error) {
	return tls.Certificate{}, errors.ErrUnsupported
}

func (unsigned) Roots() *x509.CertPool { return nil }

// at returns a verifier of an example at a level and a time, that has sent nothing.
func at(t *testing.T, example, level string, now time.Time) *verifier {
	t.Helper()
	b, err := policy.Load("../examples/" + example)
	if err != nil {
		t.Fatal(err)
	}
	d := b.Deployments[0]
	out, err := compiler.Compile(d)
	if err != nil {
		t.Fatal(err)
	}
	l, err := out.Level(level)
	if err != nil {
		t.Fatal(err)
	}
	v := &verifier{Target: Target{Deployment: d, Level: l, Program: "sha256:1"}, Options: Options{Identities: unsigned{}, Progress: func(string) {}},
		level: slices.Index(d.Policy.Levels.Names, level), now: func() time.Time { return now }, records: &records{byID: map[string]int{}, more: make(chan struct{})}}
	for _, x := range d.Workload.Listen {
		v.Listeners = append(v.Listeners, netip.AddrPortFrom(x.Address, x.Port))
	}
	v.people = v.gather()
	v.doors = open(v.connections())
	return v
}

var (
	noon  = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	night = time.Date(2026, 3, 4, 23, 0, 0, 0, time.UTC)
)

// Every rule has requests that the reference says it decides at that moment, or a reason
// why it has none.
func TestCases(t *testing.T) {
	for _, x := range []struct {
		example, level string
		now            time.Time
		why            map[string]string // of the rules that have none
	}{
		{"payments", "normal", noon, map[string]string{"large-by-day": "it needs another time, such as hour 5",
			"small-when-elevated": "nothing at level normal", "read-only-in-lockdown": "nothing at level normal"}},
		{"payments", "normal", night, map[string]string{"small-when-elevated": "nothing at level normal", "read-only-in-lockdown": "nothing at level normal"}},
		{"payments", "lockdown", noon, map[string]string{"teller-transfer": "nothing at level lockdown", "large-by-day": "it needs another time"}},
		{"clinic", "normal", night, map[string]string{"billing": "it needs another time, such as hour", "no-export-when-elevated": "nothing at level normal",
			"no-money-in-lockdown": "nothing at level normal", "only-doctors-write-in-lockdown": "nothing at level normal"}},
		{"accounts", "normal", noon, map[string]string{"staff-read": "it needs somebody of staff: give --users", "teller-transfer": "--users",
			"large-by-day": "--users", "small-when-elevated": "nothing at level", "read-only-in-lockdown": "nothing at level", "default:authorization": "--users"}},
	} {
		v := at(t, x.example, x.level, x.now)
		cases := v.cases(t.Context())
		for _, e := range v.Level.Enforced {
			if e.Stage != abi.StageAuthz {
				continue
			}
			f := cases[e.ID]
			if f == nil {
				t.Errorf("%s at %s: nothing is known of %s", x.example, x.level, e.ID)
				continue
			}
			if why, none := x.why[e.ID]; none != (len(f.requests) == 0) || !strings.Contains(f.why, why) {
				t.Errorf("%s at %s, %s: %s has %d requests (%s)", x.example, x.level, x.now.Format("15:04"), e.ID, len(f.requests), f.why)
			}
			for _, q := range f.requests {
				if a, err := v.expect(q, x.now); err != nil || a.Rule.ID != e.ID {
					t.Errorf("%s: %s is decided by %s (%v)", e.ID, q.words(), a.Rule.ID, err)
				}
			}
		}
	}
}

// What is tried of a rule lies on both sides of its bounds.
func TestNeighbours(t *testing.T) {
	v := at(t, "payments", "normal", noon)
	v.Write = true
	cases := v.cases(t.Context())
	for rule, amounts := range map[string][]string{"teller-transfer": {"1", "1000"}, "large-needs-mfa": {"1001", "10000"}, "default:authorization": {"0", "10001"}} {
		for _, n := range amounts {
			if !slices.ContainsFunc(cases[rule].requests, func(q *request) bool { return string(q.body) == `{"amount":`+n+`}` }) {
				t.Errorf("%s is not asked with the amount %s", rule, n)
			}
		}
	}
}

// A request that changes something is not sent where it would be allowed.
func TestWhatIsNotSent(t *testing.T) {
	v := at(t, "payments", "normal", noon)
	f := v.cases(t.Context())["teller-transfer"]
	if _, err := v.call(t.Context(), f.requests[0], "teller-transfer"); err == nil || !strings.Contains(err.Error(), "--write") {
		t.Errorf("%v", err)
	}
	v.now = func() time.Time { return night }
	v.Write = true
	q := *f.requests[0]
	q.body, q.set = []byte(`{"amount":10000}`), map[string]string{"amount": "10000", "mfa": "true"}
	if _, err := v.call(t.Context(), &q, "teller-transfer"); err == nil || !strings.Contains(err.Error(), "the clock went on") {
		t.Errorf("another rule decides by night: %v", err)
	}
}

// A record that differs in anything is another.
func TestHeld(t *testing.T) {
	v := at(t, "payments", "normal", noon)
	e := expectation{abi.Deny, abi.StageAuthz, abi.Rule{ID: "r", Line: "p.yaml:1"}}
	good := tender.Decision{Decision: "Deny", Stage: abi.StageAuthz, Rule: "r", Line: "p.yaml:1", Level: "normal", Program: "sha256:1"}
	if got, ok := v.held(e, &good); !ok {
		t.Fatalf("control: %s", got)
	}
	for name, change := range map[string]func(*tender.Decision){
		"verdict": func(d *tender.Decision) { d.Decision = "Allow" },
		"stage":   func(d *tender.Decision) { d.Stage = abi.StageFilter },
		"rule":    func(d *tender.Decision) { d.Rule = "s" },
		"line":    func(d *tender.Decision) { d.Line = "p.yaml:2" },
		"level":   func(d *tender.Decision) { d.Level = "lockdown" },
		"program": func(d *tender.Decision) { d.Program = "sha256:2" },
	} {
		d := good
		if change(&d); true {
			if got, ok := v.held(e, &d); ok {
				t.Errorf("another %s is not noticed: %s", name, got)
			}
		}
	}
}

// It stops before an obligation would block this machine, counting what was denied before.
func TestBlocks(t *testing.T) {
	v := at(t, "payments", "normal", noon)
	here := netip.MustParseAddr("127.0.0.1")
	deny := func(n int, stage, from string, age time.Duration) {
		for range n {
			v.records.list = append(v.records.list, tender.Decision{Decision: "Deny", Stage: stage, Source: from, Time: time.Now().Add(-age)})
		}
	}
	deny(19, abi.StageAuthn, "127.0.0.1", 2*time.Minute) // forgotten
	deny(19, abi.StageAuthn, "127.0.0.2", 0)
	deny(19, abi.StageAuthz, "127.0.0.1", 0)
	deny(18, abi.StageAuthn, "127.0.0.1", 0)
	if why := v.blocks(abi.StageAuthn, here); why != "" {
		t.Errorf("after 18 of 20: %s", why)
	}
	deny(1, abi.StageAuthn, "127.0.0.1", 0)
	if why := v.blocks(abi.StageAuthn, here); !strings.Contains(why, "guessing") {
		t.Errorf("after 19 of 20: %q", why)
	}
	if why := v.blocks(abi.StageAuthz, here); why != "" {
		t.Errorf("of another kind: %s", why)
	}
	if _, err := v.send(t.Context(), &request{door: door{from: here}, login: &login{}}, expectation{stage: abi.StageAuthn}); err == nil {
		t.Error("it is sent all the same")
	}
}

// What is refused for a while by a limit or a block that the policy writes shows nothing;
// another rule differs.
func TestLimited(t *testing.T) {
	v := at(t, "payments", "normal", noon)
	e := expectation{rule: abi.Rule{ID: "idp"}}
	for rule, want := range map[string]bool{"per-source": true, "guessing": true, "idp": false, "made-up": false} {
		d := tender.Decision{Decision: "Deny", Stage: abi.StageSourceLimit, Rule: rule}
		if rule == "guessing" {
			d.Stage = abi.StageObligations
		}
		if why := v.limited(&d, e); (why != "") != want {
			t.Errorf("%s: %q", rule, why)
		}
	}
}

// Of the loopback network there is an address in each piece that the policy tells apart.
func TestSources(t *testing.T) {
	v := at(t, "payments", "normal", noon)
	v.Deployment.Policy.Endpoints[0].CIDRs = []netip.Prefix{netip.MustParsePrefix("127.1.0.0/16"), netip.MustParsePrefix("127.255.0.0/16")}
	list := v.sources(netip.MustParseAddr("127.0.0.1"))
	for _, want := range []string{"127.0.0.1", "127.0.0.2", "127.1.0.0", "127.2.0.0", "127.255.0.0"} {
		if !slices.Contains(list, netip.MustParseAddr(want)) {
			t.Errorf("%v is without %s", list, want)
		}
	}
	if six := v.sources(netip.MustParseAddr("::1")); len(six) == 0 || six[0] != netip.IPv6Loopback() {
		t.Errorf("of IPv6 there are %v", six)
	}
}

// A rule that another stands in for is not shown by a connection.
func TestNeeded(t *testing.T) {
	v := at(t, "clinic", "normal", noon)
	here := v.doors[0]
	if !v.needed("local", here) || !v.needed("default:network", here) {
		t.Error("without the rule the door would be open")
	}
	p := v.Deployment.Policy
	p.Network.Ingress = append(p.Network.Ingress, *v.rule("local"))
	p.Network.Ingress[len(p.Network.Ingress)-1].Name = "again"
	if v.needed("local", here) {
		t.Error("another rule would let it in")
	}
	if got := v.unreachable(t.Context(), &Result{Rule: "again"}); !strings.Contains(got, "local decide before it") {
		t.Errorf("a rule that decides nothing: %s", got)
	}
}

// The corpus asks for paths that are refused here, and for nothing that may be served.
func TestAdapt(t *testing.T) {
	list, err := corpus.Entries()
	if err != nil {
		t.Fatal(err)
	}
	m := at(t, "payments", "normal", noon).adaptation()
	sent := 0
	for i := range list {
		raw, want, why := m.adapt(&list[i])
		if why != "" {
			continue
		}
		sent++
		for s := range strings.FieldsSeq(want) {
			if s != "none" && s < "400" {
				t.Errorf("%s may be served: %s", list[i].Name, want)
			}
		}
		switch list[i].Name {
		case "dot dot":
			if string(raw) != "GET /accounts/../accounts HTTP/1.1\r\nHost: h\r\n\r\n" || want != "400" {
				t.Errorf("%q, want %s", raw, want)
			}
		case "override: X-Original-URL":
			if !strings.HasPrefix(string(raw), "GET /"+nobody+"/x HTTP/1.1\r\n") || want != "404" {
				t.Errorf("%q, want %s", raw, want)
			}
		case "a request behind chunks", "length: beyond the limit", "two in a row":
			t.Errorf("%s is sent", list[i].Name)
		}
	}
	if sent < 250 {
		t.Errorf("only %d are sent", sent)
	}
}

// What a server lets through that it must refuse is noticed.
func TestABypassIsNoticed(t *testing.T) {
	v := at(t, "payments", "normal", noon)
	v.Deployment.Policy.TLS = nil
	for name, x := range map[string]struct {
		answer, verdict string
		served          string // a request that leaves a record only
		want            State
	}{
		"refused":                 {"HTTP/1.1 400 Bad\r\nLorica-Decision: 1\r\n\r\n", "Deny", "", Shown},
		"served":                  {"HTTP/1.1 200 OK\r\nLorica-Decision: 1\r\n\r\n", "Allow", "", Differs},
		"allowed, and not served": {"HTTP/1.1 400 Bad\r\nLorica-Decision: 1\r\n\r\n", "Allow", "", Differs},
		"served behind it":        {"HTTP/1.1 400 Bad\r\nLorica-Decision: 1\r\n\r\n", "Deny", "/app/hidden", Differs},
		"both":                    {"HTTP/1.1 400 Bad\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "Deny", "", Differs},
		"nothing":                 {"", "Deny", "", Differs},
	} {
		t.Run(name, func(t *testing.T) {
			s := httptest.NewUnstartedServer(http.NotFoundHandler())
			l := s.Listener
			defer l.Close()
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					c.Read(make([]byte, 4096))
					c.Write([]byte(x.answer))
					c.Close()
				}
			}()
			v.doors = []door{{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddrPort(l.Addr().String())}}
			v.records = follow(t.Context(), func(ctx context.Context, emit func(tender.Decision) error) error {
				emit(tender.Decision{ID: "1", Decision: x.verdict, Rule: "default:request", Stage: abi.StageFilter, Level: "normal", Program: "sha256:1", Source: "127.0.0.1", Time: time.Now()})
				if x.served != "" {
					emit(tender.Decision{ID: "2", Decision: "Allow", Method: "GET", Path: x.served, Rule: "r", Stage: abi.StageAuthz, Level: "normal", Program: "sha256:1", Source: "127.0.0.1", Time: time.Now().Add(time.Second)})
				}
				<-ctx.Done()
				return nil
			})
			b := Bypass{Want: "400"}
			v.bypass(t.Context(), &b, []byte("GET /app/../x HTTP/1.1\r\n\r\nGET /app/hidden HTTP/1.1\r\n\r\n"))
			if b.State != x.want {
				t.Errorf("%+v", b)
			}
		})
	}
}

// A connection that is refused is told from those of others that come from the same address.
func TestRefused(t *testing.T) {
	v := at(t, "payments", "normal", noon)
	e := expectation{abi.Deny, abi.StageTLS, abi.Rule{ID: "default:tls", Line: "p:1"}}
	here := door{from: netip.MustParseAddr("127.0.0.1")}
	record := func(seq uint64, change func(*tender.Decision)) tender.Decision {
		d := tender.Decision{Seq: seq, ID: "x", Decision: "Deny", Stage: abi.StageTLS, Rule: "default:tls", Line: "p:1", Level: "normal", Program: "sha256:1", Source: "127.0.0.1", Time: time.Now().Add(time.Hour)}
		change(&d)
		return d
	}
	mine := record(9, func(*tender.Decision) {})
	for name, x := range map[string]struct {
		list   []tender.Decision
		answer try.Answer
		ok     bool
	}{
		"its own":                     {[]tender.Decision{mine}, try.Answer{Refused: try.Closed}, true},
		"another's before it":         {[]tender.Decision{record(3, func(d *tender.Decision) { d.Stage, d.Rule = abi.StageFirewall, "r" }), mine}, try.Answer{Refused: try.Closed}, true},
		"by another rule":             {[]tender.Decision{record(3, func(d *tender.Decision) { d.Rule = "r" })}, try.Answer{Refused: try.Closed}, false},
		"of another source, and old":  {[]tender.Decision{record(3, func(d *tender.Decision) { d.Source = "127.0.0.2" }), record(4, func(d *tender.Decision) { d.Time = noon })}, try.Answer{Refused: try.Closed}, false},
		"let in, whatever was denied": {[]tender.Decision{mine}, try.Answer{Status: 200}, false},
	} {
		v.records = follow(t.Context(), func(ctx context.Context, emit func(tender.Decision) error) error {
			for _, d := range x.list {
				emit(d)
			}
			return nil // no more will come
		})
		got, err := v.refused(t.Context(), Trial{}, e, here, func() (try.Answer, error) { return x.answer, nil })
		if err != nil || got.OK != x.ok {
			t.Errorf("%s: %+v (%v)", name, got, err)
		}
	}
}

// What has ended in the middle has shown nothing.
func TestAnInstanceThatEnds(t *testing.T) {
	v := at(t, "payments", "normal", noon)
	for name, end := range map[string]error{"in order": nil, "by a fault": errors.New("broken pipe")} {
		v.records = follow(t.Context(), func(context.Context, func(tender.Decision) error) error { return end })
		if _, ok := v.records.find(t.Context(), "1"); ok { // waits for the end
			t.Error("there is a record")
		}
		if err := v.broken(t.Context()); err == nil {
			t.Errorf("%s: it goes on", name)
		}
	}
	v.Decisions = func(ctx context.Context, _ bool, _ func(tender.Decision) error) error { <-ctx.Done(); return nil }
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, v.Target, v.Options); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

// A result says what differs, wherever it comes among what was sent.
func TestConclude(t *testing.T) {
	for _, x := range []struct {
		r    Result
		want State
		got  string
	}{
		{Result{Sent: []Trial{{Got: "a", OK: true}, {Got: "b"}, {Got: "c", OK: true}}, Why: "x"}, Differs, "b"},
		{Result{Sent: []Trial{{Got: "a", OK: true}}, Why: "x"}, Shown, "a"},
		{Result{}, NotShown, ""},
	} {
		if x.r.conclude(); x.r.State != x.want || x.r.Got != x.got || (x.r.State == NotShown) != (x.r.Why != "") {
			t.Errorf("%+v", x.r)
		}
	}
}

func TestPathsAndDocuments(t *testing.T) {
	for _, x := range []struct{ pattern, value, want string }{
		{"/a/{id}", "7", "/a/7"}, {"/a/{id}", "x y/", ""}, {"/a/{id}", "", ""}, {"/{rest...}", "a b/c", "/a%20b/c"}, {"/a", "", "/a"},
	} {
		got, err := fill(x.pattern, map[string]string{"id": x.value, "rest": x.value})
		if got != x.want || (err != nil) != (x.want == "") {
			t.Errorf("%s with %q is %q (%v)", x.pattern, x.value, got, err)
		}
	}
	doc, err := put(nil, "/a/b", 1)
	if err == nil {
		doc, err = put(doc, "/a/c", 2)
	}
	if x, ok := pointed(doc, "/a/c"); err != nil || !ok || x != 2 {
		t.Errorf("%v (%v)", doc, err)
	}
	for _, at := range []string{"/a/b", "/a/b/c", ""} {
		if _, err := put(doc, at, 3); err == nil {
			t.Errorf("%s is written twice", at)
		}
	}
	if s := altered("e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"`+nobody+`"}`)) + ".x"); strings.Contains(s, base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"`+nobody+`"}`))) {
		t.Errorf("%s is as it was", s)
	}
}
