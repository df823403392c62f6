// Package graph draws which modules of a catalog require and exclude which: as DOT, for
// other tools, and as SVG in a layered layout of its own.
package graph

import (
	"slices"

	"lorica.dev/lorica/catalog"
)

// A Graph is modules and what is between them. The zero Graph has none.
type Graph struct {
	modules   []*catalog.Module
	names     []string
	edges     []edge
	conflicts [][2]int // each once, the lower number first
}

// An edge leads from a module to one that meets what it requires.
type edge struct {
	from, to int
	choice   bool // others would meet it as well
}

// New returns the graph of some modules of a catalog; of all for nil.
func New(c *catalog.Catalog, modules []*catalog.Module) *Graph {
	if modules == nil {
		modules = c.Modules
	}
	g := &Graph{modules: modules}
	at := map[*catalog.Module]int{}
	for i, m := range modules {
		at[m] = i
	}
	for i, m := range modules {
		g.names = append(g.names, c.Name(m))
		seen := map[int]int{}
		for _, clause := range m.Requires {
			meeting := c.Meeting(clause)
			for _, p := range meeting {
				j, in := at[p]
				if !in || j == i {
					continue
				}
				choice := len(meeting) > 1
				if k, twice := seen[j]; twice {
					g.edges[k].choice = g.edges[k].choice && choice
					continue
				}
				seen[j] = len(g.edges)
				g.edges = append(g.edges, edge{i, j, choice})
			}
		}
		excluded := map[int]bool{}
		for _, word := range m.Conflicts {
			for _, p := range c.Providers(word) {
				if j, in := at[p]; in && j != i && !excluded[j] {
					excluded[j] = true
					g.conflicts = append(g.conflicts, [2]int{min(i, j), max(i, j)})
				}
			}
		}
	}
	slices.SortFunc(g.conflicts, func(a, b [2]int) int { return slices.Compare(a[:], b[:]) })
	g.conflicts = slices.Compact(g.conflicts)
	return g
}

// Around returns a module with all that may come with it, step by step, and all that may
// bring it.
func Around(c *catalog.Catalog, m *catalog.Module) []*catalog.Module {
	all := New(c, nil)
	start := slices.Index(c.Modules, m)
	in := make([]bool, len(c.Modules))
	out, into := make([][]int, len(c.Modules)), make([][]int, len(c.Modules))
	for _, e := range all.edges {
		out[e.from] = append(out[e.from], e.to)
		into[e.to] = append(into[e.to], e.from)
	}
	for _, next := range [][][]int{out, into} {
		seen := make([]bool, len(c.Modules))
		for queue := []int{start}; len(queue) > 0; {
			i := queue[len(queue)-1]
			queue = queue[:len(queue)-1]
			if seen[i] {
				continue
			}
			seen[i], in[i] = true, true
			queue = append(queue, next[i]...)
		}
	}
	var list []*catalog.Module
	for i, o := range c.Modules {
		if in[i] {
			list = append(list, o)
		}
	}
	return list
}

// Len is the number of modules.
func (g *Graph) Len() int { return len(g.modules) }

// layers gives each module a layer: below all that require it, but for the requirements that
// close a cycle. It returns the modules of each layer, and each layer of each module.
func (g *Graph) layers() [][]int {
	n := len(g.modules)
	out := make([][]int, n)
	for _, e := range g.edges {
		out[e.from] = append(out[e.from], e.to)
	}
	// The order in which depth-first search leaves modules has each behind what it
	// requires, but for cycles. It is written without recursion: chains can be long.
	var order []int
	place := make([]int, n)
	state := make([]int, n) // 0 unseen, else the next edge to follow, plus one
	for root := range n {
		if state[root] > 0 {
			continue
		}
		stack := []int{root}
		state[root] = 1
		for len(stack) > 0 {
			i := stack[len(stack)-1]
			if state[i] <= len(out[i]) {
				next := out[i][state[i]-1]
				state[i]++
				if state[next] == 0 {
					state[next] = 1
					stack = append(stack, next)
				}
				continue
			}
			stack = stack[:len(stack)-1]
			place[i] = len(order)
			order = append(order, i)
		}
	}
	layer := make([]int, n)
	deepest := 0
	for k := n - 1; k >= 0; k-- {
		i := order[k]
		deepest = max(deepest, layer[i])
		for _, j := range out[i] {
			if place[j] < place[i] {
				layer[j] = max(layer[j], layer[i]+1)
			}
		}
	}
	rows := make([][]int, deepest+1)
	for i, l := range layer {
		rows[l] = append(rows[l], i)
	}
	g.untangle(rows)
	return rows
}

// sweeps is how often the layers are ordered by their neighbours.
const sweeps = 8

// untangle orders each layer by the middle of the neighbours of its modules, down and up
// by turns, so that fewer lines cross.
func (g *Graph) untangle(rows [][]int) {
	near := make([][]int, len(g.modules))
	for _, e := range g.edges {
		near[e.from] = append(near[e.from], e.to)
		near[e.to] = append(near[e.to], e.from)
	}
	at := make([]float64, len(g.modules))
	row := make([]int, len(g.modules))
	settle := func(r int) {
		for k, i := range rows[r] {
			at[i] = (float64(k) + 0.5) / float64(len(rows[r]))
			row[i] = r
		}
	}
	for r := range rows {
		settle(r)
	}
	for s := range sweeps {
		for k := range rows {
			r := k
			if s%2 == 1 {
				r = len(rows) - 1 - k
			}
			middle := map[int]float64{}
			for _, i := range rows[r] {
				sum, n := 0.0, 0
				for _, j := range near[i] {
					if (s%2 == 0) == (row[j] < r) && row[j] != r {
						sum, n = sum+at[j], n+1
					}
				}
				middle[i] = at[i]
				if n > 0 {
					middle[i] = sum / float64(n)
				}
			}
			slices.SortStableFunc(rows[r], func(a, b int) int {
				switch {
				case middle[a] < middle[b]:
					return -1
				case middle[a] > middle[b]:
					return 1
				}
				return 0
			})
			settle(r)
		}
	}
}
