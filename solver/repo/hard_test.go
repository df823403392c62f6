package repo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

func count(Package) int64 { return 1 }

// pigeons asks for a hole of its own for each of n pigeons; with fewer holes than
// pigeons there is no set, and no short proof of that.
func pigeons(pigeons, holes int) (*Repo, []Root) {
	var b Builder
	var roots []Root
	at := make([][]Package, pigeons)
	for p := range at {
		for h := range holes {
			at[p] = append(at[p], b.Add(fmt.Sprintf("pigeon%d-hole%d", p, h), 0))
		}
		roots = append(roots, Root{at[p], p})
		for q := range p {
			for h := range holes {
				b.Conflict(at[p][h], at[q][h], h)
			}
		}
	}
	return b.Repo(), roots
}

func TestPigeonsEndWithTheBudget(t *testing.T) {
	ctx := context.Background()
	r, roots := pigeons(5, 4)
	e, err := r.Explain(ctx, Request{Roots: roots})
	if err != nil || !e.Minimal || len(e.Facts) != 5+4*10 || len(e.Repairs) != 5 {
		t.Errorf("five pigeons, four holes: %+v, %v", e, err)
	}
	r, roots = pigeons(12, 11)
	q := Request{Roots: roots, Criteria: []Criterion{count}, Budget: 2000}
	if got, err := r.Install(ctx, q); !errors.Is(err, ErrBudget) {
		t.Errorf("install: %v, %v", got, err)
	}
	if got, err := r.Explain(ctx, q); !errors.Is(err, ErrBudget) {
		t.Errorf("explain: %v, %v", got, err)
	}
	c, err := r.Check(ctx, CheckOptions{Base: roots, Budget: 20})
	if err != nil || len(c.Broken) > 0 || len(c.Undecided) != r.Len() {
		t.Errorf("check: %d broken, %d undecided, %v", len(c.Broken), len(c.Undecided), err)
	}
	// The budget is one for all packages, however many are hard, and none goes without.
	c, err = r.Check(ctx, CheckOptions{Base: roots, Budget: 3000})
	if most := int64(3000 + r.Len()*leastConflicts); err != nil || c.Work.Conflicts > most || c.Work.Conflicts < most/2 {
		t.Errorf("check: %d conflicts for %d packages, %v", c.Work.Conflicts, r.Len(), err)
	}
	a := r.Analyse(roots, 20)
	if _, err := a.StrongConflicts(ctx); !errors.Is(err, ErrBudget) {
		t.Errorf("strong conflicts: %v", err)
	}
	if _, err := a.StrongDependencies(ctx, 0); !errors.Is(err, ErrBudget) {
		t.Errorf("strong dependencies: %v", err)
	}
}

// cover is a hard optimum: as few packages as possible, of which each meets a few of
// many wishes.
func cover(seed uint64, wishes, packages int) (*Repo, Request) {
	rng := rand.New(rand.NewPCG(seed, 9))
	var b Builder
	for p := range packages {
		b.Add(fmt.Sprintf("p%d", p), 0)
	}
	q := Request{Criteria: []Criterion{func(p Package) int64 { return 3 + int64(p)%5 }, count}}
	for w := range wishes {
		var any []Package
		for range 5 {
			any = append(any, Package(rng.IntN(packages)))
		}
		q.Roots = append(q.Roots, Root{any, w})
	}
	return b.Repo(), q
}

// What is not proven is said, with a bound that holds, and more work never makes an
// answer worse or a bound lower.
func TestWhatIsNotProvenIsSaid(t *testing.T) {
	unproven := 0
	for seed := range uint64(4) {
		r, q := cover(seed, 60, 40)
		q.Budget = 0
		best, err := r.Install(context.Background(), q)
		if err != nil || !best.Proven {
			t.Fatalf("%+v, %v", best, err)
		}
		for _, budget := range []int{100, 400, 1500} {
			q.Budget = budget
			got, err := r.Install(context.Background(), q)
			if err != nil {
				t.Fatal(err)
			}
			if !got.Proven {
				unproven++
			}
			if slices.Compare(got.Cost, best.Cost) < 0 || got.Bound[0] > best.Cost[0] || got.Proven && !slices.Equal(got.Cost, best.Cost) {
				t.Errorf("budget %d: %v, bound %v, proven %v; the best costs %v", budget, got.Cost, got.Bound, got.Proven, best.Cost)
			}
			if got.Cost[0] > best.Cost[0]*3/2 {
				t.Errorf("budget %d: %v is far from the best, %v", budget, got.Cost, best.Cost)
			}
			held := func(any []Package) bool {
				return slices.ContainsFunc(any, func(p Package) bool { return slices.Contains(got.Packages, p) })
			}
			if slices.ContainsFunc(q.Roots, func(root Root) bool { return !held(root.Any) }) {
				t.Errorf("budget %d: a wish is not met", budget)
			}
		}
	}
	if unproven == 0 {
		t.Error("everything was proven: the instances show nothing")
	}
}

// What a set that was found has to hold is not undecided, whenever it was asked about.
func TestWhatIsInASetIsDecided(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 9))
	undecided := 0
	for range 3000 {
		s := random(rng)
		c, err := s.repo().Check(context.Background(), CheckOptions{Budget: 1})
		if err != nil {
			t.Fatal(err)
		}
		undecided += len(c.Undecided)
		for _, d := range s.depends {
			if len(d) == 2 && !slices.Contains(c.Broken, d[0]) && !slices.Contains(c.Undecided, d[0]) && slices.Contains(c.Undecided, d[1]) {
				t.Fatalf("%+v: %d is in a set, and not %d, which it needs: %+v", s, d[0], d[1], c)
			}
		}
	}
	if undecided == 0 {
		t.Error("everything was decided: the instances show nothing")
	}
}

func TestAnswersEndWithTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r, roots := pigeons(30, 29)
	q := Request{Roots: roots, Criteria: []Criterion{count}, Budget: 1 << 40}
	if _, err := r.Install(ctx, q); !errors.Is(err, context.Canceled) {
		t.Errorf("install: %v", err)
	}
	if _, err := r.Explain(ctx, q); !errors.Is(err, context.Canceled) {
		t.Errorf("explain: %v", err)
	}
	if _, err := r.Why(ctx, q, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("why: %v", err)
	}
	if _, err := r.Check(ctx, CheckOptions{Base: roots}); !errors.Is(err, context.Canceled) {
		t.Errorf("check: %v", err)
	}
	if _, err := r.Analyse(roots, 0).Installable(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("installable: %v", err)
	}
	var b Builder
	for i := range 3 {
		b.Add(fmt.Sprint(i), 0)
	}
	short := b.Repo()
	if got, err := short.Check(ctx, CheckOptions{Each: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("check of few: %v, %v", got, err)
	}
	if got, err := short.Analyse(nil, 0).StrongConflicts(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("strong conflicts of few: %v, %v", got, err)
	}
	later, stop := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer stop()
	if _, err := r.Install(later, q); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("install: %v", err)
	}
}

// many is how large the large repositories are.
const many = 100_000

func TestAHundredThousandPackages(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name   string
		build  func(b *Builder)
		broken int
		size   int // of the set for the first package
	}{
		{"a chain, the last of which depends on the first", func(b *Builder) {
			for i := range many {
				b.Depend(b.Add(fmt.Sprintf("p%d", i), 0), 0, Package((i+1)%many))
			}
		}, 0, many},
		{"a chain that ends in nothing", func(b *Builder) {
			for i := range many {
				p := b.Add(fmt.Sprintf("p%d", i), 0)
				if i+1 < many {
					b.Depend(p, 0, p+1)
				} else {
					b.Depend(p, 0)
				}
			}
		}, many, -1},
		{"ten versions of each id, of which the first needs another package", func(b *Builder) {
			for i := range many {
				b.Add(fmt.Sprintf("p%d", i%10_000), i)
			}
			b.Depend(0, 0, 1, 2)
		}, 0, 2},
		{"a package that needs two versions of one id, of ten", func(b *Builder) {
			for i := range many {
				b.Add(fmt.Sprintf("p%d", i%10_000), i)
			}
			b.Depend(0, 0, 1)
			b.Depend(0, 1, many-9999)
		}, 1, -1},
		{"any of all others", func(b *Builder) {
			var any []Package
			for i := range many {
				if p := b.Add(fmt.Sprintf("p%d", i), 0); i > 0 {
					any = append(any, p)
				}
			}
			b.Depend(0, 0, any...)
		}, 0, 2},
		{"each conflicts with itself", func(b *Builder) {
			for i := range many {
				p := b.Add(fmt.Sprintf("p%d", i), 0)
				b.Conflict(p, p, 0)
			}
		}, many, -1},
		{"three layers, each any of three of the next, and conflicts", func(b *Builder) {
			rng := rand.New(rand.NewPCG(8, 9))
			for i := range many {
				b.Add(fmt.Sprintf("p%d", i), 0)
			}
			for i := range many * 2 / 3 {
				for d := range 3 {
					next := i - i%(many/3) + many/3
					b.Depend(Package(i), d, Package(next+rng.IntN(many/3)), Package(next+rng.IntN(many/3)), Package(next+rng.IntN(many/3)))
				}
				b.Conflict(Package(i), Package(rng.IntN(many)), 0)
			}
		}, -1, 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b Builder
			c.build(&b)
			r := b.Repo()
			q := Request{Roots: []Root{{[]Package{0}, 0}}, Criteria: []Criterion{count}}
			set, err := r.Install(ctx, q)
			var none *Unsatisfiable
			switch {
			case c.size < 0:
				if !errors.As(err, &none) {
					t.Fatalf("%v, %v", set, err)
				}
				// A contradiction of 100,000 facts ends with the budget, not as minimal.
				if e, err := r.Explain(ctx, Request{Roots: q.Roots, Budget: 200}); err != nil || len(e.Facts) < 2 {
					t.Fatalf("%+v, %v", e, err)
				}
			case err != nil:
				t.Fatal(err)
			case len(set.Packages) != c.size && c.broken >= 0 || !set.Proven:
				t.Fatalf("%d packages, bound %v", len(set.Packages), set.Bound)
			}
			check, err := r.Check(ctx, CheckOptions{})
			if err != nil || len(check.Broken) != c.broken && c.broken >= 0 {
				t.Fatalf("%d broken, %v", len(check.Broken), err)
			}
		})
	}
}

func TestOneRepoServesManyAtOnce(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 9))
	for range 20 {
		s := random(rng)
		r, q := s.repo(), s.request()
		want, wantErr := r.Install(context.Background(), q)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				got, err := r.Install(context.Background(), q)
				if (err == nil) != (wantErr == nil) || err == nil && !slices.Equal(got.Packages, want.Packages) {
					t.Errorf("%v, %v; alone %v, %v", got, err, want, wantErr)
				}
				if _, err := r.Explain(context.Background(), q); err != nil {
					t.Error(err)
				}
				if _, err := r.Check(context.Background(), CheckOptions{}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
}

// FuzzInstall reads a sample out of bytes and holds the answer to the definition.
func FuzzInstall(f *testing.F) {
	f.Add([]byte{3, 1, 0, 2, 1, 4, 2, 9, 3})
	f.Add([]byte{7, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15})
	f.Fuzz(func(t *testing.T, data []byte) {
		next := func() int {
			if len(data) == 0 {
				return 0
			}
			b := data[0]
			data = data[1:]
			return int(b)
		}
		n := 1 + next()%7
		s := &sample{weights: [][]int64{nil, nil}}
		for p := range n {
			s.ids, s.versions = append(s.ids, fmt.Sprint("p", next()%n)), append(s.versions, p)
			s.weights[0] = append(s.weights[0], int64(next()%4))
			s.weights[1] = append(s.weights[1], 1)
		}
		list := func(k int) (l []Package) {
			for range k {
				l = append(l, Package(next()%n))
			}
			return l
		}
		for len(data) > 0 {
			switch b := next(); b % 4 {
			case 0:
				s.roots = append(s.roots, list(b/4%3))
			case 1:
				s.depends = append(s.depends, list(1+b/4%4))
			case 2:
				s.conflicts = append(s.conflicts, [2]Package(list(2)))
			case 3:
				s.bans = append(s.bans, list(1)...)
			}
		}
		want, ok := s.best()
		got, err := s.repo().Install(context.Background(), s.request())
		if (err == nil) != ok || ok && (bits(got.Packages) != want || !got.Proven) {
			t.Fatalf("%+v: %+v, %v; want %b, %v", s, got, err, want, ok)
		}
		if !ok {
			s.checkExplanation(t)
		}
	})
}
