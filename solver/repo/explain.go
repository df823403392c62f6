package repo

import (
	"context"
	"slices"

	"lorica.dev/lorica/solver/sat"
)

// Explain returns why Install finds no set. Its error is ErrBudget or the context's; if
// there is a set, the Explanation is nil.
func (r *Repo) Explain(ctx context.Context, q Request) (*Explanation, error) {
	p := r.problem(&q)
	x := &explainer{ctx: ctx, left: q.budget()}
	core, status := x.refute(p, nil)
	if status == sat.Satisfiable {
		return nil, nil
	}
	if status == sat.Unknown {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return nil, ErrBudget
	}
	part, minimal := x.minimal(p.restrict(core))
	e := &Explanation{Facts: part.narrate(), Minimal: minimal}
	e.Repairs = x.repairs(p, e.Facts)
	return e, ctx.Err()
}

// Why returns why p is in the best set: because it is in every set, or because the
// best one without it, if the budget was enough to find it, costs what it does. Its
// error is the context's.
func (r *Repo) Why(ctx context.Context, q Request, p Package) (*Why, error) {
	ban := -1
	for _, b := range q.Bans {
		ban = min(ban, b.Label-1)
	}
	q.Bans = append(slices.Clip(q.Bans), Ban{p, ban})
	without, err := r.Install(ctx, q)
	if err == nil {
		return &Why{Without: without}, nil
	}
	w := &Why{}
	if _, none := err.(*Unsatisfiable); none {
		x := &explainer{ctx: ctx, left: q.budget()}
		all := r.problem(&q)
		if core, status := x.refute(all, nil); status == sat.Unsatisfiable {
			part, _ := x.minimal(all.restrict(core))
			w.Facts = slices.DeleteFunc(part.narrate(), func(f Fact) bool { return f.Kind == Banned && f.Label == ban })
		}
	}
	return w, ctx.Err()
}

// An explainer asks within a budget, which counts a step for each question beside its
// conflicts.
type explainer struct {
	ctx  context.Context
	left int
}

// refute returns which of the chosen facts (nil: all) contradict each other.
func (x *explainer) refute(p *problem, chosen []int32) ([]int32, sat.Status) {
	if x.left <= 0 {
		return nil, sat.Unknown
	}
	s := p.solver(sat.Options{Trace: true}, chosen)
	status := s.Solve(x.ctx, nil, x.left)
	x.left -= 1 + int(s.Stats().Conflicts)
	if status != sat.Unsatisfiable {
		return nil, status
	}
	return s.Labels(), status
}

// minimal leaves out facts for as long as the others contradict each other, and
// reports whether all were tried. Those that are further from the wishes are tried
// first.
func (x *explainer) minimal(p *problem) (*problem, bool) {
	whole := true
	facts := make([]int32, len(p.facts))
	for i := range facts {
		facts[i] = int32(i)
	}
	for i := len(facts) - 1; i >= 0; i-- {
		at := facts[i]
		smaller, status := x.refute(p, slices.Delete(slices.Clone(facts), i, i+1))
		switch status {
		case sat.Unsatisfiable:
			facts = smaller
			i, _ = slices.BinarySearch(facts, at) // those from here on were tried
		case sat.Unknown:
			whole = false
		}
	}
	return p.restrict(facts), whole
}

// restrict returns the problem of some of the facts alone.
func (p *problem) restrict(chosen []int32) *problem {
	part := &problem{repo: p.repo, at: make([]int32, len(p.at))}
	add := func(q Package) {
		if q != None && part.at[q] == 0 {
			part.at[q] = 1
			part.members = append(part.members, q)
		}
	}
	for _, i := range chosen {
		f := p.facts[i]
		part.facts = append(part.facts, f)
		add(f.Package)
		add(f.Other)
		for _, q := range f.Any {
			add(q)
		}
	}
	slices.SortFunc(part.members, p.compare)
	for i, m := range part.members {
		part.at[m] = int32(i) + 1
	}
	return part
}

// narrate brings the facts into an order in which they can be told: a wish, what it
// brings in, what that needs, and what stands against it as soon as it was spoken of.
func (p *problem) narrate() []Fact {
	spoken := make([]int, len(p.members)) // when, from 1
	when := func(q Package) int { return spoken[p.at[q]-1] }
	told := make([]bool, len(p.facts))
	rank := func(f *Fact) int { // the highest is told next; 0 if it does not follow yet
		switch f.Kind {
		case Banned:
			if when(f.Package) > 0 {
				return 3 << 32
			}
		case Excludes, Versions:
			if when(f.Package) > 0 && (f.Other == None || when(f.Other) > 0) {
				return 3 << 32
			}
		case Needs:
			if at := when(f.Package); at > 0 {
				return 1<<32 + at
			}
		case Wanted:
			return 1
		}
		return 0
	}
	var story []Fact
	for range p.facts {
		best, top := -1, -1
		for i := range p.facts {
			if !told[i] {
				if r := rank(&p.facts[i]); r > top {
					best, top = i, r
				}
			}
		}
		f := p.facts[best]
		told[best] = true
		story = append(story, f)
		if f.Kind == Wanted || f.Kind == Needs {
			for _, q := range f.Any {
				if when(q) == 0 {
					spoken[p.at[q]-1] = len(story)
				}
			}
		}
	}
	return story
}

// A wish is what can be taken back: a Root, or all Bans with one label.
type wish struct {
	kind  Kind
	label int
}

// repairs finds the sets of wishes without which there would be an answer. What can
// be taken back alone is part of every contradiction, and so of this one.
func (x *explainer) repairs(p *problem, core []Fact) [][]Fact {
	s := sat.New(sat.Options{Lazy: true})
	for range p.members {
		s.NewVar()
	}
	drops := map[wish]sat.Lit{}
	var wishes []wish
	var lits []sat.Lit
	for i, f := range p.facts {
		if f.Kind != Wanted && f.Kind != Banned {
			lits = p.add(s, int32(i), lits)
			continue
		}
		w := wish{f.Kind, f.Label}
		drop, ok := drops[w]
		if !ok {
			drop = sat.Pos(s.NewVar())
			drops[w] = drop
			wishes = append(wishes, w)
		}
		lits = append(lits[:0], drop)
		if f.Kind == Banned {
			lits = append(lits, p.lit(f.Package).Not())
		}
		for _, q := range f.Any {
			lits = append(lits, p.lit(q))
		}
		s.Add(int32(i), lits...)
	}
	told := func(w wish) (facts []Fact) {
		for _, f := range p.facts {
			if f.Kind == w.kind && f.Label == w.label {
				facts = append(facts, f)
			}
		}
		return facts
	}
	o := &optimizer{ctx: x.ctx, p: p, s: s, left: x.left}
	var repairs [][]Fact
	tried := map[wish]bool{}
	for _, f := range core {
		w := wish{f.Kind, f.Label}
		if _, is := drops[w]; !is || tried[w] {
			continue
		}
		tried[w] = true
		var others []sat.Lit
		for _, v := range wishes {
			if v != w {
				others = append(others, drops[v].Not())
			}
		}
		if o.solve(others, 0) == sat.Satisfiable {
			repairs = append(repairs, told(w))
		}
	}
	if len(repairs) > 0 {
		return repairs
	}
	c := &cores{o: o, at: map[sat.Lit]int{}}
	for _, w := range wishes {
		c.pay(soft{lit: drops[w].Not(), weight: 1})
	}
	for {
		c.forced()
		switch o.solve(c.assumptions(1), 0) {
		case sat.Unknown:
			return nil
		case sat.Unsatisfiable:
			c.relax(c.trim(slices.Clone(o.s.Core())))
			continue
		}
		var set []Fact
		for _, w := range wishes {
			if s.True(drops[w].Var()) {
				set = append(set, told(w)...)
			}
		}
		return [][]Fact{set}
	}
}
