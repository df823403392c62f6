package check

import (
	"slices"
	"strings"

	"lorica.dev/lorica/catalog"
)

// cycles finds modules that lead to each other by what they require. That is legal, and
// they are in images only together; mostly it was not meant.
func (k *checker) cycles() {
	number := make(map[*catalog.Module]int, len(k.catalog.Modules))
	for i, m := range k.catalog.Modules {
		number[m] = i
	}
	// Only what one module alone provides: with a choice, there may be no cycle.
	next := make([][]int, len(k.catalog.Modules))
	for i, m := range k.catalog.Modules {
		for _, clause := range m.Requires {
			if p := k.catalog.Meeting(clause); len(p) == 1 && p[0] != m {
				next[i] = append(next[i], number[p[0]])
			}
		}
	}
	for _, group := range components(next) {
		if len(group) < 2 {
			continue
		}
		slices.Sort(group)
		var names []string
		for _, i := range group[:min(len(group), 10)] {
			names = append(names, k.catalog.Name(k.catalog.Modules[i]))
		}
		if len(group) > 10 {
			names = append(names, "…")
		}
		k.add(Note, Cycle, k.catalog.Modules[group[0]], nil, "%d modules require each other, so that none comes without the others: %s", len(group), strings.Join(names, ", "))
	}
}

// components returns the strongly connected components of a graph (Tarjan, 1972), without
// recursion: a chain may have as many modules as the catalog.
func components(next [][]int) [][]int {
	n := len(next)
	index, low, followed := make([]int, n), make([]int, n), make([]int, n)
	open := make([]bool, n)
	var stack, path []int
	var groups [][]int
	count := 0
	enter := func(i int) {
		count++
		index[i], low[i], open[i] = count, count, true
		stack, path = append(stack, i), append(path, i)
	}
	for root := range n {
		if index[root] > 0 {
			continue
		}
		for enter(root); len(path) > 0; {
			i := path[len(path)-1]
			if followed[i] < len(next[i]) {
				j := next[i][followed[i]]
				followed[i]++
				if index[j] == 0 {
					enter(j)
				} else if open[j] {
					low[i] = min(low[i], index[j])
				}
				continue
			}
			path = path[:len(path)-1]
			if len(path) > 0 {
				up := path[len(path)-1]
				low[up] = min(low[up], low[i])
			}
			if low[i] != index[i] {
				continue
			}
			at := len(stack) - 1
			for stack[at] != i {
				at--
			}
			for _, j := range stack[at:] {
				open[j] = false
			}
			groups = append(groups, slices.Clone(stack[at:]))
			stack = stack[:at]
		}
	}
	return groups
}
