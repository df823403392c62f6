package authz

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/pep"
)

// settle asks until the decision is a remembered one.
func settle(t *testing.T, s *state, x *pep.Exchange, verdict abi.Verdict) {
	t.Helper()
	for range 3 {
		if d := s.Judge(x); d.Verdict != verdict {
			t.Fatalf("%+v", d)
		}
	}
}

func remembers(s *state) (n int) {
	for i := range s.memo.slots {
		if s.memo.slots[i].p.Load() != nil {
			n++
		}
	}
	return n
}

// Each fact alone must change the decision although all else was remembered.
func TestMemoKnowsEveryFact(t *testing.T) {
	less := func(n uint32) []step {
		return []step{{op: authz.OpAttr}, {v: authz.NumberValue(authz.ValueLong, int64(n))}, {op: authz.OpLt}}
	}
	amount := []authz.Attribute{{Name: "amount", Type: authz.TypeLong, Source: authz.Source{Kind: authz.SourceBody, Arg: "/amount"}}}
	hour := []authz.Attribute{{Name: "hour", Type: authz.TypeLong, Source: authz.Source{Kind: authz.SourceHour}}}
	pay := func(n int) *pep.Exchange {
		return ask("POST", "/", fmt.Sprintf(`{"amount": %d}`, n), "Content-Type", "application/json")
	}

	t.Run("the amount", func(t *testing.T) {
		s := prepare(t, section(amount, less(1000)))
		settle(t, s, pay(999), abi.Allow)
		settle(t, s, pay(1000), abi.Deny)
		settle(t, s, pay(999), abi.Allow)
	})
	t.Run("the hour", func(t *testing.T) {
		s := prepare(t, section(hour, less(12)))
		x := ask("GET", "/", "") // at 11:59:59
		settle(t, s, x, abi.Allow)
		x.Now = x.Now.Add(time.Second)
		settle(t, s, x, abi.Deny)
		x.Now = x.Now.Add(13 * time.Hour).In(time.FixedZone("ahead", 12*3600)) // 01:00 UTC
		settle(t, s, x, abi.Allow)
	})
	t.Run("the groups", func(t *testing.T) {
		s := prepare(t, section(nil, nil))
		x := ask("GET", "/", "")
		settle(t, s, x, abi.Allow)
		x.Groups = []string{"op", "s"}
		settle(t, s, x, abi.Deny)
		x.Groups = nil
		settle(t, s, x, abi.Deny)
	})
	t.Run("the principal", func(t *testing.T) {
		s := prepare(t, section(nil, nil, step{v: authz.Value{Kind: authz.ValueEntity, A: entAda}}, step{op: authz.OpPrincipal}, step{op: authz.OpEq}))
		x := ask("GET", "/", "")
		settle(t, s, x, abi.Allow)
		x.Principal = "ada"
		settle(t, s, x, abi.Deny)
	})
	t.Run("the route", func(t *testing.T) {
		s := prepare(t, section(nil, nil))
		x := ask("GET", "/", "")
		settle(t, s, x, abi.Allow)
		x.Route = &route.Route{Name: "other"}
		settle(t, s, x, abi.Deny)
	})
	t.Run("absent or empty", func(t *testing.T) {
		attrs := []authz.Attribute{{Name: "x", Type: authz.TypeString, Optional: true, Source: authz.Source{Kind: authz.SourceQuery, Arg: "x"}}}
		s := prepare(t, section(attrs, []step{{op: authz.OpHasAttr}}))
		settle(t, s, ask("GET", "/?x=", ""), abi.Allow)
		settle(t, s, ask("GET", "/", ""), abi.Deny)
	})
}

func TestMemoIsUsedAndBounded(t *testing.T) {
	s := prepare(t, section(nil, nil))
	x := ask("GET", "/", "")
	s.Judge(x)
	if n := remembers(s); n != 0 {
		t.Errorf("%d decisions were remembered after one request", n)
	}
	s.Judge(x)
	if n := remembers(s); n != 1 {
		t.Fatalf("%d decisions are remembered", n)
	}
	// What is remembered is what is answered: planting another answer shows it.
	for i := range s.memo.slots {
		if r := s.memo.slots[i].p.Load(); r != nil {
			s.memo.slots[i].p.Store(&remembered{r.key, deny(abi.Rule{ID: "planted"}, "planted")})
		}
	}
	check(t, s.Judge(x), abi.Deny, "planted")
	x.Principal = strings.Repeat("x", memoKey)
	for range 3 {
		check(t, s.Judge(x), abi.Allow, "permit-it")
	}
	if n := remembers(s); n != 1 {
		t.Errorf("a key longer than %d bytes is remembered", memoKey)
	}
}

func TestNothingIsRememberedAcrossGenerations(t *testing.T) {
	m := New()
	in := func(s *authz.Section) *pep.Input {
		return &pep.Input{Level: "normal", Levels: []string{"normal"}, Section: s.Encode()}
	}
	x := ask("GET", "/", "")
	before, err := m.Prepare(in(section(nil, nil)))
	if err != nil {
		t.Fatal(err)
	}
	settle(t, before.(*state), x, abi.Allow)
	after, err := m.Prepare(in(section(nil, []step{{v: authz.Value{Kind: authz.ValueBool}}})))
	if err != nil {
		t.Fatal(err)
	}
	settle(t, after.(*state), x, abi.Deny)
	settle(t, before.(*state), x, abi.Allow) // a request that pinned the old one
}
