package diff

import (
	"slices"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/policy/record"
)

// Every record is asked about under both policies, and counted once.
func TestReplay(t *testing.T) {
	parse := func(change ...string) *policy.Bundle {
		return &policy.Bundle{Deployments: []*policy.Deployment{load(t, strings.NewReplacer(change...).Replace(document))}}
	}
	before, after := parse(), parse(`Group::"staff"`, `Group::"crew"`)
	r := &Report{Deployments: []*Deployment{{Name: "default/w"}}}
	p := NewReplayer(r, before, after)
	n := byte(0)
	add := func(change func(*record.Decision)) {
		n++
		x := record.Decision{ID: strings.Repeat(string('0'+n), 32), Instance: "w-0a1b", Decision: "Allow", Stage: "authz", Rule: "all", Principal: "ada", Source: "127.0.0.1", Protocol: "TCP", Port: 8080,
			Method: "GET", Route: "one", Path: "/one", Level: "low", Groups: []string{"staff"}, Facts: map[string]*string{"n": nil}, Time: time.Unix(0, 0)}
		change(&x)
		p.Add(x)
	}
	add(func(x *record.Decision) { x.Groups = []string{"crew", "staff"} })
	add(func(*record.Decision) {})
	add(func(x *record.Decision) { x.Path = "/two" })
	add(func(x *record.Decision) { x.Groups = []string{"crew"} })
	add(func(x *record.Decision) { x.Groups = nil })
	add(func(x *record.Decision) { x.Partial = []string{"groups"} })
	add(func(x *record.Decision) { x.Partial = []string{"groups"} })
	add(func(x *record.Decision) { x.Instance = "ww-0a1b" })
	got := r.Deployments[0].Replay
	lost := Side{"Deny", "default:authorization", "p.yaml:11"}
	all := Side{"Allow", "all", "p.yaml:34"}
	if got.Records != 7 || got.Unchanged != 2 ||
		!slices.Equal(got.Denied, []Replayed{{all, lost, 2, Example{strings.Repeat("2", 32), "GET /one as ada"}}}) ||
		!slices.Equal(got.Allowed, []Replayed{{lost, all, 1, Example{strings.Repeat("4", 32), "GET /one as ada"}}}) ||
		!slices.Equal(got.Not, []Excluded{{"the record does not hold groups, which was redacted or cut", 2, Example{strings.Repeat("6", 32), "GET /one as ada"}}}) {
		t.Errorf("%+v", got)
	}
	if p.Foreign != 1 || p.First != "ww-0a1b" {
		t.Errorf("%+v", p)
	}
}
