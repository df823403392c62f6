package solver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
)

func TestWhyThereIsNoSet(t *testing.T) {
	for _, c := range []struct {
		name    string
		catalog []string
		request func(*Request) // beside the requirements
		reqs    []string
		want    string
	}{
		{"nothing provides it", []string{"a 1 +x"}, nil, []string{"x", "tls"}, `
  policy.yaml:2 (asks for tls) asks for tls, which no module provides
there is a set without policy.yaml:2 (asks for tls)`},
		{"nothing provides what its provider needs", []string{"a 1 +x >y", "b 1 +y >z"}, nil, []string{"x"}, `
  policy.yaml:1 (asks for x) asks for x, which only a provides
  a requires y, which only b provides
  b requires z, which no module provides
there is a set without policy.yaml:1 (asks for x)`},
		{"it exists for another target only", []string{"a 1 +x @microvm"}, nil, []string{"x"}, `
  policy.yaml:1 (asks for x) asks for x, which no module provides for process (a: not available there)
there is a set without policy.yaml:1 (asks for x)`},
		{"others exist for another target", []string{"a 1 +x >y", "b 1 +x @microvm", "c 1 +y !a", "d 1 +y !a", "e 1 +y @microvm"}, nil, []string{"x"}, `
  policy.yaml:1 (asks for x) asks for x, which only a provides for process
  a requires y, which only c and d provide for process
  c conflicts with a
  d conflicts with a
there is a set without policy.yaml:1 (asks for x)`},
		{"two requirements force modules that exclude each other", []string{"a 1 +x !b", "b 1 +y", "c 1 +z"}, nil, []string{"z", "x", "y"}, `
  policy.yaml:2 (asks for x) asks for x, which only a provides
  policy.yaml:3 (asks for y) asks for y, which only b provides
  a conflicts with b
there is a set without policy.yaml:2 (asks for x), or without policy.yaml:3 (asks for y)`},
		{"they do so through other modules", []string{"a 1 +x >p", "p 1 !s", "b 1 +y >q", "q 1 +s"}, nil, []string{"x", "y"}, `
  policy.yaml:1 (asks for x) asks for x, which only a provides
  a requires p
  policy.yaml:2 (asks for y) asks for y, which only b provides
  b requires q
  p conflicts with q, which provides s
there is a set without policy.yaml:1 (asks for x), or without policy.yaml:2 (asks for y)`},
		{"each provider fails for a reason of its own", []string{"a 1 +x >nope", "b 2 +x !c", "c 1 +y"}, nil, []string{"y", "x"}, `
  policy.yaml:1 (asks for y) asks for y, which only c provides
  policy.yaml:2 (asks for x) asks for x, which only a and b provide
  b conflicts with c
  a requires nope, which no module provides
there is a set without policy.yaml:1 (asks for y), or without policy.yaml:2 (asks for x)`},
		{"two versions of one module", []string{"a=1 1 +x", "a=2 1 +y"}, nil, []string{"x", "y"}, `
  policy.yaml:1 (asks for x) asks for x, which only a@1 provides
  policy.yaml:2 (asks for y) asks for y, which only a@2 provides
  a@2 and a@1 are versions of one module: an image has one of them
there is a set without policy.yaml:1 (asks for x), or without policy.yaml:2 (asks for y)`},
		{"a prohibition", []string{"a 1 +x >y", "b 1 +y"}, func(r *Request) { r.Prohibitions = forbid("b", 9) }, []string{"x"}, `
  policy.yaml:1 (asks for x) asks for x, which only a provides
  a requires y, which only b provides
  policy.yaml:9 (b is not wanted) forbids b
there is a set without policy.yaml:1 (asks for x), or without the prohibition of policy.yaml:9 (b is not wanted)`},
		{"a prohibition of a capability", []string{"a 1 +x +y", "b 1 +x +y"}, func(r *Request) { r.Prohibitions = forbid("y", 9) }, []string{"x"}, `
  policy.yaml:1 (asks for x) asks for x, which only a and b provide
  policy.yaml:9 (y is not wanted) forbids a, which provides y
  policy.yaml:9 (y is not wanted) forbids b, which provides y
there is a set without policy.yaml:1 (asks for x), or without the prohibition of policy.yaml:9 (y is not wanted)`},
		{"two contradictions: one smallest repair", []string{"a 1 +x"}, nil, []string{"p", "x", "q"}, `
  policy.yaml:1 (asks for p) asks for p, which no module provides
there is a set without policy.yaml:1 (asks for p) and policy.yaml:3 (asks for q)`},
		{"a limit that is too low", []string{"a 7 +x >y", "b 2 +y", "c 3 +z"}, func(r *Request) { r.MaxSurface, r.MaxSurfacePos = 6, api.Pos{File: "policy.yaml", Line: 5} }, []string{"x", "z"}, `
  policy.yaml:5 allows 6 points of attack surface, and no set that does has less than 12 points
  the smallest one that was found has 12: a (7), c (3) and b (2)
there is a set with a limit of 12 points, or without policy.yaml:1 (asks for x)`},
		{"a contradiction whose repairs break the limit", []string{"a 7 +x !b", "b 2 +y", "c 3 +z"}, func(r *Request) { r.MaxSurface = 6 }, []string{"x", "y", "z"}, `
  policy.yaml:1 (asks for x) asks for x, which only a provides
  policy.yaml:2 (asks for y) asks for y, which only b provides
  a conflicts with b
there is a set without policy.yaml:1 (asks for x), or without policy.yaml:2 (asks for y) and with a limit of 10 points`},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := asks(c.reqs...)
			if c.request != nil {
				c.request(&q)
			}
			_, err := Solve(context.Background(), catalogOf(t, c.catalog...), q)
			var u *Unsatisfiable
			if !errors.As(err, &u) {
				t.Fatalf("got %v", err)
			}
			_, got, _ := strings.Cut(err.Error(), ":")
			if got != c.want {
				t.Errorf("got%s\nwant%s", got, c.want)
			}
		})
	}
}

// forbid is a prohibition in a line of policy.yaml.
func forbid(name string, line int) []catalog.Requirement {
	return []catalog.Requirement{{Any: catalog.Clause{name}, Why: name + " is not wanted", Pos: api.Pos{File: "policy.yaml", Line: line}}}
}

func TestWhyAModuleIsIn(t *testing.T) {
	for _, c := range []struct {
		name    string
		catalog []string
		reqs    []string
		limit   int
		want    []string
	}{
		{"a chain", []string{"a 1 +x >y", "b 1 +y"}, []string{"x"}, 0, []string{
			"a: necessary: policy.yaml:1 (asks for x) > a",
			"b: necessary: policy.yaml:1 (asks for x) > a > b",
		}},
		{"what all ways lead to", []string{"a 1 +x >z", "b 1 +x >z", "c 1 +z"}, []string{"x"}, 0, []string{
			"a: chosen: without it it costs the same, with b instead of a",
			"c: necessary: policy.yaml:1 (asks for x) asks for x, which only a and b provide; a requires z, which only c provides; b requires z, which only c provides",
		}},
		{"a price", []string{"a 1 +x", "b 5 +x >y", "c 7 +y"}, []string{"x"}, 0, []string{
			"a: chosen: without it 11 more points, 1 more module, with b and c instead of a",
		}},
		{"a price above the limit", []string{"a 1 +x", "b 5 +x"}, []string{"x"}, 3, []string{
			"a: chosen: without it 4 more points, with b instead of a, which is above the limit",
		}},
		{"fewer modules that are attacked more", []string{"a 1 +x", "b 1 +y", "c 9 +x +y"}, []string{"x", "y"}, 0, []string{
			"a: chosen: without it 7 more points, 1 fewer module, with c instead of a and b",
			"b: chosen: without it 7 more points, 1 fewer module, with c instead of a and b",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cat, q := catalogOf(t, c.catalog...), asks(c.reqs...)
			q.MaxSurface = c.limit
			sel, err := Solve(context.Background(), cat, q)
			if err != nil {
				t.Fatal(err)
			}
			list, err := Explain(context.Background(), cat, q, sel)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, w := range list {
				got = append(got, w.Module.ID+": "+w.String())
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// A hard choice that ends with its budget is said to have done so, and a limit between
// what was found and what was proven is neither met nor shown to be too low.
func TestWhatTheBudgetLeavesOpenIsSaid(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 7))
	var lines []string
	for m := range 40 {
		line := fmt.Sprintf("m%d %d", m, 3+m%5)
		for c := range 60 {
			if r.IntN(8) == 0 {
				line += fmt.Sprintf(" +c%d", c)
			}
		}
		lines = append(lines, line)
	}
	c := catalogOf(t, lines...)
	var q Request
	q.Target = "process"
	for i := range 60 {
		if n := fmt.Sprintf("c%d", i); c.Providers(n) != nil {
			q.Requirements = append(q.Requirements, want(n)...)
		}
	}
	q.Budget = 200
	sel, err := Solve(context.Background(), c, q)
	if err != nil {
		t.Fatal(err)
	}
	if sel.Proven || sel.Bound >= sel.Surface || sel.Bound == 0 {
		t.Fatalf("surface %d, bound %d, proven %v: the instance shows nothing", sel.Surface, sel.Bound, sel.Proven)
	}
	q.MaxSurface = sel.Surface - 1
	q.MaxSurfacePos = api.Pos{File: "policy.yaml", Line: 5}
	open := fmt.Sprintf("policy.yaml:5 allows %d points of attack surface; the best module set that was found has %d, and that none has less than %d is all that is known within 200 conflicts of the search: raise the limit to %d, or say in spec.modules which modules to require and to forbid, so that there is less to choose from",
		q.MaxSurface, sel.Surface, sel.Bound, sel.Surface)
	if got, err := Solve(context.Background(), c, q); !errors.As(err, new(*Undecided)) || err.Error() != open {
		t.Errorf("a limit of %d, bound %d: %v, %v", q.MaxSurface, sel.Bound, got, err)
	}
	q.MaxSurface = sel.Bound - 1
	var u *Unsatisfiable
	if got, err := Solve(context.Background(), c, q); !errors.As(err, &u) {
		t.Errorf("a limit of %d, bound %d: %v, %v", q.MaxSurface, sel.Bound, got, err)
	}
	// Each requirement is taken back within a share of the budget; of none it is known
	// then that it helps, nor that it does not.
	left := fmt.Sprintf("whether there is a set within the limit without policy.yaml:1 (asks for c0), or without policy.yaml:1 (asks for c1), or without policy.yaml:1 (asks for c2), or without one of %d others was not found within %d conflicts of the search",
		len(q.Requirements)-3, 200/len(q.Requirements))
	if got := u.Story[len(u.Story)-1]; got != left || len(u.Repairs) != 1 {
		t.Errorf("%q, and %d repairs", got, len(u.Repairs))
	}
}

// A repair that there is, and of which the budget did not show how much surface it leaves,
// is named: here two modules exclude each other, and all else is a hard choice.
func TestARepairThatIsLeftOpenIsNamed(t *testing.T) {
	const vars, budget = 120, 640
	r := rand.New(rand.NewPCG(5, 7))
	modules := make([]string, 2*vars) // one for each value of a variable
	var asked []string
	for v := range vars {
		modules[2*v], modules[2*v+1] = fmt.Sprintf("y%d 1 +v%d !n%d", v, v, v), fmt.Sprintf("n%d 1 +v%d", v, v)
		asked = append(asked, fmt.Sprintf("v%d", v))
	}
	wrong := func(l int) bool { return l/2%2 == l%2 } // in the choice that meets all clauses
	for c := range vars * 43 / 10 {
		one, two, three := r.IntN(2*vars), r.IntN(2*vars), r.IntN(2*vars)
		for wrong(one) && wrong(two) && wrong(three) {
			three = r.IntN(2 * vars)
		}
		for _, l := range []int{one, two, three} {
			modules[l] += fmt.Sprintf(" +c%d", c)
		}
		asked = append(asked, fmt.Sprintf("c%d", c))
	}
	q := asks(append(asked, "p1", "p2")...)
	q.Budget, q.MaxSurface = budget, 999
	_, err := Solve(context.Background(), catalogOf(t, append(modules, "a 1 +p1 +h !h", "b 1 +p2 +h !h")...), q)
	var u *Unsatisfiable
	if !errors.As(err, &u) {
		t.Fatal(err)
	}
	n := len(q.Requirements)
	want := fmt.Sprintf("whether there is a set within the limit without policy.yaml:%d (asks for p1), or without policy.yaml:%d (asks for p2) was not found within %d conflicts of the search", n-1, n, budget/2)
	if got := u.Story[len(u.Story)-1]; got != want || len(u.Repairs) != 0 {
		t.Errorf("%q, and repairs %v", got, u.Repairs)
	}
}

// Where nothing was found, the budget is named, and what can be done.
func TestWhatIsNotFoundIsUndecided(t *testing.T) {
	const holes = 11
	var lines, all []string
	for p := range holes + 1 {
		for h := range holes {
			lines = append(lines, fmt.Sprintf("m%d/%d 1 +p%d +h%d !h%d", p, h, p, h, h))
		}
		all = append(all, fmt.Sprintf("p%d", p))
	}
	q := asks(all...)
	q.Budget = 1000
	got, err := Solve(context.Background(), catalogOf(t, lines...), q)
	var u *Undecided
	const want = "no module set for target process was found, and none was ruled out, within 1000 conflicts of the search: say in spec.modules which modules to require and to forbid, so that there is less to choose from"
	if !errors.As(err, &u) || err.Error() != want {
		t.Errorf("%v, %v", got, err)
	}
}

func TestSolveEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c := catalogOf(t, "a 1 +x")
	if _, err := Solve(ctx, c, asks("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("a set: %v", err)
	}
	if _, err := Solve(ctx, c, asks("y")); err == nil {
		t.Error("no set: no error")
	}
}
