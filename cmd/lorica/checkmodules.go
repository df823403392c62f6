package main

import (
	"errors"

	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/policy"
)

// settled reports manifests of modules of the user's own, in folders that workloads name,
// that are none, and settings that they do not take. What is in the module cache, plan
// looks at.
func settled(b *policy.Bundle) error {
	var all policy.Errors
	for _, d := range b.Deployments {
		for _, named := range d.Workload.Modules {
			if named.Path == "" || d.Workload.Dir == "" {
				continue
			}
			m, err := builder.Manifest(named)
			if err == nil {
				_, err = m.Settings(named.Pos, named.Settings)
			}
			var source *builder.SourceError
			var manifest *catalog.Error
			switch {
			case errors.As(err, &source):
				all = append(all, &policy.Error{Pos: source.Pos, Message: source.Message, Text: b.Line(source.Pos)})
			case errors.As(err, &manifest):
				all = append(all, &policy.Error{Pos: manifest.Pos, Message: manifest.Message, Text: b.Line(manifest.Pos)})
			case err != nil:
				return err
			}
		}
	}
	if len(all) > 0 {
		return all
	}
	return nil
}

// withOwn adds the modules in folders that a workload names to a catalog, with what the
// workload requires of them. whole is false where it names others, or where the policy
// requires some: those in the module cache and in the user's configuration are plan's to
// look at.
func withOwn(c *catalog.Catalog, d *policy.Deployment) (with *catalog.Catalog, required []catalog.Requirement, whole bool) {
	whole = true
	for _, named := range d.Workload.Modules {
		m, err := builder.Manifest(named)
		if named.Path == "" || err != nil { // settled reports it
			whole = false
			continue
		}
		more, err := c.With(m)
		if err != nil {
			whole = false
			continue
		}
		c = more
		if !named.Optional {
			required = append(required, catalog.Requirement{Any: catalog.Clause{m.ID}, Why: "the workload " + d.Workload.Metadata.Name + " names it", Pos: named.Pos})
		}
	}
	if p := d.Policy.Modules; p != nil {
		for _, x := range p.Require {
			whole = whole && (!catalog.OwnName(x.Name) || len(c.Providers(x.Name)) > 0)
		}
	}
	for _, m := range c.Modules {
		for _, r := range m.Requires {
			whole = whole && (!m.Own() || len(c.Meeting(r)) > 0)
		}
	}
	return c, required, whole
}
