package space

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	public "github.com/cedar-policy/cedar-go/ast"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/policy"
)

// A CallChange is calls that two policies decide differently.
type CallChange struct {
	Route    string
	Level    string
	Call     policy.Call // a witness
	Old, New policy.Decision
}

// A CallDiff is how two policies differ about calls.
type CallDiff struct {
	// Changes has one for each route, level and pair of rules that decide the same calls with
	// different verdicts, as far as they were found.
	Changes  []CallChange
	Complete bool     // there are no others
	Why      []string // it is not complete: routes and reasons
}

// DiffCalls looks for calls whose decisions differ, on routes and at levels that both
// policies have by name. Its error is that of the context.
func DiffCalls(b *Budget, before, after *policy.Deployment) (CallDiff, error) {
	out := CallDiff{Complete: true}
	if before.Authorization == nil || after.Authorization == nil {
		return out, b.Err()
	}
	x := &asking{m: newModel(before, after), b: b, problems: make(map[string]*problem)}
	x.m.unify()
	for _, r := range before.Policy.Routes {
		if x.m.sides[1].ref.About(r.Name) == nil {
			continue
		}
		p := x.problem(r.Name)
		if p.same() {
			continue
		}
		for l, name := range before.Policy.Levels.Names {
			m := slices.Index(after.Policy.Levels.Names, name)
			if m < 0 || l > 0 && !p.about[0].ReadsLevel && !p.about[1].ReadsLevel {
				continue
			}
			d := &pairing{asking: x, p: p, levels: [2]int{l, m}, seen: make(map[string]bool)}
			for s := range 2 {
				if why := d.pairs(s); why != "" {
					out.Complete = false
					out.Why = append(out.Why, fmt.Sprintf("%s at level %s: %s", r.Name, name, why))
				}
			}
			out.Changes = append(out.Changes, d.changes...)
		}
	}
	return out, b.Err()
}

// unify makes rules one that both policies have, where they mean the same.
func (m *model) unify() {
	x, y := m.sides[0], m.sides[1]
	if x.a.Principal != y.a.Principal || x.a.Group != y.a.Group || x.a.Resource != y.a.Resource || x.a.Action != y.a.Action || !slices.Equal(x.a.Attributes, y.a.Attributes) ||
		!slices.Equal(x.d.Policy.Levels.Names, y.d.Policy.Levels.Names) {
		return
	}
	v, w := x.ref.World(), y.ref.World()
	if len(v) != len(w) {
		return
	}
	for uid, e := range v {
		if o, ok := w[uid]; !ok || !e.Equal(o) {
			return
		}
	}
	known := make(map[string]*policy.CedarRule)
	for i := range x.a.Rules {
		known[said(&x.a.Rules[i])] = &x.a.Rules[i]
	}
	for i := range y.a.Rules {
		if r, ok := known[said(&y.a.Rules[i])]; ok {
			y.rules[&y.a.Rules[i]] = m.rule(0, r)
		}
	}
}

// said is what a rule says, without its annotations.
func said(r *policy.CedarRule) string {
	p := *r.Policy
	p.Annotations = nil
	return string(cedar.NewPolicyFromAST((*public.Policy)(&p)).MarshalCedar())
}

// same reports whether both sides decide by the same rules in the same order.
func (p *problem) same() bool {
	x, y := p.m.sides[0].d, p.m.sides[1].d
	return slices.Equal(p.rules[0], p.rules[1]) && x.Policy.Default.Authorization == y.Policy.Default.Authorization &&
		slices.Equal(x.Policy.Levels.Names, y.Policy.Levels.Names)
}

// pairing looks for pairs of rules on one route at one level.
type pairing struct {
	*asking
	p       *problem
	levels  [2]int
	seen    map[string]bool
	changes []CallChange
}

// pairs looks for calls that side s allows and the other denies. It returns why it may
// have missed some.
func (d *pairing) pairs(s int) (why string) {
	o := 1 - s
	for _, permit := range append(slices.Clone(d.p.rules[s]), nil) {
		if permit != nil && permit.rule.Forbids() || permit == nil && d.m.sides[s].d.Policy.Default.Authorization != abi.Allow {
			continue
		}
		allow := d.p.cited(s, permit, d.levels[s])
		for _, l := range d.p.levels(o, d.levels[o]) {
			for _, deny := range append(slices.Clone(d.p.rules[o]), nil) {
				if deny == nil && d.m.sides[o].d.Policy.Default.Authorization == abi.Allow {
					continue
				}
				if deny != nil && slices.Contains(d.p.rules[s], deny) && (d.levels[s] == l || d.p.about[s].ReadsLevel) { // it denies there as well, or cannot be evaluated
					continue
				}
				goal, ok := d.p.denied(o, deny, l)
				if !ok {
					continue
				}
				goal.needs = append(goal.needs, allow.needs...)
				goal.choices = append(goal.choices, allow.choices...)
				if w := d.pair(goal); w != "" && why == "" {
					why = w
				}
				if d.b.Left() == 0 {
					return d.b.why()
				}
			}
		}
	}
	return why
}

func (d *pairing) pair(g goal) (why string) {
	x, y := d.m.sides[0].d, d.m.sides[1].d
	var change CallChange
	c, status, why := d.solve(d.p, g, d.levels[0], func(c policy.Call) bool {
		change = CallChange{d.p.name, c.Level, c, x.Authorize(c), y.Authorize(c)}
		return change.Old.Verdict != change.New.Verdict
	})
	if status == Found && c != nil {
		if k := change.Old.Rule.ID + " " + change.New.Rule.ID; !d.seen[k] {
			d.seen[k] = true
			d.changes = append(d.changes, change)
		}
	}
	return why
}

// denied returns what a call must be like that a rule denies at a level (nil: the default),
// be it a forbid, or a permit that cannot be evaluated.
func (p *problem) denied(side int, rule *ruleExpr, level int) (goal, bool) {
	if rule == nil || rule.rule.Forbids() {
		return p.cited(side, rule, level), true
	}
	if !p.mayErr(rule.e) {
		return goal{}, false
	}
	g := goal{needs: []need{{rule: rule, level: level, mask: errs}}}
	for _, r := range p.rules[side] {
		if r == rule {
			break
		}
		if r.rule.Forbids() {
			g.needs = append(g.needs, need{rule: r, level: level, mask: fails})
		} else {
			g.needs = append(g.needs, need{rule: r, level: level, mask: holds | fails})
		}
	}
	for _, l := range p.levels(side, level) {
		if l < level {
			p.allowed(&g, side, l)
		}
	}
	return g, true
}

// mayErr reports whether an expression computes, or looks something up that may not be there.
func (p *problem) mayErr(e *expr) bool {
	if e.op == isAtom {
		return p.m.atoms[e.atom].mayErr
	}
	return slices.ContainsFunc(e.kids, p.mayErr)
}

// A Fact is one thing about a call that would have to be otherwise.
type Fact struct {
	Name     string // "user", "group", or the name of an attribute
	Old, New string // as Cedar writes values; empty: absent. Of a group that is added, New is its name, of one that is left, Old
}

func (f Fact) String() string {
	switch {
	case f.Name == "group" && f.Old == "":
		return "in group " + f.New
	case f.Name == "group":
		return "not in group " + f.Old
	case f.Name == "user":
		return "as user " + f.New
	case f.New == "":
		return "without " + f.Name
	}
	return f.Name + " " + f.New
}

// Allowing looks for the call that differs from a denied one in the fewest facts and is
// allowed at the same level. None is a proof that no such call exists on the route.
func Allowing(b *Budget, d *policy.Deployment, c policy.Call) (facts []Fact, call policy.Call, status Status, why string) {
	if d.Authorization == nil {
		return nil, c, None, ""
	}
	x := &asking{m: newModel(d), b: b, problems: make(map[string]*problem)}
	x.m.sides[0].extra = c.Groups
	levels := policy.LevelsTo(d.Policy, c.Level)
	if len(levels) == 0 || x.m.sides[0].ref.About(c.Route) == nil {
		return nil, c, None, ""
	}
	p := x.problem(c.Route)
	level := len(levels) - 1
	var g goal
	for _, l := range p.levels(0, level) {
		p.allowed(&g, 0, l)
	}
	base := p.base(c)
	all := p.facts()
	for most := 0; most <= len(all); most++ {
		s := p.solver(b, g)
		s.base, s.most = base, most
		switch s.solve() {
		case Found:
			w := s.call(level, 0, nil)
			for _, name := range c.Groups { // those that no rule asks about stay
				if i, ok := x.m.ids[factKey{aGroup, name}]; !ok || !slices.Contains(all, i) {
					w.Groups = append(w.Groups, name)
				}
			}
			for name, v := range c.Context {
				if i, ok := x.m.ids[factKey{anAttribute, name}]; !ok || !slices.Contains(all, i) {
					w.Context[name] = v
				}
			}
			slices.Sort(w.Groups)
			if d.Authorize(w).Verdict != abi.Allow {
				return nil, c, NotAnalysed, fmt.Sprintf("the reference does not confirm what was found: %v", w)
			}
			return s.changes(), w, Found, ""
		case NotAnalysed:
			if s.failed {
				return nil, c, NotAnalysed, s.why()
			}
			why = s.why()
		}
	}
	if why != "" {
		return nil, c, NotAnalysed, why
	}
	return nil, c, None, ""
}

// base returns the values that a call has, which become some of their domains.
func (p *problem) base(c policy.Call) []int {
	out := make([]int, len(p.m.facts))
	for f, k := range p.m.facts {
		v := value{}
		switch k.kind {
		case aUser:
			v.user = c.Principal
		case aGroup:
			v.in = slices.Contains(c.Groups, k.name)
		case anAttribute:
			v.v = c.Context[k.name]
		}
		d := p.domain(f)
		i := slices.IndexFunc(d.values, func(o value) bool {
			return o.user == v.user && o.in == v.in && (o.v == nil) == (v.v == nil) && (v.v == nil || o.v.Equal(v.v))
		})
		if i < 0 && (k.kind != anAttribute || v.v != nil) {
			i = len(d.values)
			d.values = append(d.values, v)
		}
		out[f] = i // none: there is no value, and there must be one
	}
	return out
}

// changes returns what differs from the base.
func (s *solver) changes() []Fact {
	var out []Fact
	for f, v := range s.value {
		if v == none && s.lacks(f) {
			v = 0
		}
		if v == none || v == s.base[f] {
			continue
		}
		k, d := s.p.m.facts[f], s.p.domain(f)
		is := d.values[v]
		var was value
		if s.base[f] != none {
			was = d.values[s.base[f]]
		}
		x := Fact{Name: k.name}
		switch k.kind {
		case aUser:
			x.Name, x.Old, x.New = "user", was.user, is.user
		case aGroup:
			x.Name = "group"
			if x.New = k.name; was.in {
				x.Old, x.New = k.name, ""
			}
		default:
			if was.v != nil {
				x.Old = string(was.v.MarshalCedar())
			}
			if is.v != nil {
				x.New = string(is.v.MarshalCedar())
			}
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b Fact) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.New, b.New)) })
	return out
}
