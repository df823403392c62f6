package main

import (
	"net/netip"
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
	p.grow(flow.Tree{V6: true, Src: [2]uint8{0, 128}}, nodes...)
	p.Trees[1], p.Trees = p.Trees[3], p.Trees[:3]
}

// nowhere makes a leaf to which no flow comes, with rules that may be any of the class.
func (p *plot) nowhere(rules ...uint32) {
	p.again(fork(flow.FieldPort, "", 80), fork(flow.FieldPort, "", 80), []uint32{5}, []uint32{4, 5}, rules)
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
	p.grow(flow.Tree{Src: [2]uint8{0, 32}},
		fork(flow.FieldSrc, "10.255.255.255", 0), // 0
		fork(flow.FieldProtocol, "", 6),          // 1: from the network 10
		[]uint32{3},                              // 2
		fork(flow.FieldPort, "", 442),            // 3: of TCP and lesser
		[]uint32{1, 2},                           // 4
		[]uint32{1},                              // 5: below port 443
		[]uint32{0, 1},                           // 6
	)
	p.grow(flow.Tree{V6: true, Src: [2]uint8{0, 128}},
		fork(flow.FieldSrc, "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 0), // 0
		[]uint32{4, 5}, // 1
		[]uint32{5},    // 2
	)
	p.grow(flow.Tree{Src: [2]uint8{0, 32}, Dst: [2]uint8{1, 32}},
		fork(flow.FieldFrom, "", 1023),           // 0
		[]uint32{7},                              // 1
		fork(flow.FieldDst, "172.16.255.255", 0), // 2
		[]uint32{7},                              // 3
		[]uint32{7, 8},                           // 4
	)
	return p
}

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

		"rules out of order":       {func(p *plot) { p.nowhere(6, 5) }, form, "not after the one before"},
		"a rule twice":             {func(p *plot) { p.nowhere(5, 5) }, form, "not after the one before"},
		"a rule of another class":  {func(p *plot) { p.nowhere(3) }, form, "no rule of the class"},
		"a rule that is not there": {func(p *plot) { p.nowhere(9) }, form, "no rule of the class"},
	} {
		p := right()
		c.spoil(p)
		section := (&flow.Section{Lists: []flow.List{p.List}}).Encode()
		_, image := flow.Open(section)
		_, err := verify.Check(must(program.Sign(&program.Program{Levels: []string{"normal"}, Sections: []program.Section{{Name: flow.Name, Data: section}}}, signer)), nil)
		if (image == nil) != (c.wrong != form) {
			t.Errorf("%s: an image says %v", name, image)
		}
		if (err == nil) != (c.wrong == nothing) || err != nil && !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: the verifier says %v, want %q", name, err, c.say)
		}
	}
}
