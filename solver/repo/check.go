package repo

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"lorica.dev/lorica/solver/sat"
)

// A Check is which packages of a repository can be installed.
type Check struct {
	Broken    []Package // in no healthy set
	Undecided []Package // the budget ended first
	Work      Work
}

// A CheckOptions says how to check.
type CheckOptions struct {
	// Base is in every set: essential packages, for example.
	Base []Root
	// Each asks about every package by itself. Without it a set that was found is made as
	// large as it gets without search, and all that is in it can be installed.
	Each   bool
	Budget int // conflicts in all: a package may take a tenth of what is left, or a hundred; 0: DefaultBudget
}

// whole is a solver that knows all of a repository. Variables are packages; the one
// after them makes the base true.
type whole struct {
	repo *Repo
	s    *sat.Solver
	base sat.Lit

	least int // conflicts that each question may take
	left  int // of the budget
}

func (r *Repo) whole(base []Root, budget int) *whole {
	budget = cmp.Or(budget, DefaultBudget)
	w := &whole{repo: r, s: sat.New(sat.Options{Lazy: true}), least: min(budget, leastConflicts), left: budget}
	s, n := w.s, len(r.ids)
	s.Grow(n+1, len(r.dependencies)+len(r.conflicts), len(r.dependencies)+len(r.any)+2*len(r.conflicts))
	for range n + 1 {
		s.NewVar()
	}
	w.base = sat.Pos(n)
	var lits []sat.Lit
	for _, root := range base {
		lits = append(lits[:0], w.base.Not())
		for _, q := range root.Any {
			lits = append(lits, sat.Pos(int(q)))
		}
		s.Add(0, lits...)
	}
	for _, d := range r.dependencies {
		lits = append(lits[:0], sat.Neg(int(d.of)))
		for _, q := range r.providers(d) {
			lits = append(lits, sat.Pos(int(q)))
		}
		s.Add(0, lits...)
	}
	for _, c := range r.conflicts {
		s.Add(0, sat.Neg(int(c.of)), sat.Neg(int(c.with)))
	}
	var group []Package
	for _, head := range r.heads {
		group = group[:0]
		for p := head; p != None; p = r.sibling[p] {
			group = append(group, p)
		}
		atMostOne(s, 0, group, func(p Package) sat.Lit { return sat.Pos(int(p)) })
	}
	return w
}

// Of the conflicts that are left a question may take a part, so that a hard one leaves some
// to the others, and a few in any case: what is easy is decided whatever was before it.
const (
	leastConflicts = 100
	partOfBudget   = 10
)

// solve asks one question of many within the budget of all of them.
func (w *whole) solve(ctx context.Context, lits ...sat.Lit) sat.Status {
	before := w.s.Stats().Conflicts
	status := w.s.Solve(ctx, append([]sat.Lit{w.base}, lits...), max(w.least, w.left/partOfBudget))
	w.left = max(0, w.left-int(w.s.Stats().Conflicts-before))
	return status
}

// pairwise is the number of versions up to which every pair has a clause. Of more,
// each has a few, over variables that say "one of those before".
const pairwise = 6

func atMostOne(s *sat.Solver, label int32, group []Package, lit func(Package) sat.Lit) {
	if len(group) <= pairwise {
		for i, p := range group {
			for _, q := range group[:i] {
				s.Add(label, lit(p).Not(), lit(q).Not())
			}
		}
		return
	}
	before := lit(group[0])
	for _, p := range group[1:] {
		s.Add(label, before.Not(), lit(p).Not())
		next := sat.Pos(s.NewVar())
		s.Add(label, before.Not(), next)
		s.Add(label, lit(p).Not(), next)
		before = next
	}
}

// Check returns which packages can be installed with the base. Its error is the
// context's.
func (r *Repo) Check(ctx context.Context, o CheckOptions) (*Check, error) {
	w := r.whole(o.Base, o.Budget)
	c := &Check{}
	good := make([]bool, len(r.ids))
	for i := range r.ids {
		p := Package(i)
		if good[p] {
			continue
		}
		switch w.solve(ctx, sat.Pos(i)) {
		case sat.Unsatisfiable:
			c.Broken = append(c.Broken, p)
		case sat.Unknown:
			if err := ctx.Err(); err != nil {
				return nil, fmt.Errorf("checked %d of %d packages: %w", i, len(r.ids), err)
			}
			c.Undecided = append(c.Undecided, p)
		case sat.Satisfiable:
			good[p] = true
			if !o.Each {
				w.cover(good)
			}
		}
	}
	c.Undecided = slices.DeleteFunc(c.Undecided, func(p Package) bool { return good[p] }) // in a set that was found for another
	c.Work = w.work()
	return c, nil
}

// cover makes the model that was found larger, and marks all that is in it.
func (w *whole) cover(good []bool) {
	for q := range good {
		if !good[q] && w.s.Open(q) {
			w.s.Extend(sat.Pos(q))
		}
	}
	for q := range good {
		good[q] = good[q] || w.s.True(q)
	}
}

func (w *whole) work() Work {
	st := w.s.Stats()
	return Work{Packages: len(w.repo.ids), Facts: len(w.repo.dependencies) + len(w.repo.conflicts), Solves: st.Solves, Conflicts: st.Conflicts}
}

// An Analysis finds what holds in every healthy set. It keeps what it has learnt from
// one question to the next and is for one goroutine at a time.
type Analysis struct {
	w *whole
}

// Analyse returns an Analysis of sets that hold the base. The budget is a number of
// conflicts for all questions together, of which each may take a tenth of what is left, or a
// hundred; 0: DefaultBudget.
func (r *Repo) Analyse(base []Root, budget int) *Analysis { return &Analysis{r.whole(base, budget)} }

func (a *Analysis) solve(ctx context.Context, lits ...sat.Lit) (bool, error) {
	switch a.w.solve(ctx, lits...) {
	case sat.Satisfiable:
		return true, nil
	case sat.Unsatisfiable:
		return false, nil
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	return false, ErrBudget
}

// Installable reports whether some healthy set holds all of the packages.
func (a *Analysis) Installable(ctx context.Context, packages ...Package) (bool, error) {
	var lits []sat.Lit
	for _, p := range packages {
		lits = append(lits, sat.Pos(int(p)))
	}
	return a.solve(ctx, lits...)
}

// StrongDependencies returns the packages that every healthy set with p holds, besides
// p (Abate, Boender, Di Cosmo, Zacchiroli: "Strong Dependencies between Software
// Components", 2009). A package that is in no set has none.
func (a *Analysis) StrongDependencies(ctx context.Context, p Package) ([]Package, error) {
	ok, err := a.Installable(ctx, p)
	if !ok {
		return nil, err
	}
	var open []Package // in every set that was seen
	for q := range a.w.repo.ids {
		if Package(q) != p && a.w.s.True(q) {
			open = append(open, Package(q))
		}
	}
	var strong []Package
	for len(open) > 0 {
		q := open[0]
		open = open[1:]
		without, err := a.solve(ctx, sat.Pos(int(p)), sat.Neg(int(q)))
		if err != nil {
			return nil, err
		}
		if !without {
			strong = append(strong, q)
			continue
		}
		open = slices.DeleteFunc(open, func(o Package) bool { return !a.w.s.True(int(o)) })
	}
	return strong, nil
}

// maxPairs bounds the packages that StrongConflicts compares with each other.
const maxPairs = 20_000

// StrongConflicts returns the pairs of packages that can be installed, and never
// together (Di Cosmo, Boender: "Using Strong Conflicts to Detect Quality Issues in
// Component-Based Complex Systems", 2010). Pairs that conflict by themselves are among
// them. The lower number stands first.
func (a *Analysis) StrongConflicts(ctx context.Context) ([][2]Package, error) {
	n := len(a.w.repo.ids)
	if n > maxPairs {
		return nil, fmt.Errorf("repo: strong conflicts of %d packages: at most %d can be compared", n, maxPairs)
	}
	words := (n + 63) / 64
	together := make([]uint64, n*words) // pairs that some set holds
	has := func(p, q int) bool { return together[p*words+q/64]>>(q%64)&1 == 1 }
	learn := func() {
		set := make([]uint64, words)
		for p := range n {
			if a.w.s.True(p) {
				set[p/64] |= 1 << (p % 64)
			}
		}
		for p := range n {
			if set[p/64]>>(p%64)&1 == 1 {
				for i, w := range set {
					together[p*words+i] |= w
				}
			}
		}
	}
	grow := func(p int) { // the more a set holds, the fewer questions are left
		for q := range n {
			if q != p && !has(p, q) && a.w.s.Open(q) {
				a.w.s.Extend(sat.Pos(q))
			}
		}
		learn()
	}
	for p := range n {
		if has(p, p) {
			continue
		}
		ok, err := a.Installable(ctx, Package(p))
		if err != nil {
			return nil, err
		}
		if ok {
			grow(p)
		}
	}
	var pairs [][2]Package
	for p := range n {
		for q := p + 1; q < n; q++ {
			if !has(p, p) || !has(q, q) || has(p, q) {
				continue
			}
			ok, err := a.Installable(ctx, Package(p), Package(q))
			if err != nil {
				return nil, err
			}
			if ok {
				grow(p)
			} else {
				pairs = append(pairs, [2]Package{Package(p), Package(q)})
			}
		}
	}
	return pairs, nil
}
