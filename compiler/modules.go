package compiler

import (
	"fmt"
	"slices"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/policy"
)

// demanded returns what spec.modules requires by name.
func demanded(p *api.SecurityPolicy) (list []catalog.Requirement) {
	if p.Modules == nil {
		return nil
	}
	for _, x := range p.Modules.Require {
		list = append(list, catalog.Requirement{Any: catalog.Clause{x.Name}, Why: "modules.require names it", Pos: x.Pos})
	}
	return list
}

// steer adds what spec.modules forbids and bounds.
func (l *Level) steer(p *api.SecurityPolicy) {
	if p.Modules == nil {
		return
	}
	for _, x := range p.Modules.Forbid {
		l.Prohibitions = append(l.Prohibitions, catalog.Requirement{Any: catalog.Clause{x.Name}, Why: "modules.forbid names it", Pos: x.Pos})
	}
	l.MaxSurface, l.MaxSurfacePos = p.Modules.MaxAttackSurface, p.Modules.MaxAttackSurfacePos
}

// Known returns an error for each name of spec.modules that is neither a module of the
// catalog nor what one provides. Of names of users' modules the catalog need not know all.
func Known(c *catalog.Catalog, p *api.SecurityPolicy) (errs policy.Errors) {
	if p.Modules == nil {
		return nil
	}
	var known []string
	for _, m := range c.Modules {
		known = append(append(known, m.ID), m.Provides...)
	}
	slices.Sort(known)
	known = slices.Compact(known)
	for _, list := range [][]api.ModuleName{p.Modules.Require, p.Modules.Forbid} {
		for _, x := range list {
			if _, ok := slices.BinarySearch(known, x.Name); !ok && !catalog.OwnName(x.Name) {
				errs = append(errs, &policy.Error{Pos: x.Pos, Message: fmt.Sprintf("spec.modules: there is no module and no capability %q", x.Name), Fix: policy.DidYouMean(x.Name, known)})
			}
		}
	}
	return errs
}

// Configured returns what is wrong with a set of modules that spec.modules has had a part
// in: one that takes a section of the program, which nothing in the policy asks for, would
// not start.
func (l *Level) Configured(p *api.SecurityPolicy, modules []*catalog.Module) (errs policy.Errors) {
	var brought policy.Errors // by what is named
	for _, m := range modules {
		if m.Section == "" || m.Own() || l.takes(m.Section) || p.Modules == nil {
			continue
		}
		e := &policy.Error{Pos: p.Modules.Pos, Message: fmt.Sprintf("spec.modules brings in %s, and at level %s nothing in the policy says what it is to enforce", m.ID, l.Name),
			Fix: "write the section of the policy that it enforces, or take out what brings it"}
		named := slices.IndexFunc(p.Modules.Require, func(x api.ModuleName) bool { return m.Offers(x.Name) })
		if named < 0 {
			brought = append(brought, e)
			continue
		}
		e.Pos = p.Modules.Require[named].Pos
		errs = append(errs, e)
	}
	if len(errs) == 0 {
		return brought
	}
	return errs
}
