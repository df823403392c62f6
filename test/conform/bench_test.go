package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/pep"
)

// typical is a policy set of n rules as people write them: most are about one
// group and one route, with a condition on a fact or two.
func typical(n int) string {
	var b strings.Builder
	for i := range n {
		switch i % 4 {
		case 0:
			fmt.Fprintf(&b, "permit (principal in Group::\"team-%d\", action == Action::\"call\", resource in RouteGroup::\"g0\");\n", i)
		case 1:
			fmt.Fprintf(&b, "permit (principal in Group::\"team-%d\", action == Action::\"call\", resource == Route::\"r0\") when { context.hour >= 6 && context.hour < 22 };\n", i)
		case 2:
			fmt.Fprintf(&b, "forbid (principal == User::\"user-%d\", action, resource == Route::\"r1\") unless { context.ip.isInRange(ip(\"10.0.0.0/8\")) };\n", i)
		case 3:
			fmt.Fprintf(&b, "forbid (principal, action, resource == Route::\"r1\") when { context.id like \"secret-%d-*\" && context.hour != 12 };\n", i)
		}
	}
	b.WriteString("permit (principal in Group::\"staff\", action, resource == Route::\"r0\") when { context.hour < 23 && context.method == \"GET\" };\n")
	return b.String()
}

func benchmarkRequest(user string) request {
	return request{user: user, groups: []string{"staff", "team-1"}, values: map[string]cedar.Value{
		"hour": cedar.Long(12), "id": cedar.String("7"), "method": cedar.String("GET"), "ip": must(types.ParseIPAddr("10.1.2.3"))}}
}

// BenchmarkJudge measures one decision: remembered, evaluated anew for a user
// who was not seen before, and by cedar-go.
func BenchmarkJudge(b *testing.B) {
	for _, n := range []int{1, 100, 1000, 10000} {
		d := deployment(b, typical(n), abi.Deny)
		state := guards(b, d)[0]
		b.Run(fmt.Sprintf("policies=%d/remembered", n), func(b *testing.B) {
			x := exchange(benchmarkRequest("ada"))
			b.ReportAllocs()
			for b.Loop() {
				judge(b, state, x)
			}
		})
		b.Run(fmt.Sprintf("policies=%d/evaluated", n), func(b *testing.B) {
			x := exchange(benchmarkRequest("ada"))
			names := make([]string, 1<<16)
			for i := range names {
				names[i] = fmt.Sprintf("somebody-%d", i)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				x.Principal = names[i%len(names)]
				judge(b, state, x)
			}
		})
		b.Run(fmt.Sprintf("policies=%d/cedar-go", n), func(b *testing.B) {
			set, r := policySet(d), benchmarkRequest("ada")
			b.ReportAllocs()
			for b.Loop() {
				if v, _ := oracle(d, set, r); v != abi.Allow {
					b.Fatal("denied")
				}
			}
		})
	}
}

func judge(b *testing.B, s pep.GuardState, x *pep.Exchange) {
	if d := s.Judge(x); d.Verdict != abi.Allow {
		b.Fatalf("denied by %s: %s", d.Rule.ID, d.Reason)
	}
}
