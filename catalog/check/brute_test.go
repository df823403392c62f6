package check

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
)

// random returns a small catalog, with choices, conflicts, versions and targets.
func random(t *testing.T, r *rand.Rand) *catalog.Catalog {
	n := 1 + r.IntN(7)
	word := func() string {
		if r.IntN(2) == 0 {
			return fmt.Sprintf("m%d", r.IntN(n))
		}
		return fmt.Sprintf("c%d", r.IntN(4))
	}
	var lines []string
	for i := range n {
		line := fmt.Sprintf("m%d %%%d", i, i)
		if i > 0 && r.IntN(6) == 0 {
			line = fmt.Sprintf("m%d %%%d", i-1, i)
		}
		for range r.IntN(3) {
			line += fmt.Sprintf(" +c%d", r.IntN(4))
		}
		for range r.IntN(3) {
			line += " >" + word()
			if r.IntN(3) == 0 {
				line += "|" + word()
			}
		}
		for range r.IntN(2) {
			line += " !" + word()
		}
		if r.IntN(4) == 0 {
			line += " @" + api.Targets()[r.IntN(len(api.Targets()))]
		}
		lines = append(lines, line)
	}
	return catalogOf(t, lines...)
}

// sets are all that are healthy by definition, as bits of modules.
func sets(c *catalog.Catalog, target string) (list []int) {
	for set := range 1 << len(c.Modules) {
		has := func(i int) bool { return set&(1<<i) != 0 }
		ok := true
		for i, m := range c.Modules {
			if !has(i) {
				continue
			}
			ok = ok && m.Fits(target)
			for _, clause := range m.Requires {
				met := false
				for j, o := range c.Modules {
					met = met || has(j) && clause.MetBy(o)
				}
				ok = ok && met
			}
			for j, o := range c.Modules {
				ok = ok && !(has(j) && m.ConflictsWith(o))
			}
		}
		if ok {
			list = append(list, set)
		}
	}
	return list
}

// What is found is what trying every set finds.
func TestCheckEqualsTryingEverySet(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 5))
	broken, strong, pairs := 0, 0, 0
	for i := range 1500 {
		c := random(t, r)
		report := check(t, c)
		name := c.Name
		var wantStrong, wantPairs []string
		installable := map[*catalog.Module]bool{}
		for _, target := range api.Targets() {
			all := sets(c, target)
			for a, m := range c.Modules {
				with, together := -1, 0
				for _, set := range all {
					if set&(1<<a) != 0 {
						with &= set
						together |= set
						installable[m] = true
					}
				}
				if together == 0 {
					continue
				}
				var on []string
				for b, o := range c.Modules {
					if b == a {
						continue
					}
					if with&(1<<b) != 0 {
						on = append(on, name(o))
					}
					some := slices.ContainsFunc(all, func(set int) bool { return set&(1<<b) != 0 })
					if b > a && some && together&(1<<b) == 0 && m.ID != o.ID {
						wantPairs = append(wantPairs, fmt.Sprint(target, name(m), name(o), m.ConflictsWith(o)))
					}
				}
				if slices.Sort(on); len(on) > 0 {
					wantStrong = append(wantStrong, fmt.Sprint(target, name(m), strings.Join(on, " ")))
				}
			}
		}
		var wantWrong, wrong, gotStrong, gotPairs []string
		for _, m := range c.Modules {
			if !installable[m] {
				wantWrong = append(wantWrong, name(m))
			}
		}
		for _, f := range report.Findings {
			if f.Severity == Wrong {
				wrong = append(wrong, f.Module)
			}
		}
		for _, s := range report.Strong {
			gotStrong = append(gotStrong, fmt.Sprint(s.Target, s.Module, strings.Join(s.On, " ")))
		}
		for _, p := range report.Conflicts {
			gotPairs = append(gotPairs, fmt.Sprint(p.Target, p.A, p.B, p.Written))
		}
		wrong = slices.Compact(wrong)
		for _, list := range [][]string{wantWrong, wrong, wantStrong, gotStrong, wantPairs, gotPairs} {
			slices.Sort(list)
		}
		if !slices.Equal(wrong, wantWrong) || !slices.Equal(gotStrong, wantStrong) || !slices.Equal(gotPairs, wantPairs) {
			for _, m := range c.Modules {
				t.Logf("%+v", *m)
			}
			t.Fatalf("case %d: never %v, want %v; strong %q, want %q; pairs %q, want %q", i, wrong, wantWrong, gotStrong, wantStrong, gotPairs, wantPairs)
		}
		broken, strong, pairs = broken+len(wrong), strong+len(gotStrong), pairs+len(gotPairs)
	}
	if broken < 500 || strong < 500 || pairs < 500 {
		t.Errorf("%d modules in no image, %d strong dependencies, %d strong conflicts: the cases show too little", broken, strong, pairs)
	}
}
