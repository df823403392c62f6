package main

import (
	"strings"
	"testing"

	"lorica.dev/lorica/abi"
)

// compare judges requests under one set of policies on both sides: decision and
// rule must be equal. It counts the outcomes in seen.
func compare(t testing.TB, g *generator, requests int, seen map[string]int) {
	t.Helper()
	text := g.policies()
	fallback := pick(g, abi.Deny, abi.Deny, abi.Deny, abi.Allow)
	d := deployment(t, text, fallback)
	states := guards(t, d)
	set := policySet(d)
	for range requests {
		r := g.request()
		verdict, rule := oracle(d, set, r)
		for range 3 { // the third answer is remembered
			got := states[r.level].Judge(exchange(r))
			if got.Verdict != verdict || got.Rule.ID != rule {
				t.Fatalf("request %+v at %s: compiled says %s by %s (%s), cedar-go says %s by %s\n%s",
					r, levels[r.level], got.Verdict, got.Rule.ID, got.Reason, verdict, rule, text)
			}
			if got.Verdict == abi.Deny && got.Reason == "" {
				t.Fatalf("denial by %s without a reason", got.Rule.ID)
			}
			seen[verdict.String()]++
			switch {
			case rule == abi.RuleAuthz:
				seen["default"]++
			case strings.HasPrefix(got.Reason, "the rule could not be evaluated"):
				seen["error"]++
			}
		}
	}
}

func TestCompiledDecidesAsCedarGo(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(2000) {
		compare(t, seeded(seed), 8, seen)
	}
	t.Logf("outcomes: %v", seen)
	for _, outcome := range []string{"Allow", "Deny", "default", "error"} {
		if seen[outcome] < 3000 {
			t.Errorf("only %d outcomes were %q: the generator is too narrow", seen[outcome], outcome)
		}
	}
}

func FuzzCompiledDecidesAsCedarGo(f *testing.F) {
	f.Add([]byte("permit"), uint8(4))
	f.Add([]byte{0, 255, 1, 254, 2, 253, 3, 252}, uint8(8))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), uint8(1))
	f.Fuzz(func(t *testing.T, data []byte, requests uint8) {
		compare(t, newGenerator(data), int(requests%16)+1, map[string]int{})
	})
}
