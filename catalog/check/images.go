package check

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/solver/repo"
)

// images is the catalog as a repository, of what fits one target.
type images struct {
	catalog *catalog.Catalog
	target  string
	modules []*catalog.Module // by package
	number  map[*catalog.Module]repo.Package
	repo    *repo.Repo
}

// newImages labels dependencies and conflicts with their place in the manifest.
func newImages(c *catalog.Catalog, target string) *images {
	number := make(map[*catalog.Module]repo.Package, len(c.Modules))
	r := &images{catalog: c, target: target, number: number}
	var b repo.Builder
	for i, m := range c.Modules {
		if m.Fits(target) {
			number[m] = b.Add(m.ID, -i) // newer versions stand first
			r.modules = append(r.modules, m)
		}
	}
	var any []repo.Package
	for i, m := range r.modules {
		for label, clause := range m.Requires {
			any = any[:0]
			for _, o := range c.Meeting(clause) {
				if p, ok := number[o]; ok {
					any = append(any, p)
				}
			}
			b.Depend(repo.Package(i), label, any...)
		}
		for label, word := range m.Conflicts {
			for _, o := range c.Providers(word) {
				if p, ok := number[o]; ok && o != m {
					b.Conflict(repo.Package(i), p, label)
				}
			}
		}
	}
	r.repo = b.Repo()
	return r
}

// led returns the packages that requirements lead to which only one module meets.
func (r *images) led(p repo.Package) map[repo.Package]bool {
	seen := map[repo.Package]bool{}
	for queue := []repo.Package{p}; len(queue) > 0; {
		q := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, clause := range r.modules[q].Requires {
			only := repo.None
			for _, o := range r.catalog.Meeting(clause) {
				if n, ok := r.number[o]; ok {
					if only != repo.None {
						only = repo.None
						break
					}
					only = n
				}
			}
			if only != repo.None && !seen[only] {
				seen[only] = true
				queue = append(queue, only)
			}
		}
	}
	return seen
}

// explain says why no image holds a module.
func (k *checker) explain(ctx context.Context, r *images, p repo.Package) ([]string, error) {
	e, err := r.repo.Explain(ctx, repo.Request{Roots: []repo.Root{{Any: []repo.Package{p}}}, Budget: k.budget})
	if errors.Is(err, repo.ErrBudget) || err == nil && e == nil {
		return []string{fmt.Sprintf("why was not found within %d conflicts: raise --budget", k.budget)}, nil
	}
	if err != nil {
		return nil, err
	}
	var list []string
	for _, f := range e.Facts {
		switch f.Kind {
		case repo.Needs:
			list = append(list, k.needs(r, f))
		case repo.Excludes:
			m, o := r.modules[f.Package], r.modules[f.Other]
			text := fmt.Sprintf("%s and %s exclude each other", k.name(m), k.name(o))
			if word := m.Conflicts[f.Label]; word != o.ID {
				text += fmt.Sprintf(": %s conflicts with %s, which %s provides", k.name(m), word, k.name(o))
			}
			list = append(list, text)
		case repo.Versions:
			list = append(list, fmt.Sprintf("an image has one version of %s", r.modules[f.Package].ID))
		}
	}
	return list, nil
}

func (k *checker) needs(r *images, f repo.Fact) string {
	m := r.modules[f.Package]
	clause := m.Requires[f.Label]
	text := fmt.Sprintf("%s requires %s", k.name(m), clause)
	some := func(modules []*catalog.Module) string {
		var list []string
		for i, o := range modules {
			if i == 5 {
				list = append(list, fmt.Sprintf("%d others", len(modules)-i))
				break
			}
			list = append(list, k.name(o))
		}
		return strings.Join(list, ", ")
	}
	if len(f.Any) == 0 {
		elsewhere := k.catalog.Meeting(clause)
		if len(elsewhere) == 0 {
			return text + ", which no module provides"
		}
		return fmt.Sprintf("%s, which no module provides for %s (%s: not available there)", text, r.target, some(elsewhere))
	}
	var have []*catalog.Module
	for _, q := range f.Any {
		have = append(have, r.modules[q])
	}
	if len(have) == 1 && len(clause) == 1 && clause[0] == have[0].ID {
		return text
	}
	only := "provided by "
	if len(have) == 1 {
		only = "provided only by "
	}
	return text + ", " + only + some(have)
}
