package audit_test

import (
	"crypto/rand"
	"encoding/hex"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	wire "lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/route"
	abiwire "lorica.dev/lorica/abi/wire"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/audit"
)

var program = [32]byte{1, 2, 3}

func prepare(t testing.TB, s wire.Section) pep.AuditState {
	t.Helper()
	st, err := audit.New().Prepare(&pep.Input{Level: "elevated", Revision: 7, Program: program, Section: s.Encode()})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func exchange() *pep.Exchange {
	return &pep.Exchange{
		ID: "00112233445566778899aabbccddeeff", Request: httptest.NewRequest("POST", "/raw/%2e%2e?secret=1", nil),
		Flow: flow.Flow{Src: netip.MustParseAddr("::ffff:192.0.2.1"), DstPort: 443, Protocol: flow.TCP},
		Now:  time.Unix(0, 42), Path: "/accounts/7", Route: &route.Route{Name: "readAccount"},
		Params: []pep.Param{{Name: "id", Value: "7"}}, Principal: "ada", Groups: []string{"staff"},
	}
}

var (
	allow  = pep.Decision{Verdict: abi.Allow, Stage: abi.StageAuthz, Rule: abi.Rule{ID: "staff-read", Line: "p.yaml:1"}}
	denial = pep.Decision{Stage: abi.StageAuthz, Rule: abi.Rule{ID: "default:authorization"}, Reason: "no rule lets ada at 192.0.2.1 read /accounts/7", Status: 403}
)

func TestPrepareRefuses(t *testing.T) {
	unknown := wire.Section{Redact: []string{"password"}}
	nameless := wire.Section{Redact: []string{wire.FieldAttribute}}
	for name, b := range map[string][]byte{"no section": nil, "an attribute without a name": nameless.Encode(), "malformed": {1}, "a field that cannot be redacted": unknown.Encode()} {
		if st, err := audit.New().Prepare(&pep.Input{Section: b}); err == nil || st != nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestRecords(t *testing.T) {
	st := prepare(t, wire.Section{AllowedPerMillion: wire.Million})
	got, keep := st.Record(exchange(), allow)
	want := wire.Record{
		Time: 42, ID: exchange().ID, Verdict: abi.Allow, Stage: abi.StageAuthz, Rule: allow.Rule, Principal: "ada", Source: "192.0.2.1",
		Protocol: 6, Port: 443, Groups: []string{"staff"},
		Method: "POST", Route: "readAccount", Path: "/accounts/7", Level: "elevated", Revision: 7, Program: program,
	}
	if !keep || !reflect.DeepEqual(got, want) {
		t.Errorf("allowed: %v, %+v", keep, got)
	}
	got, keep = st.Record(exchange(), denial)
	want.Verdict, want.Rule, want.Reason, want.Status = abi.Deny, denial.Rule, denial.Reason, 403
	if !keep || !reflect.DeepEqual(got, want) {
		t.Errorf("denied: %v, %+v", keep, got)
	}
}

func TestTheRawTargetIsNeverRecorded(t *testing.T) {
	x := exchange()
	x.Path, x.Route, x.Params = "", nil, nil // refused before it had a canonical path
	r, _ := prepare(t, wire.Section{}).Record(x, denial)
	if r.Path != "" || r.Route != "" {
		t.Errorf("%+v", r)
	}
}

func TestTheZeroDecisionIsARecordedDenial(t *testing.T) {
	r, keep := prepare(t, wire.Section{}).Record(exchange(), pep.Decision{})
	if !keep || r.Verdict != abi.Deny || r.Status != 403 || r.Rule.ID != abi.RuleError {
		t.Errorf("%v, %+v", keep, r)
	}
}

func TestAnUnknownVerdictIsADenial(t *testing.T) {
	r, keep := prepare(t, wire.Section{}).Record(exchange(), pep.Decision{Verdict: 7, Status: 70000})
	if !keep || r.Verdict != abi.Deny || r.Status != 403 {
		t.Errorf("%v, %+v", keep, r)
	}
}

func TestConnections(t *testing.T) {
	st := prepare(t, wire.Section{AllowedPerMillion: wire.Million})
	x := &pep.Exchange{ID: "id", Flow: flow.Flow{Src: netip.MustParseAddr("fe80::1%eth0")}, Now: time.Unix(1, 0)}
	refused := pep.Decision{Stage: abi.StageFirewall, Rule: abi.Rule{ID: abi.RuleNetwork}, Reason: "no rule"}
	r, keep := st.Record(x, refused)
	if !keep || r.Status != 0 || r.Source != "fe80::1" || r.Method != "" || r.Path != "" || r.Verdict != abi.Deny {
		t.Errorf("refused: %v, %+v", keep, r)
	}
	if _, keep := st.Record(x, pep.Decision{Verdict: abi.Allow}); keep {
		t.Error("an allowed connection is recorded although no rule asks for it")
	}
	if r, keep := st.Record(x, pep.Decision{Verdict: abi.Allow, Record: true}); !keep || r.Verdict != abi.Allow {
		t.Errorf("an allowed connection whose rule asks for a record: %v, %+v", keep, r)
	}
}

func TestSampling(t *testing.T) {
	const n = 20_000
	for rate, bounds := range map[uint32][2]int{0: {0, 0}, 10_000: {100, 300}, 500_000: {9_000, 11_000}, wire.Million: {n, n}} {
		st := prepare(t, wire.Section{AllowedPerMillion: rate})
		kept := 0
		for range n {
			x := exchange()
			var b [16]byte
			rand.Read(b[:])
			x.ID = hex.EncodeToString(b[:])
			_, keep := st.Record(x, allow)
			if _, again := st.Record(x, allow); again != keep {
				t.Fatal("the same id is kept once and dropped once")
			}
			if keep {
				kept++
			}
			if _, keep := st.Record(x, denial); !keep {
				t.Fatal("a denial was dropped")
			}
			forced := allow
			forced.Record = true
			if _, keep := st.Record(x, forced); !keep {
				t.Fatal("a decision whose rule asks for a record was dropped")
			}
		}
		if kept < bounds[0] || kept > bounds[1] {
			t.Errorf("%d per million: kept %d of %d", rate, kept, n)
		}
	}
}

func TestRedaction(t *testing.T) {
	for field, hidden := range map[string]string{wire.FieldPrincipal: "ada", wire.FieldSource: "192.0.2.1", wire.FieldPath: "/accounts/7"} {
		x := exchange()
		r, keep := prepare(t, wire.Section{Redact: []string{field}}).Record(x, denial)
		all := strings.Join([]string{r.Principal, r.Source, r.Path, r.Reason, r.Route, r.Method, r.Rule.ID}, "|")
		if !keep || strings.Contains(all, hidden) || strings.Count(all, audit.Redacted) < 2 {
			t.Errorf("%s: %s", field, all)
		}
		if x.Principal != "ada" || x.Path != "/accounts/7" || x.Params[0].Value != "7" {
			t.Errorf("%s: the exchange itself was changed: %+v", field, x)
		}
		for other, value := range map[string]string{wire.FieldPrincipal: r.Principal, wire.FieldSource: r.Source, wire.FieldPath: r.Path} {
			if (value == audit.Redacted) != (other == field) {
				t.Errorf("redacting %s leaves %s as %q", field, other, value)
			}
		}
	}
	st := prepare(t, wire.Section{Redact: []string{wire.FieldPrincipal, wire.FieldSource, wire.FieldPath}})
	if r, _ := st.Record(&pep.Exchange{ID: "id"}, pep.Decision{Reason: "why"}); r.Principal != "" || r.Source != "" || r.Path != "" || r.Reason != "why" {
		t.Errorf("what is empty stays empty: %+v", r)
	}
}

type witness []wire.Fact

func (w witness) Facts(*pep.Exchange) []wire.Fact { return slices.Clone(w) }

func TestFactsAreRecordedAndRedacted(t *testing.T) {
	x := exchange()
	x.Groups = []string{"staff", "tellers"}
	facts := witness{{Name: "amount", Value: "5000"}, {Name: "note", State: wire.FactAbsent}}
	x.Witness = facts
	d := denial
	d.Reason = "5000 is too much for tellers"
	hidden := wire.Fact{Name: "amount", Value: audit.Redacted, State: wire.FactHidden}
	for _, c := range []struct {
		redact  []string
		groups  []string
		facts   []wire.Fact
		reason  string
		partial wire.Partial
	}{
		{nil, x.Groups, facts, d.Reason, 0},
		{[]string{"groups"}, []string{audit.Redacted}, facts, "5000 is too much for [redacted]", wire.PartialGroups},
		{[]string{"attribute.amount"}, x.Groups, []wire.Fact{hidden, facts[1]}, "[redacted] is too much for tellers", 0},
		// That an attribute is absent says something of it, too.
		{[]string{"attributes"}, x.Groups, []wire.Fact{hidden, {Name: "note", Value: audit.Redacted, State: wire.FactHidden}}, "[redacted] is too much for tellers", 0},
		{[]string{"principal", "source", "path"}, x.Groups, facts, d.Reason, wire.PartialPrincipal | wire.PartialSource | wire.PartialPath},
	} {
		r, keep := prepare(t, wire.Section{Redact: c.redact}).Record(x, d)
		if !keep || !reflect.DeepEqual(r.Groups, c.groups) || !reflect.DeepEqual(r.Facts, c.facts) || r.Reason != c.reason || r.Partial != c.partial {
			t.Errorf("%q: %+v", c.redact, r)
		}
		if x.Groups[0] != "staff" {
			t.Errorf("%q: the exchange itself was changed", c.redact)
		}
	}
}

func TestARedactedParameterIsNotInTheReason(t *testing.T) {
	x := exchange()
	x.Params[0].Value = "geheim"
	d := denial
	d.Reason = "account geheim is closed"
	if r, _ := prepare(t, wire.Section{Redact: []string{wire.FieldPath}}).Record(x, d); strings.Contains(r.Reason, "geheim") {
		t.Errorf("%q", r.Reason)
	}
}

func TestWhatIsNotKeptCostsNothing(t *testing.T) {
	st := prepare(t, wire.Section{})
	x := exchange()
	if n := testing.AllocsPerRun(100, func() { st.Record(x, allow) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// Whatever a request says, its record fits, is about the decision, and shows
// nothing of what is hidden.
func FuzzRecord(f *testing.F) {
	f.Add("ada", "/accounts/7", "7", "no rule lets ada read /accounts/7", false, uint16(403))
	f.Add("e", "d", "r", "red", false, uint16(0))
	f.Add("", "", "", "\xff\x1b[2J", true, uint16(2000))
	hidden := prepare(f, wire.Section{AllowedPerMillion: wire.Million, Redact: []string{wire.FieldPrincipal, wire.FieldSource, wire.FieldPath}})
	f.Fuzz(func(t *testing.T, principal, path, param, reason string, allowed bool, status uint16) {
		x := exchange()
		x.Principal, x.Path, x.Params[0].Value = principal, path, param
		d := pep.Decision{Stage: abi.StageAuthz, Reason: reason, Status: int(status)}
		if allowed {
			d.Verdict = abi.Allow
		}
		r, keep := hidden.Record(x, d)
		if !keep || r.Verdict != d.Verdict || !allowed && (r.Rule.ID == "" || r.Status == 0 || r.Status > 999) {
			t.Fatalf("%+v of %+v", r, d)
		}
		for piece := range strings.SplitSeq(r.Reason, audit.Redacted) {
			for _, s := range []string{principal, path, param, "192.0.2.1"} {
				if s != "" && strings.Contains(piece, s) {
					t.Fatalf("%q shows in %q", s, r.Reason)
				}
			}
		}
		if most := len(audit.Redacted) * len(reason); len(r.Reason) > most {
			t.Fatalf("%d bytes of reason have become %d", len(reason), len(r.Reason))
		}
		var w abiwire.Writer
		r.Append(&w)
		in := abiwire.NewReader(w.Bytes())
		wire.Read(in)
		if err := in.Close(); err != nil || len(w.Bytes()) > wire.MaxRecord {
			t.Fatalf("%d bytes, %v", len(w.Bytes()), err)
		}
	})
}

// spacious has a fact as long as a body.
type spacious struct{}

func (spacious) Facts(*pep.Exchange) []wire.Fact {
	return []wire.Fact{{Name: "note", Value: strings.Repeat("a", 1<<20)}}
}

// Clients choose how long values are: neither time nor what waits grows with it.
func TestALongValueIsCheap(t *testing.T) {
	for _, redact := range [][]string{nil, {"attribute.note"}} {
		st := prepare(t, wire.Section{AllowedPerMillion: wire.Million, Redact: redact})
		begin := time.Now()
		r, _ := st.Record(&pep.Exchange{ID: "x", Witness: spacious{}}, pep.Decision{Reason: "a reason", Stage: "authz"})
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("redacting %v took %v", redact, took)
		}
		if len(r.Facts) != 1 || len(r.Facts[0].Value) > wire.MaxField || r.Facts[0].State == wire.FactWhole {
			t.Errorf("redacting %v: %d facts", redact, len(r.Facts))
		}
	}
}
