package space

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/policy"
)

// The pairs of rules that are said to differ are those that all calls show; of each there
// is a witness.
func TestDifferencesOfCedarRulesAreWhatAllCallsShow(t *testing.T) {
	equal, changed, open := 0, 0, 0
	for seed := range uint64(25) {
		r := rand.New(rand.NewPCG(seed, 4))
		used := someSmalls(r)
		var rules []string
		for i := range 2 + r.IntN(3) {
			rules = append(rules, rule(r, fmt.Sprint("r", i), used))
		}
		other := slices.Clone(rules)
		i := r.IntN(len(rules))
		switch seed % 3 {
		case 0:
			other[i] = rule(r, "new", used)
		case 1:
			other = slices.Delete(other, i, i+1)
		case 2:
			other[0], other[i] = other[i], other[0]
		}
		before, after := smallPolicy(t, rules, "Deny"), smallPolicy(t, other, []string{"Allow", "Deny", "Deny"}[r.IntN(3)])
		diff, err := DiffCalls(budget(), before, after)
		if err != nil {
			t.Fatal(err)
		}
		x, y := before.Reference(), after.Reference()
		want := make(map[string]bool)
		for _, route := range []string{"one", "two"} {
			levels := x.About(route).ReadsLevel || y.About(route).ReadsLevel
			everyCall(route, used, func(c policy.Call) {
				for i, level := range before.Policy.Levels.Names {
					if c.Level = level; i > 0 && !levels {
						break
					}
					if a, b := x.Authorize(c), y.Authorize(c); a.Verdict != b.Verdict {
						want[fmt.Sprint(route, level, a.Rule.ID, b.Rule.ID)] = true
					}
				}
			})
		}
		text := strings.Join(rules, "\n") + "\nnow:\n" + strings.Join(other, "\n")
		got := make(map[string]bool)
		for _, c := range diff.Changes {
			if c.Old != before.Authorize(c.Call) || c.New != after.Authorize(c.Call) || c.Old.Verdict == c.New.Verdict || c.Call.Level != c.Level {
				t.Fatalf("seed %d: %+v", seed, c)
			}
			k := fmt.Sprint(c.Call.Route, c.Level, c.Old.Rule.ID, c.New.Rule.ID)
			if !want[k] || got[k] {
				t.Fatalf("seed %d: %s: %+v\n%s", seed, k, c, text)
			}
			got[k] = true
		}
		switch {
		case !diff.Complete:
			open++
		case len(got) != len(want):
			t.Fatalf("seed %d: %v, want %v\n%s", seed, got, want, text)
		case len(want) == 0:
			equal++
		default:
			changed++
		}
	}
	t.Log(equal, "equal", changed, "changed", open, "open")
	if equal < 5 || changed < 8 || open > 3 {
		t.Fatal(equal, changed, open)
	}
}

// The least change is allowed, and no call that differs in fewer facts is.
func TestTheLeastChangeIsTheLeastOfAllCalls(t *testing.T) {
	counts := map[int]int{}
	for seed := range uint64(25) {
		r := rand.New(rand.NewPCG(seed, 5))
		used := someSmalls(r)
		var rules []string
		for i := range 1 + r.IntN(4) {
			rules = append(rules, rule(r, fmt.Sprint("r", i), used))
		}
		d := smallPolicy(t, rules, "Deny")
		ref := d.Reference()
		var denied []policy.Call
		everyCall("one", used, func(c policy.Call) {
			if r.IntN(50) == 0 && ref.Authorize(c).Verdict == abi.Deny {
				denied = append(denied, copied(c))
			}
		})
		for _, c := range denied[:min(3, len(denied))] {
			c.Level = d.Policy.Levels.Names[r.IntN(3)]
			facts, call, status, why := Allowing(budget(), d, c)
			if status == NotAnalysed {
				t.Fatalf("seed %d: %s", seed, why)
			}
			least := -1
			everyCall("one", used, func(o policy.Call) {
				o.Level = c.Level
				if n := apart(c, o, ref.About("one").Reads); (least < 0 || n < least) && ref.Authorize(o).Verdict == abi.Allow {
					least = n
				}
			})
			if (least >= 0) != (status == Found) {
				t.Fatalf("seed %d: %v: %s, all calls: %d\n%s", seed, c, status, least, strings.Join(rules, "\n"))
			}
			if status == Found && (len(facts) != least || ref.Authorize(call).Verdict != abi.Allow || apart(c, call, ref.About("one").Reads) != least) {
				t.Fatalf("seed %d: %v: %v (%v), all calls: %d\n%s", seed, c, facts, call, least, strings.Join(rules, "\n"))
			}
			counts[least]++
		}
	}
	t.Log(counts)
	if counts[1] < 5 || counts[2] < 5 {
		t.Fatal(counts)
	}
}

func copied(c policy.Call) policy.Call {
	m := make(map[string]cedar.Value)
	for k, v := range c.Context {
		m[k] = v
	}
	c.Context = m
	return c
}

// apart counts the facts in which calls differ.
func apart(a, b policy.Call, reads []string) int {
	n := 0
	if a.Principal != b.Principal {
		n++
	}
	for _, g := range []string{"top", "sub", "free"} {
		if slices.Contains(a.Groups, g) != slices.Contains(b.Groups, g) {
			n++
		}
	}
	for _, name := range reads {
		if v, w := a.Context[name], b.Context[name]; (v == nil) != (w == nil) || v != nil && !v.Equal(w) {
			n++
		}
	}
	return n
}
