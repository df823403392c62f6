package repo

import (
	"context"
	"slices"

	"lorica.dev/lorica/solver/sat"
)

// Install returns the healthy set that holds what is asked for and costs least, by one
// criterion after the other. Of several it is the one that, looking from the last id
// and oldest version to the first, leaves out each package that can be left out. Its
// error is *Unsatisfiable, ErrBudget, or the context's.
func (r *Repo) Install(ctx context.Context, q Request) (*Set, error) {
	p := r.problem(&q)
	o := &optimizer{ctx: ctx, p: p, s: p.solver(sat.Options{}, nil), criteria: q.Criteria, left: q.budget()}
	status := o.solve(nil, 0)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case status == sat.Unsatisfiable:
		return nil, &Unsatisfiable{}
	case status == sat.Unknown:
		return nil, ErrBudget
	}
	set := &Set{Proven: true}
	rest := o.left
	o.left -= rest / 4 // for what comes after a search that did not end
	for i := range q.Criteria {
		bound, proven := o.minimise(i)
		set.Bound = append(set.Bound, bound)
		if !proven {
			set.Proven = false
			o.left += rest / 4
			o.improve()
			break
		}
	}
	if set.Proven {
		o.left += rest / 4
		o.leaveOut()
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for len(set.Bound) < len(q.Criteria) {
		set.Bound = append(set.Bound, 0)
	}
	for i, m := range p.members {
		if o.best[i] {
			set.Packages = append(set.Packages, m)
		}
	}
	set.Cost = o.cost
	if slices.Equal(set.Cost, set.Bound) {
		set.Proven = true
	}
	st := o.s.Stats()
	set.Work = Work{Packages: len(p.members), Facts: len(p.facts), Solves: st.Solves, Conflicts: st.Conflicts}
	return set, nil
}

// An optimizer improves a set that it has, and proves how good a set can be.
type optimizer struct {
	ctx      context.Context
	p        *problem
	s        *sat.Solver
	criteria []Criterion
	left     int // of the budget

	best []bool // by member
	cost []int64
}

// propagations count as one conflict, so that the budget bounds questions about many
// packages that meet no conflict.
const propagations = 1024

// solve asks the solver within the budget, and no more than part of it if that is
// above 0. Every model is a set, and might be the best.
func (o *optimizer) solve(assumptions []sat.Lit, part int) sat.Status {
	if o.left <= 0 {
		return sat.Unknown
	}
	budget := o.left
	if part > 0 {
		budget = min(budget, part)
	}
	before := o.s.Stats()
	status := o.s.Solve(o.ctx, assumptions, budget)
	after := o.s.Stats()
	o.left -= 1 + int(after.Conflicts-before.Conflicts) + int(after.Propagations-before.Propagations)/propagations
	if status == sat.Satisfiable {
		o.keep()
	}
	return status
}

func (o *optimizer) keep() {
	cost := make([]int64, len(o.criteria))
	for i, m := range o.p.members {
		if o.s.True(i) {
			for k, c := range o.criteria {
				cost[k] += c(m)
			}
		}
	}
	if o.best != nil && slices.Compare(cost, o.cost) >= 0 {
		return
	}
	if o.best == nil {
		o.best = make([]bool, len(o.p.members))
	}
	o.cost = cost
	for i := range o.best {
		o.best[i] = o.s.True(i)
	}
}

// A soft literal costs its weight if it is false.
type soft struct {
	lit    sat.Lit
	weight int64
	sum    *sum // whose output k it denies; nil: a package
	k      int
}

// minimise finds the least cost by one criterion, from below: sets of soft literals
// that cannot hold together raise the bound, and are replaced by a sum that pays for
// each more of them that is false (OLL, Andres et al. 2012; heavy ones first). Then
// what is left holds in exactly the best sets, and is made to hold from now on.
func (o *optimizer) minimise(criterion int) (bound int64, proven bool) {
	c := &cores{o: o, at: map[sat.Lit]int{}}
	top := int64(0)
	// The last is assumed first. Clauses have their literals in the order of members, so
	// that one about very many is looked at only when most of it is false.
	for i, m := range slices.Backward(o.p.members) {
		if w := o.criteria[criterion](m); w > 0 {
			c.pay(soft{lit: sat.Neg(i), weight: w})
			top = max(top, w)
		}
	}
	for stratum := top; ; {
		c.forced()
		if o.cost[criterion] == c.bound {
			break
		}
		switch o.solve(c.assumptions(stratum), 0) {
		case sat.Unknown:
			return c.bound, false
		case sat.Unsatisfiable:
			c.relax(c.trim(slices.Clone(o.s.Core())))
			continue
		}
		if stratum = c.below(stratum); stratum == 0 {
			break
		}
		c.harden(o.cost[criterion] - c.bound)
	}
	for _, l := range c.softs {
		if l.weight > 0 {
			o.s.Add(noFact, l.lit)
		}
	}
	return c.bound, true
}

// cores are the soft literals of one criterion.
type cores struct {
	o     *optimizer
	softs []soft
	at    map[sat.Lit]int
	bound int64
}

func (c *cores) pay(l soft) {
	if i, ok := c.at[l.lit]; ok {
		c.softs[i].weight += l.weight
		return
	}
	c.at[l.lit] = len(c.softs)
	c.softs = append(c.softs, l)
}

// forced pays for what is false whatever one does.
func (c *cores) forced() {
	for i := 0; i < len(c.softs); i++ {
		if l := c.softs[i]; l.weight > 0 && c.o.s.Fixed(l.lit) < 0 {
			c.relax([]sat.Lit{l.lit})
		}
	}
}

func (c *cores) assumptions(stratum int64) []sat.Lit {
	var list []sat.Lit
	for _, l := range c.softs {
		if l.weight >= stratum && c.o.s.Fixed(l.lit) == 0 {
			list = append(list, l.lit)
		}
	}
	return list
}

// below returns the weight of the next stratum, or 0 after the last: at most half of
// this one, where there is such a weight.
func (c *cores) below(stratum int64) (next int64) {
	least := int64(0)
	for _, l := range c.softs {
		if l.weight > 0 && l.weight < stratum {
			if l.weight <= stratum/2 {
				next = max(next, l.weight)
			}
			if least == 0 || l.weight < least {
				least = l.weight
			}
		}
	}
	if next == 0 {
		next = least
	}
	return next
}

// harden makes those hold that cost more than a set better than the best could pay.
func (c *cores) harden(gap int64) {
	for _, l := range c.softs {
		if l.weight > gap && c.o.s.Fixed(l.lit) == 0 {
			c.o.s.Add(noFact, l.lit)
		}
	}
}

// What a core may cost to be made smaller.
const (
	trimLiterals  = 200
	trimConflicts = 50
)

func (c *cores) trim(core []sat.Lit) []sat.Lit {
	if len(core) > trimLiterals {
		return core
	}
	for i := len(core) - 1; i >= 0 && len(core) > 1; i-- {
		rest := slices.Delete(slices.Clone(core), i, i+1)
		if c.o.solve(rest, trimConflicts) == sat.Unsatisfiable {
			smaller := c.o.s.Core()
			needless := func(l sat.Lit) bool { return !slices.Contains(smaller, l) }
			tried := slices.DeleteFunc(slices.Clone(rest[i:]), needless)
			core = slices.DeleteFunc(rest[:i:i], needless)
			i = len(core)
			core = append(core, tried...)
		}
	}
	return core
}

// relax raises the bound by the least weight in the core.
func (c *cores) relax(core []sat.Lit) {
	least := c.softs[c.at[core[0]]].weight
	for _, l := range core {
		least = min(least, c.softs[c.at[l]].weight)
	}
	c.bound += least
	s := c.o.s
	var violated []sat.Lit
	for _, l := range core {
		i := c.at[l]
		c.softs[i].weight -= least
		violated = append(violated, l.Not())
		if from := c.softs[i]; from.sum != nil {
			if out, ok := from.sum.out(s, from.k+1); ok {
				c.pay(soft{lit: out.Not(), weight: least, sum: from.sum, k: from.k + 1})
			}
		}
	}
	if len(core) > 1 || s.Fixed(core[0]) == 0 {
		s.Add(noFact, violated...)
	}
	if len(core) > 1 {
		t := newSum(violated)
		if out, ok := t.out(s, 2); ok {
			c.pay(soft{lit: out.Not(), weight: least, sum: t, k: 2})
		}
	}
}

// leaveOut makes the answer the only one: it looks at packages from the last to the
// first, and leaves out each that no set like those that are left needs.
func (o *optimizer) leaveOut() {
	for i := len(o.best) - 1; i >= 0; i-- {
		without := sat.Neg(i)
		if o.best[i] && o.s.Fixed(without) == 0 {
			// The costs are fixed: keep would see no model that is better.
			o.left = max(o.left, leastConflicts)
			if o.solve([]sat.Lit{without}, 0) == sat.Satisfiable {
				for k := range o.best {
					o.best[k] = o.s.True(k)
				}
			}
		}
		if o.best[i] {
			without = without.Not()
		}
		if o.s.Fixed(without) == 0 {
			o.s.Add(noFact, without)
		}
	}
	o.recount()
}

func (o *optimizer) recount() {
	o.cost = make([]int64, len(o.criteria))
	for i, m := range o.p.members {
		if o.best[i] {
			for k, c := range o.criteria {
				o.cost[k] += c(m)
			}
		}
	}
}

// What one attempt to improve a set may cost.
const (
	dropConflicts = 100
	swapConflicts = 300
)

// improve makes the best set better where none could be proven best: it looks for a
// smaller part of it that is healthy, then for sets without one of its packages, until
// neither helps or the budget ends.
func (o *optimizer) improve() {
	for better := true; better && o.left > 0 && o.ctx.Err() == nil; {
		o.shrink()
		before := slices.Clone(o.cost)
		for i := len(o.best) - 1; i >= 0 && o.left > 0; i-- {
			if o.best[i] && o.s.Fixed(sat.Pos(i)) == 0 && o.solve([]sat.Lit{sat.Neg(i)}, swapConflicts) == sat.Satisfiable {
				o.shrink()
			}
		}
		better = slices.Compare(o.cost, before) < 0
	}
}

// shrink looks for a healthy part of the best set.
func (o *optimizer) shrink() {
	for i := len(o.best) - 1; i >= 0 && o.left > 0; i-- {
		if !o.best[i] || o.s.Fixed(sat.Pos(i)) != 0 {
			continue
		}
		part := []sat.Lit{sat.Neg(i)}
		for k, in := range o.best {
			if !in && o.s.Fixed(sat.Neg(k)) == 0 {
				part = append(part, sat.Neg(k))
			}
		}
		o.solve(part, dropConflicts)
	}
}
