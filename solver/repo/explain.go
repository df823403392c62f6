package repo

import (
	"cmp"
	"context"
	"slices"

	"lorica.dev/lorica/solver/sat"
)

// Explain returns why Install finds no set. Its error is ErrBudget or the context's; if
// there is a set, the Explanation is nil.
func (r *Repo) Explain(ctx context.Context, q Request) (*Explanation, error) {
	x := newExplainer(ctx, r, &q)
	part, minimal, status := x.contradiction()
	switch {
	case status == sat.Satisfiable:
		return nil, nil
	case status == sat.Unknown && ctx.Err() != nil:
		return nil, ctx.Err()
	case status == sat.Unknown:
		return nil, ErrBudget
	}
	e := &Explanation{Facts: part.narrate(), Minimal: minimal}
	e.Repairs = x.repairs(e.Facts)
	return e, ctx.Err()
}

// Why returns why p is in the best set: because it is in every set, or because the
// best one without it, if the budget was enough to find it, costs what it does. Its
// error is the context's.
func (r *Repo) Why(ctx context.Context, q Request, p Package) (*Why, error) {
	if path := r.problem(&q).path(p); path != nil {
		return &Why{Facts: path}, ctx.Err()
	}
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
		if part, _, status := newExplainer(ctx, r, &q).contradiction(); status == sat.Unsatisfiable {
			w.Facts = slices.DeleteFunc(part.narrate(), func(f Fact) bool { return f.Kind == Banned && f.Label == ban })
		}
	}
	return w, ctx.Err()
}

// A wish is what can be taken back: a Root, or all Bans with one label.
type wish struct {
	kind  Kind
	label int
}

// An explainer asks within a budget, of which each question takes its conflicts and
// something for its size. Its solver knows the problem and takes wishes back: each has
// a literal that is true if it does not count.
type explainer struct {
	optimizer
	wishes []wish
	drops  map[wish]sat.Lit
}

func newExplainer(ctx context.Context, r *Repo, q *Request) *explainer {
	p := r.problem(q)
	s := sat.New(sat.Options{Lazy: true})
	x := &explainer{optimizer: optimizer{ctx: ctx, p: p, s: s, left: q.budget()}, drops: map[wish]sat.Lit{}}
	for range p.members {
		s.NewVar()
	}
	var lits []sat.Lit
	for i, f := range p.facts {
		if f.Kind != Wanted && f.Kind != Banned {
			lits = p.add(s, int32(i), lits)
			continue
		}
		w := wish{f.Kind, f.Label}
		drop, ok := x.drops[w]
		if !ok {
			drop = sat.Pos(s.NewVar())
			x.drops[w] = drop
			x.wishes = append(x.wishes, w)
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
	return x
}

// all assumes that every wish counts, but for one.
func (x *explainer) all(but wish) []sat.Lit {
	var list []sat.Lit
	for _, w := range x.wishes {
		if w != but {
			list = append(list, x.drops[w].Not())
		}
	}
	return list
}

// contradiction returns facts that contradict each other, of which none can be left
// out if it says so: first as few wishes as it takes with all that the repository
// says, then as little of that as it takes with those.
func (x *explainer) contradiction() (part *problem, minimal bool, status sat.Status) {
	if status = x.solve(x.all(nobody), 0); status != sat.Unsatisfiable {
		return nil, false, status
	}
	core, whole := x.fewer(slices.Clone(x.s.Core()))
	var chosen []int32
	for i, f := range x.p.facts {
		if f.Kind != Wanted && f.Kind != Banned || slices.Contains(core, x.drops[wish{f.Kind, f.Label}].Not()) {
			chosen = append(chosen, int32(i))
		}
	}
	if chosen, status = x.refute(x.p, chosen); status != sat.Unsatisfiable {
		return nil, false, status
	}
	part, minimal = x.minimal(x.p.restrict(chosen))
	return part, minimal && whole, status
}

// nobody is a wish that nobody has.
var nobody = wish{kind: Versions}

// fewer leaves out assumptions for as long as there is no model, the last ones first,
// and reports whether all were tried.
func (x *explainer) fewer(core []sat.Lit) ([]sat.Lit, bool) {
	slices.Sort(core)
	whole := true
	for i := len(core) - 1; i >= 0; i-- {
		if x.left <= 0 || x.ctx.Err() != nil {
			return core, false
		}
		at := core[i]
		switch x.solve(slices.Delete(slices.Clone(core), i, i+1), 0) {
		case sat.Unsatisfiable:
			core = append(core[:0], x.s.Core()...)
			slices.Sort(core)
			i, _ = slices.BinarySearch(core, at) // those from here on were tried
		case sat.Unknown:
			whole = false
		}
	}
	return core, whole
}

// refute returns which of the chosen facts (nil: all) contradict each other.
func (x *explainer) refute(p *problem, chosen []int32) ([]int32, sat.Status) {
	if x.left <= 0 {
		return nil, sat.Unknown
	}
	s := p.solver(sat.Options{Trace: true}, chosen)
	status := s.Solve(x.ctx, nil, x.left)
	size := len(chosen)
	if chosen == nil {
		size = len(p.facts)
	}
	x.left -= 1 + int(s.Stats().Conflicts) + size/64
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
		if x.left <= 0 || x.ctx.Err() != nil {
			return p.restrict(facts), false
		}
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

// path returns a shortest way from a wish to a package on which each fact leaves no
// choice, or nil.
func (p *problem) path(to Package) []Fact {
	if p.at[to] == 0 {
		return nil
	}
	needs := make([][]int32, len(p.members)) // facts by the member that they are about
	from := make([]int32, len(p.members))    // fact that led here, plus one
	var reached []Package
	follow := func(i int32) {
		f := &p.facts[i]
		if len(f.Any) == 1 && from[p.at[f.Any[0]]-1] == 0 {
			from[p.at[f.Any[0]]-1] = i + 1
			reached = append(reached, f.Any[0])
		}
	}
	for i, f := range p.facts {
		switch f.Kind {
		case Wanted:
			follow(int32(i))
		case Needs:
			needs[p.at[f.Package]-1] = append(needs[p.at[f.Package]-1], int32(i))
		}
	}
	for i := 0; i < len(reached) && from[p.at[to]-1] == 0; i++ {
		for _, n := range needs[p.at[reached[i]]-1] {
			follow(n)
		}
	}
	var path []Fact
	for at := to; at != None && from[p.at[at]-1] != 0; at = path[len(path)-1].Package {
		path = append(path, p.facts[from[p.at[at]-1]-1])
	}
	slices.Reverse(path)
	return path
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
	var wishes []int32
	needs := make([][]int32, len(p.members))   // by the member that they are about, and not told yet
	against := make([][]int32, len(p.members)) // by a member that they are about
	about := func(q Package, i int) {
		if q != None {
			against[p.at[q]-1] = append(against[p.at[q]-1], int32(i))
		}
	}
	for i, f := range p.facts {
		switch f.Kind {
		case Wanted:
			wishes = append(wishes, int32(i))
		case Needs:
			needs[p.at[f.Package]-1] = append(needs[p.at[f.Package]-1], int32(i))
		default:
			about(f.Package, i)
			about(f.Other, i)
		}
	}
	slices.SortStableFunc(wishes, func(a, b int32) int { return cmp.Compare(p.facts[a].Label, p.facts[b].Label) })
	spoken, told := make([]bool, len(p.members)), make([]bool, len(p.facts))
	var story []Fact
	var open []Package // spoken of, the last first; what they need is told next
	tell := func(i int32) {
		told[i] = true
		story = append(story, p.facts[i])
		start := len(open)
		for _, q := range p.facts[i].Any {
			if !spoken[p.at[q]-1] {
				spoken[p.at[q]-1] = true
				open = append(open, q)
			}
		}
		for _, q := range open[start:] {
			for _, j := range against[p.at[q]-1] {
				if f := p.facts[j]; !told[j] && spoken[p.at[f.Package]-1] && (f.Other == None || spoken[p.at[f.Other]-1]) {
					told[j] = true
					story = append(story, f)
				}
			}
		}
		slices.Reverse(open[start:])
	}
	for {
		if len(open) > 0 {
			top := &needs[p.at[open[len(open)-1]]-1]
			if len(*top) == 0 {
				open = open[:len(open)-1]
				continue
			}
			next := (*top)[0]
			*top = (*top)[1:]
			tell(next)
		} else if len(wishes) > 0 {
			next := wishes[0]
			wishes = wishes[1:]
			tell(next)
		} else {
			break
		}
	}
	for i, f := range p.facts { // what leads nowhere; there is none where facts are minimal
		if !told[i] {
			story = append(story, f)
		}
	}
	return story
}

// repairs finds the sets of wishes without which there would be an answer. What can
// be taken back alone is part of every contradiction, and so of this one.
func (x *explainer) repairs(core []Fact) [][]Fact {
	told := func(w wish) (facts []Fact) {
		for _, f := range x.p.facts {
			if f.Kind == w.kind && f.Label == w.label {
				facts = append(facts, f)
			}
		}
		return facts
	}
	var repairs [][]Fact
	tried := map[wish]bool{}
	for _, f := range core {
		w := wish{f.Kind, f.Label}
		if _, is := x.drops[w]; !is || tried[w] {
			continue
		}
		tried[w] = true
		if x.solve(x.all(w), 0) == sat.Satisfiable {
			repairs = append(repairs, told(w))
		}
	}
	if len(repairs) > 0 {
		return repairs
	}
	c := &cores{o: &x.optimizer, at: map[sat.Lit]int{}}
	for _, w := range x.wishes {
		c.pay(soft{lit: x.drops[w].Not(), weight: 1})
	}
	for {
		c.forced()
		switch x.solve(c.assumptions(1), 0) {
		case sat.Unknown:
			return nil
		case sat.Unsatisfiable:
			c.relax(c.trim(slices.Clone(x.s.Core())))
			continue
		}
		var set []Fact
		for _, w := range x.wishes {
			if x.s.True(x.drops[w].Var()) {
				set = append(set, told(w)...)
			}
		}
		return [][]Fact{set}
	}
}
