// Package solver chooses the modules of an image: from what policy and workload
// require and forbid and what the catalog offers, the healthy set that is attacked
// least, or the reasons why there is none.
//
// A set is healthy when it meets every requirement, holds nothing that is forbidden,
// holds a provider for all that its own modules require, no two of its modules
// conflict, and all of them fit the target. Of healthy sets the best has the least
// attack surface; of several the fewest modules, then the newest versions; and the
// rest is decided by ids, those that come first being kept, so that the same input,
// in whatever order, gives the same set.
//
// The search is that of package repo: exact within a budget of conflicts, and honest
// about what it could not prove.
package solver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/solver/repo"
)

// A Request is what an image must hold and must not.
type Request struct {
	Requirements  []catalog.Requirement
	Prohibitions  []catalog.Requirement // of modules, or of all that provide a capability
	Target        string
	MaxSurface    int // points of attack surface; 0: no limit
	MaxSurfacePos api.Pos
	Budget        int // conflicts; 0: repo.DefaultBudget
}

// A Selection is the module set of an image.
type Selection struct {
	Target  string
	Modules []*catalog.Module   // in chain order
	Because map[string][]Reason // by module id; every module has a reason
	LeftOut []*catalog.Module   // the rest of the catalog, by id
	Surface int                 // attack surface of all modules, in points
	// Proven says that no set is better. Without it the budget ended first, and all that
	// is known is that no set has less surface than Bound.
	Proven bool
	Bound  int
}

// A Reason is why a module was chosen: a requirement of the policy or the
// workload, or another module of the set.
type Reason struct {
	Any         catalog.Clause
	Requirement *catalog.Requirement // nil where a module requires it
	Module      string               // id of the requiring module
}

// An Undecided says that the budget ended before a set was found, or one within the limit,
// and before there was shown to be none.
type Undecided struct {
	Request *Request
	Budget  int // conflicts, which were not enough
	Surface int // of the best set that was found, which is above the limit; 0: none was found
	Bound   int // no set has less
}

func (e *Undecided) Error() string {
	text, more := fmt.Sprintf("no module set for target %s was found, and none was ruled out,", e.Request.Target), ""
	if e.Surface > 0 {
		text = fmt.Sprintf("%s allows %d points of attack surface; the best module set that was found has %d, and that none has less than %d is all that is known",
			e.Request.MaxSurfacePos.Short(), e.Request.MaxSurface, e.Surface, e.Bound)
		more = fmt.Sprintf("raise the limit to %d, or ", e.Surface)
	}
	return fmt.Sprintf("%s within %d conflicts of the search: %ssay in spec.modules which modules to require and to forbid, so that there is less to choose from", text, e.Budget, more)
}

// Solve returns the best healthy set. Its error is an *Unsatisfiable, an *Undecided, or the
// context's.
func Solve(ctx context.Context, c *catalog.Catalog, r Request) (*Selection, error) {
	p, err := newProblem(c, &r)
	if err != nil {
		return nil, err
	}
	set, err := p.Repo.Install(ctx, p.request)
	var none *repo.Unsatisfiable
	switch {
	case errors.As(err, &none):
		return nil, p.explain(ctx)
	case errors.Is(err, repo.ErrBudget):
		return nil, &Undecided{Request: &r, Budget: p.request.Budget}
	case err != nil:
		return nil, err
	}
	surface, bound := int(set.Cost[0]), int(set.Bound[0])
	if r.MaxSurface > 0 && surface > r.MaxSurface {
		if bound > r.MaxSurface {
			return nil, p.tooLarge(ctx, set)
		}
		return nil, &Undecided{&r, p.request.Budget, surface, bound}
	}
	return p.describe(set), nil
}

// A problem is a request, of what there is for its target.
type problem struct {
	*Offer
	in      *Request
	request repo.Request
}

func newProblem(c *catalog.Catalog, r *Request) (*problem, error) {
	o, err := NewOffer(c, r.Target)
	if err != nil {
		return nil, fmt.Errorf("solver: %w", err)
	}
	p := &problem{Offer: o, in: r}
	q := &p.request
	for i, n := range r.Requirements {
		q.Roots = append(q.Roots, repo.Root{Any: o.Meeting(n.Any), Label: i})
	}
	for i, n := range r.Prohibitions {
		for _, m := range o.Meeting(n.Any) {
			q.Bans = append(q.Bans, repo.Ban{Package: m, Label: i})
		}
	}
	q.Budget = cmp.Or(r.Budget, repo.DefaultBudget)
	q.Criteria = []repo.Criterion{
		func(q repo.Package) int64 { return int64(o.Modules[q].Surface) },
		func(repo.Package) int64 { return 1 },
		o.age(),
	}
	return p, nil
}

// age counts the versions of a module that are newer and fit the target.
func (o *Offer) age() repo.Criterion {
	newer := make([]int64, len(o.Modules))
	for i, m := range o.Modules { // of one id, the newest is first
		if i > 0 && o.Modules[i-1].ID == m.ID {
			newer[i] = newer[i-1] + 1
		}
	}
	return func(q repo.Package) int64 { return newer[q] }
}

// describe turns a healthy set into a Selection.
func (p *problem) describe(set *repo.Set) *Selection {
	reqs := p.in.Requirements
	sel := &Selection{Target: p.in.Target, Modules: p.list(set.Packages), Because: map[string][]Reason{},
		Surface: int(set.Cost[0]), Proven: set.Proven, Bound: int(set.Bound[0])}
	slices.SortFunc(sel.Modules, catalog.Chain)
	chosen := map[*catalog.Module]bool{}
	for _, m := range sel.Modules {
		chosen[m] = true
	}
	because := func(by *catalog.Module, r Reason) {
		var met []*catalog.Module // each once
		for _, capability := range r.Any {
			for _, m := range p.Catalog.Providers(capability) {
				if chosen[m] && m != by && (len(r.Any) == 1 || !slices.Contains(met, m)) {
					met = append(met, m)
					sel.Because[m.ID] = append(sel.Because[m.ID], r)
				}
			}
		}
	}
	for i := range reqs {
		because(nil, Reason{Any: reqs[i].Any, Requirement: &reqs[i]})
	}
	for _, by := range sel.Modules {
		for _, any := range by.Requires {
			because(by, Reason{Any: any, Module: by.ID})
		}
	}
	for _, m := range p.Catalog.Modules {
		if !chosen[m] {
			sel.LeftOut = append(sel.LeftOut, m)
		}
	}
	return sel
}
