package lock

import (
	"fmt"
	"slices"
	"strings"
)

// Against compares what was accepted with what is there now. Either may be nil:
// nothing was accepted, nothing is there.
func (f *File) Against(now *File) Differences {
	if f == nil {
		f = &File{}
	}
	if now == nil {
		now = &File{}
	}
	var d Differences
	if f.Catalog != "" && f.Catalog != now.Catalog {
		d.Changed = append(d.Changed, fmt.Sprintf("the modules of Lorica itself are others than those that were accepted, as those of another version are: %s, and %s was accepted", now.Catalog, f.Catalog))
	}
	for _, m := range now.sorted() {
		old := f.module(m.Source)
		switch {
		case old == nil:
			d.New = append(d.New, m)
		case *old != m:
			d.Changed = append(d.Changed, changed(*old, m))
		}
	}
	for _, m := range f.sorted() {
		if now.module(m.Source) == nil {
			d.Gone = append(d.Gone, m)
		}
	}
	return d
}

func (f *File) module(source string) *Module {
	i := slices.IndexFunc(f.Modules, func(m Module) bool { return m.Source == source })
	if i < 0 {
		return nil
	}
	return &f.Modules[i]
}

func changed(old, now Module) string {
	var list []string
	for _, x := range []struct{ what, old, now string }{{"id", old.ID, now.ID}, {"version", old.Version, now.Version}, {"digest", old.Digest, now.Digest}} {
		if x.old != x.now {
			list = append(list, fmt.Sprintf("its %s is %s, and %s was accepted", x.what, x.now, x.old))
		}
	}
	return fmt.Sprintf("module %s (%s) has changed: %s", now.ID, now.Source, strings.Join(list, "; "))
}

// Differences are what stands between what was accepted and what is there.
type Differences struct {
	Changed []string // in words
	New     []Module // nobody has accepted them
	Gone    []Module // nothing names them here
}

// Accept returns what is accepted from now on: what was, and what is new; with
// update, what is there now alone.
func (f *File) Accept(now *File, update bool) *File {
	if f == nil || update {
		return &File{Catalog: now.Catalog, Modules: now.sorted()}
	}
	out := &File{Catalog: f.Catalog, Modules: slices.Concat(f.Modules, f.Against(now).New)}
	out.Modules = out.sorted()
	return out
}
