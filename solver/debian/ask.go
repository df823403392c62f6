package debian

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"lorica.dev/lorica/solver/repo"
)

// ParseAsked reads what somebody asks for: a clause as a field Depends has it, or
// NAME=VERSION, as apt has it.
func ParseAsked(text string) (Clause, error) {
	if name, version, ok := strings.Cut(text, "="); ok && !strings.ContainsAny(text, "(|") {
		text = name + " (= " + version + ")"
	}
	c, err := parseClause(text)
	if err != nil {
		return c, fmt.Errorf("%q: %w", text, err)
	}
	return c, nil
}

// Check returns which packages cannot be installed, of those in the list, or of all
// where it is nil. Its error is the context's.
func (u *Universe) Check(ctx context.Context, list []repo.Package, budget int) (*repo.Check, error) {
	if list == nil {
		return u.Repo.Check(ctx, repo.CheckOptions{Base: u.Base, Budget: budget})
	}
	c := &repo.Check{}
	a := u.Repo.Analyse(u.Base, budget)
	for _, p := range list {
		ok, err := a.Installable(ctx, p)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			c.Undecided = append(c.Undecided, p)
		case !ok:
			c.Broken = append(c.Broken, p)
		}
	}
	return c, nil
}

// Named returns the packages of the names in a clause, and of the versions that it asks
// for.
func (u *Universe) Named(c *Clause) []repo.Package {
	var list []repo.Package
	for i := range c.Any {
		n := u.lookup(&c.Any[i])
		if n == nil {
			continue
		}
		for _, k := range n.real {
			if p := &u.Packages[k]; c.Any[i].Satisfies(p.Version) && (c.Any[i].Arch == "" || u.fits(&c.Any[i], u.Native, false, p)) {
				list = append(list, repo.Package(k))
			}
		}
	}
	return list
}

// A Minimum says which set is the best.
type Minimum string

// Minima. What is equal by the first criterion is compared by the next.
const (
	Count Minimum = "count" // the fewest packages, then the least space
	Size  Minimum = "size"  // the least space installed, then the fewest packages
)

// Request returns the question for the best set that holds what is asked for, and the
// base.
func (u *Universe) Request(asked []Clause, m Minimum, budget int) repo.Request {
	q := repo.Request{Roots: u.Base[:len(u.Base):len(u.Base)], Budget: budget}
	for i := range asked {
		root := repo.Root{Label: labelAsked + i}
		for _, k := range u.find(&asked[i], u.Native, false) {
			root.Any = append(root.Any, repo.Package(k))
		}
		q.Roots = append(q.Roots, root)
	}
	count := func(repo.Package) int64 { return 1 }
	size := func(p repo.Package) int64 { return u.Packages[p].Installed }
	q.Criteria = []repo.Criterion{count, size}
	if m == Size {
		q.Criteria = []repo.Criterion{size, count}
	}
	return q
}

// Broken returns the question why a package cannot be installed.
func (u *Universe) Broken(p repo.Package, budget int) repo.Request {
	return repo.Request{
		Roots:  append(u.Base[:len(u.Base):len(u.Base)], repo.Root{Any: []repo.Package{p}, Label: labelAsked}),
		Budget: budget,
	}
}

// Sort brings packages into the order of their names; of one name, the oldest is first.
func (u *Universe) Sort(list []repo.Package) {
	slices.SortFunc(list, func(a, b repo.Package) int {
		p, q := &u.Packages[a], &u.Packages[b]
		return cmp.Or(strings.Compare(p.Name, q.Name), Compare(p.Version, q.Version), strings.Compare(p.Arch, q.Arch), cmp.Compare(a, b))
	})
}
