package authz

import (
	"bytes"
	"strings"
	"testing"

	"lorica.dev/lorica/abi"
)

// sample is a section with every kind of part: one rule with a condition over
// most operations, one without, one route with two buckets.
func sample() *Section {
	return &Section{
		Strings:   []string{"", "\x0a\x00\x00\x01", "Action", "Group", "Route", "User", "call", "forbid-it", "line", "permit-it", "r"},
		Principal: 5, Group: 3, Action: 0, Default: abi.Allow, Rule: abi.Rule{ID: abi.RuleAuthz, Line: "policy.yaml:7"},
		Attributes: []Attribute{
			{Name: "level", Type: TypeString, Source: Source{Kind: SourceLevel}},
			{Name: "amount", Type: TypeLong, Optional: true, Source: Source{Kind: SourceBody, Arg: "/amount"}},
		},
		Entities: []Entity{{2, 6}, {3, 6}, {4, 10}, {5, 10}},
		Nodes: []Node{
			{Op: OpHas, A: 1}, {Op: OpAttr, A: 1}, {Op: OpLong, A: 5, B: 1}, {Op: OpLt, A: 1, B: 2},
			{Op: OpEntity, A: 1}, {Op: OpPrincipal}, {Op: OpSet, A: 0, B: 1}, {Op: OpIn, A: 5, B: 6},
			{Op: OpIP, A: 1, B: 8}, {Op: OpIsLoopback, A: 8}, {Op: OpAttr}, {Op: OpLike, A: 10, B: 0},
			{Op: OpIf, A: 7, B: 9, C: 11}, {Op: OpAnd, A: 1, B: 3},
		},
		Lists:  []uint32{4, 0, 3, 12, 1, 0},
		Rules:  []Rule{{ID: 7, Line: 8, Forbid: true, Condition: 13}, {ID: 9, Line: 8, Condition: None}},
		Routes: []Route{{Name: 10, Resource: 2, Parent: None, Reads: 3, Buckets: []Bucket{{Key: 1, First: 4, Count: 1}, {Key: None, First: 5, Count: 1}}}},
	}
}

func TestWhatWasEncodedIsRead(t *testing.T) {
	v, err := Open(sample().Encode())
	if err != nil {
		t.Fatal(err)
	}
	if v.Default != abi.Allow || v.Rule.Line != "policy.yaml:7" || v.Level != 1 || v.SetSize != 1 || len(v.Attributes) != 2 || v.Attributes[1] != sample().Attributes[1] {
		t.Errorf("header: %+v", v)
	}
	if v.Rules[0] != (abi.Rule{ID: "forbid-it", Line: "line"}) || v.Rules[1].ID != "permit-it" {
		t.Errorf("rules: %v", v.Rules)
	}
	if node, forbid := v.Condition(0); node != 13 || !forbid {
		t.Errorf("condition: %d %v", node, forbid)
	}
	for i, n := range sample().Nodes {
		if v.Node(uint32(i)) != n {
			t.Errorf("node %d: %+v", i, v.Node(uint32(i)))
		}
	}
	if v.Principal("r") != 3 || v.Principal("call") != None || v.Principal("unheard of") != None || v.Group("call") != 1 || v.Group("r") != None {
		t.Error("entities are not found by type and name")
	}
	r, ok := v.Route("r")
	if !ok || r.Reads != 3 || r.Resource != 2 || r.Parent != None {
		t.Fatalf("route: %+v", r)
	}
	if _, ok := v.Route("call"); ok {
		t.Error("a name that is no route was found")
	}
	if b := v.Bucket(r, 1); b.Count != 1 || v.List(b.First) != 1 {
		t.Errorf("bucket: %+v", b)
	}
	if b := v.Bucket(r, None); b.Count != 1 || v.List(b.First) != 0 {
		t.Errorf("bucket of everybody: %+v", b)
	}
	if b := v.Bucket(r, 2); b.Count != 0 {
		t.Errorf("a bucket that does not exist: %+v", b)
	}
}

func TestNothingDenies(t *testing.T) {
	for _, b := range [][]byte{nil, {}, make([]byte, 3), make([]byte, 200)} {
		if v, err := Open(b); err == nil || v != nil {
			t.Errorf("%d zero bytes open: %+v", len(b), v)
		}
	}
	if (&View{}).Default != abi.Deny {
		t.Error("the zero View does not deny")
	}
}

func TestOpenRefuses(t *testing.T) {
	node := func(i int, n Node) func(*Section) { return func(s *Section) { s.Nodes[i] = n } }
	for name, spoil := range map[string]func(*Section){
		"strings out of order":             func(s *Section) { s.Strings[3], s.Strings[4] = s.Strings[4], s.Strings[3] },
		"a string twice":                   func(s *Section) { s.Strings[3] = s.Strings[2] },
		"a principal type that is none":    func(s *Section) { s.Principal = 99 },
		"a principal type left out":        func(s *Section) { s.Principal = None },
		"a group type that is none":        func(s *Section) { s.Group = 99 },
		"an action that is none":           func(s *Section) { s.Action = 99 },
		"an unknown verdict":               func(s *Section) { s.Default = 2 },
		"an attribute without a type":      func(s *Section) { s.Attributes[0].Type = 0 },
		"an attribute of an unknown type":  func(s *Section) { s.Attributes[0].Type = 99 },
		"an attribute without a source":    func(s *Section) { s.Attributes[0].Source.Kind = 0 },
		"groups as an attribute":           func(s *Section) { s.Attributes[0].Source.Kind = SourceGroups },
		"more attributes than a word":      func(s *Section) { s.Attributes = make([]Attribute, 65) },
		"entities out of order":            func(s *Section) { s.Entities[0], s.Entities[1] = s.Entities[1], s.Entities[0] },
		"an entity without a name":         func(s *Section) { s.Entities[3].ID = 99 },
		"operation zero":                   node(0, Node{}),
		"an unknown operation":             node(0, Node{Op: opEnd}),
		"an operand that does not exist":   node(3, Node{Op: OpLt, A: 1, B: 99}),
		"an operand that comes later":      node(3, Node{Op: OpLt, A: 1, B: 4}),
		"a node that is its own operand":   node(3, Node{Op: OpNot, A: 3}),
		"an operand used twice":            node(3, Node{Op: OpLt, A: 2, B: 2}),
		"an operand too many":              node(0, Node{Op: OpHas, A: 1, B: 1}),
		"an attribute that does not exist": node(0, Node{Op: OpHas, A: 2}),
		"a truth value of two":             node(0, Node{Op: OpBool, A: 2}),
		"an address of six bytes":          node(8, Node{Op: OpIP, A: 2, B: 8}),
		"a prefix of 33 bits":              node(8, Node{Op: OpIP, A: 1, B: 33}),
		"a pattern that is no string":      node(11, Node{Op: OpLike, A: 10, B: 99}),
		"a list beyond the lists":          node(13, Node{Op: OpAnd, A: 5, B: 3}),
		"a list that wraps around":         node(13, Node{Op: OpAnd, A: 1, B: ^uint32(0)}),
		"a rule without a name":            func(s *Section) { s.Rules[0].ID = None },
		"a condition that does not exist":  func(s *Section) { s.Rules[0].Condition = 14 },
		"a route that is no entity":        func(s *Section) { s.Routes[0].Resource = None },
		"a parent that is no entity":       func(s *Section) { s.Routes[0].Parent = 4 },
		"a route twice":                    func(s *Section) { s.Routes = append(s.Routes, s.Routes[0]) },
		"an attribute set too wide":        func(s *Section) { s.Routes[0].Reads = 7 },
		"an attribute that is not read in": func(s *Section) { s.Routes[0].Reads = 1 },
		"buckets out of order": func(s *Section) {
			b := s.Routes[0].Buckets
			b[0], b[1] = b[1], b[0]
		},
		"a bucket for no entity":       func(s *Section) { s.Routes[0].Buckets[0].Key = 4 },
		"a bucket beyond the lists":    func(s *Section) { s.Routes[0].Buckets[1].Count = 2 },
		"a rule that does not exist":   func(s *Section) { s.Lists[5] = 2 },
		"rules of a bucket in reverse": func(s *Section) { s.Routes[0].Buckets = []Bucket{{Key: None, First: 4, Count: 2}} },
	} {
		t.Run(name, func(t *testing.T) {
			s := sample()
			spoil(s)
			if _, err := Open(s.Encode()); err == nil || !strings.HasPrefix(err.Error(), "authz: ") {
				t.Errorf("it opens (%v)", err)
			}
		})
	}
}

func TestDepthIsBounded(t *testing.T) {
	deep := func(n int) error {
		s := sample()
		s.Nodes = []Node{{Op: OpBool}}
		for i := range n {
			s.Nodes = append(s.Nodes, Node{Op: OpNot, A: uint32(i)})
		}
		s.Rules[0].Condition = uint32(n)
		_, err := Open(s.Encode())
		return err
	}
	if err := deep(MaxDepth); err != nil {
		t.Errorf("a condition of the greatest depth: %v", err)
	}
	if deep(MaxDepth+1) == nil {
		t.Error("a deeper condition opens")
	}
}

func TestTruncatedSectionsAreRefused(t *testing.T) {
	b := sample().Encode()
	for n := range b {
		if _, err := Open(b[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes open", n, len(b))
		}
	}
	if _, err := Open(append(bytes.Clone(b), 0)); err == nil {
		t.Error("a byte too many is not noticed")
	}
}

// FuzzOpen walks everything that an evaluator would: no index may leave the
// section.
func FuzzOpen(f *testing.F) {
	f.Add(sample().Encode())
	f.Add((&Section{Strings: []string{"User"}, Entities: []Entity{{0, 0}}, Group: None}).Encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Open(b)
		if err != nil {
			return
		}
		for i := range uint32(len(v.Rules)) {
			if node, _ := v.Condition(i); node != None {
				walk(t, v, node, 0)
			}
		}
		for i := range uint32(len(v.routes) / routeSize) {
			r, ok := v.Route(string(v.String(v.route(i).Name)))
			if !ok {
				t.Fatalf("route %d is not found by its name", i)
			}
			v.EntityType(r.Resource)
			for j := range r.count {
				k := v.bucket(r.first + j).Key
				b := v.Bucket(r, k)
				for x := range b.Count {
					_ = v.Rules[v.List(b.First+x)]
				}
			}
		}
	})
}

func walk(t *testing.T, v *View, node uint32, depth int) {
	if depth > MaxDepth {
		t.Fatal("deeper than Open allows")
	}
	n := v.Node(node)
	switch n.Op.shape() {
	case shapeString, shapeIP:
		v.String(n.A)
	case shapeEntity:
		v.String(v.EntityType(n.A))
	case shapeAttr:
		_ = v.Attributes[n.A]
	case shapeList:
		for i := range n.B {
			walk(t, v, v.List(n.A+i), depth+1)
		}
	case shapeTernary:
		walk(t, v, n.C, depth+1)
		fallthrough
	case shapeBinary, shapeBinaryText:
		walk(t, v, n.B, depth+1)
		fallthrough
	case shapeUnary, shapeUnaryText:
		walk(t, v, n.A, depth+1)
	case shapeInvalid:
		t.Fatalf("operation %d", n.Op)
	}
}
