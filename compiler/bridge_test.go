package compiler

import (
	"bytes"
	"slices"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/dryrun"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/limit"
	"lorica.dev/lorica/abi/obligation"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/abi/settings"
	"lorica.dev/lorica/api"
)

// pooled is the example with a pool: what the levels above the lowest add, their images
// alone have.
func pooled(t *testing.T, limits []api.RateLimit, obligations []api.Obligation, triggers []api.Trigger) *Output {
	t.Helper()
	d := accounts(t)
	d.Policy.Levels.Pool, d.Policy.Levels.Triggers = api.PoolProactive, triggers
	d.Policy.RateLimits, d.Policy.Obligations = limits, obligations
	return compile(t, d)
}

func at(line int) api.Pos { return api.Pos{File: "p.yaml", Line: line} }

// closedIn returns what the program of a level closes in the image of another: routes, and
// "" for everything.
func closedIn(t *testing.T, l, image *Level) map[string]abi.Rule {
	t.Helper()
	p := l.ProgramIn(accounts(t), image, program.PlanID{}, 7)
	for i, s := range p.Sections {
		if len(p.Sections) != len(image.Sections) || s.Name != image.Sections[i].Name {
			t.Fatalf("sections for the image of %s: %d, %s", image.Name, len(p.Sections), s.Name)
		}
	}
	s, err := route.Decode(p.Section(route.Name))
	if err != nil {
		t.Fatal(err)
	}
	closed := map[string]abi.Rule{}
	if s.Closed.ID != "" {
		closed[""] = s.Closed
	}
	for _, r := range s.Routes {
		if r.Closed.ID != "" {
			closed[r.Name] = r.Closed
		}
	}
	return closed
}

// What an image has no module for is closed there, and nothing else; where it has all, the
// program of the level is whole.
func TestTheBridge(t *testing.T) {
	perUser := api.RateLimit{Pos: at(5), Name: "per-user", Key: limit.ByPrincipal, Routes: []string{"transfer"}, Requests: 5, Per: 1e9, MinLevel: "elevated"}
	perSource := api.RateLimit{Pos: at(6), Name: "per-source", Key: limit.BySource, Requests: 5, Per: 1e9, MinLevel: "lockdown"}
	wary := api.Obligation{Pos: at(7), Name: "wary", On: "any.deny", Count: 5, Window: 1e9, Alert: true, MinLevel: "lockdown"}
	out := pooled(t, []api.RateLimit{perUser, perSource}, nil, nil)
	normal, elevated, lockdown := &out.Levels[0], &out.Levels[1], &out.Levels[2]
	for name, c := range map[string]struct {
		l, image *Level
		want     map[string]abi.Rule
	}{
		"its own":           {lockdown, lockdown, nil},
		"one module less":   {elevated, normal, map[string]abi.Rule{"transfer": {ID: "per-user", Line: "p.yaml:5"}}},
		"of every request":  {lockdown, elevated, map[string]abi.Rule{"": {ID: "per-source", Line: "p.yaml:6"}}},
		"two modules less":  {lockdown, normal, map[string]abi.Rule{"": {ID: "per-source", Line: "p.yaml:6"}, "transfer": {ID: "per-user", Line: "p.yaml:5"}}},
		"more than it asks": {normal, lockdown, nil},
	} {
		got := closedIn(t, c.l, c.image)
		if len(got) != len(c.want) || len(c.l.Lacks(c.image)) != len(c.want) {
			t.Errorf("%s: closed is %v, and it lacks %v", name, got, c.l.Lacks(c.image))
		}
		for route, rule := range c.want {
			if got[route] != rule {
				t.Errorf("%s: %q is closed for %v", name, route, got[route])
			}
		}
	}
	if p := normal.ProgramIn(accounts(t), lockdown, program.PlanID{}, 7); string(p.Section(limit.SourceName)) != string((&limit.Section{}).Encode()) {
		t.Error("a limit of a higher level is in the program of a lower")
	}

	out = pooled(t, nil, []api.Obligation{wary}, nil)
	if got := closedIn(t, &out.Levels[2], &out.Levels[0]); got[""] != (abi.Rule{ID: "wary", Line: "p.yaml:7"}) {
		t.Errorf("an obligation closes %v", got)
	}
	if p := out.Levels[0].ProgramIn(accounts(t), &out.Levels[2], program.PlanID{}, 7); p.Section(obligation.Name) == nil {
		t.Error("an image that has obligations gets none")
	}
}

// With a pool each image has what its level needs; triggers are needed at every level.
func TestModulesOfThePool(t *testing.T) {
	limits := []api.RateLimit{{Pos: at(5), Name: "per-user", Key: limit.ByPrincipal, Requests: 5, Per: 1e9, MinLevel: "elevated"}}
	has := func(l *Level, capability string) bool {
		for _, r := range l.Requirements {
			if slices.Contains(r.Any, capability) {
				return true
			}
		}
		return false
	}
	out := pooled(t, limits, nil, []api.Trigger{{Pos: at(9), Name: "curious", On: "any.deny", Key: "source", Count: 5, Window: 1e9, To: "lockdown", Hold: 1e9}})
	whole := accounts(t)
	whole.Policy.RateLimits = limits
	one := compile(t, whole)
	for i, l := range out.Levels {
		if has(&l, "ratelimit/principal") != (i > 0) || !has(&l, "obligations") || !has(&one.Levels[i], "ratelimit/principal") {
			t.Errorf("level %s asks for %v", l.Name, l.Requirements)
		}
		s, err := obligation.Decode(section(t, &l, obligation.Name))
		if err != nil || len(s.Triggers) != 1 || s.Triggers[0].Rule.Line != "p.yaml:9" || s.Triggers[0].To != "lockdown" || s.Triggers[0].Key != obligation.BySource {
			t.Errorf("level %s has triggers %+v, %v", l.Name, s.Triggers, err)
		}
		if !slices.Contains(l.Enforced, Enforced{Rule: abi.Rule{ID: "curious", Line: "p.yaml:9"}, Stage: abi.StageObligations, Where: WhereRequest}) {
			t.Errorf("level %s enforces %v", l.Name, l.Enforced)
		}
	}
}

// A module of the user's own that only one level has: the image of the other denies what it
// would judge, and its own image is told the same at the other level.
func TestModulesOfTheUsersAreBridged(t *testing.T) {
	out := pooled(t, nil, nil, nil)
	with, without := &out.Levels[0], &out.Levels[1]
	told := (&settings.Section{Line: "w.yaml:9"}).Encode()
	with.Sections = append(with.Sections, program.Section{Name: "example.com/guard", Data: told})
	if closed := closedIn(t, with, without); closed[""].ID != "example.com/guard" {
		t.Errorf("where it is not, %v is closed", closed)
	}
	if l := with.Lacks(without); !slices.Contains(l, abi.Rule{ID: "example.com/guard"}) {
		t.Errorf("the image of the other lacks %v", l)
	}
	if closed := closedIn(t, without, with); len(closed) > 0 {
		t.Errorf("where it need not be, %v is closed", closed)
	}
	if s := without.ProgramIn(accounts(t), with, program.PlanID{}, 7).Section("example.com/guard"); !bytes.Equal(s, told) {
		t.Errorf("where it need not be, it is told %q", s)
	}
}

// What is tried closes nothing: where the image has no module for it, it is not tried.
func TestWhatIsTriedClosesNothing(t *testing.T) {
	tried := api.RateLimit{Pos: at(5), Name: "tried", Key: limit.BySource, Requests: 5, Per: 1e9, MinLevel: "elevated", DryRun: true}
	out := pooled(t, []api.RateLimit{tried}, nil, nil)
	normal, elevated := &out.Levels[0], &out.Levels[1]
	if closed := closedIn(t, elevated, normal); len(closed) > 0 {
		t.Errorf("a rule that is tried closes %v", closed)
	}
	own := elevated.ProgramIn(accounts(t), elevated, program.PlanID{}, 7)
	if own.Section(dryrun.Of(limit.SourceName)) == nil || own.Section(limit.SourceName) == nil {
		t.Errorf("its own image does not try it: %v", own.Sections)
	}

	// A network rule is tried in every image, whichever level it is of.
	d := accounts(t)
	d.Policy.Levels.Pool = api.PoolProactive
	d.Policy.RateLimits = []api.RateLimit{tried}
	d.Policy.Network.Ingress = append([]api.IngressRule{{Pos: at(6), Name: "shut", From: []string{api.AnyEndpoint}, MinLevel: "elevated", DryRun: true}}, d.Policy.Network.Ingress...)
	out = compile(t, d)
	p := out.Levels[1].ProgramIn(d, &out.Levels[0], program.PlanID{}, 7)
	if p.Section(dryrun.Of(flow.Name)) == nil || p.Section(dryrun.Of(limit.SourceName)) != nil {
		t.Errorf("in the image of another level: %v", p.Sections)
	}
	if p := out.Levels[0].ProgramIn(d, &out.Levels[1], program.PlanID{}, 7); p.Section(dryrun.Of(flow.Name)) != nil || p.Section(dryrun.Of(limit.SourceName)) != nil {
		t.Errorf("of the lowest level, in the image of another: %v", p.Sections)
	}

	// In the image of its own level a program is what its level compiled to, in its order:
	// by the digest of that it is known whether what runs is what is written.
	for i := range out.Levels {
		l := &out.Levels[i]
		if in, whole := l.ProgramIn(d, l, program.PlanID{}, 7), l.Program(d, program.PlanID{}, 7); in.Content() != whole.Content() {
			t.Errorf("level %s: %v in its own image, and %v", l.Name, in.Sections, whole.Sections)
		}
	}

	// A policy that is tried as a whole closes nothing either, and says in every image that it is.
	enforced := tried
	enforced.DryRun = false
	d = accounts(t)
	d.Policy.Levels.Pool, d.Policy.DryRun, d.Policy.RateLimits = api.PoolProactive, true, []api.RateLimit{enforced}
	out = compile(t, d)
	p = out.Levels[1].ProgramIn(d, &out.Levels[0], program.PlanID{}, 7)
	s, err := route.Decode(p.Section(route.Name))
	if err != nil || s.Closed.ID != "" || p.Section(dryrun.Name) == nil {
		t.Errorf("%v, closed by %v, %v", err, s.Closed, p.Sections)
	}
	for i := range out.Levels {
		l := &out.Levels[i]
		if in, whole := l.ProgramIn(d, l, program.PlanID{}, 7), l.Program(d, program.PlanID{}, 7); in.Content() != whole.Content() {
			t.Errorf("level %s: %v in its own image, and %v", l.Name, in.Sections, whole.Sections)
		}
	}
}
