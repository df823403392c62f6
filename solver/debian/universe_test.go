package debian

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"lorica.dev/lorica/solver/repo"
)

// packages writes a Packages file of lines "name version architecture; field: value; ...".
func packages(lines ...string) string {
	var b strings.Builder
	for _, line := range lines {
		parts := strings.Split(line, "; ")
		id := strings.Fields(parts[0])
		fmt.Fprintf(&b, "Package: %s\nVersion: %s\nArchitecture: %s\n%s\n\n", id[0], id[1], id[2], strings.Join(parts[1:], "\n"))
	}
	return b.String()
}

func TestWhatPackagesMean(t *testing.T) {
	for _, c := range []struct {
		name   string
		broken string
		lines  []string
	}{
		{"nothing provides it", "a 1", []string{"a 1 amd64; Depends: b"}},
		{"an alternative does", "", []string{"a 1 amd64; Depends: b | c", "c 1 all"}},
		{"no version does", "a 1", []string{"a 1 amd64; Depends: b (>> 1)", "b 1 all"}},
		{"one of several versions does", "", []string{"a 1 amd64; Depends: b (>> 1)", "b 1 all", "b 2 all"}},
		{"through others", "a 1, b 1", []string{"a 1 amd64; Depends: b", "b 1 all; Pre-Depends: c"}},
		{"what is provided does", "", []string{"a 1 amd64; Depends: v", "b 1 all; Provides: v"}},
		{"what is provided without a version is of none", "a 1", []string{"a 1 amd64; Depends: v (>= 0)", "b 1 all; Provides: v"}},
		{"what is provided has a version", "c 1", []string{"a 1 amd64; Depends: v (>= 1)", "c 1 amd64; Depends: v (>= 3)", "b 9 all; Provides: v (= 2)"}},
		{"what is provided with a version is there without", "", []string{"a 1 amd64; Depends: v", "b 1 all; Provides: v (= 2)"}},
		{"a package may depend on what it provides", "", []string{"a 1 amd64; Depends: v; Provides: v"}},
		{"a conflict", "c 1", []string{"a 1 all", "b 1 all; Conflicts: a", "c 1 all; Depends: a, b"}},
		{"a breakage", "c 1", []string{"a 1 all", "b 1 all; Breaks: a (<< 2)", "c 1 all; Depends: a, b"}},
		{"of other versions", "", []string{"a 1 all", "b 1 all; Breaks: a (<< 1)", "c 1 all; Depends: a, b"}},
		{"no conflict with itself", "", []string{"a 1 all; Conflicts: a; Breaks: v; Provides: v"}},
		{"a conflict with what others provide", "c 1", []string{"a 1 all; Provides: v", "b 1 all; Conflicts: v; Provides: v", "c 1 all; Depends: a, b"}},
		{"a conflict with a version is none with what has none", "", []string{"a 1 all; Provides: v", "b 1 all; Conflicts: v (<< 9)", "c 1 all; Depends: a, b"}},
		{"versions exclude each other", "c 1", []string{"a 1 all", "a 2 all", "b 1 all; Depends: a (= 1)", "c 1 all; Depends: b, a (= 2)"}},
		{"many versions do", "c 1", []string{"a 1 all", "a 2 all", "a 3 all", "a 4 all", "a 5 all", "a 6 all", "a 7 all", "a 8 all", "b 1 all; Depends: a (= 1)", "c 1 all; Depends: b, a (= 8)"}},
		{"essential packages are there", "a 1", []string{"e 1 all; Essential: yes", "a 1 all; Conflicts: e"}},
		{"of two versions of an essential package one is", "", []string{"e 1 all; Essential: yes", "e 2 all; Essential: yes", "a 1 all; Conflicts: e (= 1)"}},
		{"and that says that it is", "a 1, e 2", []string{"e 1 all; Essential: yes", "e 2 all", "a 1 all; Conflicts: e (= 1)"}},
		{"what an essential package needs is there", "c 1", []string{"e 1 all; Essential: yes; Depends: b", "b 1 all", "c 1 all; Breaks: b"}},
		{"without one nothing is", "a 1, e 1", []string{"e 1 all; Essential: yes; Depends: b", "a 1 all"}},
		{"any architecture, and the machine's", "", []string{"a 1 amd64; Depends: b:any, b:native, b:amd64 (= 1)", "b 1 all"}},
		{"another architecture is another package", "a 1", []string{"a 1 amd64; Depends: b:i386", "b 1 amd64"}},
		{"so is what conflicts with it", "", []string{"a 1 amd64; Conflicts: b:i386; Depends: b", "b 1 amd64"}},
		{"a conflict with any", "a 1", []string{"a 1 amd64; Conflicts: b:any; Depends: b", "b 1 amd64"}},
		{"what is of other architectures alone", "b 1", []string{"a 1 amd64; Depends: c [i386], d [!amd64] | e [i386]", "b 1 amd64; Depends: c [amd64], d [!i386]"}},
		// Several architectures.
		{"one depends on its own", "b 1", []string{"a 1 i386; Depends: c", "b 1 amd64; Depends: c", "c 1 i386"}},
		{"all is the machine's", "a 1", []string{"a 1 i386; Depends: c", "b 1 amd64; Depends: c", "c 1 all"}},
		{"foreign serves all", "", []string{"a 1 i386; Depends: c, v", "c 1 amd64; Multi-Arch: foreign; Provides: v"}},
		{"allowed serves who allows any", "b 1", []string{"a 1 i386; Depends: c:any", "b 1 i386; Depends: c", "c 1 amd64; Multi-Arch: allowed"}},
		{"same is together with itself", "", []string{"a 1 amd64; Depends: c:amd64, c:i386", "c 1 amd64; Multi-Arch: same; Provides: v; Conflicts: v", "c 1 i386; Multi-Arch: same; Provides: v; Conflicts: v"}},
		{"but not with other versions", "a 1", []string{"a 1 amd64; Depends: c:amd64, c:i386", "c 1 amd64; Multi-Arch: same", "c 2 i386; Multi-Arch: same"}},
		{"others are not", "a 1", []string{"a 1 amd64; Depends: c:amd64, c:i386", "c 1 amd64", "c 1 i386; Multi-Arch: same"}},
		{"a conflict is with all", "a 1", []string{"a 1 amd64; Depends: b, c:i386", "b 1 amd64; Conflicts: c", "c 1 i386"}},
	} {
		if got := strings.Join(broken(t, universe(t, "amd64", packages(c.lines...))), ", "); got != c.broken {
			t.Errorf("%s: broken are %q, want %q", c.name, got, c.broken)
		}
	}
}

func TestTheMachineIsThatOfThePackages(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{packages("a 1 all"), "all"},
		{packages("a 1 all", "b 1 arm64"), "arm64"},
		{packages("a 1 i386", "b 1 arm64", "c 1 arm64"), "packages of several architectures (arm64, i386): say with --arch which is the machine's"},
	} {
		r, err := read(c.file)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if ix, err := r.Index(context.Background(), ""); err != nil {
			got = err.Error()
		} else {
			got = ix.Native
		}
		if got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// A file in which everything has to do with everything is refused, not resolved.
func TestTooMuchToDoWithEachOther(t *testing.T) {
	const n = 3000
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "Package: p%d\nVersion: 1\nArchitecture: all\nProvides: v\nDepends: x%[1]d | v\n\n", i)
	}
	r, err := read(b.String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Index(context.Background(), ""); err == nil || !strings.Contains(err.Error(), "too much to do with each other") {
		t.Errorf("got %v", err)
	}
}

func TestIndexStops(t *testing.T) {
	r, err := read(packages("a 1 all"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stop()
	if _, err := r.Index(ctx, ""); err != context.Canceled {
		t.Errorf("got %v", err)
	}
}

// explained tells why what is asked for cannot be installed.
func explained(t *testing.T, u *Universe, names ...string) []string {
	t.Helper()
	var asked []Clause
	for _, n := range names {
		c, err := ParseAsked(n)
		if err != nil {
			t.Fatal(err)
		}
		asked = append(asked, c)
	}
	x, err := u.Repo.Explain(context.Background(), u.Request(asked, Count, 0))
	if err != nil || x == nil {
		t.Fatal(x, err)
	}
	return u.Sentences(x.Facts, asked)
}

func TestSentences(t *testing.T) {
	for _, c := range []struct {
		name  string
		ask   string
		lines []string
		want  []string
	}{
		{"nothing has that name", "a", []string{"b 1 all"}, []string{"you asked for a, which nothing provides"}},
		{"candidates", "a", []string{"a 1 all; Depends: v", "b 1 all; Provides: v; Conflicts: a", "c 2 all; Provides: v; Breaks: a"}, []string{
			"you asked for a",
			"a 1 depends on v; candidates are b 1 and c 2",
			"b 1 conflicts with a, and so a 1",
			"c 2 breaks a, and so a 1",
		}},
		{"many versions that are not", "a", []string{"a 1 all; Depends: b (>> 6)", "b 1 all", "b 2 all", "b 3 all", "b 4 all", "b 5 all", "b 6 all"}, []string{
			"you asked for a",
			"a 1 depends on b (>> 6), which nothing satisfies: there is b 6, b 5, b 4 and 3 more",
		}},
		{"one of several versions", "a", []string{"a 1 all; Conflicts: a-data", "a 2 all; Pre-Depends: b", "a-data 1 all; Essential: yes"}, []string{
			"a-data 1 is essential: it is always installed",
			"you asked for a; candidates are a 2 and a 1",
			"a 1 conflicts with a-data, and so a-data 1",
			"a 2 pre-depends on b, which nothing provides",
		}},
		{"a version", "a=1", []string{"a 2 all"}, []string{"you asked for a (= 1), which nothing satisfies: there is a 2"}},
		{"architectures", "a", []string{"a 1 amd64; Depends: c:i386, c:amd64", "c 1 amd64", "c 1 i386"}, []string{
			"you asked for a",
			"a 1 depends on c:amd64; the only candidate is c 1",
			"a 1 depends on c:i386; the only candidate is c:i386 1",
			"c 1 and c:i386 1 exclude each other: they are of two architectures",
		}},
	} {
		got := explained(t, universe(t, "amd64", packages(c.lines...)), c.ask)
		slices.Sort(got)
		slices.Sort(c.want)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got\n  %s\nwant\n  %s", c.name, strings.Join(got, "\n  "), strings.Join(c.want, "\n  "))
		}
	}
}

func TestTheLeast(t *testing.T) {
	u := universe(t, "", packages(
		"a 1 all; Depends: b | c | d; Installed-Size: 1",
		"b 1 all; Installed-Size: 500",
		"c 1 all; Depends: e; Installed-Size: 10",
		"d 1 all; Installed-Size: 400",
		"e 1 all; Installed-Size: 10",
	))
	asked, err := ParseAsked("a")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		by   Minimum
		want string
	}{{Count, "a d"}, {Size, "a c e"}} {
		set, err := u.Repo.Install(context.Background(), u.Request([]Clause{asked}, c.by, 0))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range set.Packages {
			got = append(got, u.Name(p))
		}
		if strings.Join(got, " ") != c.want || !set.Proven {
			t.Errorf("by %s: got %v, want %s", c.by, got, c.want)
		}
	}
}

func TestSomeAlone(t *testing.T) {
	u := universe(t, "", packages("a 1 all; Depends: x", "a 2 all", "b 1 all; Depends: y"))
	for _, c := range []struct{ ask, named, broken string }{
		{"a", "[1 0]", "[0]"},
		{"a=2", "[1]", "[]"},
		{"a (<< 2) | b", "[0 2]", "[0 2]"},
		{"x", "[]", "[]"},
	} {
		asked, err := ParseAsked(c.ask)
		if err != nil {
			t.Fatal(err)
		}
		list := u.Named(&asked)
		check, err := u.Check(context.Background(), append([]repo.Package{}, list...), 0)
		if err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(list) != c.named || fmt.Sprint(check.Broken) != c.broken {
			t.Errorf("%s: named %v, broken %v; want %s, %s", c.ask, list, check.Broken, c.named, c.broken)
		}
	}
}
