package flow_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
)

// grown is a section with a list that has trees: of rules on every destination, on some,
// and of IPv6.
func grown() *flow.Section {
	office, lab := rule("office", abi.Allow, "10.1.0.0/16", 443, 443), rule("lab", abi.Deny, "10.1.2.0/24", 0, 65535)
	office.Dst = prefix("192.0.2.0/24")
	six, all := rule("six", abi.Allow, "2001:db8::/32", 80, 90), rule("all", abi.Allow, "10.0.0.0/8", 443, 443)
	all.Audit = true
	leaf := func(n uint32) flow.Node { return flow.Node{Child: n} }
	at := func(f flow.Field, addr string, child uint32) flow.Node {
		return flow.Node{Field: f, Addr: netip.MustParseAddr(addr), Child: child}
	}
	s := sample()
	low := rule("low", abi.Deny, "10.0.0.0/8", 0, 65535)
	low.Dst = prefix("0.0.0.0/8") // a flow without a destination is not for the least one
	s.Lists[1].Rules = []flow.Rule{low}
	s.Lists = append(s.Lists, flow.List{Level: "lockdown", Rule: abi.Rule{ID: "default:network", Line: "p.yaml:30"}, Rules: []flow.Rule{office, lab, six, all},
		Trees: []flow.Tree{
			{Src: [2]uint8{0, 32}, Dst: [2]uint8{1, 32}, Rules: []uint32{0}, Nodes: []flow.Node{
				at(flow.FieldDst, "192.0.1.255", 1), leaf(0), at(flow.FieldDst, "192.0.2.255", 3), leaf(1), leaf(0)}},
			{Src: [2]uint8{0, 32}, Rules: []uint32{3, 1, 3, 3}, Nodes: []flow.Node{
				at(flow.FieldSrc, "10.1.1.255", 1), leaf(1), at(flow.FieldSrc, "10.1.2.255", 3), leaf(2), leaf(1)}},
			{V6: true, Src: [2]uint8{0, 128}, Rules: []uint32{2}, Nodes: []flow.Node{
				at(flow.FieldSrc, "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", 1), leaf(0), {Field: flow.FieldPort, Value: 79, Child: 3}, leaf(0),
				{Field: flow.FieldPort, Bits: 2, Shift: 5, Child: 5}, leaf(0), leaf(0), leaf(1), leaf(0)}},
		}})
	return s
}

func TestWhatWasEncodedIsRead(t *testing.T) {
	s := grown()
	got, err := flow.Decode(s.Encode())
	if err != nil {
		t.Fatal(err)
	}
	for i := range s.Lists {
		s.Lists[i].Trees = nil
	}
	if !reflect.DeepEqual(&got, s) {
		t.Errorf("got %+v", got)
	}
}

// corners are flows that the rules of a section are about, and beside them.
func corners(s *flow.Section) (list []flow.Flow) {
	beside := func(p netip.Prefix) []netip.Addr {
		if p.Bits() <= 0 {
			return []netip.Addr{{}, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
		}
		return []netip.Addr{p.Addr(), p.Addr().Prev(), {}}
	}
	for _, l := range s.Lists {
		for _, r := range l.Rules {
			for _, src := range append(beside(r.Src), r.Src.Addr()) {
				for _, dst := range beside(r.Dst) {
					for _, port := range []uint16{r.PortLo, r.PortHi, r.PortLo - 1, r.PortHi + 1} {
						for _, protocol := range []flow.Protocol{r.Protocol, r.Protocol + 1} {
							if src.IsValid() {
								list = append(list, flow.Flow{Src: src, Dst: dst, SrcPort: r.FromHi, DstPort: port, Protocol: protocol}.Plain())
							}
						}
					}
				}
			}
		}
	}
	return list
}

// matched is the first rule of a list by the definition.
func matched(l *flow.List, f flow.Flow) int {
	for i := range l.Rules {
		if l.Rules[i].Matches(f) {
			return i
		}
	}
	return flow.None
}

func TestAViewFindsWhatTheDefinitionFinds(t *testing.T) {
	s := grown()
	v, err := flow.Open(s.Encode())
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, f := range corners(s) {
		p := flow.At(f)
		for i := range s.Lists {
			l, table := &s.Lists[i], &v.Lists[i]
			want, got := matched(l, f), v.Match(table, &p)
			if want == flow.None {
				if got != want {
					t.Fatalf("list %d: %+v: rule %d, and not none", i, f, got)
				}
				continue
			}
			found++
			if got != table.First+want {
				t.Fatalf("list %d: %+v: rule %d, and not %d", i, f, got-table.First, want)
			}
			r := &l.Rules[want]
			if verdict, audit := v.Verdict(got); verdict != r.Verdict || audit != r.Audit || v.Name(got) != r.Rule {
				t.Fatalf("rule %d: %v, %t, %v", got, verdict, audit, v.Name(got))
			}
		}
	}
	if found < 100 {
		t.Errorf("only %d flows found a rule", found)
	}
}

func TestAskingDoesNotAllocate(t *testing.T) {
	v, err := flow.Open(grown().Encode())
	if err != nil {
		t.Fatal(err)
	}
	list := corners(grown())
	if n := testing.AllocsPerRun(10, func() {
		for _, f := range list {
			p := flow.At(f)
			for i := range v.Lists {
				if r := v.Match(&v.Lists[i], &p); r != flow.None {
					v.Verdict(r)
					v.Name(r)
				}
			}
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// wide is a tree of IPv6 with a table of so many bits of a source.
func wide(bits uint8) flow.Tree {
	t := flow.Tree{V6: true, Src: [2]uint8{0, 128}, Nodes: make([]flow.Node, 1+1<<bits), Rules: []uint32{2}}
	t.Nodes[0] = flow.Node{Field: flow.FieldSrc, Bits: bits, Shift: 96 - bits, Child: 1}
	t.Nodes[1].Child = 1
	return t
}

func TestTheGreatestTableOpens(t *testing.T) {
	s := grown()
	s.Lists[2].Trees[2] = wide(flow.MaxBits)
	if _, err := flow.Open(s.Encode()); err != nil {
		t.Error(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	tree := func(i int, change func(*flow.Tree)) func(*flow.Section) {
		return func(s *flow.Section) { change(&s.Lists[2].Trees[i]) }
	}
	for name, spoil := range map[string]func(*flow.Section){
		"a destination with host bits": func(s *flow.Section) {
			s.Lists[2].Rules[0].Dst = netip.PrefixFrom(netip.MustParseAddr("192.0.2.1"), 24)
		},
		"a destination of the other family": func(s *flow.Section) { s.Lists[2].Rules[0].Dst = prefix("::/24") },
		"a mapped destination":              func(s *flow.Section) { s.Lists[2].Rules[2].Dst = prefix("::ffff:10.0.0.0/104") },
		"source ports in the wrong order":   func(s *flow.Section) { s.Lists[2].Rules[0].FromLo, s.Lists[2].Rules[0].FromHi = 2, 1 },
		"a rule of no tree":                 func(s *flow.Section) { s.Lists[2].Trees = s.Lists[2].Trees[:2] },
		"a rule of two trees": func(s *flow.Section) {
			l := &s.Lists[2]
			l.Rules = []flow.Rule{rule("a", abi.Allow, "10.0.0.0/8", 1, 2), rule("b", abi.Allow, "10.1.2.0/24", 1, 2), rule("both", abi.Allow, "10.1.0.0/18", 1, 2)}
			l.Trees = []flow.Tree{{Src: [2]uint8{0, 20}, Nodes: []flow.Node{{Child: 2}}, Rules: []uint32{0, 2}}, {Src: [2]uint8{16, 32}, Nodes: []flow.Node{{Child: 2}}, Rules: []uint32{1, 2}}}
		},
		"a tree of no rule": func(s *flow.Section) {
			s.Lists[2].Trees = append(s.Lists[2].Trees, flow.Tree{Src: [2]uint8{33, 34}, Nodes: []flow.Node{{}}})
		},
		"trees in another order": func(s *flow.Section) { t := s.Lists[2].Trees; t[0], t[1] = t[1], t[0] },
		"every destination with others": func(s *flow.Section) {
			l := &s.Lists[2]
			l.Rules = l.Rules[:1]
			l.Trees = []flow.Tree{{Src: [2]uint8{0, 32}, Dst: [2]uint8{0, 32}, Nodes: []flow.Node{{Child: 1}}, Rules: []uint32{0}}}
		},
		"a tree that parts by no destination": tree(1, func(t *flow.Tree) { t.Nodes[0].Field = flow.FieldDst }),
		"no node":                             tree(2, func(t *flow.Tree) { t.Nodes, t.Rules = nil, nil }),
		"a field that is none":                tree(2, func(t *flow.Tree) { t.Nodes[2].Field = flow.FieldProtocol + 1 }),
		"a port beyond ports":                 tree(2, func(t *flow.Tree) { t.Nodes[2].Value = 65535 }),
		"a protocol beyond protocols":         tree(2, func(t *flow.Tree) { t.Nodes[2].Field, t.Nodes[2].Value = flow.FieldProtocol, 255 }),
		"a node that is its own child":        tree(2, func(t *flow.Tree) { t.Nodes[2].Child = 2 }),
		"a child that comes before":           tree(2, func(t *flow.Tree) { t.Nodes[2].Child = 1 }),
		"a child that does not exist":         tree(2, func(t *flow.Tree) { t.Nodes[2].Child = 8 }),
		"a table by no field":                 tree(2, func(t *flow.Tree) { t.Nodes[4].Field = flow.FieldProtocol + 3 }),
		"a table by the field of tables":      tree(2, func(t *flow.Tree) { t.Nodes[4].Field = flow.FieldProtocol + 1 }),
		"a table by no destination":           tree(1, func(t *flow.Tree) { t.Nodes[0] = flow.Node{Field: flow.FieldDst, Bits: 1, Child: 1} }),
		"a table of bits that ports lack":     tree(2, func(t *flow.Tree) { t.Nodes[4].Shift = 15 }),
		"a table of bits that IPv4 lacks":     tree(1, func(t *flow.Tree) { t.Nodes[0] = flow.Node{Field: flow.FieldSrc, Bits: 1, Shift: 32, Child: 1} }),
		"a table of too many bits":            tree(2, func(t *flow.Tree) { *t = wide(flow.MaxBits + 1) }),
		"a table without all its children":    tree(2, func(t *flow.Tree) { t.Nodes[4].Bits = 3 }),
		"a table that has a child of another": tree(2, func(t *flow.Tree) { t.Nodes[4].Child = 4 }),
		"children of two tables": tree(2, func(t *flow.Tree) {
			t.Nodes[3] = t.Nodes[4]
		}),
		"source ports that are none": func(s *flow.Section) {
			s.Lists[2].Rules[2].FromHi, s.Lists[2].Trees[2].From = 1, flow.FromSome+1
		},
		"source ports that no rule is on":   tree(2, func(t *flow.Tree) { t.From = flow.FromSome }),
		"a child of another tree":           tree(0, func(t *flow.Tree) { t.Nodes[2].Child = 5 }),
		"a child of nobody":                 tree(2, func(t *flow.Tree) { t.Nodes = append(t.Nodes, flow.Node{}) }),
		"a child of nobody, and one of two": tree(2, func(t *flow.Tree) { t.Nodes[0].Child = 3 }),
		"children of two": tree(1, func(t *flow.Tree) {
			t.Nodes[1], t.Rules = t.Nodes[2], []uint32{3, 3}
			t.Nodes[3].Child, t.Nodes[4].Child = 1, 1
		}),
		"rules out of order":        tree(1, func(t *flow.Tree) { t.Rules[1], t.Rules[2] = 3, 1 }),
		"a rule twice":              tree(1, func(t *flow.Tree) { t.Rules[1] = 3 }),
		"a rule of another tree":    tree(1, func(t *flow.Tree) { t.Rules[0] = 0 }),
		"a rule of an earlier list": tree(2, func(t *flow.Tree) { t.Rules[0] = ^uint32(0) }),
		"a rule of a later list": func(s *flow.Section) {
			s.Lists[0], s.Lists[2] = s.Lists[2], s.Lists[0]
			s.Lists[0].Trees[2].Rules[0] = 6
		},
		"a rule that does not exist": tree(2, func(t *flow.Tree) { t.Rules[0] = 4 }),
		"more rules than there are":  tree(2, func(t *flow.Tree) { t.Nodes[7].Child = 2 }),
		"entries of no leaf":         tree(2, func(t *flow.Tree) { t.Nodes[7].Child = 0 }),
	} {
		t.Run(name, func(t *testing.T) {
			s := grown()
			spoil(s)
			if _, err := flow.Open(s.Encode()); err == nil || !strings.HasPrefix(err.Error(), "flow: ") {
				t.Errorf("it opens (%v)", err)
			}
		})
	}
}

// What no encoder writes.
func TestOpenRefusesBytes(t *testing.T) {
	b := grown().Encode()
	names := int(binary.LittleEndian.Uint32(b))
	text := 4 + 12*names
	rules := text + 4 + int(binary.LittleEndian.Uint32(b[text:])) + 4
	for name, at := range map[string]int{
		"a name that begins elsewhere": 4 + 12, "a longer name": 4 + 4, "an address of IPv4 that is longer": rules, "one that is longer by little": rules + 12,
		"a destination that is longer": rules + 2*48 + 16, "an unknown flag": rules + 43, "a name that does not exist": rules + 45,
		"a source of 64 bits and more": rules + 40, "a destination of no length that is somewhere": rules + 24, "the end of a tree": len(b) - 1,
	} {
		x := bytes.Clone(b)
		if x[at] |= 0x40; x[at] == b[at] {
			x[at] = 1
		}
		if _, err := flow.Open(x); err == nil {
			t.Errorf("%s: it opens", name)
		}
	}
	b = (&flow.Section{}).Encode() // seven counts
	b[20] = 1
	if _, err := flow.Open(slices.Insert(b, 24, make([]byte, 8)...)); err == nil {
		t.Error("a node of no tree: it opens")
	}
}

func TestDepthIsBounded(t *testing.T) {
	deep := func(n int) error {
		tree := flow.Tree{Src: [2]uint8{0, 32}, Nodes: []flow.Node{{}}}
		for i := range n {
			tree.Nodes[2*i] = flow.Node{Field: flow.FieldPort, Value: uint32(i), Child: uint32(2*i + 1)}
			tree.Nodes = append(tree.Nodes, flow.Node{}, flow.Node{})
		}
		s := flow.Section{Lists: []flow.List{{Rules: []flow.Rule{rule("r", abi.Allow, "10.0.0.0/8", 0, 65535)}, Trees: []flow.Tree{tree}}}}
		_, err := flow.Open(s.Encode())
		return err
	}
	if err := deep(flow.MaxDepth); err != nil {
		t.Errorf("a tree of the greatest depth: %v", err)
	}
	if deep(flow.MaxDepth+1) == nil {
		t.Error("a deeper tree opens")
	}
}

func TestTreesAreBounded(t *testing.T) {
	l := flow.List{}
	for i := range uint8(flow.MaxTrees + 1) {
		l.Rules = append(l.Rules, flow.Rule{Src: netip.PrefixFrom(netip.IPv4Unspecified(), int(i))})
		l.Trees = append(l.Trees, flow.Tree{Src: [2]uint8{i, i}, Nodes: []flow.Node{{Child: 1}}, Rules: []uint32{uint32(i)}})
	}
	if _, err := flow.Open((&flow.Section{Lists: []flow.List{l}}).Encode()); err == nil {
		t.Error("a tree too many opens")
	}
	l.Rules, l.Trees = l.Rules[:flow.MaxTrees], l.Trees[:flow.MaxTrees]
	if _, err := flow.Open((&flow.Section{Lists: []flow.List{l}}).Encode()); err != nil {
		t.Error(err)
	}
}

func TestTruncatedSectionsAreRefused(t *testing.T) {
	b := grown().Encode()
	for n := range b {
		if _, err := flow.Open(b[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes open", n, len(b))
		}
	}
	if _, err := flow.Open(append(bytes.Clone(b), 0)); err == nil {
		t.Error("a byte too many is not noticed")
	}
}

// Whatever bytes open, a walk stays within them and names a rule of its list, and lists
// without trees say what the definition says.
func walks(t *testing.T, b []byte, more ...flow.Flow) {
	v, err := flow.Open(b)
	s, other := flow.Decode(b)
	if (err == nil) != (other == nil) || err != nil && (v != nil || len(s.Lists) > 0) {
		t.Fatalf("%v, %v", err, other)
	}
	if err != nil {
		return
	}
	again, err := flow.Decode(s.Encode())
	if err != nil || !reflect.DeepEqual(again, s) {
		t.Fatalf("encoded again: %v\n%+v\n%+v", err, again, s)
	}
	linear, err := flow.Open(s.Encode())
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range append(corners(&s), more...) {
		if i > 2000 {
			break
		}
		p := flow.At(f)
		for i := range v.Lists {
			l := &v.Lists[i]
			if r := v.Match(l, &p); r != flow.None {
				if r < l.First || r >= l.First+l.Rules || !s.Lists[i].Rules[r-l.First].Matches(f) {
					t.Fatalf("list %d: %+v: rule %d does not match", i, f, r)
				}
				v.Name(r)
			}
			want := matched(&s.Lists[i], f)
			if want != flow.None {
				want += l.First
			}
			if got := linear.Match(&linear.Lists[i], &p); got != want {
				t.Fatalf("list %d: %+v: rule %d, and not %d", i, f, got, want)
			}
		}
	}
}

func TestAlteredSectionsStayWithinTheirBounds(t *testing.T) {
	b, opened := grown().Encode(), 0
	for i := range b {
		for _, with := range []byte{0, 1, 255, b[i] + 1, b[i] ^ 0x80} {
			x := bytes.Clone(b)
			x[i] = with
			walks(t, x)
			if _, err := flow.Open(x); err == nil {
				opened++
			}
		}
	}
	if opened < 100 {
		t.Errorf("only %d alterations open", opened)
	}
}

func FuzzOpen(f *testing.F) {
	for _, s := range []*flow.Section{sample(), grown(), {}} {
		f.Add(s.Encode(), []byte{10, 1, 2, 3}, []byte{192, 0, 2, 1}, uint64(443)<<32|6)
	}
	f.Add([]byte{}, []byte{}, []byte{}, uint64(0))
	f.Fuzz(func(t *testing.T, b, src, dst []byte, rest uint64) {
		x := flow.Flow{SrcPort: uint16(rest >> 16), DstPort: uint16(rest >> 32), Protocol: flow.Protocol(rest)}
		var ok bool
		if x.Src, ok = netip.AddrFromSlice(src); !ok {
			x.Src = netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(rest))))
		}
		x.Dst, _ = netip.AddrFromSlice(dst)
		walks(t, b, x.Plain())
	})
}
