package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/internal/verify"
)

// A plot is one list and its forest, written by hand so that a test can spoil any of it.
type plot struct{ flow.List }

func (p *plot) rule(src, dst string, protocol flow.Protocol, from, to uint16) {
	r := flow.Rule{Rule: abi.Rule{ID: "rule"}, Verdict: abi.Allow, Protocol: protocol, Src: netip.MustParsePrefix(src), FromHi: 65535, PortLo: from, PortHi: to}
	if dst != "" {
		r.Dst = netip.MustParsePrefix(dst)
	}
	p.Rules = append(p.Rules, r)
}

// A fork is an inner node whose children are the next two that no fork before has.
func fork(by flow.Field, at string, value uint32) flow.Node {
	n := flow.Node{Field: by, Value: value}
	if at != "" {
		n.Addr = netip.MustParseAddr(at)
	}
	return n
}

// grow adds a tree of forks, and of leaves where a node has rules instead.
func (p *plot) grow(t flow.Tree, nodes ...any) {
	child := uint32(1)
	for _, x := range nodes {
		n, inner := x.(flow.Node)
		if inner {
			n.Child, child = child, child+2
		} else {
			list := x.([]uint32)
			n.Child = uint32(len(list))
			t.Rules = append(t.Rules, list...)
		}
		t.Nodes = append(t.Nodes, n)
	}
	p.Trees = append(p.Trees, t)
}

// leaf gives one of the nodes of a tree, which is a leaf, other rules.
func (p *plot) leaf(tree, node int, rules ...uint32) {
	t, at := &p.Trees[tree], uint32(0)
	for _, n := range t.Nodes[:node] {
		if n.Field == flow.FieldNone {
			at += n.Child
		}
	}
	behind := t.Rules[at+t.Nodes[node].Child:]
	t.Rules = append(append(t.Rules[:at:at], rules...), behind...)
	t.Nodes[node].Child = uint32(len(rules))
}

// again grows the tree of IPv6 with other nodes.
func (p *plot) again(nodes ...any) {
	p.grow(flow.Tree{V6: true, Src: [2]uint8{0, 32}}, nodes...)
	p.Trees[1], p.Trees = p.Trees[3], p.Trees[:3]
}

// nowhere makes a leaf to which no flow comes, with rules that may be any of the class.
func (p *plot) nowhere(rules ...uint32) {
	p.again(fork(flow.FieldPort, "", 80), fork(flow.FieldPort, "", 80), []uint32{5}, []uint32{4, 5}, rules)
}

// grown adds nodes to a tree that there is.
func (p *plot) grown(tree int, nodes ...flow.Node) {
	p.Trees[tree].Nodes = append(p.Trees[tree].Nodes, nodes...)
}

// from makes a list of one rule without trees, on a source as it is written.
func (p *plot) from(src string) {
	p.Trees, p.Rules = nil, p.Rules[:1]
	a, bits, _ := strings.Cut(src, "/")
	n, err := strconv.Atoi(bits)
	if err != nil {
		panic(err)
	}
	p.Rules[0].Src = netip.PrefixFrom(netip.MustParseAddr(a), n)
}

// many makes a list of n rules, each of a class of its own.
func (p *plot) many(n int) {
	p.Rules, p.Trees = nil, nil
	for i := range n {
		p.rule(fmt.Sprintf("0.0.0.0/%d", i), "", flow.TCP, 0, 1)
		p.grow(flow.Tree{Src: [2]uint8{uint8(i), uint8(i)}}, []uint32{uint32(i)})
	}
}

// stairs are a tree of IPv6 with so many nodes from the root to its last leaves.
func stairs(n int) (nodes []any) {
	for i := range n {
		nodes = append(nodes, fork(flow.FieldPort, "", uint32(1000-i)))
		if i > 0 {
			nodes = append(nodes, []uint32{5})
		}
	}
	return append(nodes, []uint32{4, 5}, []uint32{5})
}

// right is a plot with a tree of each kind, and each kind of node; every rule is found.
func right() *plot {
	p := &plot{flow.List{Level: "normal", Rule: abi.Rule{ID: "default"}}}
	p.rule("10.0.0.0/8", "", flow.TCP, 443, 443)              // 0
	p.rule("10.1.0.0/16", "", flow.AnyProtocol, 0, 65535)     // 1
	p.rule("10.0.0.0/8", "", flow.UDP, 53, 53)                // 2
	p.rule("192.168.0.0/16", "", flow.AnyProtocol, 0, 65535)  // 3
	p.rule("2001:db8::/32", "", flow.AnyProtocol, 80, 80)     // 4
	p.rule("::/0", "", flow.AnyProtocol, 0, 65535)            // 5
	p.rule("2001:db9::/32", "", flow.AnyProtocol, 0, 65535)   // 6: behind one about all
	p.rule("10.0.0.0/8", "172.16.0.0/12", flow.TCP, 80, 80)   // 7
	p.rule("10.2.0.0/16", "172.17.0.0/16", flow.TCP, 80, 443) // 8
	p.Rules[8].FromLo = 1024
	p.grow(flow.Tree{Src: [2]uint8{8, 16}},
		fork(flow.FieldSrc, "10.255.255.255", 0), // 0
		fork(flow.FieldProtocol, "", 6),          // 1: from the network 10
		[]uint32{3},                              // 2
		fork(flow.FieldPort, "", 442),            // 3: of TCP and lesser
		[]uint32{1, 2},                           // 4
		[]uint32{1},                              // 5: below port 443
		[]uint32{0, 1},                           // 6
	)
	p.grow(flow.Tree{V6: true, Src: [2]uint8{0, 32}},
		fork(flow.FieldSrc, "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 0), // 0
		[]uint32{4, 5}, // 1
		[]uint32{5},    // 2
	)
	p.grow(flow.Tree{Src: [2]uint8{8, 16}, Dst: [2]uint8{12, 16}},
		fork(flow.FieldFrom, "", 1023),           // 0
		[]uint32{7},                              // 1
		fork(flow.FieldDst, "172.16.255.255", 0), // 2
		[]uint32{7},                              // 3
		[]uint32{7, 8},                           // 4
	)
	return p
}

func (p *plot) encode() []byte { return (&flow.Section{Lists: []flow.List{p.List}}).Encode() }

// Three things can be wrong with a forest: nothing, what an image refuses too, and what
// makes it miss rules, which images leave to whoever makes programs.
const (
	nothing = "nothing"
	form    = "form"
	losing  = "losing"
)

// What makes a forest right, check by check: what each is for is spoiled alone.
func TestTheVerifierSeesWhatForestsLose(t *testing.T) {
	const lost, other = "rules that flows can meet", "not the rule that flows come to here"
	for name, c := range map[string]struct {
		spoil func(p *plot)
		wrong string
		say   string // by the verifier
	}{
		"as it is":         {func(*plot) {}, nothing, ""},
		"no trees at all":  {func(p *plot) { p.Trees = nil }, nothing, ""},
		"no rules, either": {func(p *plot) { p.Rules, p.Trees = nil, nil }, nothing, ""},

		"a leaf without its only rule":       {func(p *plot) { p.leaf(0, 2) }, losing, lost},
		"a leaf without its first rule":      {func(p *plot) { p.leaf(0, 6, 1) }, losing, other},
		"a leaf without its last rule":       {func(p *plot) { p.leaf(0, 6, 0) }, losing, lost},
		"a leaf without the one about all":   {func(p *plot) { p.leaf(1, 1, 4) }, losing, lost},
		"a leaf without a rule on its ports": {func(p *plot) { p.leaf(2, 4, 7) }, losing, lost},
		"a leaf with another rule":           {func(p *plot) { p.leaf(0, 2, 2) }, losing, other},
		"a leaf with a rule of elsewhere":    {func(p *plot) { p.leaf(0, 2, 2, 3) }, losing, other},
		"a rule behind one about all":        {func(p *plot) { p.leaf(1, 2, 5, 6) }, losing, other},
		"leaves in each other's place":       {func(p *plot) { p.leaf(0, 5, 0, 1); p.leaf(0, 6, 1) }, losing, other},

		"sources on the wrong side": {func(p *plot) { p.Trees[0].Nodes[0].Addr = netip.MustParseAddr("10.255.255.254") }, losing, other},
		"sources of IPv6 on the wrong side": {func(p *plot) {
			p.Trees[1].Nodes[0].Addr = netip.MustParseAddr("2001:db8:ffff:ffff:ffff:ffff:ffff:fffe")
		}, losing, other},
		"sources of IPv6 on the wrong side of a half": {func(p *plot) {
			p.Trees[1].Nodes[0].Addr = netip.MustParseAddr("2001:db7:ffff:ffff:ffff:ffff:ffff:ffff")
		}, losing, other},
		"destinations on the wrong side":      {func(p *plot) { p.Trees[2].Nodes[2].Addr = netip.MustParseAddr("172.17.0.0") }, losing, lost},
		"source ports on the wrong side":      {func(p *plot) { p.Trees[2].Nodes[0].Value = 1024 }, losing, lost},
		"destination ports on the wrong side": {func(p *plot) { p.Trees[0].Nodes[3].Value = 443 }, losing, other},
		"protocols on the wrong side":         {func(p *plot) { p.Trees[0].Nodes[1].Value = 5 }, losing, other},
		"another field":                       {func(p *plot) { p.Trees[0].Nodes[3].Field = flow.FieldFrom }, losing, other},
		"children of others": {func(p *plot) {
			p.Trees[0].Nodes[1].Child, p.Trees[0].Nodes[3].Child = 5, 3
		}, form, "no node leads there"},
		"a rule that grew": {func(p *plot) { p.Rules[0].PortLo = 442 }, losing, other},
		"a rule that shrank, so that it is about no flow of a leaf":   {func(p *plot) { p.Rules[8].PortHi, p.Rules[8].Dst = 80, netip.MustParsePrefix("172.16.0.0/16") }, losing, lost},
		"a rule of one protocol, so that those behind it are met too": {func(p *plot) { p.Rules[5].Protocol = flow.UDP }, losing, lost},

		"a box of nothing has any rules": {func(p *plot) {
			p.again(fork(flow.FieldSrc, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 0), []uint32{4, 5}, fork(flow.FieldPort, "", 79), []uint32{}, []uint32{4, 5, 6})
		}, nothing, ""},
		"a box of nothing, of a port parted twice": {func(p *plot) {
			p.again(fork(flow.FieldPort, "", 80), fork(flow.FieldPort, "", 80), []uint32{5}, []uint32{4, 5}, []uint32{6})
		}, nothing, ""},
		"a box of one port is not of nothing": {func(p *plot) {
			p.again(fork(flow.FieldPort, "", 80), fork(flow.FieldPort, "", 79), []uint32{5}, []uint32{5}, []uint32{5})
		}, losing, other},

		"rules out of order":        {func(p *plot) { p.nowhere(6, 5) }, form, "not after the one before"},
		"a rule twice":              {func(p *plot) { p.nowhere(5, 5) }, form, "not after the one before"},
		"a rule of another class":   {func(p *plot) { p.nowhere(3) }, form, "no rule of the class"},
		"a rule that is not there":  {func(p *plot) { p.nowhere(9) }, form, "no rule of the class"},
		"entries that nobody wrote": {func(p *plot) { p.Trees[2].Nodes[4].Child = 3 }, form, "its entries do not follow"},

		"a child that is not behind": {func(p *plot) { p.Trees[0].Nodes[3].Child = 2 }, form, "is not behind it"},
		"a child of itself":          {func(p *plot) { p.again(fork(flow.FieldPort, "", 80), []uint32{5}); p.Trees[1].Nodes[0].Child = 0 }, form, "is not behind it"},
		"a child that is not there":  {func(p *plot) { p.Trees[0].Nodes[3].Child = 6 }, form, "is not behind it"},
		"a child of two": {func(p *plot) {
			p.again(fork(flow.FieldPort, "", 10), fork(flow.FieldPort, "", 5), fork(flow.FieldPort, "", 20), []uint32{5}, []uint32{5})
			p.Trees[1].Nodes[2].Child = 3
		}, form, "is not behind it"},
		"a child twice":                 {func(p *plot) { p.Trees[0].Nodes[1].Child = 1 }, form, "is not behind it"},
		"a node that nobody leads to":   {func(p *plot) { p.grown(2, flow.Node{}) }, form, "no node leads there"},
		"no field":                      {func(p *plot) { p.Trees[0].Nodes[3].Field = 7 }, form, "field 7 parted"},
		"destinations, of rules on all": {func(p *plot) { p.Trees[0].Nodes[3] = fork(flow.FieldDst, "10.0.0.0", 0) }, form, "field 2 parted"},
		"nothing above a source port":   {func(p *plot) { p.Trees[2].Nodes[0].Value = 65535 }, form, "field 3 parted"},
		"nothing above a port":          {func(p *plot) { p.Trees[0].Nodes[3].Value = 65535 }, form, "field 4 parted"},
		"nothing above a protocol":      {func(p *plot) { p.Trees[0].Nodes[1].Value = 255 }, form, "field 5 parted"},
		"something above a port":        {func(p *plot) { p.again(fork(flow.FieldPort, "", 65534), []uint32{4, 5}, []uint32{5}) }, nothing, ""},
		"no source above": {func(p *plot) {
			p.rule("11.0.0.0/8", "", flow.AnyProtocol, 0, 65535)
			p.Trees[0] = flow.Tree{Src: [2]uint8{8, 16}}
			p.grow(p.Trees[0], fork(flow.FieldSrc, "255.255.255.255", 0), []uint32{0, 1, 2, 3, 9}, []uint32{})
			p.Trees[0], p.Trees = p.Trees[3], p.Trees[:3]
		}, nothing, ""},
		"as high as can be":       {func(p *plot) { p.again(stairs(flow.MaxDepth)...) }, nothing, ""},
		"too high":                {func(p *plot) { p.again(stairs(flow.MaxDepth + 1)...) }, form, "64 nodes from the root"},
		"as many trees as can be": {func(p *plot) { p.many(flow.MaxTrees) }, nothing, ""},
		"too many trees":          {func(p *plot) { p.many(flow.MaxTrees + 1) }, form, "there is no value 17"},
		"a tree of nothing":       {func(p *plot) { p.Trees[2].Nodes, p.Trees[2].Rules = nil, nil }, form, "do not follow those of the tree before"},

		"a rule of two classes":    {func(p *plot) { p.Trees[2].Dst[0] = 0 }, form, "lengths that no class has"},
		"classes that overlap":     {func(p *plot) { p.Trees = append(p.Trees, p.Trees[2]) }, form, "of another tree's class too"},
		"a class without rules":    {func(p *plot) { p.grow(flow.Tree{Src: [2]uint8{17, 32}}, []uint32{}) }, form, "its class has no rule"},
		"trees out of order":       {func(p *plot) { p.Trees[0], p.Trees[1] = p.Trees[1], p.Trees[0] }, form, "begins before that of the tree before"},
		"a rule of no class":       {func(p *plot) { p.rule("10.3.4.0/24", "", flow.TCP, 0, 1) }, form, "are of the class of no tree"},
		"a rule of a lesser class": {func(p *plot) { p.rule("8.0.0.0/7", "", flow.TCP, 0, 1) }, form, "are of the class of no tree"},
		"to a lesser class":        {func(p *plot) { p.rule("10.0.0.0/8", "172.0.0.0/11", flow.TCP, 0, 1) }, form, "are of the class of no tree"},
		"to a greater class":       {func(p *plot) { p.rule("10.0.0.0/8", "172.0.0.0/17", flow.TCP, 0, 1) }, form, "are of the class of no tree"},
		"of the other family":      {func(p *plot) { p.rule("2001::/16", "2001::/16", flow.TCP, 0, 1) }, form, "are of the class of no tree"},

		"a default that is none":     {func(p *plot) { p.Default = 2 }, form, "is not from 0 to 1"},
		"a verdict that is none":     {func(p *plot) { p.Rules[0].Verdict = 2 }, form, "unknown flags"},
		"source ports the wrong way": {func(p *plot) { p.Rules[0].FromLo, p.Rules[0].FromHi = 2, 1 }, form, "ports that end before they begin"},
		"ports the wrong way":        {func(p *plot) { p.Rules[0].PortLo = 444 }, form, "ports that end before they begin"},
		"bits behind a prefix":       {func(p *plot) { p.from("10.0.0.1/8") }, form, "no prefix of its family"},
		"to the other family":        {func(p *plot) { p.Rules[7].Dst = netip.MustParsePrefix("2001:db8::/32") }, form, "no prefix of its family"},
		"IPv4 in IPv6":               {func(p *plot) { p.from("::ffff:10.0.0.0/104") }, form, "no prefix of its family"},
		"all of IPv4 in IPv6":        {func(p *plot) { p.from("::ffff:0.0.0.0/96") }, form, "no prefix of its family"},
		"what is below IPv4 in IPv6": {func(p *plot) { p.from("::fffe:0:0/96") }, nothing, ""},
		"what only looks like IPv4":  {func(p *plot) { p.from("1::ffff:0:0/96") }, nothing, ""},
		"one address of IPv6":        {func(p *plot) { p.from("1::1/128") }, nothing, ""},
		"one address of IPv4":        {func(p *plot) { p.from("1.1.1.1/32") }, nothing, ""},
	} {
		p := right()
		c.spoil(p)
		seen(t, name, p.encode(), c.wrong, c.say)
	}
}

// seen holds an image and the verifier to what is wrong with a section.
func seen(t *testing.T, name string, section []byte, wrong, say string) {
	t.Helper()
	if _, err := flow.Open(section); (err == nil) != (wrong != form) {
		t.Errorf("%s: an image says %v", name, err)
	}
	b := must(program.Sign(&program.Program{Levels: []string{"normal"}, Sections: []program.Section{{Name: flow.Name, Data: section}}}, signer))
	if _, err := verify.Check(b, nil); (err == nil) != (wrong == nothing) || err != nil && !strings.Contains(err.Error(), say) {
		t.Errorf("%s: the verifier says %v, want %q", name, err, say)
	}
}

// Parts of a section, with the bytes of a record.
var inNames, inText, inRules, inSplits, inEntries, inNodes, inLists = records{0, 12}, records{1, 1}, records{2, 48}, records{3, 16}, records{4, 4}, records{5, 8}, records{6, 0}

type records struct{ number, record int }

// at is where the part's count is.
func (p records) at(section []byte) int {
	at := 0
	for _, before := range []records{inNames, inText, inRules, inSplits, inEntries, inNodes}[:p.number] {
		at += 4 + before.record*int(binary.LittleEndian.Uint32(section[at:]))
	}
	return at
}

// behind is a section with a record of zeros behind those of the part.
func (p records) behind(section []byte) []byte {
	at := p.at(section)
	n := binary.LittleEndian.Uint32(section[at:])
	binary.LittleEndian.PutUint32(section[at:], n+1)
	return slices.Insert(section, at+4+int(n)*p.record, make([]byte, p.record)...)
}

// add adds to a byte of a record of the part; of lists, to one behind the level's name.
func (p records) add(section []byte, record, offset int, n byte) []byte {
	at := p.at(section) + 4 + record*p.record + offset
	if p == inLists {
		at += 4 + len("normal")
	}
	section[at] += n
	return section
}

// What cannot be said in Go is spoiled where it lies.
func TestTheVerifierSeesWhatSectionsLack(t *testing.T) {
	const tree = 13 // behind a list's default, name, rules and trees
	for name, c := range map[string]struct {
		spoil func(b []byte) []byte
		say   string
	}{
		"something behind":          {func(b []byte) []byte { return append(b, 0) }, "1 bytes are left over"},
		"a rule of no list":         {inRules.behind, "of 10 rules, 15 nodes, 8 entries, lists and trees have 9, 15, 8"},
		"an entry of no leaf":       {inEntries.behind, "of 9 rules, 15 nodes, 9 entries, lists and trees have 9, 15, 8"},
		"a node of no tree":         {inNodes.behind, "of 9 rules, 16 nodes, 8 entries, lists and trees have 9, 15, 8"},
		"text of no name":           {inText.behind, "the names end at"},
		"a name that begins late":   {func(b []byte) []byte { return inNames.add(b, 1, 0, 1) }, "name 1: it does not begin where the one before ends"},
		"a name that ends late":     {func(b []byte) []byte { return inNames.add(b, 1, 4, 1) }, "the names end at"},
		"a rule without a name":     {func(b []byte) []byte { return inRules.add(b, 8, 44, 1) }, "rule 8: there is no name 2"},
		"a default without a name":  {func(b []byte) []byte { return inLists.add(b, 0, 1, 2) }, "there is no name 2"},
		"rules that are not there":  {func(b []byte) []byte { return inLists.add(b, 0, 5, 1) }, "there is no value 10"},
		"a long prefix of IPv4":     {func(b []byte) []byte { return inRules.add(b, 0, 40, 25) }, "no prefix of its family"},
		"a long prefix of IPv6":     {func(b []byte) []byte { return inRules.add(b, 4, 40, 97) }, "no prefix of its family"},
		"a long address of IPv4":    {func(b []byte) []byte { return inRules.add(b, 0, 12, 1) }, "no prefix of its family"},
		"a longer one":              {func(b []byte) []byte { return inRules.add(b, 0, 0, 1) }, "no prefix of its family"},
		"a family that is none":     {func(b []byte) []byte { return inLists.add(b, 0, tree+8, 1) }, "lengths that no class has"},
		"source ports of no kind":   {func(b []byte) []byte { return inLists.add(b, 0, tree+13, 3) }, "ports or lengths that no class has"},
		"something kept free":       {func(b []byte) []byte { return inLists.add(b, 0, tree+14, 1) }, "lengths that no class has"},
		"that, too":                 {func(b []byte) []byte { return inLists.add(b, 0, tree+15, 1) }, "lengths that no class has"},
		"another root":              {func(b []byte) []byte { return inLists.add(b, 0, tree, 1) }, "do not follow those of the tree before"},
		"another rule":              {func(b []byte) []byte { return inNodes.add(b, 2, 0, 1) }, "no rule of the class"},
		"another leaf":              {func(b []byte) []byte { return inNodes.add(b, 4, 0, 1) }, "its entries do not follow those of the leaf before"},
		"nodes that are not there":  {func(b []byte) []byte { return inLists.add(b, 0, tree+4, 100) }, "there are no 107 of node from 0 on"},
		"a split that is not there": {func(b []byte) []byte { return inNodes.add(b, 7, 0, 1) }, "there is no split 1"},
	} {
		seen(t, name, c.spoil(right().encode()), form, c.say)
	}
}
