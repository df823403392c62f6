package solver

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
)

// module reads "id weight +provides >requires !conflicts @target ...".
func module(t testing.TB, text string) *catalog.Module {
	t.Helper()
	m := &catalog.Module{Class: catalog.ClassGuard}
	f := strings.Fields(text)
	m.ID = f[0]
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
			sel, err := Solve(catalogOf(t, c.catalog...), want(c.reqs...), "process")
			if err != nil {
				t.Fatal(err)
			}
			if got := ids(sel.Modules); !slices.Equal(got, c.want) {
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
	sel, err := Solve(c, want("app", "authz", "audit", "filter", "net"), "process")
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
	sel, err := Solve(catalogOf(t, "a 1 +x >y", "b 1 +y", "c 1 +z", "d 9 +y"), want("x", "y", "x"), "process")
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

func TestWhyThereIsNoSet(t *testing.T) {
	for _, c := range []struct {
		name    string
		catalog []string
		reqs    []string
		blamed  []string // capabilities of the requirements that are left
		want    []string // the lines of the error
	}{
		{
			"nothing provides it", []string{"a 1 +x"}, []string{"x", "tls"}, []string{"tls"},
			[]string{"no module provides tls: policy.yaml:2 (asks for tls)"},
		}, {
			"nothing provides what its provider needs", []string{"a 1 +x >y", "b 1 +y >z"}, []string{"x"}, []string{"x"},
			[]string{"no module provides z: policy.yaml:1 (asks for x) needs a, which needs b"},
		}, {
			"it exists for another target only", []string{"a 1 +x @microvm"}, []string{"x"}, []string{"x"},
			[]string{"no module provides x for this target (a does for others): policy.yaml:1 (asks for x)"},
		}, {
			"two requirements force modules that exclude each other",
			[]string{"a 1 +x !b", "b 1 +y", "c 1 +z"}, []string{"z", "x", "y"}, []string{"x", "y"},
			[]string{"b and a exclude each other: policy.yaml:3 (asks for y) needs b; policy.yaml:2 (asks for x) needs a"},
		}, {
			"they do so through other modules",
			[]string{"a 1 +x >p", "p 1 +p !q", "b 1 +y >q", "q 1 +q"}, []string{"x", "y"}, []string{"x", "y"},
			[]string{"q and p exclude each other: policy.yaml:2 (asks for y) needs b, which needs q; policy.yaml:1 (asks for x) needs a, which needs p"},
		}, {
			"one requirement is enough", []string{"a 1 +x >y >z", "b 1 +y !c", "c 1 +z"}, []string{"x"}, []string{"x"},
			[]string{"c and b exclude each other: policy.yaml:1 (asks for x) needs a, which needs c; policy.yaml:1 (asks for x) needs a, which needs b"},
		}, {
			"each provider fails for a reason of its own", []string{"a 1 +x >nope", "b 2 +x !c", "c 1 +y"}, []string{"y", "x"}, []string{"x", "y"},
			[]string{
				"no module provides nope: policy.yaml:2 (asks for x) needs a",
				"b and c exclude each other: policy.yaml:2 (asks for x) needs b; policy.yaml:1 (asks for y) needs c",
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Solve(catalogOf(t, c.catalog...), want(c.reqs...), "process")
			u, ok := err.(*Unsatisfiable)
			if !ok {
				t.Fatalf("got %v", err)
			}
			var blamed []string
			for _, r := range u.Requirements {
				blamed = append(blamed, r.Any.String())
			}
			slices.Sort(blamed)
			if !slices.Equal(blamed, c.blamed) {
				t.Errorf("blamed %v, want %v", blamed, c.blamed)
			}
			lines := strings.Split(err.Error(), "\n  ")
			if !slices.Equal(lines[1:], c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(lines[1:], "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// random returns a small catalog and requirements over the same capabilities.
func random(t testing.TB, r *rand.Rand) (*catalog.Catalog, []catalog.Requirement) {
	n, capabilities := 1+r.IntN(9), 1+r.IntN(6)
	name := func() string { return fmt.Sprintf("c%d", r.IntN(capabilities)) }
	var lines []string
	for i := range n {
		line := fmt.Sprintf("m%d %d +%s", i, r.IntN(6), name())
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
			line += fmt.Sprintf(" !m%d", r.IntN(n))
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
	return catalogOf(t, lines...), want(reqs...)
}

// healthy is the definition, without any of the search.
func healthy(modules []*catalog.Module, reqs []catalog.Requirement, target string) bool {
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
	for _, r := range reqs {
		if !has(r.Any) {
			return false
		}
	}
	for _, m := range modules {
		if len(m.Targets) > 0 && !slices.Contains(m.Targets, target) {
			return false
		}
		for _, any := range m.Requires {
			if !has(any) {
				return false
			}
		}
		for _, o := range modules {
			for _, x := range m.Conflicts {
				if o != m && (o.ID == x || slices.Contains(o.Provides, x)) {
					return false
				}
			}
		}
	}
	return true
}

// brute tries every subset of the catalog.
func brute(c *catalog.Catalog, reqs []catalog.Requirement, target string) []string {
	var best []string
	weight := -1
	for set := range 1 << len(c.Modules) {
		var modules []*catalog.Module
		w := 0
		for i, m := range c.Modules {
			if set&(1<<i) != 0 {
				modules = append(modules, m)
				w += m.Surface
			}
		}
		if !healthy(modules, reqs, target) {
			continue
		}
		list := ids(modules)
		if weight < 0 || w < weight || w == weight && (len(list) < len(best) || len(list) == len(best) && slices.Compare(list, best) < 0) {
			best, weight = list, w
		}
	}
	if weight < 0 {
		return []string{"none"}
	}
	return best
}

func TestSolveEqualsTryingEverySet(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 7))
	found, none := 0, 0
	for i := range 4000 {
		c, reqs := random(t, r)
		wanted := brute(c, reqs, "process")
		sel, err := Solve(c, reqs, "process")
		if err != nil {
			none++
			if !slices.Equal(wanted, []string{"none"}) {
				t.Fatalf("case %d: no set found; there is %v\n%v", i, wanted, err)
			}
			checkReasons(t, i, c, err.(*Unsatisfiable))
			continue
		}
		found++
		if got := ids(sel.Modules); !slices.Equal(got, wanted) {
			t.Fatalf("case %d: got %v, want %v", i, got, wanted)
		}
		for _, m := range sel.Modules {
			if len(sel.Because[m.ID]) == 0 {
				t.Fatalf("case %d: %s is there for no reason", i, m.ID)
			}
		}
		if len(sel.Modules)+len(sel.LeftOut) != len(c.Modules) {
			t.Fatalf("case %d: %d chosen, %d left out of %d", i, len(sel.Modules), len(sel.LeftOut), len(c.Modules))
		}
	}
	if found < 500 || none < 500 {
		t.Errorf("%d with a set and %d without: the cases show too little", found, none)
	}
}

// checkReasons holds an explanation to its promise: the requirements have no set
// together, and have one without any one of them.
func checkReasons(t *testing.T, i int, c *catalog.Catalog, u *Unsatisfiable) {
	t.Helper()
	if len(u.Causes) == 0 || len(u.Requirements) == 0 {
		t.Fatalf("case %d: no reason given", i)
	}
	if !slices.Equal(brute(c, u.Requirements, u.Target), []string{"none"}) {
		t.Fatalf("case %d: what is blamed has a set", i)
	}
	for j := range u.Requirements {
		rest := slices.Delete(slices.Clone(u.Requirements), j, j+1)
		if slices.Equal(brute(c, rest, u.Target), []string{"none"}) {
			t.Fatalf("case %d: %s is blamed for nothing", i, u.Requirements[j].Any)
		}
	}
}
