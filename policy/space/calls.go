package space

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/policy"
)

// A CallRule is what is known of a Cedar rule, or of the default of a route.
type CallRule struct {
	Rule  abi.Rule
	Index int    // in Authorization.Rules; -1: the default
	Route string // that the default is about; empty for rules

	// Status says whether there are calls that it decides at any level: a permit by allowing
	// them, a forbid by denying them, each as the first in file order. None is a proof.
	Status Status
	Why    string // it was not analysed, or not at all levels

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
func Calls(b *Budget, d *policy.Deployment) ([]CallRule, error) { return Requests(b, d).Rules() }

// An Analysis answers questions about the requests of one deployment.
type Analysis struct{ asking }

// Requests begins an analysis.
func Requests(b *Budget, d *policy.Deployment) *Analysis {
	x := &Analysis{asking{b: b, problems: make(map[string]*problem)}}
	if d.Authorization != nil {
		x.m = newModel(d)
	}
	return x
}

// CallsWithin is Calls among some calls: what it finds and proves is about these.
func CallsWithin(b *Budget, d *policy.Deployment, within Within) ([]CallRule, error) {
	x := Requests(b, d)
	x.within = within
	return x.Rules()
}

// Rules is Calls.
func (x *Analysis) Rules() ([]CallRule, error) {
	if x.m == nil {
		return nil, x.b.Err()
	}
	d := x.m.sides[0].d
	var out []CallRule
	levels := len(d.Policy.Levels.Names)
	for i := range d.Authorization.Rules {
		r := &d.Authorization.Rules[i]
		c := CallRule{Rule: abi.Rule{ID: r.ID, Line: r.Pos.Short()}, Index: i, At: make([]*policy.Call, levels)}
		for _, route := range x.routes(r) {
			if x.decided(&c, route, r); !slices.Contains(c.At, nil) {
				c.Why = ""
				break
			}
		}
		out = append(out, c.judged())
	}
	like := make(map[string]CallRule)
	for _, r := range d.Policy.Routes {
		if !x.within.route(r.Name) {
			continue
		}
		kind := x.kind(r.Name)
		c, ok := like[kind]
		if !ok {
			c = CallRule{Rule: policy.AuthorizationDefault(d.Policy), Index: noRule, Route: r.Name, At: make([]*policy.Call, levels)}
			x.decided(&c, r.Name, nil)
			c = c.judged()
			like[kind] = c
		}
		c.Route, c.At = r.Name, slices.Clone(c.At)
		for l, w := range c.At {
			if w != nil {
				here := *w
				here.Route = r.Name
				c.At[l] = &here
			}
		}
		out = append(out, c)
	}
	return out, x.b.Err()
}

// A Condition is what is known of a rule's conditions alone, without its scope.
type Condition struct {
	Holds, Fails Status // whether there are calls for which they do
	Why          string // something was not analysed
}

// Condition asks about the conditions of a rule.
func (x *Analysis) Condition(r *policy.CedarRule) Condition {
	e := x.m.conditions(0, r)
	c := Condition{None, None, ""}
	for _, route := range x.routes(r) {
		p := x.problem(route)
		for l := range x.m.sides[0].d.Policy.Levels.Names {
			if l > 0 && !e.level {
				break
			}
			for _, q := range []struct {
				mask outcome
				s    *Status
			}{{holds, &c.Holds}, {fails | errs, &c.Fails}} {
				if *q.s == Found {
					continue
				}
				_, s, why := x.solve(p, goal{needs: []need{{rule: e, level: l, mask: q.mask}}}, l, func(policy.Call) bool { return true })
				if s == Found || s == NotAnalysed {
					*q.s = s
				}
				if s == NotAnalysed {
					c.Why = why
				}
			}
		}
	}
	return c
}

// Holding looks for a call for which a rule holds, whatever decides about it.
func (x *Analysis) Holding(r *policy.CedarRule) (*policy.Call, Status) {
	status := None
	for _, route := range x.routes(r) {
		for l := range x.m.sides[0].d.Policy.Levels.Names {
			e := x.m.rule(0, r)
			if l > 0 && !e.level {
				break
			}
			c, s, _ := x.solve(x.problem(route), goal{needs: []need{{rule: e, level: l, mask: holds}}}, l, func(policy.Call) bool { return true })
			if s == Found {
				return c, s
			}
			if s == NotAnalysed {
				status = s
			}
		}
	}
	return nil, status
}

// Open looks for a call on a route that is allowed at the lowest level; higher ones only
// remove access.
func (x *Analysis) Open(route string) (c *policy.Call, s Status, why string) {
	p := x.problem(route)
	var g goal
	p.allowed(&g, 0, 0)
	ref := x.m.sides[0].ref
	return x.solve(p, g, 0, func(c policy.Call) bool { return ref.Authorize(c).Verdict == abi.Allow })
}

// judged gives a rule its status.
func (r CallRule) judged() CallRule {
	switch {
	case r.First() != nil:
		r.Status = Found
	case r.Why == "":
		r.Status = None
	}
	return r
}

// asking puts questions to the problems of one deployment, or of two.
type asking struct {
	m        *model
	b        *Budget
	problems map[string]*problem
	within   Within
}

func (x *asking) problem(route string) *problem {
	p, ok := x.problems[route]
	if !ok {
		p = x.m.problem(route)
		p.within = x.within
		x.problems[route] = p
	}
	return p
}

// routes returns those that a rule can be about, one of each kind.
func (x *asking) routes(r *policy.CedarRule) []string {
	var out []string
	seen := make(map[string]bool)
	for _, route := range x.m.sides[0].d.Policy.Routes {
		if x.within.route(route.Name) && slices.Contains(x.problem(route.Name).about[0].Rules, r) && !seen[x.kind(route.Name)] {
			seen[x.kind(route.Name)] = true
			out = append(out, route.Name)
		}
	}
	return out
}

// kind is the same for routes between which no rule distinguishes.
func (x *asking) kind(route string) string {
	p := x.problem(route)
	if p.kind != "" {
		return p.kind
	}
	var b strings.Builder
	r := p.route()
	fmt.Fprintln(&b, r.Method, r.Group, policy.Params(r.Path))
	for s, side := range x.m.sides {
		uid := cedar.NewEntityUID(side.a.Resource, cedar.String(route))
		_, known := side.a.Entities[uid]
		for _, rule := range p.rules[s] {
			fmt.Fprintln(&b, rule.rule.ID)
			known = known || slices.Contains(rule.names, uid)
		}
		if known {
			fmt.Fprintln(&b, route)
		}
	}
	p.kind = b.String()
	return p.kind
}

// decided looks for calls on a route that a rule decides, or the default for nil, at each
// level that has none yet.
func (x *asking) decided(c *CallRule, route string, r *policy.CedarRule) {
	p := x.problem(route)
	rule := (*ruleExpr)(nil)
	if r != nil {
		rule = x.m.rule(0, r)
	}
	d := x.m.sides[0].d
	at := func(w policy.Call, l int) {
		w.Level = d.Policy.Levels.Names[l]
		c.At[l] = &w
	}
	var first *policy.Call
	for l := range c.At {
		if l > 0 && !p.about[0].ReadsLevel { // as at the first
			if first != nil && c.At[l] == nil {
				at(*first, l)
			}
			continue
		}
		if c.At[l] != nil && p.about[0].ReadsLevel {
			continue
		}
		if l > 0 && c.At[l-1] != nil && x.m.sides[0].ref.Authorize(*c.At[l-1]).Verdict == abi.Deny && x.problem(c.At[l-1].Route).about[0].ReadsLevel {
			at(*c.At[l-1], l) // denied at all higher levels, too
			continue
		}
		w, status, why := x.solve(p, p.cited(0, rule, l), l, func(w policy.Call) bool { return x.m.sides[0].ref.Authorize(w).Rule == c.Rule })
		if status == NotAnalysed {
			c.Why = why
		}
		if status == Found {
			if first = w; c.At[l] == nil {
				at(*w, l)
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
			g.needs = append(g.needs, need{rule: r, level: level, mask: fails})
		} else {
			g.needs = append(g.needs, need{rule: r, level: level, mask: holds | fails})
			permits = append(permits, need{rule: r, level: level, mask: holds})
		}
	}
	if p.m.sides[side].d.Policy.Default.Authorization != abi.Allow {
		g.choices = append(g.choices, permits)
	}
}

// cited returns what a call must be like that a rule decides at a level (nil: the default),
// where levels below allow it.
func (p *problem) cited(side int, rule *ruleExpr, level int) goal {
	var g goal
	if rule != nil {
		want := need{rule: rule, level: level, mask: holds}
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
			g.needs = append(g.needs, need{rule: r, level: level, mask: fails})
		case forbids:
		case rule == nil || before && !rule.rule.Forbids():
			g.needs = append(g.needs, need{rule: r, level: level, mask: fails})
		case before || !rule.rule.Forbids():
			g.needs = append(g.needs, need{rule: r, level: level, mask: holds | fails})
		}
	}
	for _, l := range p.levels(side, level) {
		if l < level {
			p.allowed(&g, side, l)
		}
	}
	return g
}
