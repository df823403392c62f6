package space

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/policy"
)

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
			facts, w = unneeded(d, s.changes(), c, w)
			return facts, w, Found, ""
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

// unneeded leaves out what a call did not show and is allowed without: the search gives a
// value to every attribute that real calls always have.
func unneeded(d *policy.Deployment, facts []Fact, c, w policy.Call) ([]Fact, policy.Call) {
	for i := 0; i < len(facts); {
		v, found := w.Context[facts[i].Name]
		if _, shown := c.Context[facts[i].Name]; !found || shown {
			i++
			continue
		}
		delete(w.Context, facts[i].Name)
		if d.Authorize(w).Verdict == abi.Allow {
			facts = slices.Delete(facts, i, i+1)
			continue
		}
		w.Context[facts[i].Name] = v
		i++
	}
	return facts, w
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
