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

func (n number) next() number {
	low := n[1] + 1
	return number{n[0] + n[1]&^low>>63, low}
}

// bits returns as many, without those behind them.
func (n number) bits(many, behind int) int {
	if behind >= 64 {
		return int(n[0] >> (behind - 64) & (1<<many - 1))
	}
	return int((n[1]>>behind | n[0]<<(64-behind)) & (1<<many - 1))
}

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
		t.want((b[8] == 4 || b[8] == 6) && b[13] <= 2 && b[14]|b[15] == 0 && (b[12] == 0 || b[11] > 0), 0, 2, "a family, ports or lengths that no class has")
		var class []int
		for i := first; i < end; i++ {
			w := f.rules.word(i, 10)
			ports := b[13] == 0 || (f.rules.word(i, 8) == 65535<<16) == (b[13] == 1)
			if source, destination := byte(w), byte(w>>8); ports && w>>26&1 == uint32(b[8]-4)/2 && source >= b[9] && source <= b[10] && destination >= b[11] && destination <= b[12] {
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
			f.nodes.want(link == 1 || int(value) == f.entry && link <= f.entries.n-f.entry, i, 0, "its entries do not follow those of the leaf before, which end at %d", f.entry)
			before := -1
			for k := range link {
				e, t, at := int(value), f.nodes, i
				if link > 1 {
					e, t, at = int(f.entries.word(f.entry, 0)), f.entries, f.entry
					f.entry++
				}
				_, ours := slices.BinarySearch(class, e)
				t.want(ours && e > before, at, 0, "no rule of the class, or not after the one before")
				t.want(w.box.empty() || k < len(w.rules) && w.rules[k] == e, at, 0, "not the rule that flows come to here")
				before = e
			}
			f.nodes.want(w.box.empty() || link == len(w.rules), i, 1, "of %d rules that flows can meet, it has %d", len(w.rules), link)
			continue
		}
		var parts []way
		whole := all(short)
		if field == 6 {
			many, behind := int(value>>10), int(value>>3&127)
			field = int(value & 7)
			f.nodes.want(field > 0 && field < 6 && many > 0 && many <= 16 && many+behind <= []int{128 - short, 128 - short, 16, 16, 8}[field-1], i, 0, "no table of bits that a field has")
			parts = f.table(i, w, field-1, many, behind)
		} else {
			at := number{1: uint64(value)}
			f.nodes.want(field < 6 && (field < 3 || whole[field-1][1].above(at)), i, 1, "field %d parted at %d", field, value)
			if field <= 2 && short == 0 {
				f.nodes.indices(i, 0, f.splits)
				at = f.splits.address(int(value), 0)
			}
			low, high := whole, whole
			low[field-1][1], high[field-1][0] = at, at.next()
			if at == (number{^uint64(0), ^uint64(0)}) {
				high[field-1] = [2]number{at, {}} // nothing is above it
			}
			parts = []way{{low, w.rules, 0}, {high, w.rules, 0}}
		}
		f.nodes.want(!(field == 2 && anywhere) && w.height < mostHeight, i, 1, "field %d parted, %d nodes from the root", field, w.height)
		for child, part := range parts {
			part.box = part.box.and(w.box)
			_, twice := ways[link+child]
			f.nodes.want(link+child > i && link+child < end && !twice, i, 1, "node %d is not behind it in its tree, or the child of another", link+child)
			ways[link+child] = way{part.box, f.about(part.box, part.rules), w.height + 1}
		}
	}
	f.node = end
}

// table parts a way by some bits of a field. Of those before them, all that rules are
// about there must have the same.
func (f *forest) table(node int, w way, field, many, behind int) []way {
	parts, block, repeated := make([]way, 1<<many), w.box[field][0], 0
	for k, r := range w.rules {
		about := f.boxes[r].and(w.box)[field]
		if k == 0 {
			block = about[0]
		}
		in := prefix(block, 128-many-behind)
		f.nodes.want(!in[0].above(about[0]) && !about[1].above(in[1]), node, 0, "rule %d that flows can meet is about more than the table", r)
		for child := about[0].bits(many, behind); child <= about[1].bits(many, behind); child++ {
			parts[child].rules = append(parts[child].rules, r)
			repeated++
		}
		f.nodes.want(repeated <= 2*len(w.rules), node, 0, "its children have the rules that flows can meet more than twice")
	}
	first := prefix(block, 128-many-behind)[0]
	for child := range parts {
		parts[child].box = w.box
		parts[child].box[field] = prefix(first, 128-behind)
		first = parts[child].box[field][1].next()
	}
	return parts
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
