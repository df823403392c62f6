package sat

import (
	"context"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
)

// A formula is a list of clauses over few variables.
type formula struct {
	vars    int
	clauses [][]Lit
}

func random(r *rand.Rand) formula {
	f := formula{vars: 1 + r.IntN(10)}
	size := 1 + r.IntN(4)
	for range r.IntN(1 + 5*f.vars) {
		var c []Lit
		for range 1 + r.IntN(size) {
			c = append(c, Lit(r.IntN(2*f.vars)))
		}
		f.clauses = append(f.clauses, c)
	}
	return f
}

// holds is the definition.
func (f formula) holds(set int) bool {
	for _, c := range f.clauses {
		if !slices.ContainsFunc(c, func(l Lit) bool { return (set>>l.Var()&1 == 1) != l.Negative() }) {
			return false
		}
	}
	return true
}

// satisfiable tries every assignment.
func (f formula) satisfiable(more ...Lit) bool {
	g := formula{f.vars, slices.Clip(f.clauses)}
	for _, l := range more {
		g.clauses = append(g.clauses, []Lit{l})
	}
	for set := range 1 << f.vars {
		if g.holds(set) {
			return true
		}
	}
	return false
}

func solverOf(f formula, o Options) *Solver {
	s := New(o)
	s.maxLearnt = 3
	for range f.vars {
		s.NewVar()
	}
	for i, c := range f.clauses {
		s.Add(int32(i), c...)
	}
	return s
}

func model(s *Solver, vars int) (set int) {
	for v := range vars {
		if s.True(v) {
			set |= 1 << v
		}
	}
	return set
}

// check holds one answer to the definition.
func check(t *testing.T, f formula, s *Solver, assumptions []Lit) Status {
	t.Helper()
	status := s.Solve(context.Background(), assumptions, 0)
	if (status == Satisfiable) != f.satisfiable(assumptions...) || status == Unknown {
		t.Fatalf("%v under %v: %v", f, assumptions, status)
	}
	if status == Satisfiable {
		set := model(s, f.vars)
		if !f.holds(set) {
			t.Fatalf("%v: %b is no model", f, set)
		}
		for _, a := range assumptions {
			if (set>>a.Var()&1 == 1) == a.Negative() {
				t.Fatalf("%v: %b is not what was assumed, %v", f, set, assumptions)
			}
		}
		return status
	}
	core := slices.Clone(s.Core())
	for _, l := range core {
		if !slices.Contains(assumptions, l) {
			t.Fatalf("%v under %v: core %v", f, assumptions, core)
		}
	}
	if f.satisfiable(core...) {
		t.Fatalf("%v: the core %v of %v contradicts nothing", f, core, assumptions)
	}
	if s.opt.Trace {
		part := formula{vars: f.vars}
		for _, i := range s.Labels() {
			part.clauses = append(part.clauses, f.clauses[i])
		}
		if part.satisfiable(core...) {
			t.Fatalf("%v under %v: what is blamed, %v with %v, has a model", f, assumptions, part, core)
		}
	}
	return status
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

func TestAnswersAreThoseOfTryingEveryAssignment(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 9))
	counts := map[Status]int{}
	var work Stats
	for i := range rounds(t) {
		f := random(r)
		half := formula{f.vars, f.clauses[:len(f.clauses)/2]}
		s := solverOf(half, Options{Lazy: i%2 == 0, Trace: i%3 == 0})
		for range 3 {
			var assumptions []Lit
			for range r.IntN(4) {
				assumptions = append(assumptions, Lit(r.IntN(2*f.vars)))
			}
			counts[check(t, half, s, assumptions)]++
			if half.vars == f.vars && len(half.clauses) < len(f.clauses) { // more clauses come
				s.Add(int32(len(half.clauses)), f.clauses[len(half.clauses)]...)
				half.clauses = f.clauses[:len(half.clauses)+1]
			}
		}
		for _, c := range f.clauses[len(half.clauses):] {
			s.Add(int32(len(half.clauses)), c...)
			half.clauses = f.clauses[:len(half.clauses)+1]
		}
		counts[check(t, f, s, nil)]++
		st := s.Stats()
		work.Conflicts += st.Conflicts
		work.Deleted += st.Deleted
	}
	if counts[Satisfiable] < 1000 || counts[Unsatisfiable] < 1000 || work.Conflicts < 1000 {
		t.Errorf("%v, %+v: the instances show too little", counts, work)
	}
}

// hard is a random formula of three literals a clause near where half have a model.
func hard(r *rand.Rand, vars int) formula {
	f := formula{vars: vars}
	for range vars * 43 / 10 {
		f.clauses = append(f.clauses, []Lit{Lit(r.IntN(2 * vars)), Lit(r.IntN(2 * vars)), Lit(r.IntN(2 * vars))})
	}
	return f
}

// With many conflicts clauses are forgotten and moved, and the answers of different
// ways must still agree.
func TestWaysOfSolvingAgree(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 9))
	deleted := int64(0)
	for range 6 {
		f := hard(r, 130)
		var first Status
		for i, o := range []Options{{}, {Lazy: true}, {Trace: true}} {
			most := len(f.clauses) * 19 / 20 // the others come after some that were learnt
			s := solverOf(formula{f.vars, f.clauses[:most]}, o)
			s.maxLearnt = 100
			s.Solve(context.Background(), nil, 0)
			for i, c := range f.clauses[most:] {
				s.Add(int32(most+i), c...)
			}
			status := s.Solve(context.Background(), nil, 0)
			deleted += s.Stats().Deleted
			if i == 0 {
				first = status
			}
			if status != first || status == Unknown {
				t.Fatalf("%+v: %v, before it %v", o, status, first)
			}
			if status == Satisfiable {
				for _, c := range f.clauses {
					if !slices.ContainsFunc(c, func(l Lit) bool { return s.True(l.Var()) != l.Negative() }) {
						t.Fatalf("%+v: %v is false", o, c)
					}
				}
			}
			if o.Trace && status == Unsatisfiable {
				part := formula{vars: f.vars}
				for _, l := range s.Labels() {
					part.clauses = append(part.clauses, f.clauses[l])
				}
				if got := solverOf(part, Options{}).Solve(context.Background(), nil, 0); got != Unsatisfiable {
					t.Fatalf("%d of %d clauses are blamed, and have a model", len(part.clauses), len(f.clauses))
				}
			}
		}
	}
	if deleted == 0 {
		t.Error("no clause was forgotten")
	}
}

// pigeons asks for a hole of its own for each of n+1 pigeons, with n holes.
func pigeons(n int) formula {
	f := formula{vars: n * (n + 1)}
	for p := range n + 1 {
		var c []Lit
		for h := range n {
			c = append(c, Pos(p*n+h))
		}
		f.clauses = append(f.clauses, c)
		for q := range p {
			for h := range n {
				f.clauses = append(f.clauses, []Lit{Neg(p*n + h), Neg(q*n + h)})
			}
		}
	}
	return f
}

func TestPigeonsEndWithTheBudget(t *testing.T) {
	for _, o := range []Options{{}, {Lazy: true}, {Lazy: true, Trace: true}} {
		if got := solverOf(pigeons(5), o).Solve(context.Background(), nil, 0); got != Unsatisfiable {
			t.Errorf("%+v: 6 pigeons, 5 holes: %v", o, got)
		}
		s := solverOf(pigeons(30), o)
		if got := s.Solve(context.Background(), nil, 2000); got != Unknown || s.Stats().Conflicts > 2000 {
			t.Errorf("%+v: 31 pigeons, 30 holes: %v after %d conflicts", o, got, s.Stats().Conflicts)
		}
	}
}

func TestSolveEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s := solverOf(pigeons(30), Options{})
	if got := s.Solve(ctx, nil, 0); got != Unknown || s.Stats().Conflicts > askEvery {
		t.Errorf("%v after %d conflicts", got, s.Stats().Conflicts)
	}
}

func TestTooMuchForTheMemoryIsUnknown(t *testing.T) {
	s := New(Options{})
	s.NewVar()
	s.full = true
	if got := s.Solve(context.Background(), nil, 0); got != Unknown {
		t.Error(got)
	}
}

func TestExtendKeepsTheModel(t *testing.T) {
	s := New(Options{Lazy: true})
	for range 5 {
		s.NewVar()
	}
	s.Add(0, Neg(0), Pos(1), Pos(2)) // 0 needs 1 or 2
	s.Add(1, Neg(3), Neg(0))         // 3 excludes 0
	s.Add(2, Neg(4), Pos(2))         // 4 needs 2
	if s.Solve(context.Background(), []Lit{Pos(0)}, 0) != Satisfiable {
		t.Fatal("no model")
	}
	if !s.Open(4) || !s.Extend(Pos(4)) || !s.True(4) || !s.True(2) || !s.True(0) {
		t.Error("4 does not fit in")
	}
	if s.Extend(Pos(3)) || s.True(3) || !s.True(4) || !s.True(0) {
		t.Error("3 changed the model")
	}
}

func FuzzSolve(f *testing.F) {
	f.Add([]byte{3, 0, 2, 255, 1, 3, 255, 0, 5})
	f.Add([]byte{2, 0, 255, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 || len(data) > 60 {
			return
		}
		g := formula{vars: 1 + int(data[0])%8}
		var c []Lit
		for _, b := range data[1:] {
			if b == 255 {
				g.clauses = append(g.clauses, c)
				c = nil
				continue
			}
			c = append(c, Lit(int(b)%(2*g.vars)))
		}
		for _, o := range []Options{{}, {Lazy: true}, {Lazy: true, Trace: true}} {
			check(t, g, solverOf(g, o), c)
		}
	})
}
