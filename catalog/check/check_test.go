package check

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
)

// module reads "id +provides >requires !conflicts @target ~class %version ...".
func module(t testing.TB, text string) *catalog.Module {
	t.Helper()
	f := strings.Fields(text)
	m := &catalog.Module{ID: f[0], Version: "1", Class: catalog.ClassGuard}
	for _, w := range f[1:] {
		switch w[0] {
		case '+':
			m.Provides = append(m.Provides, w[1:])
		case '>':
			m.Requires = append(m.Requires, strings.Split(w[1:], "|"))
		case '!':
			m.Conflicts = append(m.Conflicts, w[1:])
		case '@':
			m.Targets = append(m.Targets, w[1:])
		case '~':
			m.Class = catalog.Class(w[1:])
		case '%':
			m.Version = w[1:]
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

func check(t testing.TB, c *catalog.Catalog, asked ...string) *Report {
	t.Helper()
	r, err := Check(t.Context(), c, asked, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFindings(t *testing.T) {
	for _, c := range []struct {
		name    string
		catalog []string
		want    []string // of what is asked for: x
	}{
		{"nothing is wrong", []string{"a +x >b", "b"}, nil},
		{"nothing provides it", []string{"a +x >y"}, []string{
			"error unprovided a: requires y, which no module provides, so it is in no image"}},
		{"nothing provides what its provider needs", []string{"a +x >b", "b >c", "c >y|z"}, []string{
			"error never a: is in no image > a requires b > b requires c > c requires y or z, which no module provides",
			"error never b: is in no image > b requires c > c requires y or z, which no module provides",
			"error unprovided c: requires y | z, which no module provides, so it is in no image"}},
		{"it needs two that exclude each other", []string{"a +x >b >c", "b !y", "c +y"}, []string{
			"error never a: is in no image > a requires b > a requires c > b conflicts with c, which provides y"}},
		{"it needs what excludes it", []string{"a +x >b", "b !a"}, []string{
			"error never a: is in no image > a requires b > b conflicts with a"}},
		{"each provider fails", []string{"a +x >y", "b +y >nope", "c +y !a"}, []string{
			"error never a: is in no image > a requires y, which only b and c provide > c conflicts with a > b requires nope, which no module provides",
			"error unprovided b: requires nope, which no module provides, so it is in no image"}},
		{"its provider is of another target", []string{"a +x >b @process", "b @microvm"}, []string{
			"error never a: is in no image > a requires b, which no module provides for process (b: not available there)"}},
		{"its provider is of one of two targets", []string{"a +x >b", "b @microvm"}, []string{
			"warning target a: is in no image for process, and does not say so: write what it is available for > a requires b, which no module provides for process (b: not available there)"}},
		{"a target that there is not", []string{"a +x @toaster", "b +x @microvm @toaster"}, []string{
			"error never a: is in no image: it is available for no target that there is",
			"warning unknown a: is available for toaster: images are made for process and microvm",
			"warning unknown b: is available for toaster: images are made for process and microvm"}},
		{"an old version that is needed with a new one", []string{"a +x >old >new", "b %1 +old", "b %2 +new"}, []string{
			"error never a: is in no image > a requires new, which only b@2 provides > a requires old, which only b@1 provides > b@2 and b@1 are versions of one module: an image has one of them"}},
		{"words that nothing is called", []string{"a +x >b|c !d", "b"}, []string{
			"warning unknown a: conflicts with d, which no module is called or provides",
			"warning unknown a: requires b | c: no module provides c"}},
		{"what nobody asks for", []string{"a +x +y", "b +z", "c"}, []string{
			"note unused a: provides y, which no module requires and no policy or workload asks for",
			"note unused b: is in images only by its name: no module requires what it provides, and no policy or workload asks for it",
			"note unused c: is in images only by its name: no module requires what it provides, and no policy or workload asks for it"}},
		{"a cycle", []string{"a +x >b", "b >c", "c >a >d", "d"}, []string{
			"note cycle a: 3 modules require each other, so that none comes without the others: a, b, c"}},
		{"two cycles", []string{"a +x >b >c", "b >a", "c >d", "d >c"}, []string{
			"note cycle a: 2 modules require each other, so that none comes without the others: a, b",
			"note cycle c: 2 modules require each other, so that none comes without the others: c, d"}},
		{"a way out of a cycle", []string{"a +x >b|c", "b >a", "c"}, nil},
		{"two for one place", []string{"a ~net +x", "b ~net +x", "c ~net +x !x", "d ~net +x @microvm"}, []string{
			"error slot b: an image has one module of class net, and it does not exclude a: let them provide one capability and conflict with it",
			"error slot d: an image has one module of class net, and it does not exclude a, b: let them provide one capability and conflict with it"}},
		{"two for one place, of two targets", []string{"a ~net +x @process", "b ~net +x @microvm"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 2 {
				var got []string
				for _, f := range check(t, catalogOf(t, c.catalog...), "x").Findings {
					got = append(got, strings.Join(append([]string{fmt.Sprintf("%s %s %s: %s", f.Severity, f.Kind, f.Module, f.Message)}, f.Because...), " > "))
				}
				if !slices.Equal(got, c.want) {
					t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
				}
				slices.Reverse(c.catalog) // the order does not matter
			}
		})
	}
}

func TestWhatAlwaysAndNeverComesTogether(t *testing.T) {
	// Whoever wants a gets d, since e excludes a: no requirement leads there alone.
	r := check(t, catalogOf(t, "a >b >c @process", "b @process", "c >d|e @process", "d @process", "e !a @process", "f >e @process"))
	var got []string
	for _, s := range r.Strong {
		got = append(got, fmt.Sprintf("%s with %s, implied %s", s.Module, strings.Join(s.On, " "), strings.Join(s.Implied, " ")))
	}
	if !slices.Equal(got, []string{"a with b c d, implied d", "f with e, implied "}) {
		t.Errorf("got %q", got)
	}
	got = nil
	for _, p := range r.Conflicts {
		got = append(got, fmt.Sprintf("%s %s %s %v", p.Target, p.A, p.B, p.Written))
	}
	if !slices.Equal(got, []string{"process a e true", "process a f false"}) {
		t.Errorf("got %q", got)
	}
}

func TestVersionsAreNoStrongConflict(t *testing.T) {
	if r := check(t, catalogOf(t, "a %1", "a %2")); len(r.Conflicts) > 0 {
		t.Errorf("%+v", r.Conflicts)
	}
}

// Nothing is wrong with the catalog that images are built from, and of its notes there is
// none that is not meant.
func TestTheCatalogOfImages(t *testing.T) {
	c, err := catalog.Load(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	r := check(t, c)
	for _, f := range r.Findings {
		if f.Severity != Note {
			t.Errorf("%s %s %s: %s %q", f.Severity, f.Kind, f.Module, f.Message, f.Because)
		}
	}
	if r.Modules != len(c.Modules) || len(r.Strong) < r.Modules || len(r.Conflicts) == 0 {
		t.Errorf("%d modules, %d strong dependencies, %d strong conflicts: it saw too little", r.Modules, len(r.Strong), len(r.Conflicts))
	}
}

// large is a chain of as many modules, each with a choice, and one that cannot be.
func large(n int) *catalog.Catalog {
	var modules []*catalog.Module
	for i := range n {
		m := &catalog.Module{ID: fmt.Sprintf("m%06d", i), Version: "1", Class: catalog.ClassGuard, Provides: []string{fmt.Sprintf("c%d", i/2)}}
		if i >= 2 {
			m.Requires = []catalog.Clause{{fmt.Sprintf("c%d", i/2-1)}}
		}
		if i%7 == 3 {
			m.Conflicts = []string{fmt.Sprintf("m%06d", i-2)}
		}
		modules = append(modules, m)
	}
	modules[n-1].Requires = append(modules[n-1].Requires, catalog.Clause{"nowhere"})
	c, err := catalog.New(modules...)
	if err != nil {
		panic(err)
	}
	return c
}

func TestAHundredThousandModules(t *testing.T) {
	c := large(100_000)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := check(t, c)
	runtime.ReadMemStats(&after)
	if mb := (after.TotalAlloc - before.TotalAlloc) >> 20; mb > 1000 {
		t.Errorf("%d MB allocated", mb)
	}
	var never []string
	for _, f := range r.Findings {
		if f.Severity == Wrong {
			never = append(never, f.Module)
		}
	}
	if !slices.Equal(never, []string{"m099999"}) || r.NotLooked == "" {
		t.Errorf("never: %v; not looked: %q", never, r.NotLooked)
	}
}

// A budget that ends with the strong conflicts of one target is said, is no success, and
// hides neither what was found before nor what there is about the other target.
func TestWhatOnlyPairsLeaveOpen(t *testing.T) {
	const holes = 9
	targets := api.Targets()
	lines := []string{"left @" + targets[0], "right @" + targets[0], "day !night", "night", "sun >day"}
	for p := range holes + 1 { // who comes together with all the others wants a hole too many
		lines[p%2] += fmt.Sprintf(" >p%d", p)
		for h := range holes {
			lines = append(lines, fmt.Sprintf("m%d.%d +p%d +h%d !h%d @%s", p, h, p, h, h, targets[0]))
		}
	}
	r, err := Check(t.Context(), catalogOf(t, lines...), nil, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		if f.Kind == Undecided {
			t.Fatalf("%+v: the catalog is too hard to show it", f)
		}
	}
	if !r.Open() || !slices.Equal(r.Undecided, targets[:1]) || r.NotLooked != "" {
		t.Errorf("open %v, undecided %q, not looked %q", r.Open(), r.Undecided, r.NotLooked)
	}
	var strong []string
	for _, s := range r.Strong {
		if s.Module == "sun" {
			strong = append(strong, s.Target)
		}
	}
	other := Pair{targets[1], "day", "night", true}
	if !slices.Equal(strong, targets) || !slices.Contains(r.Conflicts, other) || slices.ContainsFunc(r.Conflicts, func(p Pair) bool { return p.Target == targets[0] }) {
		t.Errorf("strong dependencies of sun for %q, strong conflicts %v", strong, r.Conflicts)
	}
}

func TestCheckIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Check(ctx, large(5_000), nil, 10_000); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestTooMuchToDoWithEachOther(t *testing.T) {
	for _, all := range []catalog.Module{{Conflicts: []string{"x"}}, {Requires: []catalog.Clause{{"x", "y"}}}} {
		var modules []*catalog.Module
		for i := range 2_100 {
			m := all
			m.ID, m.Version, m.Provides = fmt.Sprintf("m%d", i), "1", []string{"x"}
			modules = append(modules, &m)
		}
		c, err := catalog.New(modules...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Check(t.Context(), c, nil, 10_000); err == nil || !strings.Contains(err.Error(), "more than 4000000 pairs") {
			t.Errorf("got %v", err)
		}
	}
}

func TestALongCycle(t *testing.T) {
	n := 50_000
	next := make([][]int, n)
	for i := range next {
		next[i] = []int{(i + 1) % n}
	}
	if g := components(next); len(g) != 1 || len(g[0]) != n {
		t.Errorf("%d components", len(g))
	}
}
