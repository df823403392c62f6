package space

import (
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/eval"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// A problem is the rules of one route.
type problem struct {
	m       *model
	name    string   // of the route
	names   []string // of each side, where they differ
	kind    string
	about   []*policy.About
	rules   [][]*ruleExpr // of each side, in file order
	domains map[int]*domain
	list    []int // of atoms
	memo    map[memoKey]outcome
	within  Within
}

type memoKey struct {
	atom, level int
	values      uint64
}

// problem gathers what decides on a route, which all sides have, by one name or by those
// given.
func (m *model) problem(names ...string) *problem {
	p := &problem{m: m, name: names[0], domains: make(map[int]*domain), memo: make(map[memoKey]outcome)}
	for s, side := range m.sides {
		p.names = append(p.names, names[min(s, len(names)-1)])
		p.about = append(p.about, side.ref.About(p.names[s]))
	}
	for s, about := range p.about {
		list := p.required(s)
		for _, r := range about.Rules {
			list = append(list, m.rule(s, r))
		}
		p.rules = append(p.rules, list)
	}
	return p
}

func (p *problem) route() *api.Route { return p.about[0].Route }

// atoms returns those of all rules of the route.
func (p *problem) atoms() []int {
	if p.list == nil {
		for _, rules := range p.rules {
			for _, r := range rules {
				p.list = r.e.atoms(p.list)
			}
		}
	}
	return p.list
}

func (e *expr) atoms(list []int) []int {
	if e.op == isAtom {
		return append(list, e.atom)
	}
	for _, k := range e.kids {
		list = k.atoms(list)
	}
	return list
}

// A need is what must come of a rule at a level.
type need struct {
	rule  *ruleExpr
	level int
	mask  outcome

	chosen int // the choice that it was taken from, counted from one
}

// A choice is needs of which one must be met.
type choice []need

// A goal is what a call must be like.
type goal struct {
	needs   []need
	choices []choice
}

// A solver looks for a call that meets a goal. It gives one fact after the other a value,
// of those that undecided rules ask for, and goes back to a fact that matters where a rule
// contradicts.
type solver struct {
	p      *problem
	b      *Budget
	g      goal
	value  []int // by fact: place in its domain; none: not chosen yet
	base   []int // where the least change is looked for: the values that there are; none: it lacks one
	most   int   // facts that may change
	out    []outcome
	reads  map[int][]int // needs by fact
	short  string        // why all may not have been looked at
	failed bool          // the budget is used up
}

const none = -1

func (p *problem) solver(b *Budget, g goal) *solver {
	s := &solver{p: p, b: b, g: g, value: make([]int, len(p.m.facts)), reads: make(map[int][]int)}
	for i := range s.value {
		s.value[i] = none
	}
	s.g.needs = merged(g.needs)
	s.out = make([]outcome, len(s.g.needs))
	for i, n := range s.g.needs {
		for _, f := range n.rule.facts {
			s.reads[f] = append(s.reads[f], i)
		}
	}
	return s
}

// merged makes one of the needs of the same rule, at whatever level it does not read.
func merged(list []need) []need {
	at := make(map[need]int, len(list))
	var out []need
	for _, n := range list {
		if !n.rule.level {
			n.level = 0
		}
		k := need{rule: n.rule, level: n.level}
		if i, ok := at[k]; ok {
			out[i].mask &= n.mask
			continue
		}
		at[k] = len(out)
		out = append(out, n)
	}
	return out
}

// solve reports whether there is a call, which call then returns.
func (s *solver) solve() Status {
	for i, n := range s.g.needs {
		if s.out[i] = s.eval(n.rule.e, n.level); s.out[i]&n.mask == 0 {
			return None
		}
	}
	lacking := 0
	for f := range s.base {
		if s.lacks(f) {
			lacking++
		}
	}
	if s.base != nil && lacking > s.most {
		return None
	}
	ok, _ := s.search(lacking, 0)
	switch {
	case ok:
		return Found
	case s.failed || s.short != "":
		return NotAnalysed
	}
	return None
}

// why says why it was not analysed.
func (s *solver) why() string {
	if s.failed {
		return s.b.why()
	}
	return s.short
}

// lacks reports whether a call lacks a fact that rules read and that every call must have.
func (s *solver) lacks(f int) bool {
	return s.base[f] == none && slices.Contains(s.p.facts(), f)
}

// A conflict is facts that together contradict, and choices, as negative numbers.
type conflict map[int]bool

// search goes on from where the needs before the first are met.
func (s *solver) search(changed, first int) (bool, conflict) {
	f, first := s.next(first)
	if f == none {
		return s.choose(changed)
	}
	d := s.p.domain(f)
	all := conflict{}
	for try := range len(d.values) {
		v := try
		cost := changed
		if s.base != nil { // what there is comes first
			if first := s.base[f]; first != none {
				if try == 0 {
					v = first
				} else if try <= first {
					v = try - 1
				}
				if v != first {
					cost++
				}
			}
			if cost > s.most {
				for o, v := range s.value {
					if v != none && v != s.base[o] && s.base[o] != none {
						all[o] = true
					}
				}
				all[f] = true
				break
			}
		}
		if !s.b.spend(1 + len(s.reads[f])/8) { // most are not asked, or only copied
			s.failed = true
			return false, nil
		}
		s.value[f] = v
		var why conflict
		ok := true
		saved := make([]outcome, len(s.reads[f]))
		for i, n := range s.reads[f] {
			saved[i] = s.out[n]
			if ok {
				need := &s.g.needs[n]
				if s.out[n]&^need.mask == 0 {
					continue // whatever else is chosen
				}
				s.b.spend(1)
				if s.out[n] = s.eval(need.rule.e, need.level); s.out[n]&need.mask == 0 {
					ok, why = false, s.because(need)
				}
			}
		}
		if ok {
			if ok, why = s.search(cost, first); ok || s.failed {
				return ok, nil
			}
		}
		for i, n := range s.reads[f] {
			s.out[n] = saved[i]
		}
		s.value[f] = none
		if !why[f] {
			return false, why // no other value of this fact would help
		}
		for o := range why {
			all[o] = true
		}
	}
	if d.short != "" && s.short == "" {
		s.short = d.short
	}
	delete(all, f)
	return false, all
}

// because returns the facts that an outcome came from.
func (s *solver) because(n *need) conflict {
	c := conflict{}
	for _, f := range n.rule.facts {
		if s.value[f] != none {
			c[f] = true
		}
	}
	if n.chosen > 0 {
		c[-n.chosen] = true
	}
	return c
}

// next returns a fact that an undecided need asks for; none where all are met.
func (s *solver) next(first int) (f, at int) {
	for i, n := range s.g.needs[first:] {
		if s.out[first+i]&^n.mask != 0 {
			if f := s.ask(n.rule.e, n.level); f != none {
				return f, first + i
			}
		}
	}
	return none, len(s.g.needs)
}

// choose meets the first choice that is not met, by each of its needs in turn.
func (s *solver) choose(changed int) (bool, conflict) {
	for i, c := range s.g.choices {
		tag := i + 1
		all := conflict{}
		var open []need
		met := false
		for _, n := range c {
			switch out := s.eval(n.rule.e, n.level); {
			case out&^n.mask == 0:
				met = true
			case out&n.mask == 0:
				for f := range s.because(&n) {
					all[f] = true
				}
			default:
				n.chosen = tag
				open = append(open, n)
			}
		}
		if met {
			continue
		}
		for _, n := range open {
			if !s.b.spend(1) {
				s.failed = true
				return false, nil
			}
			at := len(s.g.needs)
			s.g.needs, s.out = append(s.g.needs, n), append(s.out, s.eval(n.rule.e, n.level))
			for _, f := range n.rule.facts {
				s.reads[f] = append(s.reads[f], at)
			}
			ok, why := s.search(changed, at)
			if ok || s.failed {
				return ok, nil
			}
			s.g.needs, s.out = s.g.needs[:at], s.out[:at]
			for _, f := range n.rule.facts {
				s.reads[f] = s.reads[f][:len(s.reads[f])-1]
			}
			if !why[-tag] {
				return false, why // no other need of this choice would help
			}
			for f := range why {
				all[f] = true
			}
		}
		delete(all, -tag)
		return false, all
	}
	return true, nil
}

// ask returns the first fact that has no value and may matter to an expression.
func (s *solver) ask(e *expr, level int) int {
	if e.op == isAtom {
		for _, f := range s.p.m.atoms[e.atom].facts {
			if s.value[f] == none {
				return f
			}
		}
		return none
	}
	for i, k := range e.kids {
		out := s.eval(k, level)
		if f := none; out&(out-1) != 0 {
			if f = s.ask(k, level); f != none {
				return f
			}
		}
		stop := e.op == isAnd && out&holds == 0 || e.op == isOr && out&fails == 0
		if e.op == isIf && i == 0 {
			if out == holds {
				return s.ask(e.kids[1], level)
			}
			if out == fails {
				return s.ask(e.kids[2], level)
			}
		}
		if stop {
			return none
		}
	}
	return none
}

// eval returns what may come of an expression, as far as facts have values.
func (s *solver) eval(e *expr, level int) outcome {
	switch e.op {
	case isNot:
		o := s.eval(e.kids[0], level)
		return o&errs | o&holds<<1 | o&fails>>1
	case isAnd:
		o := s.eval(e.kids[0], level)
		if o&holds == 0 {
			return o
		}
		return o&(fails|errs) | s.eval(e.kids[1], level)
	case isOr:
		o := s.eval(e.kids[0], level)
		if o&fails == 0 {
			return o
		}
		return o&(holds|errs) | s.eval(e.kids[1], level)
	case isIf:
		o := s.eval(e.kids[0], level)
		out := o & errs
		if o&holds != 0 {
			out |= s.eval(e.kids[1], level)
		}
		if o&fails != 0 {
			out |= s.eval(e.kids[2], level)
		}
		return out
	}
	return s.atom(e.atom, level)
}

func (s *solver) atom(i, level int) outcome {
	a := &s.p.m.atoms[i]
	k := memoKey{atom: i}
	if a.level {
		k.level = level
	}
	fits := true
	for _, f := range a.facts {
		if s.value[f] == none {
			if a.mayErr {
				return anything
			}
			return holds | fails
		}
		n := uint64(len(s.p.domain(f).values))
		fits = fits && k.values < 1<<40/n
		k.values = k.values*n + uint64(s.value[f])
	}
	if fits {
		if o, ok := s.p.memo[k]; ok {
			return o
		}
	}
	s.b.spend(8)
	o := errs
	side := s.p.m.sides[a.side]
	v, err := eval.Eval(a.node, side.ref.Environment(s.call(level, a.side, a.facts), s.level(a.side, level)))
	if b, ok := v.(types.Boolean); err == nil && ok {
		if o = fails; b {
			o = holds
		}
	}
	if fits {
		s.p.memo[k] = o
	}
	return o
}

func (s *solver) level(side, level int) string { return s.p.m.sides[side].d.Policy.Levels.Names[level] }

// call returns the call that some facts make up: all of them for nil, where those without
// a value have the usual one.
func (s *solver) call(level, side int, facts []int) policy.Call {
	c := policy.Call{Level: s.level(side, level), Principal: "somebody", Route: s.p.names[side], Context: make(map[string]cedar.Value)}
	set := func(f int) {
		d := s.p.domain(f)
		v := s.value[f]
		if v == none {
			if v = 0; s.base != nil && s.base[f] != none {
				v = s.base[f]
			}
		}
		if v >= len(d.values) {
			return
		}
		x := &d.values[v]
		switch k := s.p.m.facts[f]; {
		case k.kind == aUser:
			c.Principal = x.user
		case k.kind == aGroup && x.in:
			c.Groups = append(c.Groups, k.name)
		case k.kind == anAttribute && x.v != nil:
			c.Context[k.name] = x.v
		}
	}
	if facts != nil {
		for _, f := range facts {
			set(f)
		}
		return c
	}
	for _, f := range s.p.facts() {
		set(f)
	}
	slices.Sort(c.Groups)
	return c
}

// facts returns those that the rules of the route read, and the principal.
func (p *problem) facts() []int {
	out := []int{0}
	for _, rules := range p.rules {
		for _, r := range rules {
			out = append(out, r.facts...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
