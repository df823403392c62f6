package run

import (
	"context"
	"fmt"
	"slices"

	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/builder"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/catalog/lock"
	"lorica.dev/lorica/policy"
	"lorica.dev/lorica/solver"
	"lorica.dev/lorica/tender/seccomp"
)

// A host is what modules of the user's own may be part of the images of a deployment.
type host struct {
	modules  []*builder.Own
	required []catalog.Requirement
}

// host reads the modules that a workload names, and those of the user's configuration.
// What the workload names itself is not taken from there as well.
func (m *Machine) host(ctx context.Context, d *policy.Deployment) (*host, error) {
	configured, err := policy.ConfigModules(m.paths.Config)
	if err != nil {
		return nil, err
	}
	h := &host{}
	if h.modules, err = m.planner.Own(ctx, d.Workload.Modules); err != nil {
		return nil, err
	}
	more, err := m.planner.Own(ctx, configured)
	if err != nil {
		return nil, err
	}
	for i, o := range h.modules {
		// The two would be versions of one module, of which the image would have either.
		if j := slices.IndexFunc(h.modules, func(x *builder.Own) bool { return x.ID == o.ID }); j < i {
			return nil, &builder.SourceError{Pos: o.Named.Pos, Message: fmt.Sprintf("module %s is %s, and so is %s: name one of them", o.Named.Source(), o.ID, h.modules[j].Named.Source())}
		}
		if !o.Named.Optional {
			h.required = append(h.required, catalog.Requirement{Any: catalog.Clause{o.ID}, Why: "the workload " + d.Workload.Metadata.Name + " names it", Pos: o.Named.Pos})
		}
	}
	named := len(h.modules)
	for _, o := range more {
		if !slices.ContainsFunc(h.modules[:named], func(x *builder.Own) bool { return x.ID == o.ID }) {
			h.modules = append(h.modules, o)
		}
	}
	for _, o := range h.modules {
		if err := sealable(o); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// sealable reports a call that no seal may allow, whatever a manifest says: the tender
// would refuse it, when it is too late for a word of where it is written.
func sealable(o *builder.Own) error {
	if len(o.Syscalls) == 0 {
		return nil
	}
	if _, err := seccomp.Seal(o.Syscalls, 1); err != nil {
		return &builder.SourceError{Pos: o.Named.Pos, Message: fmt.Sprintf("module %s: %s", o.ID, err)}
	}
	return nil
}

// manifests are those of the modules.
func (h *host) manifests() (list []*catalog.Module) {
	for _, o := range h.modules {
		list = append(list, o.Module)
	}
	return list
}

// configure adds the sections of the modules that were chosen for a level to its
// program.
func (h *host) configure(l *Level, sel *solver.Selection) error {
	for _, m := range sel.Modules {
		i := slices.IndexFunc(h.modules, func(o *builder.Own) bool { return o.Module == m })
		if i < 0 {
			continue
		}
		s, err := m.Settings(h.modules[i].Named.Pos, h.modules[i].Named.Settings)
		if err != nil {
			return err
		}
		l.Sections = append(l.Sections, program.Section{Name: m.Section, Data: s.Encode()})
		l.Own = append(l.Own, h.modules[i])
	}
	return nil
}

// lock returns what is to be accepted of a plan: what the workload names, and what was
// chosen of the rest at any level.
func (h *host) lock(named int, catalog string, levels []*Level) *lock.File {
	now := &lock.File{Catalog: catalog}
	for i, o := range h.modules {
		if i < named || slices.ContainsFunc(levels, func(l *Level) bool { return slices.Contains(l.Own, o) }) {
			now.Modules = append(now.Modules, o.Lock())
		}
	}
	return now
}

// Widens returns the names of the calls that a level's image may make for modules of
// the user's own alone.
func (l *Level) Widens(o *builder.Own) (names []string) {
	if len(l.Syscalls()) == 0 { // a machine has none
		return nil
	}
	rest := slices.DeleteFunc(slices.Clone(l.Selection.Modules), func(m *catalog.Module) bool { return m.Own() })
	have := catalog.Syscalls(rest)
	for _, s := range o.Syscalls {
		if !slices.ContainsFunc(have, func(x catalog.Syscall) bool { return x.Name == s.Name }) && !slices.Contains(names, s.Name) {
			names = append(names, s.Name)
		}
	}
	return names
}
