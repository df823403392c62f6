package debian

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// An Index finds what relations mean: the packages of a repository, by numbers, that
// satisfy them. It is read only once made.
type Index struct {
	Packages []Package
	Native   string // the architecture of the machine; that of "all" too

	clauses []Clause
	names   map[string]int32 // into named
	named   []named
	home    [2][][]int32         // what clauses mean to packages of the native architecture, and in peace
	foreign map[question][]int32 // and to others
	left    *int                 // of the packages that find may look at; nil: all
}

// A question is a clause and the architecture of who asks; one of a conflict means
// packages of others as well.
type question struct {
	clause int32
	arch   string
	peace  bool
}

// Index returns an index for machines of an architecture: "" where the packages
// themselves say it, since all are of one. The repository takes no more files. Its error,
// if any, says that there is no such architecture, that the packages have more to do with
// each other than fits, or is that of the context.
func (r *Repository) Index(ctx context.Context, native string) (*Index, error) {
	if native == "" {
		var err error
		if native, err = r.native(); err != nil {
			return nil, err
		}
	}
	ix := &Index{Packages: r.Packages, Native: native, clauses: r.clauses, names: r.names, named: r.named,
		home: [2][][]int32{make([][]int32, len(r.clauses)), make([][]int32, len(r.clauses))}, foreign: map[question][]int32{}}
	r.read = nil
	for i := range ix.Packages {
		p := &ix.Packages[i]
		for _, id := range p.provides {
			if rel := &ix.clauses[id].Any[0]; rel.On(ix.arch(p)) {
				n := ix.lookup(rel)
				n.virtual = append(n.virtual, provision{int32(i), rel.Version})
			}
		}
	}
	for i := range ix.named {
		n := &ix.named[i]
		slices.SortStableFunc(n.real, func(a, b int32) int { return Compare(ix.Packages[b].Version, ix.Packages[a].Version) })
	}
	return ix, ix.resolve(ctx)
}

// resolve finds what all relations mean, while that is not too much.
func (ix *Index) resolve(ctx context.Context) error {
	left := maxEdges
	ix.left = &left
	for i := range ix.Packages {
		if i%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		for n := range ix.Needs(int32(i)) {
			if left -= len(n.By); left < 0 {
				break
			}
		}
		for q := range ix.Rivals(int32(i)) {
			if left -= len(q.With); left < 0 {
				break
			}
		}
		if left < 0 {
			return fmt.Errorf("%s: by this package, relations have been compared with more than %d others: that is too much to do with each other", &ix.Packages[i], maxEdges)
		}
	}
	ix.left = nil
	return nil
}

// A Need is a dependency of a package, and who satisfies it.
type Need struct {
	Clause string // as it is written
	Pre    bool   // it is one before the package is unpacked
	By     []int32
	label  int
}

// Needs are the dependencies of a package.
func (ix *Index) Needs(i int32) iter.Seq[Need] {
	return func(yield func(Need) bool) {
		p := &ix.Packages[i]
		for k, list := range [][]int32{p.preDepends, p.depends} {
			for _, id := range list {
				c := &ix.clauses[id]
				if !slices.ContainsFunc(c.Any, func(r Relation) bool { return r.On(ix.arch(p)) }) {
					continue // it is of other architectures
				}
				if !yield(Need{c.Text, k == 0, ix.providers(question{id, ix.arch(p), false}), label(id, k == 0)}) {
					return
				}
			}
		}
	}
}

// A Rival is a conflict of a package, and with whom. The package itself may be among
// them, and other versions of it: they mean nothing there.
type Rival struct {
	Clause string
	Breaks bool
	With   []int32
	label  int
}

// Rivals are the conflicts of a package that it declares itself. With other versions of
// its name it is at odds without a word.
func (ix *Index) Rivals(i int32) iter.Seq[Rival] {
	return func(yield func(Rival) bool) {
		p := &ix.Packages[i]
		for k, list := range [][]int32{p.conflicts, p.breaks} {
			for _, id := range list {
				if !yield(Rival{ix.clauses[id].Text, k == 1, ix.providers(question{id, ix.arch(p), true}), label(id, k == 1)}) {
					return
				}
			}
		}
	}
}

// native returns the one architecture of the packages.
func (r *Repository) native() (string, error) {
	count := map[string]int{}
	for i := range r.Packages {
		if a := r.Packages[i].Arch; a != "all" {
			count[a]++
		}
	}
	var archs []string
	for a := range count {
		archs = append(archs, a)
	}
	slices.SortFunc(archs, func(a, b string) int { return cmp.Or(cmp.Compare(count[b], count[a]), strings.Compare(a, b)) })
	switch len(archs) {
	case 0:
		return "all", nil
	case 1:
		return archs[0], nil
	}
	return "", fmt.Errorf("packages of several architectures (%s): say with --arch which is the machine's", strings.Join(archs, ", "))
}

// lookup returns what has the name in a relation, or nil.
func (ix *Index) lookup(rel *Relation) *named {
	if rel.id > 0 {
		return &ix.named[rel.id-1]
	}
	if id, ok := ix.names[rel.Name]; ok {
		return &ix.named[id]
	}
	return nil
}

// arch is the architecture that a package is installed as.
func (ix *Index) arch(p *Package) string {
	if p.Arch == "all" {
		return ix.Native
	}
	return p.Arch
}

// fits reports whether a package is of the architecture that a relation means which one
// of an architecture has; in peace, all are meant that are not named.
func (ix *Index) fits(rel *Relation, arch string, peace bool, p *Package) bool {
	switch rel.Arch {
	case "":
		return peace || ix.arch(p) == arch || p.MultiArch == MultiArchForeign
	case "any":
		return peace || ix.arch(p) == arch || p.MultiArch == MultiArchForeign || p.MultiArch == MultiArchAllowed
	case "native":
		return ix.arch(p) == ix.Native
	}
	return ix.arch(p) == rel.Arch
}

// providers returns the packages that satisfy any relation of a clause, in the order in
// which they are written, the newest first. The list belongs to the index.
func (ix *Index) providers(q question) []int32 {
	c := &ix.clauses[q.clause]
	if q.arch != ix.Native {
		list, ok := ix.foreign[q]
		if !ok {
			list = ix.find(c, q.arch, q.peace)
			ix.foreign[q] = list
		}
		return list
	}
	known := ix.home[0]
	if q.peace {
		known = ix.home[1]
	}
	if known[q.clause] == nil {
		known[q.clause] = ix.find(c, q.arch, q.peace)
	}
	return known[q.clause]
}

// find finds what satisfies a clause of a package of an architecture, or in peace what
// a conflict of it means. The list is never nil.
func (ix *Index) find(c *Clause, arch string, peace bool) []int32 {
	list := []int32{}
	for i := range c.Any {
		rel := &c.Any[i]
		n := ix.lookup(rel)
		if n == nil || !rel.On(arch) {
			continue
		}
		if ix.left != nil {
			if *ix.left -= len(n.real) + len(n.virtual); *ix.left < 0 {
				break
			}
		}
		for _, k := range n.real {
			if p := &ix.Packages[k]; rel.Satisfies(p.Version) && ix.fits(rel, arch, peace, p) {
				list = append(list, k)
			}
		}
		for _, v := range n.virtual {
			if rel.Op != "" && (v.version == "" || !rel.Satisfies(v.version)) || !ix.fits(rel, arch, peace, &ix.Packages[v.by]) {
				continue
			}
			list = append(list, v.by)
		}
	}
	return once(list)
}

// once leaves the first of equal numbers.
func once(list []int32) []int32 {
	if len(list) < 2 {
		return list
	}
	if len(list) <= 16 {
		kept := list[:0]
		for _, k := range list {
			if !slices.Contains(kept, k) {
				kept = append(kept, k)
			}
		}
		return kept
	}
	seen := make(map[int32]bool, len(list))
	return slices.DeleteFunc(list, func(k int32) bool {
		was := seen[k]
		seen[k] = true
		return was
	})
}
