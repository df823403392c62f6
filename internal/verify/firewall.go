package verify

import "slices"

const (
	mostTrees  = 16 // of a list
	mostHeight = 64 // nodes from a root to a leaf, without the leaf
)

// A number of 128 bits is two of 64, the high one first; a box has the least and the most
// of source, destination, source port, destination port and protocol.
type (
	number [2]uint64
	box    [5][2]number
)

func (n number) above(m number) bool { return n[0] > m[0] || n[0] == m[0] && n[1] > m[1] }

// and is what two boxes have in common.
func (b box) and(c box) box {
	for i := range b {
		if c[i][0].above(b[i][0]) {
			b[i][0] = c[i][0]
		}
		if b[i][1].above(c[i][1]) {
			b[i][1] = c[i][1]
		}
	}
	return b
}

func (b box) empty() bool {
	return slices.ContainsFunc(b[:], func(i [2]number) bool { return i[0].above(i[1]) })
}

// prefix is the addresses that have the first bits of one.
func prefix(a number, length int, six bool) [2]number {
	if !six {
		length += 96
	}
	behind := number{^uint64(0) >> min(length, 64), ^uint64(0) >> max(length-64, 0)}
	return [2]number{{a[0] &^ behind[0], a[1] &^ behind[1]}, {a[0] | behind[0], a[1] | behind[1]}}
}

// all is the box of all flows of a family.
func all(six bool) box {
	addresses := prefix(number{}, 0, six)
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
		head := table{r: r, name: "list", at: r.at, n: 1, width: 3}
		r.bytes(12)
		head.indices(0, 0, f.names, table{name: "list of rules:", n: f.rules.n - rule + 1}, table{name: "list with trees:", n: mostTrees + 1})
		first, n := rule, int(head.word(0, 2))
		rule, trees = rule+int(head.word(0, 1)), trees+n
		f.list(first, rule, n)
	}
	r.end()
	r.want(rule == f.rules.n && f.node == f.nodes.n && f.entry == f.entries.n, r.at, "of %d rules, %d nodes, %d entries, lists and trees have %d, %d, %d",
		f.rules.n, f.nodes.n, f.entries.n, rule, f.node, f.entry)
	return map[string]int{"names": f.names.n, "rules": f.rules.n, "splits": f.splits.n, "entries": f.entries.n, "nodes": f.nodes.n, "lists": lists, "trees": trees}
}

// rule checks a rule by itself, and returns what it is about.
func (f *forest) rule(i int) box {
	t, w := f.rules, f.rules.word(i, 10) // lengths, protocol, flags
	six := w>>26&1 == 1
	t.want(w>>27 == 0, i, 10, "unknown flags %#x", w>>24)
	t.indices(i, 11, f.names)
	b := all(six)
	for j := range 2 { // source, destination
		a, length, first, last := t.address(i, 4*j), int(w>>(8*j)&0xff), t.word(i, 8+j)&0xffff, t.word(i, 8+j)>>16
		t.want(length <= 32 || six && length <= 128, i, 10, "a prefix of %d bits", length)
		t.want(!six || length < 96 || a[0] != 0 || a[1]>>32 != 0xffff, i, 4*j, "a prefix of IPv4-mapped addresses")
		t.want(first <= last, i, 8+j, "ports that end before they begin")
		p := prefix(a, length, six)
		t.want(p[0] == a && !p[1].above(b[j][1]), i, 4*j, "bits behind the prefix, or above the address")
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
		t := table{r: f.reader, name: "tree", at: f.at, n: 1, width: 4}
		b := f.bytes(16)
		t.want(b[8] == 4 || b[8] == 6, 0, 2, "family %d", b[8])
		t.want(b[13]|b[14]|b[15] == 0, 0, 3, "bytes that say nothing are not 0")
		t.want(b[12] == 0 || b[11] > 0, 0, 2, "destinations of length 0 and others")
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
		f.tree(behind, class, b[8] == 6, b[12] == 0)
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
func (f *forest) tree(end int, class []int, six, anywhere bool) {
	ways := map[int]way{f.node: {all(six), f.about(all(six), class), 0}}
	for i := f.node; i < end; i++ {
		w, led := ways[i]
		f.nodes.want(led, i, 0, "no node leads there")
		delete(ways, i)
		value, field, link := f.nodes.word(i, 0), int(f.nodes.word(i, 1)&7), int(f.nodes.word(i, 1)>>3)
		if field == 0 {
			f.leaf(i, int(value), link, class, w)
			continue
		}
		f.nodes.want(field <= 5 && !(field == 2 && anywhere), i, 1, "field %d", field)
		f.nodes.want(w.height < mostHeight, i, 0, "a tree of more than %d nodes in height", mostHeight)
		at, whole := number{1: uint64(value)}, all(six)
		if field <= 2 && six {
			f.nodes.indices(i, 0, f.splits)
			at = f.splits.address(int(value), 0)
		}
		f.nodes.want(field < 3 || whole[field-1][1].above(at), i, 0, "nothing is above %d", value)
		next := number{at[0], at[1] + 1}
		if next[1] == 0 {
			next[0]++
		}
		low, high := whole, whole
		low[field-1][1], high[field-1][0] = at, next
		if !next.above(at) { // at is the greatest there is
			high[field-1][1], high[field-1][0] = number{}, at
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

// leaf holds the entries of a leaf to being the rules that flows can meet there.
func (f *forest) leaf(i, first, n int, class []int, w way) {
	f.nodes.want(first == f.entry && n <= f.entries.n-first, i, 0, "its entries do not follow those of the leaf before, which end at %d", f.entry)
	f.entry += n
	for k := first; k < f.entry; k++ {
		_, ours := slices.BinarySearch(class, int(f.entries.word(k, 0)))
		f.entries.want(ours && (k == first || f.entries.less(k-1, k, 0)), k, 0, "no rule of the class, or not after the one before")
		f.entries.want(w.box.empty() || k-first < len(w.rules) && w.rules[k-first] == int(f.entries.word(k, 0)), k, 0, "not the rule that flows come to here")
	}
	f.nodes.want(w.box.empty() || n == len(w.rules), i, 1, "of %d rules that flows can meet, it has %d", len(w.rules), n)
}
