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
		list = append(list, catalog.Requirement{Any: catalog.Clause{x.Name}, Why: "the policy requires " + x.Name, Pos: x.Pos})
	}
	return list
}

// steer adds what spec.modules forbids and bounds.
func (l *Level) steer(p *api.SecurityPolicy) {
	if p.Modules == nil {
		return
	}
	for _, x := range p.Modules.Forbid {
		l.Prohibitions = append(l.Prohibitions, catalog.Requirement{Any: catalog.Clause{x.Name}, Why: "the policy forbids " + x.Name, Pos: x.Pos})
	}
	l.MaxSurface, l.MaxSurfacePos = p.Modules.MaxAttackSurface, p.Modules.MaxAttackSurfacePos
}

// Known returns an error for each name of spec.modules that is neither a module of the
// catalog nor what one provides.
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
			if _, ok := slices.BinarySearch(known, x.Name); !ok {
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
	for _, m := range modules {
		if m.Section == "" || l.takes(m.Section) {
			continue
		}
		at, name := p.Metadata.Pos, m.ID
		if p.Modules != nil {
			at = p.Modules.Pos
			for _, x := range p.Modules.Require {
				if m.Offers(x.Name) {
					at, name = x.Pos, x.Name
				}
			}
		}
		errs = append(errs, &policy.Error{Pos: at, Message: fmt.Sprintf("spec.modules requires %s, and at level %s nothing in the policy says what %s is to enforce", name, l.Name, m.ID),
			Fix: "write the section of the policy that it enforces, or take it out of modules.require"})
	}
	return errs
}
