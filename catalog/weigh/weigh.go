// Package weigh measures how much machine code each module adds to an image, in images
// that are really built: the smallest that holds the module, and the same without it.
package weigh

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/solver"
)

// A Weight is what was measured of one module.
type Weight struct {
	Module   string   `json:"module"`
	Version  string   `json:"version"`
	Bytes    int      `json:"bytes"`
	Code     int      `json:"code"`     // in KiB, rounded up
	Recorded int      `json:"recorded"` // what the manifest says
	Surface  int      `json:"surface"`  // with what was measured
	With     []string `json:"with"`     // the other modules of the image that was built
}

// Tolerance is how far what was measured may be from what is recorded: the twentieth part, and
// never less than 2 KiB. The compiler's releases differ by that, the less within one minor
// version.
func Tolerance(recorded int) int { return max(2, recorded/20) }

// Off reports that the manifest is not what was measured.
func (w *Weight) Off() bool {
	d := w.Code - w.Recorded
	return max(d, -d) > Tolerance(w.Recorded)
}

// A Scale weighs the modules of one catalog.
type Scale struct {
	catalog *catalog.Catalog // every module without a price, so that no recorded number decides what is built
	core    *catalog.Module
	bench   *builder.Bench
	built   map[string]map[string]builder.Function // by module ids
}

// New lays out the source of the modules in a folder, which the caller removes.
func New(ctx context.Context, c *catalog.Catalog, dir string) (*Scale, error) {
	var free []*catalog.Module
	s := &Scale{built: map[string]map[string]builder.Function{}}
	for _, m := range c.Modules {
		copied := *m
		copied.Surface = 0
		free = append(free, &copied)
		if m.Class == catalog.ClassCore {
			s.core = &copied
		}
	}
	if s.core == nil {
		return nil, fmt.Errorf("weigh: no module of class %s, which every image has", catalog.ClassCore)
	}
	var err error
	if s.catalog, err = catalog.New(free...); err != nil {
		return nil, err
	}
	s.bench, err = builder.NewBench(ctx, dir, free)
	return s, err
}

// Toolchain is the Go whose code is measured.
func (s *Scale) Toolchain() string { return s.bench.Toolchain() }

// Weigh measures one module: the code of the smallest image that holds it, beyond that of
// the same image without it and without what cannot be there without it. Modules of the
// machine are linked through others, and have what those bring of their packages. What
// belongs to no package, comparisons of arrays of strings for example, counts for nobody.
func (s *Scale) Weigh(ctx context.Context, id string) (*Weight, error) {
	m := s.catalog.Module(id)
	if m == nil {
		return nil, fmt.Errorf("weigh: there is no module %s", id)
	}
	caller := m
	if m.Class == catalog.ClassMachine {
		var err error
		if caller, err = s.caller(ctx, m); err != nil {
			return nil, err
		}
	}
	with, without, err := s.sets(ctx, caller)
	if err != nil {
		return nil, err
	}
	have, err := s.functions(ctx, with)
	if err != nil {
		return nil, err
	}
	lack, err := s.functions(ctx, without)
	if err != nil {
		return nil, err
	}
	w := &Weight{Module: m.ID, Version: m.Version, Recorded: m.Code}
	owner := s.owners(caller, with)
	for name, f := range have {
		if more := f.Size - lack[name].Size; more > 0 && f.Package != "" && owner(f.Package) == m {
			w.Bytes += more
		}
	}
	w.Code = (w.Bytes + 1023) / 1024
	b := m.Breakdown()
	b.Code = w.Code
	w.Surface = b.Total()
	for _, o := range with {
		if o != m {
			w.With = append(w.With, o.ID)
		}
	}
	return w, nil
}

// owners tells whose the new code of a package is: of the first module of the machine in
// the set, in chain order, that is made of it, else the caller's.
func (s *Scale) owners(caller *catalog.Module, set []*catalog.Module) func(pkg string) *catalog.Module {
	owner := map[string]*catalog.Module{}
	for _, m := range slices.SortedFunc(slices.Values(set), catalog.Chain) {
		if m.Class != catalog.ClassMachine {
			continue
		}
		packages := map[string]bool{}
		s.bench.Packages(m, packages)
		for p := range packages {
			if owner[p] == nil {
				owner[p] = m
			}
		}
	}
	return func(pkg string) *catalog.Module { return cmp.Or(owner[pkg], caller) }
}

// caller returns the module with the smallest image that a module of the machine is in.
func (s *Scale) caller(ctx context.Context, machine *catalog.Module) (*catalog.Module, error) {
	var best *catalog.Module
	least := 0
	for _, m := range s.catalog.Modules {
		if m.Class == catalog.ClassMachine || len(m.Requires) == 0 {
			continue
		}
		with, without, err := s.sets(ctx, m)
		if err != nil || !slices.Contains(with, machine) || slices.Contains(without, machine) {
			continue // what cannot be installed is no caller
		}
		if best == nil || len(with) < least {
			best, least = m, len(with)
		}
	}
	if best == nil {
		return nil, fmt.Errorf("weigh: %s is of class %s, and no module requires it: no image links it", machine.ID, machine.Class)
	}
	return best, nil
}

// sets returns the smallest set that holds m and the core, and what of it could be there
// without m. Of a module of the machine that m requires, nothing is left without m.
func (s *Scale) sets(ctx context.Context, m *catalog.Module) (with, without []*catalog.Module, err error) {
	if m == s.core {
		return []*catalog.Module{m}, nil, nil
	}
	target := api.TargetProcess
	if !m.Fits(target) {
		target = m.Targets[0]
	}
	sel, err := solver.Solve(ctx, s.catalog, solver.Request{Requirements: []catalog.Requirement{{Any: catalog.Clause{m.ID}, Why: "it is weighed"}, {Any: catalog.Clause{s.core.ID}, Why: "every image has it"}}, Target: target})
	if err != nil {
		return nil, nil, fmt.Errorf("weigh: no image holds %s: %w", m.ID, err)
	}
	with = sel.Modules
	without = slices.DeleteFunc(slices.Clone(with), func(o *catalog.Module) bool { return o == m })
	for again := true; again; {
		n := len(without)
		without = slices.DeleteFunc(without, func(o *catalog.Module) bool {
			return o != s.core && (lacks(o, without) || o.Class == catalog.ClassMachine && !required(o, without))
		})
		again = len(without) < n
	}
	return with, without, nil
}

// lacks reports that something m requires is not in a set.
func lacks(m *catalog.Module, set []*catalog.Module) bool {
	return slices.ContainsFunc(m.Requires, func(c catalog.Clause) bool { return !slices.ContainsFunc(set, c.MetBy) })
}

func required(m *catalog.Module, set []*catalog.Module) bool {
	return slices.ContainsFunc(set, func(o *catalog.Module) bool {
		return slices.ContainsFunc(o.Requires, func(c catalog.Clause) bool { return c.MetBy(m) })
	})
}

// functions is the code of the image of a set, built once.
func (s *Scale) functions(ctx context.Context, set []*catalog.Module) (map[string]builder.Function, error) {
	var ids []string
	for _, m := range set {
		ids = append(ids, m.ID)
	}
	slices.Sort(ids)
	key := strings.Join(ids, " ")
	if f := s.built[key]; f != nil {
		return f, nil
	}
	f, err := s.bench.Functions(ctx, set)
	if err != nil {
		return nil, fmt.Errorf("weigh: the image of %s: %w", key, err)
	}
	s.built[key] = f
	return f, nil
}
