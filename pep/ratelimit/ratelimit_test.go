package ratelimit_test

import (
	"net/http"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/limit"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/principallimit"
	"lorica.dev/lorica/pep/ratelimit"
	"lorica.dev/lorica/pep/sourcelimit"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func prepare(t testing.TB, m *ratelimit.Module, limits ...limit.Limit) pep.GuardState {
	t.Helper()
	st, err := m.Prepare(&pep.Input{Section: (&limit.Section{Limits: limits}).Encode()})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// A caller is who asks, from where, and for what.
type caller struct{ who, from, route string }

func (c caller) exchange(now time.Time) *pep.Exchange {
	x := &pep.Exchange{Header: http.Header{}, Now: now, Principal: c.who, Flow: flow.Flow{Src: netip.MustParseAddr(c.from)}}
	if c.route != "" {
		x.Route = &route.Route{Name: c.route}
	}
	return x
}

// status is 200 where the request passes.
func (c caller) status(st pep.GuardState, now time.Time) int {
	if d := st.Judge(c.exchange(now)); d.Verdict != abi.Allow {
		return d.Status
	}
	return 200
}

func one(name string, k limit.Key, routes ...string) limit.Limit {
	return limit.Limit{Rule: abi.Rule{ID: name, Line: "p.yaml:9"}, Key: k, Routes: routes, Requests: 1, Per: time.Minute}
}

func TestWhatSharesABucket(t *testing.T) {
	ada := caller{"ada", "192.0.2.1", "pay"}
	for _, c := range []struct {
		name   string
		key    limit.Key
		routes []string
		second caller // after one request of ada's
		shared bool
	}{
		{"one principal everywhere", limit.ByPrincipal, nil, caller{"ada", "192.0.2.9", "read"}, true},
		{"two principals", limit.ByPrincipal, nil, caller{"bob", "192.0.2.1", "pay"}, false},
		{"one source", limit.BySource, nil, caller{"bob", "192.0.2.1", "read"}, true},
		{"one source in disguise", limit.BySource, nil, caller{"bob", "::ffff:192.0.2.1", "read"}, true},
		{"two sources", limit.BySource, nil, caller{"ada", "192.0.2.2", "pay"}, false},
		{"one route", limit.ByRoute, nil, caller{"bob", "192.0.2.2", "pay"}, true},
		{"two routes", limit.ByRoute, nil, caller{"ada", "192.0.2.1", "read"}, false},
		{"principal and route", limit.ByPrincipal | limit.ByRoute, nil, caller{"ada", "192.0.2.2", "pay"}, true},
		{"principal on another route", limit.ByPrincipal | limit.ByRoute, nil, caller{"ada", "192.0.2.1", "read"}, false},
		{"principal elsewhere", limit.ByPrincipal | limit.BySource, nil, caller{"ada", "192.0.2.2", "pay"}, false},
		{"names that run together", limit.ByPrincipal | limit.ByRoute, nil, caller{"adap", "192.0.2.1", "ay"}, false},
		{"a route that is not limited", limit.ByPrincipal, []string{"pay"}, caller{"ada", "192.0.2.1", "read"}, false},
		{"a route that is limited", limit.ByPrincipal, []string{"read", "pay"}, caller{"ada", "192.0.2.1", "read"}, true},
		{"no route is every route", limit.ByPrincipal, []string{"pay"}, caller{"ada", "192.0.2.1", ""}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := prepare(t, principallimit.New(), one("l", c.key, c.routes...))
			if s := ada.status(st, start); s != 200 {
				t.Fatalf("the first request: %d", s)
			}
			want := 200
			if c.shared {
				want = 429
			}
			if s := c.second.status(st, start); s != want {
				t.Errorf("the second request: %d, want %d", s, want)
			}
		})
	}
}

func TestNeighboursOfIPv6ShareABucket(t *testing.T) {
	st := prepare(t, sourcelimit.New(), one("l", limit.BySource))
	for i, c := range []struct {
		from string
		want int
	}{{"2001:db8::1", 200}, {"2001:db8::ffff:1", 429}, {"2001:db8:0:1::1", 200}} {
		if s := (caller{"", c.from, ""}).status(st, start); s != c.want {
			t.Errorf("%d: %s: %d", i, c.from, s)
		}
	}
}

func TestARefusalSaysWhatAndWhen(t *testing.T) {
	l := one("per-user", limit.ByPrincipal)
	l.Requests, l.Per = 2, 3*time.Second
	st := prepare(t, principallimit.New(), l)
	ada := caller{"ada", "192.0.2.1", "pay"}
	ada.status(st, start)
	ada.status(st, start)
	x := ada.exchange(start)
	d := st.Judge(x)
	if d.Verdict != abi.Deny || d.Status != 429 || d.Rule != l.Rule || d.Stage != abi.StagePrincipalLimit || d.Reason != "more than 2 requests in 3s" {
		t.Errorf("%+v", d)
	}
	if got := x.Header.Get("Retry-After"); got != "2" { // 1.5s
		t.Errorf("Retry-After: %q", got)
	}
	seconds, _ := strconv.Atoi(x.Header.Get("Retry-After"))
	if s := ada.status(st, start.Add(time.Duration(seconds)*time.Second)); s != 200 {
		t.Errorf("after Retry-After: %d", s)
	}
}

func TestEveryLimitMustGrant(t *testing.T) {
	wide := one("wide", limit.ByPrincipal)
	wide.Requests = 3
	st := prepare(t, principallimit.New(), wide, one("narrow", limit.ByRoute, "pay"))
	for i, c := range []struct {
		route, rule string
	}{{"pay", ""}, {"pay", "narrow"}, {"read", ""}, {"read", "wide"}} {
		d := st.Judge((caller{"ada", "192.0.2.1", c.route}).exchange(start))
		if d.Rule.ID != c.rule || (d.Verdict == abi.Allow) != (c.rule == "") {
			t.Errorf("request %d, %s: %+v", i+1, c.route, d)
		}
	}
}

func TestPrepareFailsClosed(t *testing.T) {
	for name, b := range map[string][]byte{"no section": nil, "no bytes": {}, "zero bytes": make([]byte, 64), "cut": {1, 1, 0, 0, 0}} {
		if st, err := sourcelimit.New().Prepare(&pep.Input{Section: b}); err == nil || st != nil {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	s := limit.Section{Limits: []limit.Limit{one("l", limit.ByPrincipal|limit.BySource)}}
	if st, err := sourcelimit.New().Prepare(&pep.Input{Section: s.Encode()}); err == nil || st != nil {
		t.Errorf("a principal before authentication: %v", err)
	}
}

// What a limit has counted stays counted over a change of program, also when a
// program between was prepared and never came into force.
func TestBucketsOutliveAProgram(t *testing.T) {
	m := principallimit.New()
	l := one("l", limit.ByPrincipal)
	ada := caller{"ada", "192.0.2.1", "pay"}
	first := prepare(t, m, l)
	ada.status(first, start)
	prepare(t, m) // another module refuses
	runtime.GC()
	moved := l
	moved.Rule.Line, moved.Routes = "p.yaml:99", []string{"pay"}
	if s := ada.status(prepare(t, m, moved), start); s != 429 {
		t.Errorf("the same limit: %d", s)
	}
	if s := ada.status(first, start); s != 429 {
		t.Errorf("the generation before: %d", s)
	}
	for name, change := range map[string]func(*limit.Limit){
		"name": func(l *limit.Limit) { l.Rule.ID = "k" }, "key": func(l *limit.Limit) { l.Key = limit.ByRoute },
		"requests": func(l *limit.Limit) { l.Requests = 2 }, "time": func(l *limit.Limit) { l.Per = time.Hour },
	} {
		c := l
		change(&c)
		if s := ada.status(prepare(t, m, c), start); s != 200 {
			t.Errorf("another %s: %d", name, s)
		}
	}
	runtime.KeepAlive(first)
}

// The scope is the instance: each counts alone, from full buckets.
func TestEveryInstanceCountsAlone(t *testing.T) {
	l := one("l", limit.ByPrincipal)
	ada := caller{"ada", "192.0.2.1", "pay"}
	for instance := range 2 {
		st := prepare(t, principallimit.New(), l)
		if first, second := ada.status(st, start), ada.status(st, start); first != 200 || second != 429 {
			t.Errorf("instance %d: %d, then %d", instance, first, second)
		}
	}
}

func TestRequestsAtOnceCannotExceedTheLimit(t *testing.T) {
	m := principallimit.New()
	l := one("l", limit.ByPrincipal)
	l.Requests = 100
	st := prepare(t, m, l)
	var passed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 100 {
				if i == 50 {
					prepare(t, m, l)
				}
				if (caller{"ada", "192.0.2.1", "pay"}).status(st, start) == 200 {
					passed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := passed.Load(); n != 100 {
		t.Errorf("%d of 800 requests at once passed; the limit is 100", n)
	}
}

func TestARequestThatPassesAllocatesNothing(t *testing.T) {
	l := one("l", limit.ByPrincipal|limit.BySource|limit.ByRoute, "read", "pay")
	l.Requests = limit.MaxRequests
	st := prepare(t, principallimit.New(), l)
	x := (caller{"ada", "192.0.2.1", "pay"}).exchange(start)
	if n := testing.AllocsPerRun(1000, func() { st.Judge(x) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkJudge(b *testing.B) {
	l := one("l", limit.ByPrincipal|limit.ByRoute)
	l.Requests, l.Per = limit.MaxRequests, time.Millisecond
	st := prepare(b, principallimit.New(), l)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		x := (caller{"ada", "192.0.2.1", "pay"}).exchange(start)
		for p.Next() {
			x.Now = time.Now()
			st.Judge(x)
		}
	})
}
