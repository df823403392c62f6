package repo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
)

// A sample is a small repository with a request, as it was written down: the tests
// hold answers to the definitions, which are read off it.
type sample struct {
	ids       []string
	versions  []int
	depends   [][]Package // the first is who needs one of the others
	conflicts [][2]Package
	roots     [][]Package
	bans      []Package
	weights   [][]int64 // by criterion and package
}

func random(r *rand.Rand) *sample {
	s := &sample{}
	n := 1 + r.IntN(9)
	pick := func() Package { return Package(r.IntN(n)) }
	some := func(k int) (list []Package) {
		for range r.IntN(k + 1) {
			list = append(list, pick())
		}
		return list
	}
	taken := map[string]bool{}
	ids, versions := n, 3
	if r.IntN(8) == 0 { // many versions of few
		ids, versions = 1+r.IntN(2), 20
	}
	for len(s.ids) < n {
		id, v := fmt.Sprintf("p%d", r.IntN(ids)), r.IntN(versions)
		if key := fmt.Sprint(id, v); !taken[key] {
			taken[key] = true
			s.ids, s.versions = append(s.ids, id), append(s.versions, v)
		}
	}
	for range r.IntN(2 * n) {
		s.depends = append(s.depends, append([]Package{pick()}, some(3)...))
	}
	for range r.IntN(n) {
		s.conflicts = append(s.conflicts, [2]Package{pick(), pick()})
	}
	for range r.IntN(4) {
		s.roots = append(s.roots, append(some(2), pick()))
	}
	if r.IntN(3) == 0 {
		s.bans = some(2)
	}
	for range 1 + r.IntN(3) {
		var w []int64
		for range n {
			w = append(w, int64(r.IntN(5)))
		}
		s.weights = append(s.weights, w)
	}
	return s
}

func (s *sample) repo() *Repo {
	var b Builder
	for i, id := range s.ids {
		b.Add(id, s.versions[i])
	}
	for i, d := range s.depends {
		b.Depend(d[0], i, d[1:]...)
	}
	for i, c := range s.conflicts {
		b.Conflict(c[0], c[1], i)
	}
	return b.Repo()
}

func (s *sample) request() Request {
	var q Request
	for i, any := range s.roots {
		q.Roots = append(q.Roots, Root{any, i})
	}
	for i, p := range s.bans {
		q.Bans = append(q.Bans, Ban{p, i})
	}
	for _, w := range s.weights {
		q.Criteria = append(q.Criteria, func(p Package) int64 { return w[p] })
	}
	return q
}

func in(set int, p Package) bool { return set>>p&1 == 1 }

func inAny(set int, any []Package) bool {
	return slices.ContainsFunc(any, func(p Package) bool { return in(set, p) })
}

// healthy is the definition.
func (s *sample) healthy(set int) bool {
	for _, d := range s.depends {
		if in(set, d[0]) && !inAny(set, d[1:]) {
			return false
		}
	}
	for _, c := range s.conflicts {
		if in(set, c[0]) && in(set, c[1]) {
			return false
		}
	}
	for p := range s.ids {
		for q := range p {
			if s.ids[p] == s.ids[q] && in(set, Package(p)) && in(set, Package(q)) {
				return false
			}
		}
	}
	return true
}

func (s *sample) wanted(set int) bool {
	for _, any := range s.roots {
		if !inAny(set, any) {
			return false
		}
	}
	return !inAny(set, s.bans)
}

func (s *sample) sets() (list []int) {
	for set := range 1 << len(s.ids) {
		if s.healthy(set) {
			list = append(list, set)
		}
	}
	return list
}

func (s *sample) cost(set int) []int64 {
	cost := make([]int64, len(s.weights))
	for p := range s.ids {
		if in(set, Package(p)) {
			for k, w := range s.weights {
				cost[k] += w[p]
			}
		}
	}
	return cost
}

// places returns packages by id, newest first.
func (s *sample) places() []Package {
	var list []Package
	for p := range s.ids {
		list = append(list, Package(p))
	}
	slices.SortFunc(list, s.repo().order)
	return list
}

// best tries every set; of those that cost the least it is the one that lacks the last
// package that not all of them have in common, and so on.
func (s *sample) best() (int, bool) {
	best, found := 0, false
	places := s.places()
	slices.Reverse(places)
	later := func(a, b int) int {
		for _, p := range places {
			if in(a, p) != in(b, p) {
				if in(a, p) {
					return 1
				}
				return -1
			}
		}
		return 0
	}
	for _, set := range s.sets() {
		if !s.wanted(set) {
			continue
		}
		c := slices.Compare(s.cost(set), s.cost(best))
		if !found || c < 0 || c == 0 && later(set, best) < 0 {
			best, found = set, true
		}
	}
	return best, found
}

func bits(packages []Package) (set int) {
	for _, p := range packages {
		set |= 1 << p
	}
	return set
}

// rounds is how many random instances are tried; `make solve-random` tries more.
func rounds(t *testing.T) int {
	text := os.Getenv("LORICA_SOLVE_RANDOM")
	if text == "" {
		return 20_000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("LORICA_SOLVE_RANDOM=%q: want a number of instances", text)
	}
	return n
}

func TestInstallEqualsTryingEverySet(t *testing.T) {
	ctx := context.Background()
	r := rand.New(rand.NewPCG(4, 9))
	found, none := 0, 0
	for range rounds(t) {
		s := random(r)
		want, ok := s.best()
		got, err := s.repo().Install(ctx, s.request())
		if !ok {
			none++
			var u *Unsatisfiable
			if !errors.As(err, &u) {
				t.Fatalf("%+v: got %v, %v; there is no set", s, got, err)
			}
			s.checkExplanation(t)
			continue
		}
		found++
		if err != nil {
			t.Fatalf("%+v: %v; there is %b", s, err, want)
		}
		if bits(got.Packages) != want || !got.Proven || !slices.Equal(got.Cost, s.cost(want)) || !slices.Equal(got.Bound, got.Cost) {
			t.Fatalf("%+v: got %+v, want %b", s, got, want)
		}
	}
	if found < 100 || none < 100 {
		t.Errorf("%d with a set and %d without: the instances show too little", found, none)
	}
}

// says reports whether a set is as the fact says.
func (s *sample) says(f Fact, set int) bool {
	switch f.Kind {
	case Wanted:
		return inAny(set, f.Any)
	case Needs:
		return !in(set, f.Package) || inAny(set, f.Any)
	case Banned:
		return !in(set, f.Package)
	}
	if f.Other == None {
		n := 0
		for _, p := range f.Any {
			n += set >> p & 1
		}
		return n <= 1
	}
	return !in(set, f.Package) || !in(set, f.Other)
}

func (s *sample) contradictory(facts []Fact) bool {
	for set := range 1 << len(s.ids) {
		if !slices.ContainsFunc(facts, func(f Fact) bool { return !s.says(f, set) }) {
			return false
		}
	}
	return true
}

// written reports whether the sample says f.
func (s *sample) written(f Fact) bool {
	same := func(a, b []Package) bool { return bits(a) == bits(b) }
	switch f.Kind {
	case Wanted:
		return same(s.roots[f.Label], f.Any)
	case Needs:
		return s.depends[f.Label][0] == f.Package && same(s.depends[f.Label][1:], f.Any)
	case Excludes:
		return s.conflicts[f.Label] == [2]Package{f.Package, f.Other}
	case Banned:
		return s.bans[f.Label] == f.Package
	}
	if f.Other == None {
		return !slices.ContainsFunc(f.Any, func(p Package) bool { return s.ids[p] != s.ids[f.Any[0]] })
	}
	return s.ids[f.Package] == s.ids[f.Other] && f.Package != f.Other
}

func minus[T any](list []T, i int) []T { return slices.Delete(slices.Clone(list), i, i+1) }

// checkExplanation holds the explanation to its promises: facts that were written,
// contradict each other, and none of which is there for nothing; repairs that are ones,
// and all of the single ones.
func (s *sample) checkExplanation(t *testing.T) {
	t.Helper()
	e, err := s.repo().Explain(context.Background(), s.request())
	if err != nil || e == nil || !e.Minimal {
		t.Fatalf("%+v: %+v, %v", s, e, err)
	}
	for i, f := range e.Facts {
		if !s.written(f) {
			t.Fatalf("%+v: nobody said %+v", s, f)
		}
		if s.contradictory(minus(e.Facts, i)) {
			t.Fatalf("%+v: %+v is not needed in %+v", s, f, e.Facts)
		}
	}
	if !s.contradictory(e.Facts) {
		t.Fatalf("%+v: %+v can all hold", s, e.Facts)
	}
	singles := 0
	without := func(facts []Fact) bool {
		c := *s
		c.roots, c.bans = nil, nil
		dropped := map[wish]bool{}
		for _, f := range facts {
			dropped[wish{f.Kind, f.Label}] = true
		}
		for i, any := range s.roots {
			if !dropped[wish{Wanted, i}] {
				c.roots = append(c.roots, any)
			}
		}
		for i, p := range s.bans {
			if !dropped[wish{Banned, i}] {
				c.bans = append(c.bans, p)
			}
		}
		_, ok := c.best()
		return ok
	}
	for i := range s.roots {
		if without([]Fact{{Kind: Wanted, Label: i}}) {
			singles++
		}
	}
	for i := range s.bans {
		if without([]Fact{{Kind: Banned, Label: i}}) {
			singles++
		}
	}
	if len(e.Repairs) != max(singles, 1) {
		t.Fatalf("%+v: %d repairs, want %d", s, len(e.Repairs), max(singles, 1))
	}
	for _, set := range e.Repairs {
		if singles > 0 && len(set) != 1 || !without(set) {
			t.Fatalf("%+v: %+v repairs nothing", s, set)
		}
		for i := range set {
			if without(minus(set, i)) && len(set) > 1 {
				t.Fatalf("%+v: %+v is more than it takes", s, set)
			}
		}
	}
}

// shuffled is the same repository in another order; place says where packages went.
func (s *sample) shuffled(r *rand.Rand) (o *sample, place []int) {
	n := len(s.ids)
	place = r.Perm(n)
	move := func(list []Package) []Package {
		out := make([]Package, len(list))
		for i, p := range list {
			out[i] = Package(place[p])
		}
		return out
	}
	o = &sample{ids: make([]string, n), versions: make([]int, n)}
	for p, to := range place {
		o.ids[to], o.versions[to] = s.ids[p], s.versions[p]
	}
	for _, i := range r.Perm(len(s.depends)) {
		d := move(s.depends[i])
		r.Shuffle(len(d)-1, func(a, b int) { d[a+1], d[b+1] = d[b+1], d[a+1] })
		o.depends = append(o.depends, d)
	}
	for _, i := range r.Perm(len(s.conflicts)) {
		o.conflicts = append(o.conflicts, [2]Package(move(s.conflicts[i][:])))
	}
	for _, i := range r.Perm(len(s.roots)) {
		o.roots = append(o.roots, move(s.roots[i]))
	}
	o.bans = move(s.bans)
	for _, w := range s.weights {
		v := make([]int64, n)
		for p, to := range place {
			v[to] = w[p]
		}
		o.weights = append(o.weights, v)
	}
	return o, place
}

func TestTheOrderOfTheInputDoesNotMatter(t *testing.T) {
	ctx := context.Background()
	r := rand.New(rand.NewPCG(5, 9))
	for i := range 1500 {
		s := random(r)
		o, place := s.shuffled(r)
		q, p := s.request(), o.request()
		if i%2 == 0 { // too little to prove anything: the answer must be the same even so
			q.Budget, p.Budget = 1+i%7, 1+i%7
		}
		a, errA := s.repo().Install(ctx, q)
		b, errB := o.repo().Install(ctx, p)
		if (errA == nil) != (errB == nil) {
			t.Fatalf("%+v: %v; shuffled %v", s, errA, errB)
		}
		if errA != nil {
			continue
		}
		moved := 0
		for _, x := range a.Packages {
			moved |= 1 << place[x]
		}
		if moved != bits(b.Packages) || a.Proven != b.Proven || !slices.Equal(a.Bound, b.Bound) {
			t.Fatalf("%+v: %+v; shuffled %+v", s, a, b)
		}
	}
}

func TestCheckAndAnalysisEqualTryingEverySet(t *testing.T) {
	ctx := context.Background()
	r := rand.New(rand.NewPCG(6, 9))
	broken, dependencies, conflicts := 0, 0, 0
	for i := range 1500 {
		s := random(r)
		repo := s.repo()
		var base []Root
		var sets []int
		if i%2 == 0 {
			base = s.request().Roots
		}
		for _, set := range s.sets() {
			if i%2 != 0 || !slices.ContainsFunc(s.roots, func(any []Package) bool { return !inAny(set, any) }) {
				sets = append(sets, set)
			}
		}
		holds := func(packages ...Package) (n int) {
			for _, set := range sets {
				if set&bits(packages) == bits(packages) {
					n++
				}
			}
			return n
		}
		c, err := repo.Check(ctx, CheckOptions{Base: base, Each: i%3 == 0})
		if err != nil {
			t.Fatal(err)
		}
		a := repo.Analyse(base, 0)
		pairs, err := a.StrongConflicts(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var wantPairs [][2]Package
		for i := range s.ids {
			p := Package(i)
			if (holds(p) == 0) != slices.Contains(c.Broken, p) {
				t.Fatalf("%+v: broken %v; %d is in %d sets", s, c.Broken, p, holds(p))
			}
			var want []Package
			for j := range s.ids {
				q := Package(j)
				if q != p && holds(p) > 0 && holds(p, q) == holds(p) {
					want = append(want, q)
				}
				if p < q && holds(p) > 0 && holds(q) > 0 && holds(p, q) == 0 {
					wantPairs = append(wantPairs, [2]Package{p, q})
				}
			}
			got, err := a.StrongDependencies(ctx, p)
			if err != nil || bits(got) != bits(want) {
				t.Fatalf("%+v: %d strongly depends on %v, got %v, %v", s, p, want, got, err)
			}
			dependencies += len(want)
		}
		if !slices.Equal(pairs, wantPairs) {
			t.Fatalf("%+v: strong conflicts %v, want %v", s, pairs, wantPairs)
		}
		broken += len(c.Broken)
		conflicts += len(pairs)
	}
	if broken < 100 || dependencies < 100 || conflicts < 100 {
		t.Errorf("%d broken, %d dependencies, %d conflicts: the instances show too little", broken, dependencies, conflicts)
	}
}

func TestWhyEqualsTryingEverySet(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 9))
	necessary, chosen := 0, 0
	for range 1300 {
		s := random(r)
		set, ok := s.best()
		if !ok {
			continue
		}
		repo, q := s.repo(), s.request()
		for i := range s.ids {
			p := Package(i)
			if !in(set, p) {
				continue
			}
			c := *s
			c.bans = append(slices.Clone(s.bans), p)
			without, ok := c.best()
			w, err := repo.Why(context.Background(), q, p)
			if err != nil || w.Necessary() == ok || (w.Without != nil) != ok {
				t.Fatalf("%+v: why %d: %+v, %v; without it there is a set: %v", s, p, w, err, ok)
			}
			if ok {
				chosen++
				if bits(w.Without.Packages) != without {
					t.Fatalf("%+v: without %d: %+v, want %b", s, p, w.Without, without)
				}
				continue
			}
			necessary++
			if ban := (Fact{Kind: Banned, Package: p}); !s.contradictory(append(slices.Clone(w.Facts), ban)) {
				t.Fatalf("%+v: %+v do not make %d necessary", s, w.Facts, p)
			}
		}
	}
	if necessary < 100 || chosen < 100 {
		t.Errorf("%d necessary, %d chosen: the instances show too little", necessary, chosen)
	}
}
