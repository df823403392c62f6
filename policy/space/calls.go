package space

import (
	"fmt"
	"slices"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/policy"
)

// A CallRule is what is known of a Cedar rule, or of the default of a route.
type CallRule struct {
	Rule  abi.Rule
	Index int    // in Authorization.Rules; -1: the default
	Route string // where the witnesses are; of the default: the one that it is about

	// Status says whether there are calls that it decides at any level: a permit by allowing
	// them, a forbid by denying them, each as the first in file order. None is a proof.
	Status Status
	Why    string // it was not analysed

	// At has, for each level of the policy, a call that the rule decides when the policy is
	// at that level; nil where none was found.
	At []*policy.Call
}

// First returns the witness at the lowest level that has one.
func (r *CallRule) First() *policy.Call {
	for _, c := range r.At {
		if c != nil {
			return c
		}
	}
	return nil
}

// share is the part of a budget that one question may have.
const share = 64

// Calls looks for calls that each Cedar rule decides, in file order, then for those that
// the default of each route does. Its error is that of the context.
func Calls(b *Budget, d *policy.Deployment) ([]CallRule, error) {
	if d.Authorization == nil {
		return nil, b.Err()
	}
	x := &asking{m: newModel(d), b: b, problems: make(map[string]*problem)}
	var out []CallRule
	for i := range d.Authorization.Rules {
		r := &d.Authorization.Rules[i]
		c := CallRule{Rule: abi.Rule{ID: r.ID, Line: r.Pos.Short()}, Index: i, Status: None, At: make([]*policy.Call, len(d.Policy.Levels.Names))}
		for _, route := range x.routes(r) {
			one := c
			one.At = make([]*policy.Call, len(c.At))
			x.decided(&one, route, r)
			if one.Status == Found {
				c = one
				c.Why = ""
				break
			}
			if one.Status == NotAnalysed {
				c.Status, c.Why = NotAnalysed, one.Why
			}
		}
		out = append(out, c)
	}
	for _, r := range d.Policy.Routes {
		c := CallRule{Rule: policy.AuthorizationDefault(d.Policy), Index: noRule, Route: r.Name, At: make([]*policy.Call, len(d.Policy.Levels.Names))}
		x.decided(&c, r.Name, nil)
		out = append(out, c)
	}
	return out, b.Err()
}

// asking puts questions to the problems of one deployment, or of two.
type asking struct {
	m        *model
	b        *Budget
	problems map[string]*problem
}

func (x *asking) problem(route string) *problem {
	p, ok := x.problems[route]
	if !ok {
		p = x.m.problem(route)
		x.problems[route] = p
	}
	return p
}

// routes returns those that a rule can be about.
func (x *asking) routes(r *policy.CedarRule) []string {
	var out []string
	for _, route := range x.m.sides[0].d.Policy.Routes {
		if slices.Contains(x.problem(route.Name).about[0].Rules, r) {
			out = append(out, route.Name)
		}
	}
	return out
}

// decided looks for calls on a route that a rule decides, or the default for nil, at each
// level.
func (x *asking) decided(c *CallRule, route string, r *policy.CedarRule) {
	p := x.problem(route)
	c.Route, c.Status = route, None
	rule := (*ruleExpr)(nil)
	if r != nil {
		rule = x.m.rule(0, r)
	}
	d := x.m.sides[0].d
	for l := range c.At {
		if l > 0 && !p.about[0].ReadsLevel { // as at the first
			if c.At[0] != nil {
				w := *c.At[0]
				w.Level = d.Policy.Levels.Names[l]
				c.At[l] = &w
			}
			continue
		}
		if l > 0 && c.At[l-1] != nil && d.Authorize(*c.At[l-1]).Verdict == abi.Deny {
			w := *c.At[l-1] // denied at all higher levels, too
			w.Level = d.Policy.Levels.Names[l]
			c.At[l] = &w
			continue
		}
		g, possible := p.cited(0, rule, l)
		if !possible {
			continue
		}
		w, status, why := x.solve(p, g, l, func(w policy.Call) bool { return d.Authorize(w).Rule == c.Rule })
		switch status {
		case Found:
			c.At[l], c.Status, c.Why = w, Found, ""
		case NotAnalysed:
			if c.Status == None {
				c.Status, c.Why = NotAnalysed, why
			}
		}
	}
}

// solve asks for a call; ok is asked of the reference, whatever was thought here.
func (x *asking) solve(p *problem, g goal, level int, ok func(policy.Call) bool) (*policy.Call, Status, string) {
	s := p.solver(x.b.part(max(x.b.all/share, 1)), g)
	switch status := s.solve(); status {
	case Found:
		c := s.call(level, 0, nil)
		if !ok(c) {
			return nil, NotAnalysed, fmt.Sprintf("the reference does not confirm what was found: %v", c)
		}
		return &c, Found, ""
	case NotAnalysed:
		return nil, NotAnalysed, s.why()
	default:
		return nil, None, ""
	}
}

// levels returns those that are judged for a call at a level.
func (p *problem) levels(side, level int) []int {
	if !p.about[side].ReadsLevel {
		return []int{level}
	}
	var out []int
	for l := range level + 1 {
		out = append(out, l)
	}
	return out
}

// allowed adds what a call must be like that is allowed at a level alone.
func (p *problem) allowed(g *goal, side, level int) {
	var permits choice
	for _, r := range p.rules[side] {
		if r.rule.Forbids() {
			g.needs = append(g.needs, need{r, level, fails})
		} else {
			g.needs = append(g.needs, need{r, level, holds | fails})
			permits = append(permits, need{r, level, holds})
		}
	}
	if p.m.sides[side].d.Policy.Default.Authorization != abi.Allow {
		g.choices = append(g.choices, permits)
	}
}

// cited returns what a call must be like that a rule decides at a level (nil: the default),
// where levels below allow it.
func (p *problem) cited(side int, rule *ruleExpr, level int) (goal, bool) {
	var g goal
	if rule != nil {
		want := need{rule, level, holds}
		if rule.rule.Forbids() {
			want.mask |= errs // which denies as well
		}
		g.needs = append(g.needs, want)
	}
	before := true
	for _, r := range p.rules[side] {
		forbids := r.rule.Forbids()
		switch {
		case r == rule:
			before = false
		case forbids && (before || !rule.rule.Forbids()):
			g.needs = append(g.needs, need{r, level, fails})
		case forbids:
		case rule == nil || before && !rule.rule.Forbids():
			g.needs = append(g.needs, need{r, level, fails})
		case before || !rule.rule.Forbids():
			g.needs = append(g.needs, need{r, level, holds | fails})
		}
	}
	for _, l := range p.levels(side, level) {
		if l < level {
			p.allowed(&g, side, l)
		}
	}
	return g, rule == nil || !before
}
