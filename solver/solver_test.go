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

// module reads "id[=version] surface +provides >requires !conflicts @target ...".
func module(t testing.TB, text string) *catalog.Module {
	t.Helper()
	m := &catalog.Module{Class: catalog.ClassGuard}
	f := strings.Fields(text)
	m.ID, m.Version, _ = strings.Cut(f[0], "=")
	if _, err := fmt.Sscan(f[1], &m.Surface); err != nil {
		t.Fatal(err)
	}
	for _, w := range f[2:] {
		switch w[0] {
		case '+':
			m.Provides = append(m.Provides, w[1:])
		case '>':
			m.Requires = append(m.Requires, strings.Split(w[1:], "|"))
		case '!':
			m.Conflicts = append(m.Conflicts, w[1:])
		case '@':
			m.Targets = append(m.Targets, w[1:])
		default:
			t.Fatalf("%q", w)
		}
	}
	return m
}

func catalogOf(t testing.TB, lines ...string) *catalog.Catalog {
	t.Helper()
	var modules []*catalog.Module
	for _, l := range lines {
		modules = append(modules, module(t, l))
	}
	c, err := catalog.New(modules...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// asks is a request for capabilities of a process.
func asks(capabilities ...string) Request {
	return Request{Requirements: want(capabilities...), Target: "process"}
}

// want requires capabilities from successive lines of policy.yaml.
func want(capabilities ...string) []catalog.Requirement {
	var reqs []catalog.Requirement
	for i, c := range capabilities {
		reqs = append(reqs, catalog.Requirement{Any: catalog.Clause{c}, Why: "asks for " + c, Pos: api.Pos{File: "policy.yaml", Line: i + 1}})
	}
	return reqs
}

func TestSolve(t *testing.T) {
	for _, c := range []struct {
		name    string
		catalog []string
		reqs    []string
		want    []string
	}{
		{"nothing is asked, nothing is chosen", []string{"a 1 +x"}, nil, nil},
		{"one provider", []string{"a 1 +x", "b 1 +y"}, []string{"x"}, []string{"a"}},
		{"what a module requires comes too", []string{"a 1 +x >y", "b 1 +y >z", "c 1 +z"}, []string{"x"}, []string{"a", "b", "c"}},
		{"modules may require each other", []string{"a 1 +x >y", "b 1 +y >x"}, []string{"x"}, []string{"a", "b"}},
		{"the lighter provider", []string{"a 9 +x", "b 1 +x"}, []string{"x"}, []string{"b"}},
		{"the lighter provider with all that it needs", []string{"a 3 +x", "b 1 +x >y", "c 9 +y"}, []string{"x"}, []string{"a"}},
		{"one module for two capabilities", []string{"a 2 +x", "b 2 +y", "c 3 +x +y"}, []string{"x", "y"}, []string{"c"}},
		{"two modules that are lighter than one", []string{"a 2 +x", "b 2 +y", "c 5 +x +y"}, []string{"x", "y"}, []string{"a", "b"}},
		{"equal weight: fewer modules", []string{"a 1 +x >y", "b 1 +y", "c 2 +x"}, []string{"x"}, []string{"c"}},
		{"the newest version", []string{"a=9 1 +x", "a=10 1 +x", "a=2 1 +x"}, []string{"x"}, []string{"a@10"}},
		{"an older version that is attacked less", []string{"a=1 1 +x", "a=2 3 +x"}, []string{"x"}, []string{"a@1"}},
		{"two versions of one module exclude each other", []string{"a=1 1 +x", "a=2 1 +y", "b 9 +y"}, []string{"x", "y"}, []string{"a@1", "b"}},
		{"a module by its id", []string{"a 1 +x", "b 2 +x"}, []string{"b"}, []string{"b"}},
		{"any one of several capabilities", []string{"a 5 +x", "b 2 +y", "c 1 +z >x|y"}, []string{"z"}, []string{"b", "c"}},
		{"equal weight and count: first by id", []string{"b 1 +x", "a 1 +x"}, []string{"x"}, []string{"a"}},
		{"a conflict makes it choose the heavier one", []string{"a 1 +x !c", "b 5 +x", "c 1 +y"}, []string{"x", "y"}, []string{"b", "c"}},
		{"a conflict with a capability", []string{"a 1 +x !y", "b 5 +x", "c 1 +y"}, []string{"x", "y"}, []string{"b", "c"}},
		{"a provider for another target is passed over", []string{"a 1 +x @microvm", "b 5 +x @process"}, []string{"x"}, []string{"b"}},
		{"a module for every target", []string{"a 1 +x"}, []string{"x"}, []string{"a"}},
		{"any of two", []string{"a 9 +x", "b 1 +y", "c 1 +z >x|y"}, []string{"z"}, []string{"b", "c"}},
		{"a module provides its own id", []string{"a 1 +x >b", "b 1"}, []string{"x"}, []string{"a", "b"}},
		{"the same requirement from two lines", []string{"a 1 +x"}, []string{"x", "x"}, []string{"a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sel, err := Solve(context.Background(), catalogOf(t, c.catalog...), asks(c.reqs...))
			if err != nil {
				t.Fatal(err)
			}
			if got := ids(sel.Modules); !slices.Equal(got, c.want) || !sel.Proven || sel.Bound != sel.Surface {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestModulesComeInChainOrder(t *testing.T) {
	app, audit, late, early, net := module(t, "app 1 +app"), module(t, "audit 1 +audit"), module(t, "authz 1 +authz"), module(t, "filter 1 +filter"), module(t, "net 1 +net")
	app.Class, audit.Class, net.Class = catalog.ClassApp, catalog.ClassAudit, catalog.ClassNet
	late.Order, early.Order = 30, 10
	c, err := catalog.New(app, audit, late, early, net)
	if err != nil {
		t.Fatal(err)
	}
	sel, err := Solve(context.Background(), c, asks("app", "authz", "audit", "filter", "net"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range sel.Modules {
		got = append(got, m.ID)
	}
	if !slices.Equal(got, []string{"net", "filter", "authz", "audit", "app"}) {
		t.Errorf("got %v", got)
	}
}

func TestEveryModuleHasItsReasons(t *testing.T) {
	sel, err := Solve(context.Background(), catalogOf(t, "a 1 +x >y", "b 1 +y", "c 1 +z", "d 9 +y"), asks("x", "y", "x"))
	if err != nil {
		t.Fatal(err)
	}
	render := func(id string) (list []string) {
		for _, r := range sel.Because[id] {
			if r.Requirement != nil {
				list = append(list, r.Requirement.Pos.Short())
			} else {
				list = append(list, r.Module+" needs "+r.Any.String())
			}
		}
		return list
	}
	if got := render("a"); !slices.Equal(got, []string{"policy.yaml:1", "policy.yaml:3"}) {
		t.Errorf("a: %q", got)
	}
	if got := render("b"); !slices.Equal(got, []string{"policy.yaml:2", "a needs y"}) {
		t.Errorf("b: %q", got)
	}
	if got := ids(sel.LeftOut); !slices.Equal(got, []string{"c", "d"}) {
		t.Errorf("left out: %v", got)
	}
}

func TestAHundredThousandModules(t *testing.T) {
	const many = 100_000
	for _, c := range []struct {
		name   string
		line   func(i int) string
		size   int // of the set; -1: there is none
		answer string
	}{
		{"versions of one module", func(i int) string { return fmt.Sprintf("m=%d 1 +x", i) }, 1, fmt.Sprintf("m@%d", many-1)},
		{"a circle", func(i int) string { return fmt.Sprintf("m%05d 1 +x >m%05d", i, (i+1)%many) }, many, ""},
		{"one that nothing meets", func(i int) string { return fmt.Sprintf("m%05d 1 +x >y", i) }, -1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var modules []*catalog.Module
			for i := range many {
				modules = append(modules, module(t, c.line(i)))
			}
			cat, err := catalog.New(modules...)
			if err != nil {
				t.Fatal(err)
			}
			q := asks("x")
			q.Budget = 1000
			sel, err := Solve(context.Background(), cat, q)
			var u *Unsatisfiable
			switch {
			case c.size < 0:
				if !errors.As(err, &u) || len(u.Story) == 0 {
					t.Fatalf("%v, %v", sel, err)
				}
			case err != nil:
				t.Fatal(err)
			case len(sel.Modules) != c.size || c.answer != "" && sel.Modules[0].Name() != c.answer:
				t.Fatalf("%d modules, the first %v", len(sel.Modules), sel.Modules[0])
			}
		})
	}
}

func TestTooMuchToDoWithEachOther(t *testing.T) {
	for _, form := range []string{"m%d 1 +x >x|y", "m%d 1 +x !x"} {
		var lines []string
		for i := range 2100 {
			lines = append(lines, fmt.Sprintf(form, i))
		}
		if _, err := Solve(context.Background(), catalogOf(t, lines...), asks("x")); err == nil || !strings.Contains(err.Error(), "more than 4000000 pairs") {
			t.Errorf("%s: %v", form, err)
		}
	}
}

// ids names modules in the order of the catalog, with versions where they have one.
func ids(modules []*catalog.Module) []string {
	var list []string
	for _, m := range modules {
		list = append(list, strings.TrimSuffix(m.Name(), "@"))
	}
	slices.Sort(list)
	return list
}

// random returns a small catalog and a request over the same capabilities.
func random(t testing.TB, r *rand.Rand) (*catalog.Catalog, Request) {
	n, capabilities := 1+r.IntN(9), 1+r.IntN(6)
	name := func() string { return fmt.Sprintf("c%d", r.IntN(capabilities)) }
	id := func() string { return fmt.Sprintf("m%d", r.IntN(n)) }
	var lines []string
	taken := map[string]bool{}
	for range n {
		m := fmt.Sprintf("%s=%d", id(), r.IntN(3))
		if taken[m] {
			continue
		}
		taken[m] = true
		line := fmt.Sprintf("%s %d +%s", m, r.IntN(6), name())
		for range r.IntN(3) {
			line += " >" + name()
			if r.IntN(4) == 0 {
				line += "|" + name()
			}
		}
		if r.IntN(3) == 0 {
			line += " +" + name()
		}
		if r.IntN(3) == 0 {
			line += " !" + id()
		}
		if r.IntN(6) == 0 {
			line += " !" + name()
		}
		if r.IntN(6) == 0 {
			line += " @microvm"
		}
		lines = append(lines, line)
	}
	var reqs []string
	for range r.IntN(4) {
		reqs = append(reqs, name())
	}
	q := asks(reqs...)
	if r.IntN(4) == 0 {
		q.Prohibitions = want(name())
	}
	if r.IntN(4) == 0 {
		q.Prohibitions = append(q.Prohibitions, want(id())...)
	}
	if r.IntN(4) == 0 {
		q.MaxSurface = 1 + r.IntN(6)
	}
	return catalogOf(t, lines...), q
}

// healthy is the definition, without any of the search.
func healthy(modules []*catalog.Module, q Request) bool {
	has := func(any catalog.Clause) bool {
		for _, m := range modules {
			for _, capability := range any {
				if capability == m.ID || slices.Contains(m.Provides, capability) {
					return true
				}
			}
		}
		return false
	}
	for _, r := range q.Requirements {
		if !has(r.Any) {
			return false
		}
	}
	for _, r := range q.Prohibitions {
		if has(r.Any) {
			return false
		}
	}
	surface := 0
	for _, m := range modules {
		surface += m.Surface
		if len(m.Targets) > 0 && !slices.Contains(m.Targets, q.Target) {
			return false
		}
		for _, any := range m.Requires {
			if !has(any) {
				return false
			}
		}
		for _, o := range modules {
			if o != m && o.ID == m.ID {
				return false
			}
			for _, x := range m.Conflicts {
				if o != m && (o.ID == x || slices.Contains(o.Provides, x)) {
					return false
				}
			}
		}
	}
	return q.MaxSurface == 0 || surface <= q.MaxSurface
}

// brute tries every subset of the catalog. Bits are in the order of the catalog, so
// that of sets that are equally good the smaller number is the one that leaves the last
// modules out.
func brute(c *catalog.Catalog, q Request) ([]string, bool) {
	var best []string
	var least []int
	for set := range 1 << len(c.Modules) {
		var modules []*catalog.Module
		cost := make([]int, 3)
		for i, m := range c.Modules {
			if set&(1<<i) == 0 {
				continue
			}
			modules = append(modules, m)
			cost[0] += m.Surface
			cost[1]++
			for _, o := range c.Modules {
				if o.ID == m.ID && o.Fits(q.Target) && catalog.CompareVersions(o.Version, m.Version) > 0 {
					cost[2]++
				}
			}
		}
		if healthy(modules, q) && (least == nil || slices.Compare(cost, least) < 0) {
			best, least = ids(modules), cost
		}
	}
	return best, least != nil
}

func TestSolveEqualsTryingEverySet(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 7))
	ctx := context.Background()
	found, none, large := 0, 0, 0
	for i := range 2000 {
		c, q := random(t, r)
		wanted, ok := brute(c, q)
		sel, err := Solve(ctx, c, q)
		if err != nil {
			none++
			var u *Unsatisfiable
			if !errors.As(err, &u) || ok {
				t.Fatalf("case %d: %v; there is %v", i, err, wanted)
			}
			if checkReasons(t, i, c, q, u) {
				large++
			}
			continue
		}
		found++
		if got := ids(sel.Modules); !slices.Equal(got, wanted) || !sel.Proven || !ok {
			t.Fatalf("case %d: got %v, want %v, %v", i, got, wanted, ok)
		}
		for _, m := range sel.Modules {
			if len(sel.Because[m.ID]) == 0 {
				t.Fatalf("case %d: %s is there for no reason", i, m.ID)
			}
		}
		if len(sel.Modules)+len(sel.LeftOut) != len(c.Modules) {
			t.Fatalf("case %d: %d chosen, %d left out of %d", i, len(sel.Modules), len(sel.LeftOut), len(c.Modules))
		}
		list, err := Explain(ctx, c, q, sel)
		if err != nil || len(list) != len(sel.Modules) {
			t.Fatalf("case %d: %v, %v", i, list, err)
		}
		for _, w := range list {
			p := q
			p.MaxSurface = 0
			p.Requirements = slices.Clone(q.Requirements)
			if without, ok := bruteWithout(c, p, w.Module); ok != (w.Without != nil) || ok == (len(w.Story) > 0) {
				t.Fatalf("case %d: %+v; without it %v", i, w, without)
			}
		}
	}
	if found < 500 || none < 500 || large < 20 {
		t.Errorf("%d with a set, %d without, %d with a limit that is too low: the cases show too little", found, none, large)
	}
}

// bruteWithout takes the module out of the catalog.
func bruteWithout(c *catalog.Catalog, q Request, m *catalog.Module) ([]string, bool) {
	rest, err := catalog.New(slices.DeleteFunc(slices.Clone(c.Modules), func(o *catalog.Module) bool { return o == m })...)
	if err != nil {
		panic(err)
	}
	return brute(rest, q)
}

// checkReasons holds an explanation to its promises: what is blamed has no set, and one
// without any one of it; and what is said to help does. It reports whether the limit is
// to blame.
func checkReasons(t *testing.T, i int, c *catalog.Catalog, q Request, u *Unsatisfiable) bool {
	t.Helper()
	if len(u.Story) == 0 || !u.Minimal || len(u.Repairs) == 0 {
		t.Fatalf("case %d: %+v", i, u)
	}
	has := func(q Request) bool {
		_, ok := brute(c, q)
		return ok
	}
	limit := u.Repairs[0].LimitOnly()
	for _, r := range u.Repairs {
		p := q
		if r.MaxSurface > 0 {
			p.MaxSurface = r.MaxSurface
		}
		p.Requirements, p.Prohibitions = without(q.Requirements, r.Requirements), without(q.Prohibitions, r.Prohibitions)
		if !has(p) {
			t.Fatalf("case %d: %s does not help:\n%v", i, r, u)
		}
		if p.MaxSurface--; r.MaxSurface > 0 && has(p) {
			t.Fatalf("case %d: less would do:\n%v", i, u)
		}
	}
	if limit {
		return true
	}
	p := Request{Target: q.Target, Requirements: u.Requirements, Prohibitions: u.Prohibitions}
	if has(p) {
		t.Fatalf("case %d: what is blamed has a set", i)
	}
	for j := range u.Requirements {
		p.Requirements = slices.Delete(slices.Clone(u.Requirements), j, j+1)
		if !has(p) {
			t.Fatalf("case %d: %s is blamed for nothing", i, u.Requirements[j].Any)
		}
	}
	p.Requirements = u.Requirements
	for j := range u.Prohibitions {
		p.Prohibitions = slices.Delete(slices.Clone(u.Prohibitions), j, j+1)
		if !has(p) {
			t.Fatalf("case %d: %s is blamed for nothing", i, u.Prohibitions[j].Any)
		}
	}
	return false
}

// without returns the list less each of some.
func without(list, some []catalog.Requirement) []catalog.Requirement {
	list = slices.Clone(list)
	for _, s := range some {
		i := slices.IndexFunc(list, func(n catalog.Requirement) bool { return n.Pos == s.Pos && slices.Equal(n.Any, s.Any) })
		list = slices.Delete(list, i, i+1)
	}
	return list
}
