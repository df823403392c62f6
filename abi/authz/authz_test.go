package authz

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"slices"
	"strings"
	"testing"

	"lorica.dev/lorica/abi"
)

// The strings of the sample.
const (
	textNone = iota
	textAddress
	textAction
	textGroup
	textRoute
	textUser
	textA
	textB
	textCall
	textForbid
	textLine
	textPermit
	textR
)

// sample is a section with every kind of part: a rule whose code has an operation of each
// shape and every kind of jump, one without code, an index with groups that have faults,
// free slots, and two keys of one home.
func sample() *Section {
	s := &Section{
		Strings:   []string{"", "\x0a\x00\x00\x01", "Action", "Group", "Route", "User", "a", "b", "call", "forbid-it", "line", "permit-it", "r"},
		Principal: textUser, Group: textGroup, Action: 0, Default: abi.Allow, Rule: abi.Rule{ID: abi.RuleAuthz, Line: "policy.yaml:7"},
		Attributes: []Attribute{
			{Name: "level", Type: TypeString, Source: Source{Kind: SourceLevel}},
			{Name: "amount", Type: TypeLong, Set: true, Optional: true, Source: Source{Kind: SourceClaimHas, Arg: "/amount", Has: "mfa"}},
		},
		Entities: []Entity{
			{Type: textAction, ID: textCall, Members: None, Tags: None},
			{Type: textGroup, ID: textCall, Members: None, Tags: None},
			{Type: textRoute, ID: textR, Members: 9, Tags: 9},
			{Type: textUser, ID: textR, Members: 9, Tags: None, First: 0, Parents: 2},
		},
		Lists: []uint32{0, 1, 0, 1, textA, 0, textB, 8, 6, textA, textB, 0, 0, 1},
		Values: []Value{
			{ValueBool, 1, 0}, NumberValue(ValueLong, -5), NumberValue(ValueDecimal, 1), NumberValue(ValueDatetime, 2), NumberValue(ValueDuration, 3),
			{ValueString, textA, 0}, {ValueEntity, 1, 0}, {ValueIP, textAddress, 8}, {ValueSet, 2, 2}, {ValueRecord, 4, 2}, {ValueSet, 8, 1},
		},
		Code: []Instruction{
			{OpScopeEq, ScopePrincipal, 3}, {OpScopeIn, ScopePrincipal, 1}, {OpScopeAny, ScopeAction, 10}, {OpScopeIs, ScopeResource, textRoute},
			4: {OpHasAttr, 1, 0}, {OpAnd, 9, 0}, {OpAttr, 1, 0}, {OpValue, 1, 0}, {OpLt, 0, 0},
			9: {OpEnsure, 0, 0}, {OpValue, 9, 0}, {OpGet, textA, 0}, {OpIf, 15, 0}, {OpPrincipal, 0, 0}, {OpJump, 16, 0},
			15: {OpResource, 0, 0}, {OpDup, 0, 0}, {OpPop, 0, 0}, {OpIs, textUser, 0}, {OpValue, 5, 0}, {OpLike, textNone, 0}, {OpSet, 2, 0},
			22: {OpContext, 0, 0}, {OpRecord, 9, 2}, {OpFail, 0, 0}, {OpParse, uint32(TypeIP), 0}, {OpEq, 0, 0}, {OpOr, 29, 0}, {OpValue, 0, 0},
			29: {OpEnsure, 0, 0}, {OpPrincipal, 0, 0}, {OpAttr, 0, 0},
		},
		Rules: []Rule{{ID: textForbid, Line: textLine, Forbid: true, Code: Span{0, 30}}, {ID: textPermit, Line: textLine, Sure: true, Code: Span{30, 0}}},
		Nodes: []Node{{Rules: Span{11, 1}, Groups: Span{0, 2}}, {Rules: Span{12, 2}, Groups: Span{2, 1}}, {Groups: Span{3, 0}}, {Groups: Span{3, 0}}, {Groups: Span{3, 0}}, {Groups: Span{3, 0}}},
		Groups: []Group{
			{Kind: GroupIn, Code: Span{30, 1}, Fault: 2, Slots: Span{0, 4}},
			{Kind: GroupString, Code: Span{31, 1}, Fault: None, Slots: Span{4, 1}},
			{Kind: GroupLong, Code: Span{31, 1}, Fault: None, Slots: Span{5, 4}},
		},
		Routes: []Route{{Name: textCall, Resource: 2}, {Name: textR, Resource: 2, Reads: 3}},
	}
	s.index(4, 1, 4)
	return s
}

// Numbers of one home, the last of four: the second lies around the end.
const first, second = 1, 7

// index gives the groups so many slots, and their keys the places where they are found.
func (s *Section) index(counts ...uint32) {
	s.Slots = nil
	for i, n := range counts {
		s.Groups[i].Slots = Span{uint32(len(s.Slots)), n}
		for range n {
			s.Slots = append(s.Slots, Slot{0, None})
		}
	}
	for _, x := range []struct{ group, key, node uint32 }{{0, 3, 1}, {1, textR, 3}, {2, first, 4}, {2, second, 5}} {
		s.put(x.group, x.key, x.node)
	}
}

func (s *Section) put(group, key, node uint32) {
	g := s.Groups[group].Slots
	for i := range g.Count {
		if x := &s.Slots[g.First+(Home(key, g.Count)+i)&(g.Count-1)]; x.Node == None {
			*x = Slot{key, node}
			return
		}
	}
}

// take frees the slot of a key, and returns it.
func (s *Section) take(group, key uint32) *Slot {
	x := s.slot(group, key)
	*x = Slot{0, None}
	return x
}

// slot returns that of a key.
func (s *Section) slot(group, key uint32) *Slot {
	g := s.Groups[group].Slots
	for i := range g.Count {
		if x := &s.Slots[g.First+i]; x.Key == key && x.Node != None {
			return x
		}
	}
	panic("the sample has no such key")
}

// free returns the place of a free slot of the first group, not next to the taken one.
func (s *Section) free() uint32 { return (Home(3, 4) + 2) & 3 }

func TestWhatWasEncodedIsRead(t *testing.T) {
	s := sample()
	if Home(first, 4) != 3 || Home(second, 4) != 3 {
		t.Fatalf("the homes of the sample's keys are %d and %d", Home(first, 4), Home(second, 4))
	}
	v, err := Open(s.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if v.Default != abi.Allow || v.Rule != s.Rule || v.Level != 1 || v.Elements != 10 || v.Action != 0 || v.PrincipalType() != textUser || !reflect.DeepEqual(v.Attributes, s.Attributes) {
		t.Errorf("header: %+v", v)
	}
	if v.Rules[0] != (abi.Rule{ID: "forbid-it", Line: "line"}) || v.Rules[1].ID != "permit-it" {
		t.Errorf("rules: %v", v.Rules)
	}
	if v.Strings() != len(s.Strings) || v.Nodes() != len(s.Nodes) {
		t.Errorf("%d strings, %d nodes", v.Strings(), v.Nodes())
	}
	for i, x := range s.Strings {
		if string(v.String(uint32(i))) != x || v.Index(x) != uint32(i) || v.Intern([]byte(x)) != uint32(i) {
			t.Errorf("string %d: %q, found at %d and %d", i, v.String(uint32(i)), v.Index(x), v.Intern([]byte(x)))
		}
	}
	if v.Index("unheard of") != None || v.Intern([]byte("unheard of")) != None {
		t.Error("text is found that is not there")
	}
	for i, x := range s.Values {
		if v.Value(uint32(i)) != x {
			t.Errorf("constant %d: %+v", i, v.Value(uint32(i)))
		}
	}
	if v.Value(1).Number() != -5 {
		t.Errorf("a number became %d", v.Value(1).Number())
	}
	code := v.Condition(0)
	if forbid, sure := v.Effect(0); !forbid || sure || code.Len() != 30 {
		t.Fatalf("rule 0: forbids %v, is sure %v, %d instructions", forbid, sure, code.Len())
	}
	for i := range code.Len() {
		if code.At(i) != s.Code[i] {
			t.Errorf("instruction %d: %+v", i, code.At(i))
		}
	}
	if forbid, sure := v.Effect(1); forbid || !sure || v.Condition(1).Len() != 0 {
		t.Errorf("rule 1: forbids %v, is sure %v, %d instructions", forbid, sure, v.Condition(1).Len())
	}
	for i, n := range s.Nodes {
		if v.Node(uint32(i)) != n {
			t.Errorf("node %d: %+v", i, v.Node(uint32(i)))
		}
	}
	for i, g := range s.Groups {
		if v.Group(uint32(i)) != g {
			t.Errorf("group %d: %+v", i, v.Group(uint32(i)))
		}
	}
}

func TestNamesAreFound(t *testing.T) {
	s := sample()
	v, err := Open(s.Encode())
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range s.Entities {
		if v.Entity(uint32(i)) != e || v.EntityType(uint32(i)) != e.Type || v.Find(e.Type, s.Strings[e.ID]) != uint32(i) {
			t.Errorf("entity %d: %+v", i, v.Entity(uint32(i)))
		}
	}
	if v.Find(textUser, "call") != None || v.Find(textUser, "unheard of") != None || v.Find(None, "r") != None {
		t.Error("an entity is found that is not there")
	}
	if !v.In(3, 0) || !v.In(3, 1) || v.In(3, 2) || v.In(3, 3) || v.In(0, 1) {
		t.Error("who is in whom")
	}
	for i := range uint32(len(s.Entities)) {
		if want := slices.ContainsFunc(s.Groups, func(g Group) bool {
			return g.Kind == GroupIn && slices.ContainsFunc(s.Slots[g.Slots.First:][:g.Slots.Count], func(x Slot) bool { return x.Node != None && x.Key == i })
		}); v.Leads(i) != want {
			t.Errorf("a group leads on by what is in entity %d: %t", i, !want)
		}
	}
	if v.Principal("r") != 3 || v.Principal("call") != None || v.Principal("unheard of") != None || v.Parent("call") != 1 || v.Parent("r") != None {
		t.Error("principals and parents are not found by their names")
	}
	if r, ok := v.Route("r"); !ok || r != s.Routes[1] {
		t.Errorf("route: %+v", r)
	}
	for _, name := range []string{"a", "unheard of"} {
		if _, ok := v.Route(name); ok {
			t.Errorf("%q is no route, and was found", name)
		}
	}
	for group, want := range []map[uint32]uint32{{3: 1, 0: None, 2: None}, {textR: 3, textA: None, 0: None}, {first: 4, second: 5, 0: None, 8: None}} {
		g := v.Group(uint32(group))
		for key, node := range want {
			if got := v.Lead(&g, key); got != node {
				t.Errorf("group %d leads from %d to %d, not to %d", group, key, got, node)
			}
		}
	}
	s.Principal, s.Group, s.Action = None, None, None
	if v, err = Open(s.Encode()); err != nil || v.Action != None || v.Principal("r") != None || v.Parent("call") != None {
		t.Errorf("a section for requests that name anything: %v", err)
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

func refused(t *testing.T, b []byte) {
	t.Helper()
	if v, err := Open(b); err == nil || v != nil || !strings.HasPrefix(err.Error(), "authz: ") {
		t.Errorf("it opens (%v)", err)
	}
}

// Every entry breaks one rule of the format, and only that.
func TestOpenRefuses(t *testing.T) {
	entity := func(i int, f func(*Entity)) func(*Section) { return func(s *Section) { f(&s.Entities[i]) } }
	value := func(i int, v Value) func(*Section) { return func(s *Section) { s.Values[i] = v } }
	code := func(i int, x Instruction) func(*Section) { return func(s *Section) { s.Code[i] = x } }
	list := func(i int, x uint32) func(*Section) { return func(s *Section) { s.Lists[i] = x } }
	node := func(i int, f func(*Node)) func(*Section) { return func(s *Section) { f(&s.Nodes[i]) } }
	group := func(i int, f func(*Group)) func(*Section) { return func(s *Section) { f(&s.Groups[i]) } }
	for name, spoil := range map[string]func(*Section){
		"strings out of order": func(s *Section) { s.Strings[textA], s.Strings[textB] = "b", "a" },
		"a string twice":       func(s *Section) { s.Strings[textB] = "a" },

		"a principal type that is none":     func(s *Section) { s.Principal = 99 },
		"a group type that is none":         func(s *Section) { s.Group = 99 },
		"an action that is none":            func(s *Section) { s.Action = 4 },
		"an unknown verdict":                func(s *Section) { s.Default = 2 },
		"an attribute without a type":       func(s *Section) { s.Attributes[0].Type = 0 },
		"an attribute of an unknown type":   func(s *Section) { s.Attributes[0].Type = 8 },
		"an attribute without a source":     func(s *Section) { s.Attributes[0].Source.Kind = 0 },
		"groups as an attribute":            func(s *Section) { s.Attributes[0].Source.Kind = SourceGroups },
		"an attribute of an unknown source": func(s *Section) { s.Attributes[0].Source.Kind = 99 },
		"more attributes than a word": func(s *Section) {
			for len(s.Attributes) <= MaxAttributes {
				s.Attributes = append(s.Attributes, s.Attributes[0])
			}
		},

		"entities out of order":                   func(s *Section) { s.Entities[0], s.Entities[1] = s.Entities[1], s.Entities[0] },
		"an entity twice":                         func(s *Section) { s.Entities[1] = s.Entities[0] },
		"an entity without a type":                entity(3, func(e *Entity) { e.Type = 99 }),
		"an entity without a name":                entity(3, func(e *Entity) { e.ID = 99 }),
		"an entity that has what is not there":    entity(3, func(e *Entity) { e.Members = 11 }),
		"an entity that has a set":                entity(3, func(e *Entity) { e.Members = 8 }),
		"tags that are not there":                 entity(3, func(e *Entity) { e.Tags = 11 }),
		"tags that are a set":                     entity(3, func(e *Entity) { e.Tags = 8 }),
		"an entity in something beyond the lists": entity(3, func(e *Entity) { e.First, e.Parents = 14, 1 }),
		"an entity in a span that wraps around":   entity(3, func(e *Entity) { e.First, e.Parents = 13, None }),
		"an entity in what is no entity":          list(1, 4),
		"an entity that is in itself":             list(1, 3),
		"an entity that is in one twice":          list(1, 0),

		"a constant of no kind":                     value(0, Value{0, 1, 0}),
		"a constant of an unknown kind":             value(0, Value{valueEnd, 1, 0}),
		"a truth value of two":                      value(0, Value{ValueBool, 2, 0}),
		"a truth value with another half":           value(0, Value{ValueBool, 1, 1}),
		"a string that is not there":                value(5, Value{ValueString, 13, 0}),
		"a string with an operand too many":         value(5, Value{ValueString, textA, 1}),
		"an entity that is not there":               value(6, Value{ValueEntity, 4, 0}),
		"an entity with an operand too many":        value(6, Value{ValueEntity, 1, 1}),
		"an address that is not there":              value(7, Value{ValueIP, 13, 8}),
		"an address of six bytes":                   value(7, Value{ValueIP, textAction, 8}),
		"a prefix of 33 bits":                       value(7, Value{ValueIP, textAddress, 33}),
		"a set beyond the lists":                    value(8, Value{ValueSet, 14, 1}),
		"a set that wraps around":                   value(8, Value{ValueSet, 13, None}),
		"a set that holds itself":                   list(3, 8),
		"a set that holds what comes later":         list(3, 9),
		"a set that holds what is not there":        list(3, 11),
		"a set out of order":                        func(s *Section) { s.Lists[2], s.Lists[3] = 1, 0 },
		"a set with an element twice":               list(3, 0),
		"a record beyond the lists":                 value(9, Value{ValueRecord, 11, 2}),
		"a record that wraps around":                value(9, Value{ValueRecord, 12, 1 << 31}),
		"a record with a name that is not there":    list(6, 13),
		"a record that holds itself":                list(7, 9),
		"a record that holds what comes later":      list(7, 10),
		"a record with its names out of order":      list(6, textAddress),
		"a record with a name twice":                list(6, textA),
		"operation zero":                            code(0, Instruction{Op: opInvalid}),
		"an unknown operation":                      code(0, Instruction{Op: opEnd}),
		"a constant operand that is not there":      code(7, Instruction{OpValue, 11, 0}),
		"a constant and another operand":            code(7, Instruction{OpValue, 1, 1}),
		"an attribute that is not there":            code(6, Instruction{OpAttr, 2, 0}),
		"an attribute that is asked for, and not":   code(4, Instruction{OpHasAttr, 2, 0}),
		"an attribute and another operand":          code(6, Instruction{OpAttr, 1, 1}),
		"a member without a name":                   code(11, Instruction{OpGet, 13, 0}),
		"a member and another operand":              code(11, Instruction{OpGet, textA, 1}),
		"a type that is not there":                  code(18, Instruction{OpIs, 13, 0}),
		"a pattern that is not there":               code(20, Instruction{OpLike, 13, 0}),
		"an extension function of longs":            code(25, Instruction{OpParse, uint32(TypeLong), 0}),
		"an extension function beyond":              code(25, Instruction{OpParse, uint32(TypeDuration) + 1, 0}),
		"an extension function in the low byte":     code(25, Instruction{OpParse, 256 + uint32(TypeIP), 0}),
		"an extension function and another operand": code(25, Instruction{OpParse, uint32(TypeIP), 1}),
		"a set and another operand":                 code(21, Instruction{OpSet, 2, 1}),
		"a new record beyond the lists":             code(23, Instruction{OpRecord, 13, 2}),
		"a new record of one name twice":            list(10, textA),
		"a new record of names that are not there":  list(10, 13),
		"a jump and another operand":                code(14, Instruction{OpJump, 16, 1}),
		"an operand too many":                       code(8, Instruction{OpLt, 1, 0}),
		"a second operand too many":                 code(8, Instruction{OpLt, 0, 1}),
		"a scope of nobody":                         code(0, Instruction{OpScopeEq, 3, 3}),
		"a scope of no type":                        code(3, Instruction{OpScopeIs, 3, textRoute}),
		"a scope of none of a set":                  code(2, Instruction{OpScopeAny, 3, 10}),
		"a scope that is no entity":                 code(1, Instruction{OpScopeIn, 0, 4}),
		"a scope of a type that is not there":       code(3, Instruction{OpScopeIs, 2, 13}),
		"a scope of a set that is not there":        code(2, Instruction{OpScopeAny, 1, 11}),
		"a scope of a constant that is no set":      code(2, Instruction{OpScopeAny, 1, 9}),
		"a scope of a number that would be a set": func(s *Section) {
			s.Values = append(s.Values, Value{ValueLong, 8, 1})
			s.Code[2].B = 11
		},
		"a scope of a set of other things":            code(2, Instruction{OpScopeAny, 1, 8}),
		"an instruction of no rule that is malformed": func(s *Section) { s.Code = append(s.Code, Instruction{OpValue, 11, 0}) },

		"code that takes what is not there":            ruleCode(Instruction{OpValue, 0, 0}, Instruction{OpEq, 0, 0}),
		"code that makes a set of what is not there":   ruleCode(Instruction{OpValue, 0, 0}, Instruction{OpSet, 2, 0}),
		"code that comes with different heights":       ruleCode(Instruction{OpValue, 0, 0}, Instruction{OpIf, 3, 0}, Instruction{OpValue, 0, 0}, Instruction{OpEnsure, 0, 0}),
		"code that nothing leads to":                   code(12, Instruction{OpPop, 0, 0}),
		"a jump backwards":                             ruleCode(Instruction{OpValue, 0, 0}, Instruction{OpIf, 0, 0}),
		"a jump to itself":                             ruleCode(Instruction{OpValue, 0, 0}, Instruction{OpAnd, 1, 0}),
		"a jump beyond":                                code(27, Instruction{OpOr, 31, 0}),
		"a jump far beyond":                            code(27, Instruction{OpOr, None, 0}),
		"a condition with something below":             ruleCode(Instruction{OpValue, 0, 0}, Instruction{OpValue, 0, 0}, Instruction{OpEnsure, 0, 0}, Instruction{OpPop, 0, 0}),
		"a scope with something below":                 ruleCode(Instruction{OpValue, 0, 0}, Instruction{OpScopeEq, 0, 3}, Instruction{OpPop, 0, 0}),
		"a rule that leaves a value":                   ruleCode(Instruction{OpValue, 0, 0}),
		"a group that leaves none":                     group(0, func(g *Group) { g.Code = Span{30, 0} }),
		"a group that leaves two":                      group(0, func(g *Group) { g.Code = Span{30, 2} }),
		"a group with a condition":                     groupCode(Instruction{OpPrincipal, 0, 0}, Instruction{OpEnsure, 0, 0}, Instruction{OpPrincipal, 0, 0}),
		"a group with a scope":                         groupCode(Instruction{OpScopeEq, 0, 3}, Instruction{OpPrincipal, 0, 0}),
		"code beyond the code":                         func(s *Section) { s.Rules[1].Code = Span{33, 0} },
		"code that wraps around":                       func(s *Section) { s.Rules[1].Code = Span{1, None} },
		"a rule without a name":                        func(s *Section) { s.Rules[0].ID = 13 },
		"a rule without a place":                       func(s *Section) { s.Rules[0].Line = 13 },
		"a node with a rule that is not there":         list(11, 2),
		"a node with its rules beyond the lists":       node(1, func(n *Node) { n.Rules.Count = 3 }),
		"a node with its rules in reverse":             func(s *Section) { s.Lists[12], s.Lists[13] = 1, 0 },
		"a node with a rule twice":                     list(13, 0),
		"a node without groups that is not in order":   node(5, func(n *Node) { n.Groups.First = 0 }),
		"a node that skips groups":                     node(1, func(n *Node) { n.Groups = Span{3, 0} }),
		"a node with groups beyond":                    node(5, func(n *Node) { n.Groups = Span{3, 1} }),
		"a group of no node":                           func(s *Section) { s.Groups = append(s.Groups, s.Groups[1]) },
		"a slot of no group":                           func(s *Section) { s.Slots = append(s.Slots, Slot{0, None}) },
		"a node that nothing leads to":                 func(s *Section) { s.Nodes = append(s.Nodes, Node{Groups: Span{3, 0}}) },
		"no root":                                      func(s *Section) { s.Nodes, s.Groups, s.Slots = nil, nil, nil },
		"a group of no kind":                           group(0, func(g *Group) { g.Kind = 0 }),
		"a group of an unknown kind":                   group(0, func(g *Group) { g.Kind = groupEnd }),
		"a group with code that is not there":          group(0, func(g *Group) { g.Code = Span{32, 1} }),
		"a fault that leads to no node":                group(1, func(g *Group) { g.Fault = 6 }),
		"a fault that leads to the root":               group(1, func(g *Group) { g.Fault = 0 }),
		"a fault that leads where another does":        group(1, func(g *Group) { g.Fault = 2 }),
		"a group that takes slots of another":          group(1, func(g *Group) { g.Slots.First, g.Fault = 0, 3 }),
		"a group without slots":                        func(s *Section) { s.index(4, 0, 4); s.Groups[1].Fault = 3 },
		"a group with three slots":                     func(s *Section) { s.index(3, 1, 4) },
		"a group with slots beyond":                    group(2, func(g *Group) { g.Slots.Count = 8 }),
		"a free slot with a key":                       func(s *Section) { s.Slots[s.free()].Key = 1 },
		"a slot that leads to no node":                 func(s *Section) { s.slot(0, 3).Node = 6 },
		"a key that is not found: the home is another": func(s *Section) { s.take(0, 3); s.Slots[s.free()] = Slot{3, 1} },
		"a key that is not found: its way is cut":      func(s *Section) { s.take(2, first); s.Groups[2].Fault = 4 },
		"two keys that lead to one node":               func(s *Section) { s.slot(2, second).Node, s.Groups[2].Fault = 4, 5 },
		"a key twice":                                  func(s *Section) { s.slot(2, second).Key = first },
		"a key that is no string":                      func(s *Section) { s.slot(1, textR).Key = 13 },
		"a type that is no string":                     func(s *Section) { s.Groups[1].Kind = GroupIs; s.slot(1, textR).Key = 13 },
		"a key that is no entity":                      func(s *Section) { s.take(0, 3); s.put(0, 4, 1) },
		"an entity key that is none":                   func(s *Section) { s.Groups[0].Kind = GroupEntity; s.take(0, 3); s.put(0, 4, 1) },

		"a route without a name":   func(s *Section) { s.Routes[1].Name = 13 },
		"a route twice":            func(s *Section) { s.Routes[1] = s.Routes[0] },
		"routes out of order":      func(s *Section) { s.Routes[1].Name = textA },
		"a route that is nowhere":  func(s *Section) { s.Routes[0].Resource = 4 },
		"an attribute set too big": func(s *Section) { s.Routes[0].Reads = 4 },
	} {
		t.Run(name, func(t *testing.T) {
			s := sample()
			spoil(s)
			refused(t, s.Encode())
		})
	}
}

// groupCode gives the first group other code, and ruleCode the second rule, at the end.
func groupCode(code ...Instruction) func(*Section) {
	return func(s *Section) { s.Groups[0].Code = s.more(code...) }
}

func ruleCode(code ...Instruction) func(*Section) {
	return func(s *Section) { s.Rules[1].Code = s.more(code...) }
}

func (s *Section) more(code ...Instruction) Span {
	at := uint32(len(s.Code))
	s.Code = append(s.Code, code...)
	return Span{at, uint32(len(code))}
}

// What Encode cannot write is refused as well.
func TestOpenRefusesBytes(t *testing.T) {
	s := sample()
	whole := s.Encode()
	attribute := bytes.Index(whole, []byte("level")) + 5
	routes := len(whole) - 4 - routeSize*len(s.Routes)
	groups := routes - slotSize*len(s.Slots) - 4 - groupSize*len(s.Groups)
	rules := groups - 4 - nodeSize*len(s.Nodes) - 4 - ruleSize*len(s.Rules)
	code := rules - 4 - instructionSize*len(s.Code)
	values := code - 4 - valueSize*len(s.Values)
	for name, change := range map[string]struct {
		at   int
		word uint32 // instead of the one that is there, of as many bytes
		size int
	}{
		"a string beyond the text":                        {4 + spanSize*textR + 4, 2, 4},
		"a string far beyond the text":                    {4 + spanSize*textR, None, 4},
		"an attribute that is a set twice over":           {attribute + 1, 2, 1},
		"an attribute that is more than optional":         {attribute + 2, 2, 1},
		"a constant whose kind is in the low byte alone":  {values, 256 + uint32(ValueBool), 4},
		"an operation that is in the low byte alone":      {code, 256 + uint32(OpScopeEq), 4},
		"a rule of another effect":                        {rules + 8, 4, 4},
		"a group whose kind is in the low byte alone":     {groups, 256 + uint32(GroupIn), 4},
		"more routes than there is room for":              {routes, 3, 4},
		"more strings than there could be in any section": {0, None, 4},
	} {
		t.Run(name, func(t *testing.T) {
			b := bytes.Clone(whole)
			if change.size == 1 {
				b[change.at] = byte(change.word)
			} else {
				binary.LittleEndian.PutUint32(b[change.at:], change.word)
			}
			refused(t, b)
		})
	}
}

// What is at a bound opens, and what is one beyond it does not.
func TestBounds(t *testing.T) {
	for name, c := range map[string]struct {
		most  int
		build func(s *Section, n int)
	}{
		"the stack": {MaxStack, func(s *Section, n int) {
			var code []Instruction
			for range n {
				code = append(code, Instruction{OpValue, 0, 0})
			}
			for range n {
				code = append(code, Instruction{OpPop, 0, 0})
			}
			ruleCode(code...)(s)
		}},
		"elements of a new set": {MaxElements, func(s *Section, n int) {
			var code []Instruction
			for range min(n, MaxStack) {
				code = append(code, Instruction{OpValue, 0, 0})
			}
			s.more(Instruction{OpSet, uint32(n), 0}) // in no span, where the stack would be too low
			ruleCode(append(code, Instruction{OpSet, uint32(min(n, MaxStack)), 0}, Instruction{OpPop, 0, 0})...)(s)
		}},
		"members of a new record": {MaxElements, func(s *Section, n int) {
			at := uint32(len(s.Lists))
			for i := range n {
				s.Strings = append(s.Strings, "s"+strings.Repeat("x", i))
				s.Lists = append(s.Lists, uint32(len(s.Strings)-1))
			}
			s.more(Instruction{OpRecord, at, uint32(n)})
		}},
		"attributes": {MaxAttributes, func(s *Section, n int) {
			for len(s.Attributes) < n {
				s.Attributes = append(s.Attributes, s.Attributes[0])
			}
		}},
		"sets in sets": {MaxNesting, func(s *Section, n int) {
			for range n - 1 { // constant 8 is one already
				s.Lists = append(s.Lists, uint32(len(s.Values)-1))
				if len(s.Values) == 11 {
					s.Lists[len(s.Lists)-1] = 8
				}
				s.Values = append(s.Values, Value{ValueSet, uint32(len(s.Lists) - 1), 1})
			}
		}},
		"records in records": {MaxNesting, func(s *Section, n int) {
			inner := uint32(9) // a record that holds a set
			for range n - 2 {
				s.Lists = append(s.Lists, textA, inner)
				inner = uint32(len(s.Values))
				s.Values = append(s.Values, Value{ValueRecord, uint32(len(s.Lists) - 2), 1})
			}
		}},
		"steps from the root": {MaxNesting, func(s *Section, n int) {
			s.Nodes, s.Groups, s.Slots = []Node{{Groups: Span{0, 0}}}, nil, nil
			for i := range n {
				s.Nodes[i].Groups = Span{uint32(i), 1}
				s.Groups = append(s.Groups, Group{Kind: GroupIs, Code: Span{30, 1}, Fault: uint32(i + 1), Slots: Span{uint32(i), 1}})
				s.Slots = append(s.Slots, Slot{0, None})
				s.Nodes = append(s.Nodes, Node{Groups: Span{uint32(i + 1), 0}})
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := sample()
			c.build(s, c.most)
			if _, err := Open(s.Encode()); err != nil {
				t.Errorf("%d: %v", c.most, err)
			}
			s = sample()
			c.build(s, c.most+1)
			refused(t, s.Encode())
		})
	}
}

func TestAddressesOfBothFamiliesOpen(t *testing.T) {
	s := sample()
	s.Strings[textAddress] = "\x0a345678901234567890"[:16]
	for _, v := range []Value{{ValueIP, textAddress, 0}, {ValueIP, textAddress, 128}, {ValueIP, textCall, 32}} {
		s.Values[7] = v
		if _, err := Open(s.Encode()); err != nil {
			t.Errorf("%+v: %v", v, err)
		}
	}
}

func TestTruncatedSectionsAreRefused(t *testing.T) {
	b := sample().Encode()
	for n := range b {
		if _, err := Open(b[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes open", n, len(b))
		}
	}
	refused(t, append(bytes.Clone(b), 0))
}

// FuzzOpen walks everything that an evaluator would: no index may leave the
// section, every name and key is found, and no node is met twice.
func FuzzOpen(f *testing.F) {
	f.Add(sample().Encode())
	f.Add((&Section{Strings: []string{"User"}, Entities: []Entity{{0, 0, None, None, 0, 0}}, Nodes: make([]Node, 1), Group: None}).Encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := Open(b)
		if err != nil {
			return
		}
		for i := range uint32(v.Strings()) {
			if v.Intern(v.String(i)) != i || v.Index(string(v.String(i))) != i {
				t.Fatalf("string %d is not found", i)
			}
		}
		for i := range uint32(len(v.values) / valueSize) {
			v.constant(t, i)
		}
		for i := range uint32(len(v.entities) / entitySize) {
			e := v.Entity(i)
			if v.Find(e.Type, string(v.String(e.ID))) != i || v.In(i, i) {
				t.Fatalf("entity %d is not found, or in itself", i)
			}
			for k := range e.Parents {
				if !v.In(i, v.List(e.First+k)) {
					t.Fatalf("entity %d is not in what it is in", i)
				}
			}
			for _, r := range []uint32{e.Members, e.Tags} {
				if r != None && v.Value(r).Kind != ValueRecord {
					t.Fatalf("entity %d has what is no record", i)
				}
			}
		}
		for i := range uint32(len(v.Rules)) {
			v.Condition(i).walk(t, v)
		}
		met := make([]bool, v.Nodes())
		v.lead(t, 0, met)
		for i, ok := range met {
			if !ok {
				t.Fatalf("nothing leads to node %d", i)
			}
		}
		for i := range uint32(len(v.routes) / routeSize) {
			r, ok := v.Route(string(v.String(v.route(i).Name)))
			if !ok || r != v.route(i) {
				t.Fatalf("route %d is not found by its name", i)
			}
			v.EntityType(r.Resource)
		}
	})
}

// constant reads a constant, and looks at what is in it.
func (v *View) constant(t *testing.T, i uint32) {
	inner := func(at uint32) {
		if v.List(at) >= i {
			t.Fatalf("constant %d holds a later one", i)
		}
	}
	switch x := v.Value(i); x.Kind {
	case ValueString, ValueIP:
		v.String(x.A)
	case ValueEntity:
		v.EntityType(x.A)
	case ValueSet:
		for k := range x.B {
			inner(x.A + k)
		}
	case ValueRecord:
		for k := range x.B {
			v.String(v.List(x.A + 2*k))
			inner(x.A + 2*k + 1)
		}
	}
}

// walk goes through code as an evaluator would, and takes every jump that it can.
func (c Code) walk(t *testing.T, v *View) {
	for i := range c.Len() {
		switch x := c.At(i); x.Op {
		case OpValue:
			v.Value(x.A)
		case OpAttr, OpHasAttr:
			_ = v.Attributes[x.A]
		case OpGet, OpHas, OpIs, OpLike:
			v.String(x.A)
		case OpRecord:
			for k := range x.B {
				v.String(v.List(x.A + k))
			}
		case OpJump, OpIf, OpAnd, OpOr:
			if x.A <= i || x.A > c.Len() {
				t.Fatalf("a jump from %d to %d of %d", i, x.A, c.Len())
			}
		case OpScopeEq, OpScopeIn:
			v.EntityType(x.B)
		case OpScopeIs:
			v.String(x.B)
		case OpScopeAny:
			for k := range v.Value(x.B).B {
				v.EntityType(v.Value(v.List(v.Value(x.B).A + k)).A)
			}
		}
	}
}

// lead goes through the index from a node on.
func (v *View) lead(t *testing.T, node uint32, met []bool) {
	if met[node] {
		t.Fatalf("two ways lead to node %d", node)
	}
	met[node] = true
	n := v.Node(node)
	for k := range n.Rules.Count {
		_ = v.Rules[v.List(n.Rules.First+k)]
	}
	for k := range n.Groups.Count {
		g := v.Group(n.Groups.First + k)
		v.Code(g.Code).walk(t, v)
		if g.Fault != None {
			v.lead(t, g.Fault, met)
		}
		for i := range g.Slots.Count {
			key, to := word(v.slots, 2*(g.Slots.First+i)), word(v.slots, 2*(g.Slots.First+i)+1)
			if to == None {
				continue
			}
			if v.Lead(&g, key) != to {
				t.Fatalf("key %d is not found", key)
			}
			v.lead(t, to, met)
		}
	}
}
