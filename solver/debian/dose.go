package debian

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"

	"lorica.dev/lorica/solver/repo"
)

// A Failure is a package that cannot be installed, and why, where that is known.
type Failure struct {
	Package repo.Package
	Facts   []repo.Fact
}

// WriteDose writes failures as `dose-debcheck --failures --explain` does, so that the
// two can be compared. Of the reasons for a package, which dose lists as it comes upon
// them, these are the ones that contradict each other and none besides.
func (u *Universe) WriteDose(w io.Writer, failures []Failure, checked int) error {
	d := &doseWriter{u: u, w: bufio.NewWriter(w)}
	d.line("output-version: 1.2")
	if len(failures) > 0 {
		d.line("report:")
	}
	for _, f := range failures {
		d.line(" -")
		d.pkg("  ", f.Package)
		d.line("  status: broken")
		if len(f.Facts) > 0 {
			d.line("  reasons:")
			d.reasons(&f)
		}
	}
	d.line(" ")
	d.line("total-packages: %d", checked)
	d.line("broken-packages: %d", len(failures))
	return d.w.Flush()
}

type doseWriter struct {
	u *Universe
	w *bufio.Writer
}

func (d *doseWriter) line(format string, args ...any) { fmt.Fprintf(d.w, format+"\n", args...) }

func (d *doseWriter) pkg(indent string, p repo.Package) {
	q := &d.u.Packages[p]
	d.line("%spackage: %s", indent, q.Name)
	d.line("%sversion: %s", indent, q.Version)
	d.line("%sarchitecture: %s", indent, q.Arch)
	if q.Essential {
		d.line("%sessential: true", indent)
	}
}

// reasons writes the facts with which chains of dependencies end.
func (d *doseWriter) reasons(f *Failure) {
	from := map[repo.Package]*repo.Fact{} // who asks for a package first
	for i := range f.Facts {
		if x := &f.Facts[i]; x.Kind == repo.Needs {
			for _, p := range x.Any {
				if _, ok := from[p]; !ok && p != f.Package {
					from[p] = x
				}
			}
		}
	}
	chain := func(p repo.Package) (list []*repo.Fact) {
		for x := from[p]; x != nil && len(list) < len(f.Facts); x = from[x.Package] {
			list = append(list, x)
		}
		slices.Reverse(list)
		if top := append(list, &repo.Fact{Package: p})[0].Package; top != f.Package {
			return slices.Insert(list, 0, &repo.Fact{Kind: repo.Wanted, Package: f.Package}) // it is essential
		}
		return list
	}
	for _, x := range f.Facts {
		switch {
		case x.Kind == repo.Needs && len(x.Any) == 0:
			c, _ := d.u.said(x.Label)
			d.line("   -")
			d.line("    missing:")
			d.line("     pkg:")
			d.pkg("      ", x.Package)
			d.line("      unsat-dependency: %s", doseClause(c))
			d.chain("depchains", chain(x.Package))
		case x.Kind == repo.Excludes || x.Kind == repo.Versions:
			pair := versionsOf(&x)
			said := d.u.Packages[pair[0]].Name
			switch {
			case x.Kind == repo.Versions:
				pair = slices.Clone(pair)
				d.u.Sort(pair)
				pair = atOdds(pair, f.Facts)
			case x.Label != labelApart:
				c, _ := d.u.said(x.Label)
				said = doseClause(c)
			}
			d.line("   -")
			d.line("    conflict:")
			d.line("     pkg1:")
			d.pkg("      ", pair[0])
			d.line("      unsat-conflict: %s", said)
			d.line("     pkg2:")
			d.pkg("      ", pair[1])
			d.chain("depchain1", chain(pair[0]))
			d.chain("depchain2", chain(pair[1]))
		}
	}
}

// atOdds returns two of many versions that are asked for, and not by one fact that either
// would do for, if there are such: those that would be installed together.
func atOdds(versions []repo.Package, facts []repo.Fact) []repo.Package {
	asked := func(all ...repo.Package) bool {
		return slices.ContainsFunc(facts, func(x repo.Fact) bool {
			return (x.Kind == repo.Needs || x.Kind == repo.Wanted) && !slices.ContainsFunc(all, func(p repo.Package) bool { return !slices.Contains(x.Any, p) })
		})
	}
	for i, p := range versions {
		for _, q := range versions[i+1:] {
			if asked(p) && asked(q) && !asked(p, q) {
				return []repo.Package{p, q}
			}
		}
	}
	return versions
}

func (d *doseWriter) chain(name string, list []*repo.Fact) {
	if len(list) == 0 {
		return
	}
	d.line("     %s:", name)
	d.line("      -")
	d.line("       depchain:")
	for _, x := range list {
		d.line("        -")
		d.pkg("         ", x.Package)
		if x.Kind == repo.Needs {
			c, _ := d.u.said(x.Label)
			d.line("         depends: %s", doseClause(c))
		}
	}
}

// doseClause writes a clause with the operators of dose, which have one character where
// Debian's have two that are alike.
func doseClause(c *Clause) string {
	var list []string
	for i := range c.Any {
		r := &c.Any[i]
		s := r.Name
		if r.Arch != "" && r.Arch != "any" && r.Arch != "native" {
			s += ":" + r.Arch
		}
		if r.Op != "" {
			s += " (" + map[string]string{"<<": "<", ">>": ">"}[r.Op]
			if r.Op != "<<" && r.Op != ">>" {
				s += r.Op
			}
			s += " " + r.Version + ")"
		}
		list = append(list, s)
	}
	return strings.Join(list, " | ")
}
