// Package forest grows the trees that find the rules of a firewall's list.
//
// Trees are HyperSplit's (Qi, Xu, Yang, Xu and Li, INFOCOM 2009): each node halves the
// rules that are left by one field, where it copies few. What a rule set can cost is
// bounded, however it is made: where the copies are used up, leaves stay large.
package forest

import (
	"cmp"
	"slices"

	"lorica.dev/lorica/abi/flow"
)

const (
	fewRules = 50 // are asked one by one
	leafSize = 2  // rules; leaves with no more are not parted

	// copies bounds the nodes and the entries of leaves, for each rule of a tree. Any tree
	// has some to spare: so many, and a part of the rules of the list.
	copies, spare, sparePart = 8, 4096, 4

	// sampled are how many rules of a node say where to part it.
	sampled = 512
)

// Lengths of prefixes from which a network is narrow.
const (
	narrow4 = 16
	narrow6 = 32
)

// Plant gives the list its trees.
func Plant(l *flow.List) {
	l.Trees = nil
	if len(l.Rules) < fewRules {
		return
	}
	for _, v6 := range []bool{false, true} {
		narrow, most := uint8(narrow4), uint8(32)
		if v6 {
			narrow, most = narrow6, 128
		}
		for _, src := range [][2]uint8{{0, narrow - 1}, {narrow, most}} {
			for _, dst := range [][2]uint8{{0, 0}, {1, narrow - 1}, {narrow, most}} {
				from := []flow.Sources{flow.FromAny}
				if src[0] == 0 && dst[0] < narrow { // ports are all that tells them apart
					from = []flow.Sources{flow.FromAll, flow.FromSome}
				}
				for _, from := range from {
					t := flow.Tree{V6: v6, Src: src, Dst: dst, From: from}
					var of []int32
					for i := range l.Rules {
						if t.Has(&l.Rules[i]) {
							of = append(of, int32(i))
						}
					}
					if len(of) > 0 {
						grow(&t, l.Rules, of)
						l.Trees = append(l.Trees, t)
					}
				}
			}
		}
	}
	slices.SortFunc(l.Trees, func(a, b flow.Tree) int { return cmp.Compare(first(&a, l.Rules), first(&b, l.Rules)) })
}

// first returns the earliest rule of a tree's class.
func first(t *flow.Tree, rules []flow.Rule) int {
	return slices.IndexFunc(rules, func(r flow.Rule) bool { return t.Has(&r) })
}

// A node of a tree that grows. Its rules are by their places in the grower's.
type node struct {
	field    int   // none: a leaf
	cut      int32 // the step behind which its second child begins
	bits     uint8 // of a table, as those of flow.Node
	shift    uint8
	children []*node
	rules    []int32
	box      box
	depth    int
}

const none = -1

// grow makes the nodes of a tree of rules.
func grow(t *flow.Tree, all []flow.Rule, of []int32) {
	g := newGrower(t.V6, all, of)
	root := &node{box: g.all}
	for i := range of {
		root.rules = append(root.rules, int32(i))
	}
	g.prune(root)
	budget := copies*len(of) + spare + len(all)/sparePart - len(root.rules)
	for queue := []*node{root}; len(queue) > 0; queue = queue[1:] { // breadth first: all are as deep when the copies are used up
		n := queue[0]
		n.field = none
		if len(n.rules) <= leafSize || n.depth == flow.MaxDepth || budget < 0 || !g.table(n) && !g.part(n) {
			continue
		}
		budget -= len(n.children) - len(n.rules)
		n.rules = nil
		for _, c := range n.children {
			budget -= len(c.rules)
			queue = append(queue, c)
		}
	}
	g.emit(t, root, of)
}

// emit writes the nodes depth first: of the children, which lie side by side, the first
// has its own next to them, where a walk finds them in the same line of the cache.
func (g *grower) emit(t *flow.Tree, root *node, of []int32) {
	at := []*node{root} // by the place in t.Nodes
	t.Nodes = []flow.Node{{}}
	for stack := []uint32{0}; len(stack) > 0; {
		i := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		n := at[i]
		if n.field == none {
			t.Nodes[i].Child = uint32(len(n.rules))
			continue
		}
		child := uint32(len(t.Nodes))
		if n.bits > 0 {
			t.Nodes[i] = flow.Node{Field: flow.Field(n.field + 1), Bits: n.bits, Shift: n.shift}
		} else {
			t.Nodes[i] = g.node(n.field, n.cut)
		}
		t.Nodes[i].Child = child
		t.Nodes = append(t.Nodes, make([]flow.Node, len(n.children))...)
		at = append(at, n.children...)
		for c := len(n.children) - 1; c >= 0; c-- {
			stack = append(stack, child+uint32(c))
		}
	}
	for _, n := range at {
		if n.field == none {
			for _, r := range n.rules {
				t.Rules = append(t.Rules, uint32(of[r]))
			}
		}
	}
}
