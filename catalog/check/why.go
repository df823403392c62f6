package check

import (
	"context"
	"errors"
	"fmt"

	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/solver"
	"lorica.dev/lorica/solver/repo"
)

// led returns the modules that requirements lead to which only one module meets.
func led(o *solver.Offer, m *catalog.Module) map[*catalog.Module]bool {
	seen := map[*catalog.Module]bool{}
	for queue := []*catalog.Module{m}; len(queue) > 0; {
		requires := queue[len(queue)-1].Requires
		queue = queue[:len(queue)-1]
		for _, clause := range requires {
			if by := o.Meeting(clause); len(by) == 1 && !seen[o.Modules[by[0]]] {
				seen[o.Modules[by[0]]] = true
				queue = append(queue, o.Modules[by[0]])
			}
		}
	}
	return seen
}

// explain says why no image holds a module.
func (k *checker) explain(ctx context.Context, o *solver.Offer, p repo.Package) ([]string, error) {
	e, err := o.Repo.Explain(ctx, repo.Request{Roots: []repo.Root{{Any: []repo.Package{p}}}, Budget: k.budget})
	if errors.Is(err, repo.ErrBudget) || err == nil && e == nil {
		return []string{fmt.Sprintf("why was not found within %d conflicts: raise --budget", k.budget)}, nil
	}
	if err != nil {
		return nil, err
	}
	var list []string
	for _, f := range e.Facts {
		if f.Kind != repo.Wanted { // it is what is asked
			list = append(list, o.Sentence(f))
		}
	}
	return list, nil
}
