// Package solver chooses the modules of an image: from what policy and workload
// require and what the catalog offers, the healthy set of least weight, or the
// reasons why there is none.
//
// A set is healthy when it meets every requirement, holds a provider for all
// that its own modules require, no two of its modules conflict, and all of them
// fit the target. These are the package installability conditions of Mancinelli
// et al., "Managing the Complexity of Large Free and Open Source Package-Based
// Software Distributions" (ASE 2006), with weights.
//
// The search is exact: branch and bound over the providers of one unmet
// capability at a time. Catalogs are small; the worst case is exponential.
package solver

import (
	"cmp"
	"slices"

	"lorica.dev/lorica/catalog"
)

// A Selection is the module set of an image.
type Selection struct {
	Target  string
	Modules []*catalog.Module   // in chain order
	Because map[string][]Reason // by module id; every module has a reason
	LeftOut []*catalog.Module   // the rest of the catalog, by id
}

// A Reason is why a module was chosen: a requirement of the policy or the
// workload, or another module of the set.
type Reason struct {
	Any         catalog.Clause
	Requirement *catalog.Requirement // nil where a module requires it
	Module      string               // id of the requiring module
}

// Solve returns the healthy set of least weight; of several, the one with the
// fewest modules, then the first by ids. The same input gives the same set. Its
// error, if any, is an *Unsatisfiable.
func Solve(c *catalog.Catalog, reqs []catalog.Requirement, target string) (*Selection, error) {
	s := &search{catalog: c, target: target}
	s.extend(newState(reqs))
	if s.best == nil {
		return nil, explain(c, reqs, target)
	}
	return describe(c, reqs, target, s.best.modules), nil
}

// A search keeps the best healthy set found so far.
type search struct {
	catalog *catalog.Catalog
	target  string
	best    *state
}

// A state is a set under construction. Sets only grow, and every healthy set
// holds a provider of each need, so no healthy set is missed.
type state struct {
	modules []*catalog.Module
	needs   []need // in the order in which they came up
	weight  int
}

// A need is what is asked for and who asked: a module, or a requirement.
type need struct {
	any         catalog.Clause
	by          *catalog.Module
	requirement *catalog.Requirement
}

func newState(reqs []catalog.Requirement) *state {
	s := &state{}
	for i := range reqs {
		s.needs = append(s.needs, need{any: reqs[i].Any, requirement: &reqs[i]})
	}
	return s
}

// unmet returns the first need without a provider in the set.
func (s *state) unmet() (need, bool) {
	for _, n := range s.needs {
		if !slices.ContainsFunc(s.modules, n.any.MetBy) {
			return n, true
		}
	}
	return need{}, false
}

// with returns the set with m in it.
func (s *state) with(m *catalog.Module) *state {
	t := &state{
		modules: append(slices.Clip(s.modules), m),
		needs:   slices.Clip(s.needs),
		weight:  s.weight + m.Surface,
	}
	for _, c := range m.Requires {
		t.needs = append(t.needs, need{any: c, by: m})
	}
	return t
}

// rival returns a module of the set that excludes m.
func (s *state) rival(m *catalog.Module) *catalog.Module {
	i := slices.IndexFunc(s.modules, m.ConflictsWith)
	if i < 0 {
		return nil
	}
	return s.modules[i]
}

func (s *search) extend(st *state) {
	if s.best != nil && worse(st, s.best) {
		return
	}
	n, ok := st.unmet()
	if !ok {
		s.best = st
		return
	}
	for _, m := range candidates(s.catalog, n.any, s.target) {
		if st.rival(m) == nil {
			s.extend(st.with(m))
		}
	}
}

// candidates returns the providers that fit the target, light ones first.
func candidates(c *catalog.Catalog, any catalog.Clause, target string) []*catalog.Module {
	var fit []*catalog.Module
	for _, capability := range any {
		for _, m := range c.Providers(capability) {
			if m.Fits(target) && !slices.Contains(fit, m) {
				fit = append(fit, m)
			}
		}
	}
	slices.SortStableFunc(fit, func(a, b *catalog.Module) int { return cmp.Compare(a.Surface, b.Surface) })
	return fit
}

// worse reports that neither a nor what can grow from it comes before b: weights
// and counts only rise, and ids decide between complete sets.
func worse(a, b *state) bool {
	if c := cmp.Or(cmp.Compare(a.weight, b.weight), cmp.Compare(len(a.modules), len(b.modules))); c != 0 {
		return c > 0
	}
	return slices.Compare(ids(a.modules), ids(b.modules)) >= 0
}

func ids(modules []*catalog.Module) []string {
	var list []string
	for _, m := range modules {
		list = append(list, m.ID)
	}
	slices.Sort(list)
	return list
}

// describe turns a healthy set into a Selection.
func describe(c *catalog.Catalog, reqs []catalog.Requirement, target string, modules []*catalog.Module) *Selection {
	sel := &Selection{Target: target, Modules: slices.Clone(modules), Because: map[string][]Reason{}}
	slices.SortFunc(sel.Modules, catalog.Chain)
	for _, m := range sel.Modules {
		for i := range reqs {
			if reqs[i].Any.MetBy(m) {
				sel.Because[m.ID] = append(sel.Because[m.ID], Reason{Any: reqs[i].Any, Requirement: &reqs[i]})
			}
		}
		for _, by := range sel.Modules {
			for _, any := range by.Requires {
				if by != m && any.MetBy(m) {
					sel.Because[m.ID] = append(sel.Because[m.ID], Reason{Any: any, Module: by.ID})
				}
			}
		}
	}
	for _, m := range c.Modules {
		if !slices.Contains(sel.Modules, m) {
			sel.LeftOut = append(sel.LeftOut, m)
		}
	}
	return sel
}
