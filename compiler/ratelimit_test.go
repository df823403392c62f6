package compiler

import (
	"slices"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/limit"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
)

// Limits stand where they can be judged, and a level has those of all levels up
// to it, in one image.
func TestLimitsOfEachLevel(t *testing.T) {
	d := accounts(t)
	p := *d.Policy
	d.Policy = &p
	add := func(name, from string, k limit.Key) api.RateLimit {
		return api.RateLimit{Pos: api.Pos{File: "policy.yaml", Line: 70}, Name: name, Key: k, Requests: 5, Per: time.Minute, MinLevel: from}
	}
	p.RateLimits = []api.RateLimit{
		add("p-lockdown", "lockdown", limit.ByPrincipal), add("s-elevated", "elevated", limit.BySource),
		add("p-always", "", limit.ByPrincipal|limit.BySource), add("r-always", "normal", limit.ByRoute),
	}
	want := [][2][]string{
		{{"r-always"}, {"p-always"}},
		{{"s-elevated", "r-always"}, {"p-always"}},
		{{"s-elevated", "r-always"}, {"p-lockdown", "p-always"}},
	}
	for i, l := range compile(t, d).Levels {
		for j, name := range []string{limit.SourceName, limit.PrincipalName} {
			s, err := limit.Decode(section(t, &l, name))
			if err != nil {
				t.Fatalf("%s: %s: %v", l.Name, name, err)
			}
			var got, enforced []string
			for _, x := range s.Limits {
				got = append(got, x.Rule.ID)
			}
			for _, e := range l.Enforced {
				if e.Stage == name && e.Where == WhereRequest {
					enforced = append(enforced, e.ID)
				}
			}
			if !slices.Equal(got, want[i][j]) || !slices.Equal(enforced, got) {
				t.Errorf("%s: %s holds %v and plan says %v, want %v", l.Name, name, got, enforced, want[i][j])
			}
		}
	}
}

// A level without limits still carries the section, so that the image of the
// others takes its program.
func TestALevelWithoutLimitsHasAnEmptySection(t *testing.T) {
	d := accounts(t)
	p := *d.Policy
	d.Policy = &p
	p.RateLimits = []api.RateLimit{{Name: "late", Key: limit.BySource, Requests: 5, Per: time.Minute, MinLevel: "lockdown"}}
	for i, l := range compile(t, d).Levels {
		s, err := limit.Decode(section(t, &l, abi.StageSourceLimit))
		if err != nil || (len(s.Limits) == 1) != (i == 2) {
			t.Errorf("%s: %v, %+v", l.Name, err, s)
		}
		if !slices.ContainsFunc(l.Requirements, func(r catalog.Requirement) bool { return slices.Contains(r.Any, "ratelimit/source") }) {
			t.Errorf("%s does not ask for the module", l.Name)
		}
	}
}
