package debian

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lorica.dev/lorica/internal/notrun"
	"lorica.dev/lorica/solver/repo"
)

// repository writes a repository of few names, many versions and much that is at odds.
// Qualifiers are those that an analysis without a native architecture takes from a file.
func repository(r *rand.Rand) string {
	var b strings.Builder
	names := 4 + r.IntN(12)
	name := func() string { return fmt.Sprintf("p%d", r.IntN(names)) }
	version := func() string { return []string{"1", "1~", "2", "2-1", "1:0", "3"}[r.IntN(6)] }
	relation := func() string {
		s := name()
		if r.IntN(4) == 0 {
			s = fmt.Sprintf("v%d", r.IntN(4))
		}
		s += []string{"", "", "", "", "", ":any", ":native", ":i386"}[r.IntN(8)]
		if r.IntN(3) == 0 {
			s += fmt.Sprintf(" (%s %s)", []string{"<<", "<=", "=", ">=", ">>"}[r.IntN(5)], version())
		}
		return s
	}
	list := func(field string, most int, one func() string) {
		if n := r.IntN(most + 1); n > 0 {
			var all []string
			for range n {
				all = append(all, one())
			}
			fmt.Fprintf(&b, "%s: %s\n", field, strings.Join(all, ", "))
		}
	}
	for n := range names {
		said := map[string]bool{}
		for range 1 + r.IntN(3) {
			v := version()
			if said[v] {
				continue
			}
			said[v] = true
			fmt.Fprintf(&b, "Package: p%d\nVersion: %s\nArchitecture: %s\n", n, v, []string{"amd64", "all"}[r.IntN(2)])
			if r.IntN(20) == 0 {
				b.WriteString("Essential: yes\n")
			}
			b.WriteString([]string{"", "Multi-Arch: same\n", "Multi-Arch: foreign\n", "Multi-Arch: allowed\n"}[r.IntN(4)])
			list("Pre-Depends", 1, relation)
			list("Depends", 2, func() string {
				s := relation()
				for r.IntN(2) == 0 {
					s += " | " + relation()
				}
				return s
			})
			list("Conflicts", 1, relation)
			list("Breaks", 1, relation)
			list("Provides", 2, func() string {
				s := fmt.Sprintf("v%d", r.IntN(4))
				if r.IntN(4) == 0 {
					s = name()
				}
				return s + []string{"", " (= " + version() + ")"}[r.IntN(2)]
			})
			b.WriteString("\n")
		}
	}
	return b.String()
}

func universe(t testing.TB, native string, files ...string) *Universe {
	t.Helper()
	r, err := read(files...)
	if err != nil {
		t.Fatal(err)
	}
	ix, err := r.Index(context.Background(), native)
	if err != nil {
		t.Fatal(err)
	}
	u, err := ix.Universe(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// broken lists "name version" of what cannot be installed.
func broken(t testing.TB, u *Universe) []string {
	t.Helper()
	c, err := u.Repo.Check(context.Background(), repo.CheckOptions{Base: u.Base})
	if err != nil || len(c.Undecided) > 0 {
		t.Fatal(err, c.Undecided)
	}
	var list []string
	for _, p := range c.Broken {
		list = append(list, u.Packages[p].Name+" "+u.Packages[p].Version)
	}
	slices.Sort(list)
	return list
}

// doseSays lists the same as dose-debcheck sees it.
func doseSays(t testing.TB, program, file string) []string {
	t.Helper()
	out, err := exec.Command(program, "--failures", file).Output()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		t.Fatalf("%v: %s", err, exit.Stderr)
	}
	var list []string
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(line, "  package: "); ok {
			list = append(list, strings.TrimSpace(name))
		}
		if version, ok := strings.CutPrefix(line, "  version: "); ok {
			list[len(list)-1] += " " + strings.TrimSpace(version)
		}
	}
	slices.Sort(list)
	return list
}

// Of many versions those are told of that the package leads to.
func TestDoseIsToldTheVersionsThatMatter(t *testing.T) {
	lines := []string{"c 1 all; Depends: b, a (>= 6), a | b", "b 1 all; Depends: a (= 3) | a (= 5)"}
	for v := range 9 {
		lines = append(lines, fmt.Sprintf("a %d all", v+1))
	}
	u := universe(t, "", packages(lines...))
	x, err := u.Repo.Explain(context.Background(), u.Broken(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := u.WriteDose(&b, []Failure{{0, x.Facts}}, 11); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"pkg1:\n      package: a\n      version: 3\n", "pkg2:\n      package: a\n      version: 6\n"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, &b)
		}
	}
}

// What is broken is what dose-debcheck says is, in repositories in which little goes
// together.
func TestTheBrokenAreThoseOfDose(t *testing.T) {
	dose, err := exec.LookPath("dose-debcheck")
	if err != nil {
		notrun.Say(t, "what is broken, compared with dose-debcheck", err.Error()+" (package dose-distcheck)")
		return
	}
	r := rand.New(rand.NewPCG(3, 4))
	bad, all := 0, 0
	for i := range 60 {
		text := repository(r)
		file := filepath.Join(t.TempDir(), "Packages")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		u := universe(t, "amd64", text)
		got, want := broken(t, u), doseSays(t, dose, file)
		if !slices.Equal(got, want) {
			t.Fatalf("repository %d: got %q\ndose-debcheck: %q\n%s", i, got, want, text)
		}
		bad, all = bad+len(want), all+len(u.Packages)
	}
	if bad < all/10 || bad > all-all/10 {
		t.Errorf("%d of %d packages are broken: that shows little", bad, all)
	}
}
