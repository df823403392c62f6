package policy

import (
	"fmt"
	"slices"
	"strings"
)

// didYouMean names the known word that is nearest to got, or lists the known
// words when none is near.
func didYouMean(got string, known []string) string {
	if n, ok := nearest(got, known); ok {
		return fmt.Sprintf("did you mean %q?", n)
	}
	if len(known) == 0 {
		return ""
	}
	k := slices.Compact(slices.Sorted(slices.Values(known)))
	if len(k) > 12 {
		return "known: " + strings.Join(k[:12], ", ") + ", ..."
	}
	return "known: " + strings.Join(k, ", ")
}

// DidYouMean is didYouMean for who asks for a word outside of documents.
func DidYouMean(got string, known []string) string { return didYouMean(got, known) }

// nearest returns the known word at the smallest edit distance from got, if that
// is at most a third of its length (and at least one).
func nearest(got string, known []string) (string, bool) {
	if len(got) > 64 {
		return "", false
	}
	best, at := "", 1+max(1, len(got)/3)
	for _, k := range known[:min(len(known), 1000)] {
		if len(k) > 64 || max(len(k)-len(got), len(got)-len(k)) > at {
			continue
		}
		d := distance(strings.ToLower(got), strings.ToLower(k))
		if d >= max(len(got), len(k)) {
			continue // nothing in common
		}
		if d < at || d == at && best != "" && k < best {
			best, at = k, d
		}
	}
	return best, best != ""
}

// distance is the number of insertions, deletions, replacements and swaps of
// neighbours between a and b (the restricted form of Damerau, CACM 7(3), 1964).
func distance(a, b string) int {
	two, one, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range one {
		one[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(one[j+1]+1, row[j]+1, one[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], two[j-1]+1)
			}
		}
		two, one, row = one, row, two
	}
	return one[len(b)]
}

// sortedKeys makes the order of a map that of its keys.
func sortedKeys[K ~string, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
