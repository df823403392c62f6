package obligations_test

import (
	"encoding/binary"
	"net/http"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/obligation"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/obligations"
)

// state is what an image uses of the module.
type state interface {
	pep.GuardState
	pep.GateState
	pep.Observer
}

func prepare(t testing.TB, m *obligations.Module, list ...obligation.Obligation) state {
	t.Helper()
	st, err := m.Prepare(&pep.Input{Section: (&obligation.Section{Obligations: list, Limits: []string{"per-source"}}).Encode()})
	if err != nil {
		t.Fatal(err)
	}
	return st.(state)
}

var guessing = obligation.Obligation{Rule: abi.Rule{ID: "guessing", Line: "p.yaml:9"}, On: obligation.Authentication,
	Count: 3, Window: time.Minute, Alert: true, Block: 10 * time.Minute}

func at(from string) *pep.Exchange {
	return &pep.Exchange{Header: http.Header{}, Now: time.Now(), Flow: flow.Flow{Src: netip.MustParseAddr(from)}}
}

var wrong = pep.Decision{Stage: abi.StageAuthn, Rule: abi.Rule{ID: "login"}, Status: 401}

// deny tells st of n denials and returns the alerts.
func deny(st state, from string, n int, d pep.Decision) (alerts []pep.Decision) {
	for range n {
		if a, ok := st.Observe(at(from), d); ok {
			alerts = append(alerts, a)
		}
	}
	return alerts
}

func blocked(t testing.TB, st state, from string) bool {
	t.Helper()
	x := at(from)
	request, connection := st.Judge(x), st.Admit(x.Flow)
	if request.Verdict != connection.Verdict {
		t.Errorf("%s: a request is judged %v, a connection %v", from, request.Verdict, connection.Verdict)
	}
	refused := request.Verdict != abi.Allow
	if refused != (x.Header.Get("Connection") == "close") || refused != (request.Rule.ID != "") || request.Stage != abi.StageObligations {
		t.Errorf("%s: %+v, %v", from, request, x.Header)
	}
	return refused
}

func TestASourceIsBlockedAtItsCountAndReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := prepare(t, obligations.New(), guessing)
		if a := deny(st, "192.0.2.1", 2, wrong); len(a) != 0 || blocked(t, st, "192.0.2.1") {
			t.Fatalf("below the count: %+v", a)
		}
		a := deny(st, "192.0.2.1", 50, wrong)
		if len(a) != 1 || a[0].Verdict != abi.Deny || a[0].Rule != guessing.Rule || a[0].Stage != abi.StageObligations ||
			a[0].Reason != "3 denials (authentication) within 1m0s from this source: blocked for 10m0s" {
			t.Errorf("alerts: %+v", a)
		}
		if !blocked(t, st, "192.0.2.1") || !blocked(t, st, "::ffff:192.0.2.1") {
			t.Error("the source is not blocked")
		}
		if d := st.Judge(at("192.0.2.1")); d.Status != 403 || d.Rule != guessing.Rule {
			t.Errorf("%+v", d)
		}
		if blocked(t, st, "192.0.2.2") {
			t.Error("another source is blocked")
		}
	})
}

func TestABlockEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := prepare(t, obligations.New(), guessing)
		deny(st, "192.0.2.1", 3, wrong)
		time.Sleep(10*time.Minute - 1)
		if !blocked(t, st, "192.0.2.1") {
			t.Error("it ended too early")
		}
		time.Sleep(time.Nanosecond)
		if blocked(t, st, "192.0.2.1") {
			t.Error("it does not end")
		}
		if a := deny(st, "192.0.2.1", 2, wrong); len(a) != 0 || blocked(t, st, "192.0.2.1") {
			t.Error("what was counted before still counts")
		}
		if a := deny(st, "192.0.2.1", 1, wrong); len(a) != 1 || !blocked(t, st, "192.0.2.1") {
			t.Error("it does not begin again")
		}
	})
}

// What came during a block neither lengthens it nor counts after it.
func TestABlockDoesNotFeedItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := guessing
		o.On = obligation.Any
		st := prepare(t, obligations.New(), o)
		deny(st, "192.0.2.1", 3, wrong)
		for range 100 {
			time.Sleep(6 * time.Second)
			x := at("192.0.2.1")
			d := st.Judge(x)
			st.Observe(x, d)
			st.Observe(x, st.Admit(x.Flow))
		}
		if blocked(t, st, "192.0.2.1") {
			t.Error("the block was prolonged by what it refused")
		}
		if a := deny(st, "192.0.2.1", 2, wrong); len(a) != 0 {
			t.Error("what the block refused was counted")
		}
	})
}

func TestWhatCounts(t *testing.T) {
	all := []obligation.On{obligation.Authentication, obligation.Authorization, obligation.Request, obligation.Any}
	for _, c := range []struct {
		name string
		d    pep.Decision
		by   []obligation.On
	}{
		{"a wrong password", wrong, []obligation.On{obligation.Authentication, obligation.Any}},
		{"too many attempts", pep.Decision{Stage: abi.StageAuthn, Status: 429}, []obligation.On{obligation.Authentication, obligation.Any}},
		{"a forbidden call", pep.Decision{Stage: abi.StageAuthz, Status: 403}, []obligation.On{obligation.Authorization, obligation.Any}},
		{"a malformed request", pep.Decision{Stage: abi.StageFilter, Rule: abi.Rule{ID: abi.RuleRequest}, Status: 400}, []obligation.On{obligation.Request, obligation.Any}},
		{"no such route", pep.Decision{Stage: abi.StageFilter, Rule: abi.Rule{ID: abi.RuleRoute}, Status: 404}, []obligation.On{obligation.Request, obligation.Any}},
		{"a limit of the source", pep.Decision{Stage: abi.StageSourceLimit, Rule: abi.Rule{ID: "per-source"}, Status: 429}, []obligation.On{obligation.Any}},
		{"a limit that others can exhaust", pep.Decision{Stage: abi.StagePrincipalLimit, Rule: abi.Rule{ID: "per-user"}, Status: 429}, nil},
		{"a server that is too busy", pep.Decision{Stage: abi.StageAuthn, Status: 503}, nil},
		{"a module that failed", pep.Decision{Stage: abi.StageAuthz, Rule: abi.Rule{ID: abi.RuleError}, Status: 403}, nil},
		{"a network rule", pep.Decision{Stage: abi.StageFirewall, Rule: abi.Rule{ID: abi.RuleNetwork}}, nil},
		{"a block", pep.Decision{Stage: abi.StageObligations, Rule: guessing.Rule, Status: 403}, nil},
		{"an allowed request", pep.Decision{Verdict: abi.Allow, Stage: abi.StageAuthn}, nil},
		{"nothing", pep.Decision{}, nil},
	} {
		for _, on := range all {
			o := guessing
			o.On, o.Count = on, 1
			st := prepare(t, obligations.New(), o)
			_, acts := st.Observe(at("192.0.2.1"), c.d)
			want := false
			for _, by := range c.by {
				want = want || by == on
			}
			if acts != want || blocked(t, st, "192.0.2.1") != want {
				t.Errorf("%s counts for %v: %v", c.name, on, acts)
			}
		}
	}
}

func TestNeighboursOfIPv6AreOneSource(t *testing.T) {
	st := prepare(t, obligations.New(), guessing)
	deny(st, "2001:db8::1", 1, wrong)
	deny(st, "2001:db8::ffff:1", 1, wrong)
	deny(st, "2001:db8::2", 1, wrong)
	for from, want := range map[string]bool{"2001:db8::9": true, "2001:db8:0:1::1": false} {
		if blocked(t, st, from) != want {
			t.Errorf("%s: want blocked %v", from, want)
		}
	}
}

func TestWhatIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent, report := guessing, guessing
		silent.Alert = false
		report.Block = 0
		st := prepare(t, obligations.New(), silent)
		if a := deny(st, "192.0.2.1", 9, wrong); len(a) != 0 || !blocked(t, st, "192.0.2.1") {
			t.Errorf("blockSource alone: %+v", a)
		}
		st = prepare(t, obligations.New(), report)
		a := deny(st, "192.0.2.1", 90, wrong)
		if len(a) != 1 || blocked(t, st, "192.0.2.1") || a[0].Reason != "3 denials (authentication) within 1m0s from this source" {
			t.Errorf("alert alone: %+v", a)
		}
		time.Sleep(time.Minute)
		if a := deny(st, "192.0.2.1", 90, wrong); len(a) != 1 {
			t.Errorf("in the next window: %+v", a)
		}
	})
}

func TestSeveralThatActAtOnceAreOneAlert(t *testing.T) {
	wide := guessing
	wide.Rule.ID, wide.On, wide.Block = "anything", obligation.Any, time.Hour
	st := prepare(t, obligations.New(), guessing, wide)
	a := deny(st, "192.0.2.1", 3, wrong)
	if len(a) != 1 || a[0].Rule != guessing.Rule || a[0].Reason != "3 denials (authentication) within 1m0s from this source: blocked for 10m0s; "+
		"anything: 3 denials (any) within 1m0s from this source: blocked for 1h0m0s" {
		t.Errorf("%+v", a)
	}
}

// Counts and blocks are the same over a change of program, also when a program
// between was prepared and never came into force; a removed obligation lifts its
// blocks, and so does one that changed.
func TestBlocksOutliveAProgram(t *testing.T) {
	m := obligations.New()
	first := prepare(t, m, guessing)
	deny(first, "192.0.2.1", 3, wrong)
	deny(first, "192.0.2.2", 2, wrong)
	prepare(t, m) // another module refuses
	runtime.GC()
	moved := guessing
	moved.Rule.Line, moved.Block = "p.yaml:99", time.Hour
	second := prepare(t, m, moved)
	if !blocked(t, second, "192.0.2.1") || len(deny(second, "192.0.2.2", 1, wrong)) != 1 || !blocked(t, second, "192.0.2.2") {
		t.Error("a block or a count was lost")
	}
	if !blocked(t, first, "192.0.2.2") {
		t.Error("the generation before does not see the block")
	}
	without := prepare(t, m)
	if blocked(t, without, "192.0.2.1") {
		t.Error("without its obligation the block stays")
	}
	report := guessing
	report.Block = 0
	if blocked(t, prepare(t, m, report), "192.0.2.1") {
		t.Error("an obligation that only reports blocks")
	}
	for name, change := range map[string]func(*obligation.Obligation){
		"name": func(o *obligation.Obligation) { o.Rule.ID = "other" }, "kind": func(o *obligation.Obligation) { o.On = obligation.Any },
		"count": func(o *obligation.Obligation) { o.Count = 4 }, "window": func(o *obligation.Obligation) { o.Window = time.Hour },
	} {
		c := guessing
		change(&c)
		if blocked(t, prepare(t, m, c), "192.0.2.1") {
			t.Errorf("another %s: still blocked", name)
		}
	}
	runtime.KeepAlive(first)
	runtime.KeepAlive(second)
}

func TestWhatIsRemovedIsForgotten(t *testing.T) {
	m := obligations.New()
	deny(prepare(t, m, guessing), "192.0.2.1", 3, wrong)
	prepare(t, m)
	runtime.GC()
	runtime.GC()
	prepare(t, m)
	if blocked(t, prepare(t, m, guessing), "192.0.2.1") {
		t.Error("an obligation that was removed and written again remembers")
	}
}

// nth is a source of its own for each n.
func nth(n uint64) netip.Addr {
	var a [16]byte
	a[0], a[1] = 0x20, 1
	binary.BigEndian.PutUint64(a[:8], binary.BigEndian.Uint64(a[:8])|n)
	return netip.AddrFrom16(a)
}

// A flood from random sources lifts no block as long as each of them is denied
// less often than the obligation counts, and takes no more memory than there is.
func TestAFloodOfSourcesUnblocksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := prepare(t, obligations.New(), guessing)
		deny(st, "192.0.2.1", 3, wrong)
		x := at("192.0.2.1")
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for n := range uint64(100_000) {
			x.Now = time.Now()
			x.Flow.Src = nth(n)
			st.Observe(x, wrong)
			if _, ok := st.Observe(x, wrong); ok && n == 0 {
				t.Fatal("two denials are too many")
			}
			if n%1000 == 0 {
				time.Sleep(time.Second) // six times as many as the table has entries
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
			t.Errorf("%d bytes more are held", grown)
		}
		if !blocked(t, st, "192.0.2.1") {
			t.Error("the flood lifted the block")
		}
		for n := range uint64(1000) {
			if x.Flow.Src = nth(n * 97); st.Judge(x).Verdict != abi.Allow {
				t.Fatal("a source is blocked for the denials of others")
			}
		}
	})
}

func TestDenialsAtOnceAreOneAlert(t *testing.T) {
	m := obligations.New()
	o := guessing
	o.Count = 100
	st := prepare(t, m, o)
	var alerts atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 100 {
				if i == 50 {
					prepare(t, m, o)
				}
				alerts.Add(int64(len(deny(st, "192.0.2.1", 1, wrong))))
				st.Admit(at("192.0.2.1").Flow)
			}
		})
	}
	wg.Wait()
	if n := alerts.Load(); n != 1 || !blocked(t, st, "192.0.2.1") {
		t.Errorf("%d alerts", n)
	}
}

func TestPrepareFailsClosed(t *testing.T) {
	for name, b := range map[string][]byte{"no section": nil, "no bytes": {}, "zero bytes": make([]byte, 64), "cut": {1, 1, 0, 0, 0}} {
		if st, err := obligations.New().Prepare(&pep.Input{Section: b}); err == nil || st != nil {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
}

func TestARequestOfAnotherSourceAllocatesNothing(t *testing.T) {
	st := prepare(t, obligations.New(), guessing)
	deny(st, "192.0.2.1", 3, wrong)
	x := at("192.0.2.2")
	if n := testing.AllocsPerRun(1000, func() { st.Judge(x); st.Admit(x.Flow) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
