package solver

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/solver/repo"
)

// A Why is why a module is in the best set: every set that meets the policy has it, or
// the best one without it is worse.
type Why struct {
	Module *catalog.Module
	// Story is why the module is necessary, from a line of the policy down to it; none
	// where it was chosen.
	Story []string
	// Chain is the story in short where it has one strand: what asks first, and the
	// modules that lead here.
	Chain   []string
	Without *Price // nil where it is necessary, or the budget ended before that was clear
}

// A Price is what the best set without a module costs more.
type Price struct {
	Surface int // points
	Modules int
	Added   []string // that it has instead, by id
	Removed []string
	Over    bool // its surface is above the limit
	Proven  bool // false: there may be a cheaper one
}

// Explain returns for each module of sel, which Solve returned for r, why it is in
// there. Its error is the context's.
func Explain(ctx context.Context, c *catalog.Catalog, r Request, sel *Selection) ([]Why, error) {
	p, err := newProblem(c, &r)
	if err != nil {
		return nil, err
	}
	var list []Why
	for _, m := range sel.Modules {
		q, ok := p.number[m]
		if !ok {
			return nil, fmt.Errorf("solver: %s is in no set for this request", p.Catalog.Name(m))
		}
		w, err := p.Repo.Why(ctx, p.request, q)
		if err != nil {
			return nil, err
		}
		why := Why{Module: m}
		switch {
		case w.Necessary():
			why.Story, why.Chain = p.tell(w.Facts), p.chain(w.Facts)
		case w.Without != nil:
			why.Without = p.price(sel, w.Without)
		}
		list = append(list, why)
	}
	return list, nil
}

// chain follows facts of which each leads to the next by its only provider.
func (p *problem) chain(facts []repo.Fact) []string {
	var chain []string
	at := repo.None
	for i, f := range facts {
		if len(f.Any) != 1 || (f.Kind != repo.Wanted && f.Kind != repo.Needs) || (i == 0) != (f.Kind == repo.Wanted) || i > 0 && f.Package != at {
			return nil
		}
		if i == 0 {
			chain = append(chain, source(p.in.Requirements[f.Label]))
		}
		at = f.Any[0]
		chain = append(chain, p.Catalog.Name(p.Modules[at]))
	}
	return chain
}

func (p *problem) price(sel *Selection, set *repo.Set) *Price {
	price := &Price{Surface: int(set.Cost[0]) - sel.Surface, Modules: len(set.Packages) - len(sel.Modules), Proven: set.Proven}
	price.Over = p.in.MaxSurface > 0 && int(set.Cost[0]) > p.in.MaxSurface
	without := p.list(set.Packages)
	price.Added = p.difference(without, sel.Modules)
	price.Removed = p.difference(sel.Modules, without)
	return price
}

func (p *problem) difference(a, b []*catalog.Module) []string {
	var names []string
	for _, m := range a {
		if !slices.Contains(b, m) {
			names = append(names, p.Catalog.Name(m))
		}
	}
	slices.Sort(names)
	return names
}

// String says it in a line: "necessary: policy.yaml:3 (...) > pep/authz", or "chosen:
// without it 12 points more, with b instead of a".
func (w Why) String() string {
	switch {
	case len(w.Chain) > 0:
		return "necessary: " + strings.Join(w.Chain, " > ")
	case len(w.Story) > 0:
		return "necessary: " + strings.Join(w.Story, "; ")
	case w.Without == nil:
		return "chosen; what it would take to do without was not found within the budget"
	}
	return "chosen: without it " + w.Without.String()
}

func (p *Price) String() string {
	var parts []string
	amount := func(n int, one, many string) {
		if n == 0 {
			return
		}
		word, unit := "more", many
		if n < 0 {
			n, word = -n, "fewer"
		}
		if n == 1 {
			unit = one
		}
		parts = append(parts, fmt.Sprintf("%d %s %s", n, word, unit))
	}
	amount(p.Surface, "point", "points")
	amount(p.Modules, "module", "modules")
	if len(parts) == 0 {
		parts = append(parts, "it costs the same")
	}
	text := strings.Join(parts, ", ")
	if !p.Proven {
		text += " or less"
	}
	if len(p.Added) > 0 {
		text += ", with " + and(p.Added) + " instead of " + and(p.Removed)
	}
	if p.Over {
		text += ", which is above the limit"
	}
	return text
}
