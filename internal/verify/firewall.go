package verify

import "slices"

// Bounds of the trees of a list, and of the nodes from a root to a leaf, without the leaf.
const mostTrees, mostHeight = 16, 64

// A number of 128 bits is two of 64, the high one first; a box has the least and the most
// of source, destination, source port, destination port and protocol.
type number [2]uint64
type box [5][2]number

func compare(n, m number) int { return slices.Compare(n[:], m[:]) }

func (n number) above(m number) bool { return compare(n, m) > 0 }

// and is what two boxes have in common.
func (b box) and(c box) box {
	for i := range b {
		b[i] = [2]number{slices.MaxFunc([]number{b[i][0], c[i][0]}, compare), slices.MinFunc([]number{b[i][1], c[i][1]}, compare)}
	}
	return b
}

func (b box) empty() bool {
	return slices.ContainsFunc(b[:], func(i [2]number) bool { return i[0].above(i[1]) })
}

// prefix is the addresses that have the first bits of one. An address of IPv4 has 96 bits
// before it: the short of its family, as that of IPv6 is 0.
func prefix(a number, length int) [2]number {
	behind := number{^uint64(0) >> min(length, 64), ^uint64(0) >> max(length-64, 0)}
	return [2]number{{a[0] &^ behind[0], a[1] &^ behind[1]}, {a[0] | behind[0], a[1] | behind[1]}}
}

// all is the box of all flows of a family.
func all(short int) box {
	addresses := prefix(number{}, short)
	return box{addresses, addresses, {1: {1: 65535}}, {1: {1: 65535}}, {1: {1: 255}}}
}

// address reads one number of a record, of four words.
func (t table) address(i, col int) number {
	pair := func(col int) uint64 { return uint64(t.word(i, col+1))<<32 | uint64(t.word(i, col)) }
	return number{pair(col), pair(col + 2)}
}

// A forest is the section firewall while it is verified.
type forest struct {
	*reader
	names, rules, splits, entries, nodes table

	boxes       []box // of the rules
	node, entry int   // behind the last that a tree has
}

func firewall(r *reader) map[string]int {
	f := &forest{reader: r, names: r.table("name", 3)}
	text, ends := len(r.blob()), 0
	for i := range f.names.n {
		f.names.want(int(f.names.word(i, 0)) == ends, i, 0, "it does not begin where the one before ends")
		ends += int(f.names.word(i, 1)) + int(f.names.word(i, 2))
	}
	r.want(ends == text, r.at, "the names end at %d of %d bytes of text", ends, text)
	f.rules, f.splits, f.entries, f.nodes = r.table("rule", 12), r.table("split", 4), r.table("entry", 1), r.table("node", 2)
	for i := range f.rules.n {
		f.boxes = append(f.boxes, f.rule(i))
	}
	rule, trees, lists := 0, 0, r.count(17)
	for range lists {
		r.blob()
		r.within(0, 1)
		head := r.records("list", 3, 1)
		head.indices(0, 0, f.names, upTo(f.rules.n-rule), upTo(mostTrees))
		rule, trees = rule+int(head.word(0, 1)), trees+int(head.word(0, 2))
		f.list(rule-int(head.word(0, 1)), rule, int(head.word(0, 2)))
	}
	r.end()
	r.want(rule == f.rules.n && f.node == f.nodes.n && f.entry == f.entries.n, r.at, "of %d rules, %d nodes, %d entries, lists and trees have %d, %d, %d",
		f.rules.n, f.nodes.n, f.entries.n, rule, f.node, f.entry)
	return map[string]int{"names": f.names.n, "rules": f.rules.n, "splits": f.splits.n, "entries": f.entries.n, "nodes": f.nodes.n, "lists": lists, "trees": trees}
}

// rule checks a rule by itself, and returns what it is about.
func (f *forest) rule(i int) box {
	t, w := f.rules, f.rules.word(i, 10) // lengths, protocol, flags
	short := 96 - int(w>>26&1)*96
	t.want(w>>27 == 0, i, 10, "unknown flags %#x", w>>24)
	t.indices(i, 11, f.names)
	b := all(short)
	for j := range 2 { // source, destination
		a, length, first, last := t.address(i, 4*j), int(w>>(8*j)&0xff)+short, t.word(i, 8+j)&0xffff, t.word(i, 8+j)>>16
		p, mapped := prefix(a, min(length, 128)), a[0] == 0 && a[1]>>32 == 0xffff
		t.want(length <= 128 && p[0] == a && !p[1].above(b[j][1]) && !mapped, i, 4*j, "no prefix of its family")
		t.want(first <= last, i, 8+j, "ports that end before they begin")
		b[j], b[2+j] = p, [2]number{{1: uint64(first)}, {1: uint64(last)}}
	}
	if protocol := uint64(w >> 16 & 0xff); protocol != 0 {
		b[4] = [2]number{{1: protocol}, {1: protocol}}
	}
	return b
}

func (f *forest) list(first, end, trees int) {
	classed, before := map[int]bool{}, first-1
	for range trees {
		t := f.records("tree", 4, 1)
		b := f.b[t.at:f.at]
		t.want((b[8] == 4 || b[8] == 6) && b[13]|b[14]|b[15] == 0 && (b[12] == 0 || b[11] > 0), 0, 2, "a family or lengths that no class has")
		var class []int
		for i := first; i < end; i++ {
			w := f.rules.word(i, 10)
			if source, destination := byte(w), byte(w>>8); w>>26&1 == uint32(b[8]-4)/2 && source >= b[9] && source <= b[10] && destination >= b[11] && destination <= b[12] {
				t.want(!classed[i], 0, 2, "rule %d is of another tree's class too", i)
				classed[i], class = true, append(class, i)
			}
		}
		t.want(len(class) > 0 && class[0] > before, 0, 2, "its class has no rule, or begins before that of the tree before")
		before = class[0]
		root, behind := t.span(0, 0, f.nodes)
		t.want(root == f.node && behind > root, 0, 0, "its nodes do not follow those of the tree before, which end at %d", f.node)
		f.tree(behind, class, 288-48*int(b[8]), b[12] == 0)
	}
	f.want(trees == 0 || len(classed) == end-first, f.at, "rules from %d to %d are of the class of no tree", first, end)
}

// A way is what leads to a node: which flows come there, which rules of the class are
// about some of those, up to the first that is about all, and over how many nodes.
type way struct {
	box    box
	rules  []int
	height int
}

// tree goes through the nodes of one, up to an end: parents come before their children.
// The entries of a leaf are to be the rules that flows can meet there.
func (f *forest) tree(end int, class []int, short int, anywhere bool) {
	ways := map[int]way{f.node: {all(short), f.about(all(short), class), 0}}
	for i := f.node; i < end; i++ {
		w, led := ways[i]
		f.nodes.want(led, i, 0, "no node leads there")
		delete(ways, i)
		value, field, link := f.nodes.word(i, 0), int(f.nodes.word(i, 1)&7), int(f.nodes.word(i, 1)>>3)
		if field == 0 {
			f.nodes.want(int(value) == f.entry && link <= f.entries.n-f.entry, i, 0, "its entries do not follow those of the leaf before, which end at %d", f.entry)
			for k := range link {
				e := int(f.entries.word(f.entry+k, 0))
				_, ours := slices.BinarySearch(class, e)
				f.entries.want(ours && (k == 0 || e > int(f.entries.word(f.entry+k-1, 0))), f.entry+k, 0, "no rule of the class, or not after the one before")
				f.entries.want(w.box.empty() || k < len(w.rules) && w.rules[k] == e, f.entry+k, 0, "not the rule that flows come to here")
			}
			f.nodes.want(w.box.empty() || link == len(w.rules), i, 1, "of %d rules that flows can meet, it has %d", len(w.rules), link)
			f.entry += link
			continue
		}
		at, whole := number{1: uint64(value)}, all(short)
		f.nodes.want(field <= 5 && !(field == 2 && anywhere) && w.height < mostHeight && (field < 3 || whole[field-1][1].above(at)), i, 1,
			"field %d parted at %d, %d nodes from the root", field, value, w.height)
		if field <= 2 && short == 0 {
			f.nodes.indices(i, 0, f.splits)
			at = f.splits.address(int(value), 0)
		}
		low, high, next := whole, whole, at[1]+1
		low[field-1][1], high[field-1][0] = at, number{at[0] + at[1]&^next>>63, next}
		if at == (number{^uint64(0), ^uint64(0)}) {
			high[field-1] = [2]number{at, {}} // nothing is above it
		}
		for child, part := range []box{low, high} {
			part = part.and(w.box)
			_, twice := ways[link+child]
			f.nodes.want(link+child > i && link+child < end && !twice, i, 1, "node %d is not behind it in its tree, or the child of another", link+child)
			ways[link+child] = way{part, f.about(part, w.rules), w.height + 1}
		}
	}
	f.node = end
}

// about chooses the rules that are about some of a box, up to the first that is about all.
func (f *forest) about(b box, rules []int) (list []int) {
	for _, r := range rules {
		common := f.boxes[r].and(b)
		if !common.empty() {
			list = append(list, r)
		}
		if common == b {
			break
		}
	}
	return list
}
