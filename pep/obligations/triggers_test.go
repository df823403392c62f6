package obligations_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/obligation"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/obligations"
)

var curious = obligation.Trigger{Rule: abi.Rule{ID: "curious", Line: "p.yaml:3"}, On: obligation.Authorization, Key: obligation.ByAll,
	Count: 3, Window: time.Minute, To: "elevated", Hold: 10 * time.Minute}

var forbidden = pep.Decision{Stage: abi.StageAuthz, Status: 403}

func raiser(t testing.TB, m *obligations.Module, limits []string, list ...obligation.Trigger) pep.Raiser {
	t.Helper()
	s := obligation.Section{Triggers: list, Limits: limits}
	st, err := m.Prepare(&pep.Input{Section: s.Encode()})
	if err != nil {
		t.Fatal(err)
	}
	return st.(pep.Raiser)
}

// fires tells a trigger n times and returns what fires.
func fires(r pep.Raiser, x *pep.Exchange, d pep.Decision, n int) (list []pep.Firing) {
	for range n {
		x.Now = time.Now()
		list = append(list, r.Raise(x, d, 1)...)
	}
	return list
}

// A trigger fires at its count, then says nothing for its window, and fires again as long
// as denials go on.
func TestATriggerFiresAtItsCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := raiser(t, obligations.New(), nil, curious)
		x := at("192.0.2.1")
		if f := fires(r, x, forbidden, 2); len(f) != 0 {
			t.Fatalf("below the count: %+v", f)
		}
		f := fires(r, x, forbidden, 50)
		if len(f) != 1 || f[0].Trigger != "curious" || f[0].Alert.Rule != curious.Rule || f[0].Alert.Stage != abi.StageObligations || f[0].Alert.Verdict != abi.Deny ||
			f[0].Alert.Reason != "3 denials (authorization) within 1m0s: level elevated for 10m0s" {
			t.Errorf("at the count: %+v", f)
		}
		time.Sleep(time.Minute - 1)
		if f := fires(r, x, forbidden, 50); len(f) != 0 {
			t.Errorf("too soon: %+v", f)
		}
		time.Sleep(time.Nanosecond)
		if f := fires(r, x, forbidden, 1); len(f) != 1 {
			t.Errorf("what goes on does not fire again: %+v", f)
		}
		time.Sleep(2 * time.Minute)
		if f := fires(r, x, forbidden, 2); len(f) != 0 {
			t.Errorf("what has passed counts: %+v", f)
		}
	})
}

// A short hold is prolonged before it is over.
func TestAShortHoldIsToldOfInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		short := curious
		short.Window, short.Hold = time.Hour, 4*time.Second
		r := raiser(t, obligations.New(), nil, short)
		x := at("192.0.2.1")
		last, told := time.Now(), 0
		for range 200 { // twenty seconds
			if len(fires(r, x, forbidden, 3)) > 0 {
				last, told = time.Now(), told+1
			}
			if told > 0 && time.Since(last) >= short.Hold {
				t.Fatal("the hold ended while denials went on")
			}
			time.Sleep(100 * time.Millisecond)
		}
		if told < 5 || told > 12 {
			t.Errorf("it fired %d times", told)
		}
	})
}

func TestWhatATriggerCounts(t *testing.T) {
	for _, c := range []struct {
		name string
		d    pep.Decision
		by   []obligation.On
	}{
		{"a wrong password", wrong, []obligation.On{obligation.Authentication}},
		{"a forbidden call", forbidden, []obligation.On{obligation.Authorization}},
		{"no such route", pep.Decision{Stage: abi.StageFilter, Rule: abi.Rule{ID: abi.RuleRoute}, Status: 404}, []obligation.On{obligation.Request}},
		{"a network rule", pep.Decision{Stage: abi.StageFirewall, Rule: abi.Rule{ID: abi.RuleNetwork}}, []obligation.On{obligation.Network}},
		{"a limit of the source", pep.Decision{Stage: abi.StageSourceLimit, Rule: abi.Rule{ID: "per-source"}, Status: 429}, nil},
		{"a limit of everybody", pep.Decision{Stage: abi.StagePrincipalLimit, Rule: abi.Rule{ID: "in-all"}, Status: 429}, nil},
	} {
		for on := obligation.Authentication; on <= obligation.Network; on++ {
			trigger := curious
			trigger.On, trigger.Count = on, 1
			want := on == obligation.Any || len(c.by) > 0 && c.by[0] == on
			if f := raiser(t, obligations.New(), []string{"per-source"}, trigger).Raise(at("192.0.2.1"), c.d, 1); (len(f) == 1) != want {
				t.Errorf("%s counts for %v: %v", c.name, on, f)
			}
		}
	}
	one := curious
	one.On, one.Count = obligation.Any, 1
	for name, d := range map[string]pep.Decision{
		"an allowed request":         {Verdict: abi.Allow, Stage: abi.StageAuthz},
		"a server that is too busy":  {Stage: abi.StageFilter, Rule: abi.Rule{ID: abi.RuleRequest}, Status: 503},
		"what the level has closed":  {Stage: abi.StageFilter, Rule: abi.Rule{ID: abi.RuleLevel}, Status: 503},
		"a module that failed":       {Stage: abi.StageAuthz, Rule: abi.Rule{ID: abi.RuleError}, Status: 403},
		"a firewall that failed":     {Stage: abi.StageFirewall, Rule: abi.Rule{ID: abi.RuleError}},
		"a source that is blocked":   {Stage: abi.StageObligations, Rule: guessing.Rule, Status: 403},
		"a handshake that failed":    {Stage: abi.StageTLS, Rule: abi.Rule{ID: abi.RuleTLS}},
		"a decision of nobody known": {},
	} {
		if f := raiser(t, obligations.New(), nil, one).Raise(at("192.0.2.1"), d, 1); len(f) != 0 {
			t.Errorf("%s counts: %v", name, f)
		}
	}
}

// Denials of different keys are counted apart, and without a key not at all.
func TestKeysOfTriggers(t *testing.T) {
	from := func(source, principal, path string) *pep.Exchange {
		x := at(source)
		x.Principal = principal
		if path != "" {
			x.Route = &route.Route{Name: path}
		}
		return x
	}
	for _, c := range []struct {
		key    obligation.Key
		x      [3]*pep.Exchange
		fires  bool
		reason string
	}{
		{obligation.ByAll, [3]*pep.Exchange{from("192.0.2.1", "", ""), from("192.0.2.2", "ann", "a"), from("192.0.2.3", "bob", "b")}, true, "1m0s: level"},
		{obligation.BySource, [3]*pep.Exchange{from("192.0.2.1", "ann", "a"), from("192.0.2.1", "bob", "b"), from("192.0.2.1", "", "")}, true, "from one source"},
		{obligation.BySource, [3]*pep.Exchange{from("192.0.2.1", "ann", "a"), from("192.0.2.2", "ann", "a"), from("192.0.2.1", "ann", "a")}, false, ""},
		{obligation.ByPrincipal, [3]*pep.Exchange{from("192.0.2.1", "ann", ""), from("192.0.2.2", "ann", "a"), from("192.0.2.3", "ann", "b")}, true, "of one principal"},
		{obligation.ByPrincipal, [3]*pep.Exchange{from("192.0.2.1", "ann", "a"), from("192.0.2.1", "bob", "a"), from("192.0.2.1", "ann", "a")}, false, ""},
		{obligation.ByPrincipal, [3]*pep.Exchange{from("192.0.2.1", "", ""), from("192.0.2.1", "", ""), from("192.0.2.1", "", "")}, false, ""},
		{obligation.ByRoute, [3]*pep.Exchange{from("192.0.2.1", "ann", "a"), from("192.0.2.2", "bob", "a"), from("192.0.2.3", "", "a")}, true, "on one route"},
		{obligation.ByRoute, [3]*pep.Exchange{from("192.0.2.1", "ann", ""), from("192.0.2.1", "ann", ""), from("192.0.2.1", "ann", "")}, false, ""},
	} {
		trigger := curious
		trigger.Key = c.key
		r := raiser(t, obligations.New(), nil, trigger)
		var f []pep.Firing
		for _, x := range c.x {
			f = append(f, r.Raise(x, forbidden, 1)...)
		}
		if (len(f) == 1) != c.fires || len(f) == 1 && !strings.Contains(f[0].Alert.Reason, c.reason) {
			t.Errorf("by %v: %+v", c.key, f)
		}
	}
}

// A denial that stands for others counts for them, and costs no more than the count.
func TestOneStandsForMany(t *testing.T) {
	many := curious
	many.On, many.Count = obligation.Network, obligation.MaxCount
	x, packet := at("192.0.2.1"), pep.Decision{Stage: abi.StageFirewall, Rule: abi.Rule{ID: abi.RuleNetwork}}
	if f := raiser(t, obligations.New(), nil, many).Raise(x, packet, 1<<60); len(f) != 1 {
		t.Errorf("a flood does not fire: %v", f)
	}
	if f := raiser(t, obligations.New(), nil, many).Raise(x, packet, obligation.MaxCount-1); len(f) != 0 {
		t.Errorf("it fires early: %v", f)
	}
}

// At the level that it raised, a trigger goes on counting where it was; one that changed
// begins anew.
func TestCountsOfTriggersOutliveAProgram(t *testing.T) {
	m := obligations.New()
	first := raiser(t, m, nil, curious)
	x := at("192.0.2.1")
	fires(first, x, forbidden, 2)
	moved := curious
	moved.Rule.Line, moved.To, moved.Hold = "p.yaml:99", "lockdown", 0
	second := raiser(t, m, nil, moved)
	if f := fires(second, x, forbidden, 1); len(f) != 1 || !strings.HasSuffix(f[0].Alert.Reason, "level lockdown until it is released") {
		t.Errorf("the count was lost: %+v", f)
	}
	if f := fires(first, x, forbidden, 5); len(f) != 0 {
		t.Errorf("the generation before does not know that it fired: %v", f)
	}
	for name, change := range map[string]func(*obligation.Trigger){
		"name": func(o *obligation.Trigger) { o.Rule.ID = "other" }, "kind": func(o *obligation.Trigger) { o.On = obligation.Any },
		"count": func(o *obligation.Trigger) { o.Count = 2 }, "window": func(o *obligation.Trigger) { o.Window = time.Hour },
		"key": func(o *obligation.Trigger) { o.Key = obligation.BySource },
	} {
		c := curious
		change(&c)
		if f := fires(raiser(t, m, nil, c), x, forbidden, 1); len(f) != 0 {
			t.Errorf("another %s: still counted", name)
		}
	}
	runtime.KeepAlive(first)
	runtime.KeepAlive(second)
}

// Whoever comes from many places at once is counted whole, takes no more memory than there
// is, and makes one firing.
func TestAFloodFiresOnce(t *testing.T) {
	m := obligations.New()
	var list []obligation.Trigger
	for i, key := range []obligation.Key{obligation.ByAll, obligation.BySource, obligation.ByPrincipal} {
		o := curious
		o.Rule.ID, o.Key, o.Count = fmt.Sprint(i), key, 100
		list = append(list, o)
	}
	r := raiser(t, m, nil, list...)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var fired [3]atomic.Int64
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 20_000 {
				x := at("192.0.2.1")
				x.Flow.Src, x.Principal = nth(uint64(w*20_000+i)), fmt.Sprint("user", w*20_000+i)
				for _, f := range r.Raise(x, forbidden, 1) {
					fired[f.Trigger[0]-'0'].Add(1)
				}
			}
		})
	}
	wg.Wait()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if fired[0].Load() != 1 || fired[1].Load() != 0 || fired[2].Load() != 0 {
		t.Errorf("%d, %d and %d firings", fired[0].Load(), fired[1].Load(), fired[2].Load())
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("%d bytes more are held", grown)
	}
	runtime.KeepAlive(r)
}

func TestADenialThatFiresNothingAllocatesNothing(t *testing.T) {
	many := curious
	many.Count, many.Key = obligation.MaxCount, obligation.BySource
	r := raiser(t, obligations.New(), nil, many)
	x := at("192.0.2.1")
	if n := testing.AllocsPerRun(1000, func() { r.Raise(x, forbidden, 1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
