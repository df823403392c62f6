package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"lorica.dev/lorica/solver/debian"
	"lorica.dev/lorica/solver/repo"
)

// A question is one root, and all packages that can come with it, numbered from 0.
type question struct {
	root     repo.Package
	packages []repo.Package
	at       map[repo.Package]int
	needs    [][]int // first the package, then who satisfies it
	apart    [][2]int
}

// minimalSets asks for the least sets, by count, of packages by chance, and holds the
// answers to those of others.
func (m *run) minimalSets() error {
	u, err := m.universe()
	if err != nil {
		return err
	}
	roots, err := m.choose(u)
	if err != nil {
		return err
	}
	others := available()
	ctx := context.Background()
	count := func(repo.Package) int64 { return 1 }
	worse, unproven, unlike := 0, 0, 0
	answered := map[string]int{}
	for _, q := range roots {
		request := repo.Request{Roots: []repo.Root{{Any: []repo.Package{q.root}}}, Criteria: []repo.Criterion{count}}
		var set *repo.Set
		var took []time.Duration
		for range m.rounds {
			start := time.Now()
			if set, err = u.Repo.Install(ctx, request); err != nil {
				return fmt.Errorf("%v: %w", &u.Packages[q.root], err)
			}
			took = append(took, time.Since(start))
		}
		measured("roots/ms", middle(took))
		measured("roots/packages", float64(len(q.packages)))
		if !set.Proven {
			unproven++
		}
		if err := q.healthy(set); err != nil {
			return fmt.Errorf("%v: %w", &u.Packages[q.root], err)
		}
		for _, o := range others {
			start := time.Now()
			cost, ok, err := o.cost(q, m.patience)
			if err != nil {
				return fmt.Errorf("%s: %v: %w", o.name, &u.Packages[q.root], err)
			}
			if !ok {
				continue
			}
			answered[o.name]++
			measured("roots/"+o.name+"/ms", float64(time.Since(start).Nanoseconds())/1e6)
			switch {
			case int64(cost) < set.Cost[0]:
				worse++
				fmt.Fprintf(os.Stderr, "%v: %d packages; %s has %d\n", &u.Packages[q.root], set.Cost[0], o.name, cost)
			case set.Proven && int64(cost) > set.Cost[0]:
				unlike++
				fmt.Fprintf(os.Stderr, "%v: %d packages; %s says that %d are the least\n", &u.Packages[q.root], set.Cost[0], o.name, cost)
			}
		}
	}
	for _, o := range others {
		measured("roots/"+o.name+"/answered", float64(answered[o.name]))
	}
	measured("roots/worse", float64(worse))
	measured("roots/unlike", float64(unlike))
	measured("roots/unproven", float64(unproven))
	return nil
}

// choose takes packages by chance that can be installed, and of which there is
// something to choose.
func (m *run) choose(u *debian.Universe) ([]*question, error) {
	r := rand.New(rand.NewPCG(7, 7))
	a := u.Repo.Analyse(nil, 0)
	var list []*question
	for tries := 0; len(list) < m.roots; tries++ {
		if tries > 100*m.roots {
			return nil, errors.New("too few packages can be installed")
		}
		p := repo.Package(r.IntN(len(u.Packages)))
		ok, err := a.Installable(context.Background(), p)
		if err != nil {
			return nil, err
		}
		if q := ask(u, p); ok && len(q.packages) >= 5 {
			list = append(list, q)
		}
	}
	return list, nil
}

// ask collects what can come with a root.
func ask(u *debian.Universe, root repo.Package) *question {
	q := &question{root: root, at: map[repo.Package]int{}}
	add := func(p repo.Package) {
		if _, ok := q.at[p]; !ok {
			q.at[p] = len(q.packages)
			q.packages = append(q.packages, p)
		}
	}
	add(root)
	for i := 0; i < len(q.packages); i++ {
		for n := range u.Needs(int32(q.packages[i])) {
			if slices.Contains(n.By, int32(q.packages[i])) {
				continue
			}
			need := []int{i}
			for _, k := range n.By {
				add(repo.Package(k))
				need = append(need, q.at[repo.Package(k)])
			}
			q.needs = append(q.needs, need)
		}
	}
	same := map[string][]int{}
	for i, p := range q.packages {
		name := u.Packages[p].Name
		for _, k := range same[name] {
			q.apart = append(q.apart, [2]int{k, i})
		}
		same[name] = append(same[name], i)
		for v := range u.Rivals(int32(p)) {
			for _, k := range v.With {
				if at, ok := q.at[repo.Package(k)]; ok && u.Packages[k].Name != name {
					q.apart = append(q.apart, [2]int{i, at})
				}
			}
		}
	}
	return q
}

// healthy checks a set: that the root is in it, that every dependency is met, and that
// no two packages conflict.
func (q *question) healthy(set *repo.Set) error {
	in := make([]bool, len(q.packages))
	for _, p := range set.Packages {
		i, ok := q.at[p]
		if !ok {
			return fmt.Errorf("package %d has nothing to do with it", p)
		}
		in[i] = true
	}
	if !in[0] || int64(len(set.Packages)) != set.Cost[0] {
		return fmt.Errorf("a set of %d packages that costs %d", len(set.Packages), set.Cost[0])
	}
	for _, n := range q.needs {
		if in[n[0]] && !slices.ContainsFunc(n[1:], func(k int) bool { return in[k] }) {
			return fmt.Errorf("a dependency of package %d is not met", q.packages[n[0]])
		}
	}
	for _, c := range q.apart {
		if in[c[0]] && in[c[1]] {
			return fmt.Errorf("packages %d and %d conflict", q.packages[c[0]], q.packages[c[1]])
		}
	}
	return nil
}
