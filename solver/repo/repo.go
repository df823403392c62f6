// Package repo answers questions about a repository of packages in the sense of
// Mancinelli et al., "Managing the Complexity of Large Free and Open Source
// Package-Based Software Distributions" (ASE 2006): which packages can be installed
// at all (Check), which set of least cost holds what is asked for (Install), why there
// is none (Explain), why a package is in it (Why), and what packages bring with them
// or shut out in every set (Analysis).
//
// A set of packages is healthy when each dependency of each package is met in it, and
// no two of its packages conflict. Packages of one id are versions of each other, and
// no healthy set has two of them.
//
// Everything is named by numbers: packages by the order in which they were added, and
// dependencies, conflicts and wishes by labels of the caller's, who turns the facts
// that come back into sentences.
//
// A Repo does not change and is safe for concurrent use. Answers do not depend on the
// order in which packages, dependencies and wishes came.
package repo

import (
	"cmp"
	"errors"
	"slices"
)

// A Package is the number of a package in its repository, from 0.
type Package int32

// None is no package.
const None Package = -1

// ErrBudget says that the conflicts allowed ended before there was any answer.
var ErrBudget = errors.New("repo: the budget of conflicts ended before an answer was found")

// A Builder collects a repository. The zero Builder is ready.
type Builder struct {
	repo   Repo
	newest map[string]Package // last added of an id
}

// A Repo is a repository.
type Repo struct {
	ids      []string
	versions []int32
	sibling  []Package // added before it, of the same id
	heads    []Package // last added of each id that has several

	dependencies []dependency // by package
	any          []Package
	dependsAt    []int32 // first of each package, and the end
	conflicts    []conflict
	conflictsAt  []int32
}

type dependency struct {
	of         Package
	label      int32
	start, end int32 // in any
}

type conflict struct {
	of, with Package
	label    int32
}

// Grow makes room for so many packages, dependencies, alternatives of all of them
// together, and conflicts.
func (b *Builder) Grow(packages, dependencies, alternatives, conflicts int) {
	r := &b.repo
	r.ids = slices.Grow(r.ids, packages)
	r.versions = slices.Grow(r.versions, packages)
	r.sibling = slices.Grow(r.sibling, packages)
	r.dependencies = slices.Grow(r.dependencies, dependencies)
	r.any = slices.Grow(r.any, alternatives)
	r.conflicts = slices.Grow(r.conflicts, conflicts)
	if b.newest == nil {
		b.newest = make(map[string]Package, packages)
	}
}

// Add adds a package and returns its number. Of packages with the same id, the one
// with the higher version is newer; the caller numbers versions in their order.
func (b *Builder) Add(id string, version int) Package {
	if b.newest == nil {
		b.newest = map[string]Package{}
	}
	r, p := &b.repo, Package(len(b.repo.ids))
	before, ok := b.newest[id]
	if !ok {
		before = None
	}
	b.newest[id] = p
	r.ids, r.versions, r.sibling = append(r.ids, id), append(r.versions, int32(version)), append(r.sibling, before)
	return p
}

// Depend says that p needs one of the packages in any, which may have been added or
// not yet. If there are none, p can never be installed.
func (b *Builder) Depend(p Package, label int, any ...Package) {
	start := int32(len(b.repo.any))
	b.repo.any = append(b.repo.any, any...)
	b.repo.dependencies = append(b.repo.dependencies, dependency{p, int32(label), start, int32(len(b.repo.any))})
}

// Conflict says that no set holds both p and q. A package that conflicts with itself
// is in none; whoever reads "conflicts with what it provides" as "the only provider"
// leaves that out.
func (b *Builder) Conflict(p, q Package, label int) {
	b.repo.conflicts = append(b.repo.conflicts, conflict{p, q, int32(label)})
}

// Repo returns what was collected. The Builder is not to be used after it.
func (b *Builder) Repo() *Repo {
	r := &b.repo
	n := len(r.ids)
	r.dependencies, r.dependsAt = byPackage(r.dependencies, n, func(d dependency) Package { return d.of })
	r.conflicts, r.conflictsAt = byPackage(r.conflicts, n, func(c conflict) Package { return c.of })
	for _, p := range b.newest {
		if r.sibling[p] != None {
			r.heads = append(r.heads, p)
		}
	}
	slices.Sort(r.heads)
	b.newest = nil
	return r
}

// byPackage brings a list into the order of packages, and returns where each begins.
func byPackage[T any](list []T, packages int, of func(T) Package) ([]T, []int32) {
	at := make([]int32, packages+1)
	sorted := true
	for i, x := range list {
		at[of(x)+1]++
		sorted = sorted && (i == 0 || of(list[i-1]) <= of(x))
	}
	for p := range packages {
		at[p+1] += at[p]
	}
	if sorted {
		return list, at
	}
	out, next := make([]T, len(list)), slices.Clone(at)
	for _, x := range list {
		out[next[of(x)]] = x
		next[of(x)]++
	}
	return out, at
}

// Len returns how many packages there are.
func (r *Repo) Len() int { return len(r.ids) }

// ID returns the id of p.
func (r *Repo) ID(p Package) string { return r.ids[p] }

func (r *Repo) depends(p Package) []dependency {
	return r.dependencies[r.dependsAt[p]:r.dependsAt[p+1]]
}

func (r *Repo) excludes(p Package) []conflict {
	return r.conflicts[r.conflictsAt[p]:r.conflictsAt[p+1]]
}

func (r *Repo) providers(d dependency) []Package { return r.any[d.start:d.end:d.end] }

// order is by id, and newest first; two packages with the same id and version have
// the order in which they were added.
func (r *Repo) order(a, b Package) int {
	return cmp.Or(cmp.Compare(r.ids[a], r.ids[b]), cmp.Compare(r.versions[b], r.versions[a]), cmp.Compare(a, b))
}

// A Root is a wish: one of the packages in Any is in the set.
type Root struct {
	Any   []Package
	Label int
}

// A Ban is a wish as well: the package is not in the set. A prohibition of several
// packages has a Ban with the same label for each.
type Ban struct {
	Package Package
	Label   int
}

// A Criterion is what it costs to have a package in the set, at least 0.
type Criterion func(Package) int64

// A Request is what a set must hold, and what makes one better than another.
type Request struct {
	Roots    []Root
	Bans     []Ban
	Criteria []Criterion // the first one weighs infinitely more than the next
	Budget   int         // conflicts in all; 0: DefaultBudget
}

// DefaultBudget is a few seconds of work.
const DefaultBudget = 200_000

func (q *Request) budget() int { return cmp.Or(q.Budget, DefaultBudget) }

// A Kind is what a Fact says.
type Kind uint8

// Kinds of facts.
const (
	Wanted   Kind = iota // a Root asks for one of Any
	Needs                // Package has a dependency on one of Any
	Excludes             // Package has a conflict with Other
	Versions             // Package and Other are versions of one id; of many versions, all of Any are
	Banned               // a Ban keeps Package out
)

// A Fact is one reason. Any holds all packages that would do: if there is one, only it
// does, and if there is none, nothing does.
type Fact struct {
	Kind    Kind
	Label   int // of the Root, the dependency, the conflict or the Ban
	Package Package
	Other   Package
	Any     []Package
}

// A Set is the answer to a Request.
type Set struct {
	Packages []Package // by id, newest first
	Cost     []int64   // by criterion
	// Bound is what no set can cost less than, by criterion, given that those before
	// cost what they do here.
	Bound []int64
	// Proven says that there is no better set: Cost and Bound are the same. Without it
	// the budget ended first.
	Proven bool
	Work   Work
}

// Work is what an answer took.
type Work struct {
	Packages, Facts int // that the question is about
	Solves          int64
	Conflicts       int64
}

// Unsatisfiable is the error of Install where there is no set. Explain says why.
type Unsatisfiable struct{}

func (*Unsatisfiable) Error() string { return "repo: no healthy set holds what is asked for" }

// An Explanation is why there is no set.
type Explanation struct {
	// Facts contradict each other, in the order in which they follow from the wishes.
	Facts []Fact
	// Minimal says that they do not without any one of them. Without it the budget ended.
	Minimal bool
	// Repairs are sets of wishes. Without those of one set there would be an answer. They
	// are all the single ones; if there is none, one smallest set.
	Repairs [][]Fact
}

// A Why is why a package is in a set.
type Why struct {
	// Facts are why no set is without the package; none if there is such a set, or if the
	// budget ended before it was clear.
	Facts []Fact
	// Without is the best set without it, if there is one.
	Without *Set
}

// Necessary reports whether no set is without the package.
func (w *Why) Necessary() bool { return len(w.Facts) > 0 }
