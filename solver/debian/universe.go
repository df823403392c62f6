package debian

import (
	"context"
	"fmt"
	"slices"

	"lorica.dev/lorica/solver/repo"
)

// A Universe is what the solver is asked about: an index, and the same packages with the
// same numbers as the solver has them.
type Universe struct {
	*Index
	Repo *repo.Repo
	// Base is what every set holds: of each essential package one version.
	Base []repo.Root
}

// labels of facts say which clause they are of, and of which field.
func label(clause int32, second bool) int {
	if second {
		return int(clause)<<1 | 1
	}
	return int(clause) << 1
}

// Universe returns what the solver is asked about. Its error is the context's, or that
// there is too much.
func (ix *Index) Universe(ctx context.Context) (*Universe, error) {
	var b repo.Builder
	needs := 0
	for i := range ix.Packages {
		needs += len(ix.Packages[i].preDepends) + len(ix.Packages[i].depends)
	}
	b.Grow(len(ix.Packages), needs, needs+needs/8, needs/8)
	rank := ix.ranks()
	for i := range ix.Packages {
		b.Add(ix.id(&ix.Packages[i]), rank[i])
	}
	var any []repo.Package
	for i := range ix.Packages {
		if i%1024 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		p := repo.Package(i)
		for n := range ix.Needs(int32(i)) {
			any = any[:0]
			for _, k := range n.By {
				any = append(any, repo.Package(k))
			}
			if slices.Contains(any, p) {
				continue // it is met wherever it matters
			}
			b.Depend(p, n.label, any...)
		}
		for q := range ix.Rivals(int32(i)) {
			for _, k := range q.With {
				if ix.Packages[k].Name != ix.Packages[i].Name {
					b.Conflict(p, repo.Package(k), q.label)
				}
			}
		}
	}
	if err := ix.apart(&b); err != nil {
		return nil, err
	}
	return &Universe{Index: ix, Repo: b.Repo(), Base: ix.essential()}, nil
}

// id is what only versions of one package have in common.
func (ix *Index) id(p *Package) string {
	if a := ix.arch(p); a != ix.Native {
		return p.Name + ":" + a
	}
	return p.Name
}

// ranks numbers the versions of each name in their order.
func (ix *Index) ranks() []int {
	rank := make([]int, len(ix.Packages))
	for i := range ix.named {
		n := &ix.named[i]
		for k, p := range n.real { // the newest first
			rank[p] = len(n.real) - k
			if k > 0 && Compare(ix.Packages[p].Version, ix.Packages[n.real[k-1]].Version) == 0 {
				rank[p] = rank[n.real[k-1]]
			}
		}
	}
	return rank
}

// apart keeps packages of one name and several architectures from each other, but for
// those that say that they can be together, which are of one version.
func (ix *Index) apart(b *repo.Builder) error {
	looks := 0
	for i := range ix.Packages {
		p := &ix.Packages[i]
		same := ix.named[p.name].real
		if looks += len(same); looks > maxEdges {
			return fmt.Errorf("%s: too many packages of one name", p)
		}
		for _, k := range same {
			q := &ix.Packages[k]
			if int(k) <= i || ix.arch(p) == ix.arch(q) {
				continue
			}
			if p.MultiArch != MultiArchSame || q.MultiArch != MultiArchSame || Compare(p.Version, q.Version) != 0 {
				b.Conflict(repo.Package(i), repo.Package(k), labelApart)
			}
		}
	}
	return nil
}

// labelApart is that of no clause.
const labelApart = -1

// essential returns of each essential package its versions that say so.
func (ix *Index) essential() []repo.Root {
	var roots []repo.Root
	at := map[string]int{}
	for i := range ix.Packages {
		p := &ix.Packages[i]
		if !p.Essential {
			continue
		}
		k, ok := at[p.Name]
		if !ok {
			k = len(roots)
			at[p.Name] = k
			roots = append(roots, repo.Root{Label: labelEssential - k})
		}
		roots[k].Any = append(roots[k].Any, repo.Package(i))
	}
	return roots
}

// labelEssential and those below it are of essential packages; above all of clauses are
// those of what is asked for.
const (
	labelEssential = -2
	labelAsked     = 1 << 30
)
