package solver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/solver/repo"
)

// An Unsatisfiable says why no healthy set exists.
type Unsatisfiable struct {
	Target       string
	Requirements []catalog.Requirement // that contradict each other and the catalog
	Prohibitions []catalog.Requirement
	Story        []string // why, from a line of the policy down, one fact after the other
	// Minimal says that without any one of the facts there would be no contradiction.
	// Without it the budget ended.
	Minimal bool
	Repairs []Repair // the nearest ones
}

// A Repair is what would have to be otherwise for there to be a set: all of it.
type Repair struct {
	Requirements []catalog.Requirement // to be taken back
	Prohibitions []catalog.Requirement
	MaxSurface   int // what the limit would have to be; 0: it may stay as it is
}

// LimitOnly reports whether nothing but the limit would have to be otherwise.
func (r Repair) LimitOnly() bool { return len(r.Requirements)+len(r.Prohibitions) == 0 }

// Error tells the story and the repairs, one to a line.
func (u *Unsatisfiable) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "no module set for target %s meets the policy:", u.Target)
	for _, line := range u.Story {
		b.WriteString("\n  " + line)
	}
	if !u.Minimal {
		b.WriteString("\n  (not all of this may be needed: the budget ended)")
	}
	for i, r := range u.Repairs {
		if i == 0 {
			b.WriteString("\nthere is a set ")
		} else {
			b.WriteString(", or ")
		}
		b.WriteString(r.String())
	}
	return b.String()
}

// String is what to do: "without policy.yaml:3 (...)".
func (r Repair) String() string {
	limit := fmt.Sprintf("with a limit of %d points", r.MaxSurface)
	if r.LimitOnly() {
		return limit
	}
	var list []string
	for _, n := range r.Requirements {
		list = append(list, source(n))
	}
	for _, n := range r.Prohibitions {
		list = append(list, "the prohibition of "+source(n))
	}
	text := "without " + and(list)
	if r.MaxSurface > 0 {
		text += " and " + limit
	}
	return text
}

// source is where a requirement stands and what it is.
func source(n catalog.Requirement) string {
	switch {
	case n.Pos.Line == 0 && n.Why == "":
		return "what asks for " + n.Any.String()
	case n.Pos.Line == 0:
		return n.Why
	case n.Why == "":
		return n.Pos.Short()
	}
	return n.Pos.Short() + " (" + n.Why + ")"
}

// explain returns an *Unsatisfiable, or why there is none.
func (p *problem) explain(ctx context.Context) error {
	e, err := p.Repo.Explain(ctx, p.request)
	if errors.Is(err, repo.ErrBudget) {
		return &Undecided{Request: p.in, Budget: p.request.Budget}
	}
	if err != nil {
		return err
	}
	u := &Unsatisfiable{Target: p.in.Target, Story: p.tell(e.Facts), Minimal: e.Minimal}
	u.Requirements, u.Prohibitions = p.wishes(e.Facts)
	var open []string
	for _, facts := range e.Repairs {
		r := Repair{}
		r.Requirements, r.Prohibitions = p.wishes(facts)
		if limit := p.in.MaxSurface; limit > 0 {
			surface, _, err := p.without(ctx, facts, len(e.Repairs))
			if errors.Is(err, repo.ErrBudget) {
				open = append(open, r.String())
			}
			if err != nil {
				continue
			}
			if surface > limit {
				r.MaxSurface = surface
			}
		}
		u.Repairs = append(u.Repairs, r)
	}
	u.Story = append(u.Story, p.leftOpen(open, len(e.Repairs))...)
	slices.SortStableFunc(u.Repairs, func(a, b Repair) int { return a.MaxSurface - b.MaxSurface })
	return cmp.Or(ctx.Err(), error(u))
}

// maxOpen is how many repairs are named of which too little is known.
const maxOpen = 3

// leftOpen says of which repairs it is not known whether they help; so many questions
// shared the budget.
func (p *problem) leftOpen(repairs []string, share int) []string {
	if len(repairs) == 0 {
		return nil
	}
	if more := len(repairs) - maxOpen; more > 1 {
		repairs = append(repairs[:maxOpen:maxOpen], fmt.Sprintf("without one of %d others", more))
	}
	return []string{fmt.Sprintf("whether there is a set within the limit %s was not found within %d conflicts of the search", strings.Join(repairs, ", or "), p.share(share))}
}

func (p *problem) share(of int) int { return max(1, p.request.Budget/of) }

// without returns the least attack surface of a set that is found when some of the wishes
// are taken back, and what none has less than; so many questions share a budget.
func (p *problem) without(ctx context.Context, wishes []repo.Fact, share int) (surface, bound int, err error) {
	q := p.request
	back := func(kind repo.Kind, label int) bool {
		return slices.ContainsFunc(wishes, func(f repo.Fact) bool { return f.Kind == kind && f.Label == label })
	}
	q.Roots = slices.DeleteFunc(slices.Clone(q.Roots), func(r repo.Root) bool { return back(repo.Wanted, r.Label) })
	q.Bans = slices.DeleteFunc(slices.Clone(q.Bans), func(b repo.Ban) bool { return back(repo.Banned, b.Label) })
	q.Budget = p.share(share)
	set, err := p.Repo.Install(ctx, q)
	if err != nil {
		return 0, 0, err
	}
	return int(set.Cost[0]), int(set.Bound[0]), nil
}

// wishes returns the requirements and prohibitions among facts, each once.
func (p *problem) wishes(facts []repo.Fact) (required, forbidden []catalog.Requirement) {
	said := map[[2]int]bool{}
	for _, f := range facts {
		key := [2]int{int(f.Kind), f.Label}
		if said[key] {
			continue
		}
		said[key] = true
		switch f.Kind {
		case repo.Wanted:
			required = append(required, p.in.Requirements[f.Label])
		case repo.Banned:
			forbidden = append(forbidden, p.in.Prohibitions[f.Label])
		}
	}
	return required, forbidden
}

// tooLarge explains that every set has more attack surface than is allowed. A repair
// is a requirement without which the rest has a set within the limit.
func (p *problem) tooLarge(ctx context.Context, best *repo.Set) error {
	least := fmt.Sprintf("no set that does has less than %d points", best.Bound[0])
	u := &Unsatisfiable{Target: p.in.Target, Requirements: p.in.Requirements, Prohibitions: p.in.Prohibitions, Minimal: true}
	u.Story = append(u.Story, fmt.Sprintf("%s allows %d points of attack surface, and %s", p.in.MaxSurfacePos.Short(), p.in.MaxSurface, least))
	modules := p.list(best.Packages)
	slices.SortFunc(modules, func(a, b *catalog.Module) int {
		if a.Surface != b.Surface {
			return b.Surface - a.Surface
		}
		return catalog.Chain(a, b)
	})
	var parts []string
	for _, m := range modules {
		parts = append(parts, fmt.Sprintf("%s (%d)", p.Catalog.Name(m), m.Surface))
	}
	u.Story = append(u.Story, fmt.Sprintf("the smallest one that was found has %d: %s", best.Cost[0], and(parts)))
	u.Repairs = []Repair{{MaxSurface: int(best.Cost[0])}}
	var open []string
	share := len(p.in.Requirements) + len(p.in.Prohibitions)
	try := func(kind repo.Kind, label int, r Repair) {
		surface, bound, err := p.without(ctx, []repo.Fact{{Kind: kind, Label: label}}, share)
		switch limit := p.in.MaxSurface; {
		case err == nil && surface <= limit:
			u.Repairs = append(u.Repairs, r)
		case errors.Is(err, repo.ErrBudget) || err == nil && bound <= limit:
			open = append(open, r.String())
		}
	}
	for i, n := range p.in.Requirements {
		try(repo.Wanted, i, Repair{Requirements: []catalog.Requirement{n}})
	}
	for i, n := range p.in.Prohibitions {
		try(repo.Banned, i, Repair{Prohibitions: []catalog.Requirement{n}})
	}
	u.Story = append(u.Story, p.leftOpen(open, share)...)
	return cmp.Or(ctx.Err(), error(u))
}

// tell turns facts into sentences, one for each.
func (p *problem) tell(facts []repo.Fact) []string {
	var story []string
	for _, f := range facts {
		story = append(story, p.sentence(f))
	}
	return story
}

func (p *problem) sentence(f repo.Fact) string {
	switch f.Kind {
	case repo.Wanted:
		n := p.in.Requirements[f.Label]
		return source(n) + " asks for " + p.asked(n.Any, f.Any)
	case repo.Banned:
		n, m := p.in.Prohibitions[f.Label], p.Modules[f.Package]
		text := source(n) + " forbids " + p.Catalog.Name(m)
		if !slices.Contains(n.Any, m.ID) {
			text += ", which provides " + and(slices.DeleteFunc(slices.Clone(n.Any), func(c string) bool { return !m.Offers(c) }))
		}
		return text
	}
	return p.Sentence(f)
}
