// Package check looks for what is wrong with a catalog as a whole: modules that no image
// can hold and why, requirements that nothing provides, capabilities that nothing asks
// for, cycles; and for what holds in every image without being written: modules that
// always come together (strong dependencies) and that never can (strong conflicts).
package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/solver"
	"lorica.dev/lorica/solver/repo"
)

// A Severity is how bad a finding is.
type Severity string

const (
	Wrong   Severity = "error"   // somebody who wants it will not get it
	Warning Severity = "warning" // hardly meant
	Note    Severity = "note"
)

// A Kind says what a finding is about.
type Kind string

const (
	Never      Kind = "never"      // in no image, of any target that it says it is available for
	Nowhere    Kind = "target"     // in no image of one of those targets
	Unprovided Kind = "unprovided" // a requirement that nothing provides
	Unknown    Kind = "unknown"    // a word that nothing is called
	Unused     Kind = "unused"     // a capability that nothing asks for
	Cycle      Kind = "cycle"      // modules that require each other
	Slot       Kind = "slot"       // modules for one place in an image, which do not exclude each other
	Undecided  Kind = "undecided"  // the budget ended first
)

// A Finding is one thing that is wrong, or worth a look.
type Finding struct {
	Severity Severity `json:"severity"`
	Kind     Kind     `json:"kind"`
	Module   string   `json:"module"` // id, and version where there are several
	File     string   `json:"file,omitempty"`
	Message  string   `json:"message"`
	Because  []string `json:"because,omitempty"` // facts that together leave no way out
}

// Strong is what every image of a target with a module holds besides it.
type Strong struct {
	Module string   `json:"module"`
	Target string   `json:"target"`
	On     []string `json:"on"`
	// Implied are those of them that no chain of requirements leads to: they follow from
	// what excludes what.
	Implied []string `json:"implied,omitempty"`
}

// A Pair is two modules that an image of a target can hold, and never together.
type Pair struct {
	Target  string `json:"target"`
	A       string `json:"a"`
	B       string `json:"b"`
	Written bool   `json:"written"` // one of the two says so itself
}

// A Report is what was found.
type Report struct {
	Modules   int       `json:"modules"`
	Findings  []Finding `json:"findings"` // errors first, then by module
	Strong    []Strong  `json:"strongDependencies"`
	Conflicts []Pair    `json:"strongConflicts"`
	// NotLooked is why there are no strong dependencies and conflicts; empty if they were
	// looked for.
	NotLooked string `json:"notLooked,omitempty"`
	// Undecided are the targets of which the budget ended before their strong conflicts
	// were all decided: none of them is told.
	Undecided []string `json:"undecided,omitempty"`
}

// Count is how many findings have a severity.
func (r *Report) Count(s Severity) int {
	n := 0
	for _, f := range r.Findings {
		if f.Severity == s {
			n++
		}
	}
	return n
}

// Open reports whether the budget ended before everything was decided.
func (r *Report) Open() bool {
	return len(r.Undecided) > 0 || slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Kind == Undecided })
}

// Bounds of what is looked at and said.
const (
	maxStrong    = 2_000 // modules for which strong dependencies and conflicts are looked for
	maxSlot      = 1_000 // modules of one class that are compared
	maxExplained = 100   // modules of which it is said why they are in no image
)

// Check looks at a catalog. Capabilities are asked for by its modules and, in asked, by
// policies and workloads. The budget is a number of conflicts for each kind of question to
// the solver about a target. Its error is the context's, or says that the catalog is too large.
func Check(ctx context.Context, c *catalog.Catalog, asked []string, budget int) (*Report, error) {
	k := &checker{catalog: c, asked: map[string]bool{}, unprovided: map[*catalog.Module]bool{}, budget: budget}
	for _, target := range api.Targets() {
		o, err := solver.NewOffer(c, target)
		if err != nil {
			return nil, err
		}
		k.offers = append(k.offers, o)
	}
	for _, a := range asked {
		k.asked[a] = true
	}
	k.report.Modules = len(c.Modules)
	k.report.Findings, k.report.Strong, k.report.Conflicts = []Finding{}, []Strong{}, []Pair{}
	k.words()
	k.cycles()
	k.slots()
	if err := k.targets(ctx); err != nil {
		return nil, err
	}
	rank := []Severity{Wrong, Warning, Note}
	slices.SortStableFunc(k.report.Findings, func(a, b Finding) int {
		return cmp.Or(slices.Index(rank, a.Severity)-slices.Index(rank, b.Severity), strings.Compare(a.Module, b.Module),
			strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Message, b.Message))
	})
	return &k.report, nil
}

type checker struct {
	catalog   *catalog.Catalog
	offers    []*solver.Offer // of each target
	asked     map[string]bool
	budget    int
	report    Report
	explained int
	// unprovided are modules of which it is said already that no image holds them.
	unprovided map[*catalog.Module]bool
}

func (k *checker) add(s Severity, kind Kind, m *catalog.Module, because []string, format string, args ...any) {
	k.report.Findings = append(k.report.Findings, Finding{s, kind, k.catalog.Name(m), m.File, fmt.Sprintf(format, args...), because})
}

// words looks at what manifests name: capabilities, modules and targets.
func (k *checker) words() {
	used := map[string]bool{}
	for _, m := range k.catalog.Modules {
		for _, clause := range m.Requires {
			for _, word := range clause {
				used[word] = true
			}
		}
		for _, word := range m.Conflicts {
			used[word] = true
		}
		for _, s := range m.Syscalls {
			used[s.With] = true
		}
	}
	for _, m := range k.catalog.Modules {
		for _, clause := range m.Requires {
			if len(k.catalog.Meeting(clause)) == 0 {
				k.add(Wrong, Unprovided, m, nil, "requires %s, which no module provides, so it is in no image", clause)
				k.unprovided[m] = true
				continue
			}
			for _, word := range clause {
				if len(k.catalog.Providers(word)) == 0 {
					k.add(Warning, Unknown, m, nil, "requires %s: no module provides %s", clause, word)
				}
			}
		}
		for _, word := range m.Conflicts {
			if len(k.catalog.Providers(word)) == 0 {
				k.add(Warning, Unknown, m, nil, "conflicts with %s, which no module is called or provides", word)
			}
		}
		for _, s := range m.Syscalls {
			if s.With != "" && len(k.catalog.Providers(s.With)) == 0 {
				k.add(Warning, Unknown, m, nil, "needs %s with %s, which no module provides", s.Name, s.With)
			}
		}
		for _, target := range m.Targets {
			if !slices.Contains(api.Targets(), target) {
				k.add(Warning, Unknown, m, nil, "is available for %s: images are made for %s", target, strings.Join(api.Targets(), " and "))
			}
		}
		wanted := func(w string) bool { return used[w] || k.asked[w] }
		if !wanted(m.ID) && !slices.ContainsFunc(m.Provides, wanted) {
			k.add(Note, Unused, m, nil, "is in images only by its name: no module requires what it provides, and no policy or workload asks for it")
			continue
		}
		for _, word := range m.Provides {
			if !wanted(word) {
				k.add(Note, Unused, m, nil, "provides %s, which no module requires and no policy or workload asks for", word)
			}
		}
	}
}

// slots compares modules of the classes that have one place in an image.
func (k *checker) slots() {
	of := map[catalog.Class][]*catalog.Module{}
	for _, m := range k.catalog.Modules {
		if m.Class.Single() && len(of[m.Class]) < maxSlot {
			of[m.Class] = append(of[m.Class], m)
		}
	}
	for _, list := range of {
		for i, m := range list {
			var with []string
			for _, o := range list[:i] {
				if !m.ConflictsWith(o) && slices.ContainsFunc(api.Targets(), func(t string) bool { return m.Fits(t) && o.Fits(t) }) {
					with = append(with, k.catalog.Name(o))
				}
			}
			if len(with) > 0 {
				k.add(Wrong, Slot, m, nil, "an image has one module of class %s, and it does not exclude %s: let them provide one capability and conflict with it", m.Class, strings.Join(with[:min(len(with), 5)], ", "))
			}
		}
	}
}

// targets asks, for each target, which modules its images can hold.
func (k *checker) targets(ctx context.Context) error {
	broken := map[*catalog.Module][]string{} // targets
	why := map[*catalog.Module][]string{}
	if len(k.catalog.Modules) > maxStrong {
		k.report.NotLooked = fmt.Sprintf("strong dependencies and conflicts are looked for among at most %d modules", maxStrong)
	}
	for _, o := range k.offers {
		target := o.Target
		found, err := o.Repo.Check(ctx, repo.CheckOptions{Budget: k.budget})
		if err != nil {
			return err
		}
		for _, p := range found.Undecided {
			k.add(Warning, Undecided, o.Modules[p], nil, "whether an image for %s can hold it was not decided within %d conflicts: raise --budget", target, k.budget)
		}
		for _, p := range found.Broken {
			m := o.Modules[p]
			broken[m] = append(broken[m], target)
			if why[m] != nil || k.unprovided[m] || k.explained == maxExplained {
				continue
			}
			k.explained++
			if why[m], err = k.explain(ctx, o, p); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if k.report.NotLooked == "" {
			if err := k.strong(ctx, o); err != nil {
				return err
			}
		}
	}
	for _, m := range k.catalog.Modules {
		in := broken[m]
		available := 0
		for _, target := range api.Targets() {
			if m.Fits(target) {
				available++
			}
		}
		switch {
		case k.unprovided[m]:
		case available == 0:
			k.add(Wrong, Never, m, nil, "is in no image: it is available for no target that there is")
		case len(in) == available:
			k.add(Wrong, Never, m, why[m], "is in no image")
		case len(in) > 0:
			k.add(Warning, Nowhere, m, why[m], "is in no image for %s, and does not say so: write what it is available for", strings.Join(in, " or "))
		}
	}
	return nil
}

// strong finds what always and what never comes together.
func (k *checker) strong(ctx context.Context, o *solver.Offer) error {
	a := o.Repo.Analyse(nil, k.budget)
	for p := range o.Modules {
		on, err := a.StrongDependencies(ctx, repo.Package(p))
		if errors.Is(err, repo.ErrBudget) {
			k.add(Warning, Undecided, o.Modules[p], nil, "what is in every image for %s that holds it was not decided within %d conflicts: raise --budget", o.Target, k.budget)
			continue
		}
		if err != nil {
			return err
		}
		if len(on) == 0 {
			continue
		}
		s := Strong{Module: k.catalog.Name(o.Modules[p]), Target: o.Target}
		for _, q := range on {
			s.On = append(s.On, k.catalog.Name(o.Modules[q]))
		}
		slices.Sort(s.On)
		led := led(o, o.Modules[p])
		for _, q := range on {
			if !led[o.Modules[q]] {
				s.Implied = append(s.Implied, k.catalog.Name(o.Modules[q]))
			}
		}
		slices.Sort(s.Implied)
		k.report.Strong = append(k.report.Strong, s)
	}
	pairs, err := a.StrongConflicts(ctx)
	if errors.Is(err, repo.ErrBudget) {
		k.report.Undecided = append(k.report.Undecided, o.Target)
		return nil
	}
	if err != nil {
		return err
	}
	for _, pair := range pairs {
		x, y := o.Modules[pair[0]], o.Modules[pair[1]]
		if x.ID != y.ID {
			k.report.Conflicts = append(k.report.Conflicts, Pair{o.Target, k.catalog.Name(x), k.catalog.Name(y), x.ConflictsWith(y)})
		}
	}
	return nil
}
