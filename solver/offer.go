package solver

import (
	"fmt"
	"strings"

	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/solver/repo"
)

// An Offer is what a catalog has for images of one target, as a repository: a module is a
// package, and labels of facts are places in its manifest. It does not change and is safe
// for concurrent use.
type Offer struct {
	Catalog *catalog.Catalog
	Target  string
	Modules []*catalog.Module // by package
	Repo    *repo.Repo
	number  map[*catalog.Module]repo.Package
}

// maxPairs bounds the pairs of modules of which one requires or excludes the other.
const maxPairs = 4_000_000

// NewOffer returns what a catalog has for a target. Its error says that the modules have
// more to do with each other than is looked at.
func NewOffer(c *catalog.Catalog, target string) (*Offer, error) {
	if n := c.Pairs(); n > maxPairs {
		return nil, fmt.Errorf("modules require and exclude each other in %d pairs, more than %d pairs that are looked at: let capabilities be of fewer modules", n, maxPairs)
	}
	o := &Offer{Catalog: c, Target: target, number: make(map[*catalog.Module]repo.Package, len(c.Modules))}
	var b repo.Builder
	for i, m := range c.Modules {
		if m.Fits(target) {
			o.number[m] = b.Add(m.ID, -i) // newer versions stand first
			o.Modules = append(o.Modules, m)
		}
	}
	for i, m := range o.Modules {
		for label, clause := range m.Requires {
			b.Depend(repo.Package(i), label, o.Meeting(clause)...)
		}
		for label, word := range m.Conflicts {
			for _, q := range o.Meeting(catalog.Clause{word}) {
				if q != repo.Package(i) {
					b.Conflict(repo.Package(i), q, label)
				}
			}
		}
	}
	o.Repo = b.Repo()
	return o, nil
}

// Meeting returns the packages that meet a clause.
func (o *Offer) Meeting(any catalog.Clause) []repo.Package {
	var list []repo.Package
	for _, m := range o.Catalog.Meeting(any) {
		if p, ok := o.number[m]; ok {
			list = append(list, p)
		}
	}
	return list
}

// Sentence tells a fact about the catalog. Wishes are the caller's to tell.
func (o *Offer) Sentence(f repo.Fact) string {
	m := o.Modules[f.Package]
	switch f.Kind {
	case repo.Needs:
		return o.Catalog.Name(m) + " requires " + o.asked(m.Requires[f.Label], f.Any)
	case repo.Excludes:
		other := o.Modules[f.Other]
		text := o.Catalog.Name(m) + " conflicts with " + o.Catalog.Name(other)
		if name := m.Conflicts[f.Label]; name != other.ID {
			text += ", which provides " + name
		}
		return text
	}
	any := f.Any
	if f.Other != repo.None {
		any = []repo.Package{f.Package, f.Other}
	}
	return and(o.names(any)) + " are versions of one module: an image has one of them"
}

// asked is a clause and what there is in the catalog to meet it: for this target, where
// there is more for others.
func (o *Offer) asked(any catalog.Clause, by []repo.Package) string {
	text := strings.Join(any, " or ")
	if len(any) == 0 {
		return "one of nothing, which cannot be met"
	}
	here := o.names(by)
	var elsewhere []string
	for _, m := range o.Catalog.Meeting(any) {
		if !m.Fits(o.Target) {
			elsewhere = append(elsewhere, o.Catalog.Name(m))
		}
	}
	target := ""
	if len(elsewhere) > 0 {
		target = " for " + o.Target
	}
	switch {
	case len(here) == 1 && len(any) == 1 && any[0] == here[0]:
		return text
	case len(here) == 1:
		return text + ", which only " + here[0] + " provides" + target
	case len(here) > 1:
		return text + ", which only " + and(here) + " provide" + target
	case len(elsewhere) == 0:
		return text + ", which no module provides"
	}
	return text + ", which no module provides" + target + " (" + and(elsewhere) + ": not available there)"
}

func (o *Offer) list(packages []repo.Package) []*catalog.Module {
	var modules []*catalog.Module
	for _, q := range packages {
		modules = append(modules, o.Modules[q])
	}
	return modules
}

func (o *Offer) names(packages []repo.Package) []string {
	var list []string
	for _, m := range o.list(packages) {
		list = append(list, o.Catalog.Name(m))
	}
	return list
}

// and joins a list in words. A long one is cut.
func and(list []string) string {
	const most = 6
	if n := len(list) - most; n > 0 {
		list = append(list[:most:most], fmt.Sprintf("%d others", n))
	}
	if len(list) < 2 {
		return strings.Join(list, "")
	}
	return strings.Join(list[:len(list)-1], ", ") + " and " + list[len(list)-1]
}
