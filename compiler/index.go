package compiler

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"

	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"lorica.dev/lorica/abi/authz"
)

// The index is a tree. A node looks at one thing after the other (who asks, what for, an
// attribute), and hands the rules that demand something of it to the nodes of what they
// demand; few rules, and those that demand nothing that divides them, stay.

// A branch is a node while the index is made.
type branch struct {
	rules  []uint32
	groups []*fork
}

// A fork is a group while the index is made.
type fork struct {
	kind  authz.GroupKind
	path  ast.IsNode
	fault *branch // nil: none
	leads map[uint32]*branch
}

const (
	fewRules = 4 // are as well looked at one by one
	maxForks = 8 // of one node
)

// An aspect is one thing to look at.
type aspect struct {
	kind authz.GroupKind
	name string
}

// demands returns the tests of each rule.
func (b *builder) demands() []map[aspect]test {
	out := make([]map[aspect]test, len(b.rules))
	for i := range b.rules {
		out[i] = make(map[aspect]test)
		for _, t := range b.tests(b.rules[i].Policy) {
			a := aspect{t.kind, t.name}
			if _, twice := out[i][a]; !twice {
				out[i][a] = t
			}
		}
	}
	return out
}

func (b *builder) index(s *authz.Section, tests []map[aspect]test) {
	all := make([]uint32, len(b.rules))
	for i := range all {
		all[i] = uint32(i)
	}
	b.lay(s, divide(tests, all, nil))
}

// divide makes the node of some rules, of which used has been looked at.
func divide(tests []map[aspect]test, rules []uint32, used []aspect) *branch {
	n := &branch{}
	for len(rules) > fewRules && len(used) < authz.MaxNesting && len(n.groups) < maxForks {
		a, ok := best(tests, rules, used)
		if !ok {
			break
		}
		f := &fork{kind: a.kind, leads: make(map[uint32]*branch)}
		by := make(map[uint32][]uint32)
		var rest, faults []uint32
		for _, r := range rules {
			t, ok := tests[r][a]
			if !ok {
				rest = append(rest, r)
				continue
			}
			f.path = t.path
			for _, k := range t.keys {
				by[k] = append(by[k], r)
			}
			if t.faults {
				faults = append(faults, r)
			}
		}
		if len(faults) > 0 {
			f.fault = &branch{rules: faults}
		}
		for k, list := range by {
			f.leads[k] = divide(tests, list, append(slices.Clip(used), a))
		}
		n.groups = append(n.groups, f)
		rules = rest
	}
	n.rules = rules
	return n
}

// best returns what is best looked at: where the most rules are spared. A request whose
// value is a key spares those that demand another one, the least of these counts; one
// whose value is none spares all, which counts a little.
func best(tests []map[aspect]test, rules []uint32, used []aspect) (aspect, bool) {
	type sum struct{ rules, most int }
	sums := make(map[aspect]*sum)
	counts := make(map[aspect]map[uint32]int)
	for _, r := range rules {
		for a, t := range tests[r] {
			if slices.Contains(used, a) {
				continue
			}
			x := sums[a]
			if x == nil {
				x = &sum{}
				sums[a], counts[a] = x, make(map[uint32]int)
			}
			x.rules++
			for _, k := range t.keys {
				counts[a][k]++
				x.most = max(x.most, counts[a][k])
			}
		}
	}
	worth := func(a aspect) int { return 4*(sums[a].rules-sums[a].most) + sums[a].rules }
	order := slices.SortedFunc(maps.Keys(sums), func(x, y aspect) int {
		return cmp.Or(cmp.Compare(worth(y), worth(x)), cmp.Compare(x.kind, y.kind), cmp.Compare(x.name, y.name))
	})
	if len(order) == 0 || sums[order[0]].rules < fewRules {
		return aspect{}, false
	}
	return order[0], true
}

// lay writes the tree down: nodes before those that they lead to, groups and slots in the
// order of their nodes.
func (b *builder) lay(s *authz.Section, root *branch) {
	number := make(map[*branch]uint32)
	var list []*branch
	var count func(*branch)
	count = func(n *branch) {
		number[n] = uint32(len(list))
		list = append(list, n)
		for _, f := range n.groups {
			if f.fault != nil {
				count(f.fault)
			}
			for _, k := range slices.Sorted(maps.Keys(f.leads)) {
				count(f.leads[k])
			}
		}
	}
	count(root)
	paths := make(map[string]authz.Span)
	for _, n := range list {
		s.Nodes = append(s.Nodes, authz.Node{Rules: b.list(n.rules), Groups: authz.Span{First: uint32(len(s.Groups)), Count: uint32(len(n.groups))}})
		for _, f := range n.groups {
			g := authz.Group{Kind: f.kind, Code: b.path(paths, f.path), Fault: authz.None}
			if f.fault != nil {
				g.Fault = number[f.fault]
			}
			g.Slots = authz.Span{First: uint32(len(s.Slots)), Count: 2 << bits.Len(uint(len(f.leads)-1))}
			table := make([]authz.Slot, g.Slots.Count)
			for i := range table {
				table[i].Node = authz.None
			}
			for _, k := range slices.Sorted(maps.Keys(f.leads)) {
				at := authz.Home(k, g.Slots.Count)
				for table[at].Node != authz.None {
					at = (at + 1) & (g.Slots.Count - 1)
				}
				table[at] = authz.Slot{Key: k, Node: number[f.leads[k]]}
			}
			s.Slots = append(s.Slots, table...)
			s.Groups = append(s.Groups, g)
		}
	}
}

func (b *builder) list(rules []uint32) authz.Span {
	x := authz.Span{First: uint32(len(b.lists)), Count: uint32(len(rules))}
	b.lists = append(b.lists, rules...)
	return x
}

// path returns the code of a path, which is written once.
func (b *builder) path(known map[string]authz.Span, n ast.IsNode) authz.Span {
	name, _ := pathName(n)
	if x, ok := known[name]; ok {
		return x
	}
	b.start, b.height = uint32(len(b.code)), 0
	b.expr(n)
	x := b.span()
	known[name] = x
	return x
}
