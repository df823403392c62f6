package catalog

import (
	"cmp"
	"strings"
)

// CompareVersions orders versions: runs of digits by their value, other runs by their
// bytes, and what stands behind a hyphen, a version before the release, first. So 9 comes
// before 10, and 1.0-rc1 before 1.0. Only equal strings are equal.
func CompareVersions(a, b string) int {
	x, y := a, b
	for x != "" || y != "" {
		var s, t string
		s, x = run(x)
		t, y = run(y)
		if c := compareRuns(s, t); c != 0 {
			return c
		}
	}
	return cmp.Compare(a, b)
}

// run splits off the first run of digits, of other bytes, or a hyphen.
func run(s string) (first, rest string) {
	if strings.HasPrefix(s, "-") {
		return "-", s[1:]
	}
	n := 0
	for n < len(s) && s[n] != '-' && digit(s[n]) == digit(s[0]) {
		n++
	}
	return s[:n], s[n:]
}

func compareRuns(s, t string) int {
	if r := cmp.Compare(runRank(s), runRank(t)); r != 0 {
		return r
	}
	if s == "" || !digit(s[0]) {
		return cmp.Compare(s, t)
	}
	s, t = strings.TrimLeft(s, "0"), strings.TrimLeft(t, "0")
	return cmp.Or(cmp.Compare(len(s), len(t)), cmp.Compare(s, t))
}

// runRank orders a hyphen before the end, the end before words, words before numbers.
func runRank(s string) int {
	switch {
	case s == "-":
		return 0
	case s == "":
		return 1
	case !digit(s[0]):
		return 2
	}
	return 3
}

func digit(c byte) bool { return '0' <= c && c <= '9' }
