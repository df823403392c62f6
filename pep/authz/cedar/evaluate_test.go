package cedar

import (
	"fmt"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
)

// Names of types are remembered from request to request, some of them: entities are found
// and told apart whatever was asked before.
func TestEntitiesOfManyTypes(t *testing.T) {
	s := &authz.Section{Strings: []string{"A", "B", "C", "D", "E", "F", "x"}, Principal: authz.None, Group: authz.None, Action: authz.None,
		Rule: abi.Rule{ID: abi.RuleAuthz}, Nodes: make([]authz.Node, 1)}
	for kind := range uint32(6) {
		s.Entities = append(s.Entities, authz.Entity{Type: kind, ID: 6, Members: authz.None, Tags: authz.None})
	}
	v, err := authz.Open(s.Encode())
	if err != nil {
		t.Fatal(err)
	}
	e := New(v)
	if x := e.Entity("", "x"); e.typeOf(&x) != authz.None {
		t.Fatalf("an entity without a type is of type %d", e.typeOf(&x))
	}
	for round := range 100 {
		e.Start()
		for k := range 3 {
			kind := (round*(k+1) + k) % 6
			if x := e.Entity(s.Strings[kind], "x"); x != Known(uint32(kind)) {
				t.Fatalf("round %d: %s::x is %+v", round, s.Strings[kind], x)
			}
		}
		a, b := e.Entity("Z", "x"), e.Entity("A", "y")
		if again := e.Entity("Z", "x"); !e.equal(&a, &again) || e.equal(&a, &b) || e.typeOf(&a) != authz.None || e.typeOf(&b) != 0 {
			t.Fatalf("round %d: strangers are %+v and %+v, of types %d and %d", round, a, b, e.typeOf(&a), e.typeOf(&b))
		}
	}
}

// Texts are equal by what they say, whether the program has them or not.
func TestTextsAreEqualByWhatTheySay(t *testing.T) {
	s := &authz.Section{Strings: []string{"a", "b"}, Principal: authz.None, Group: authz.None, Action: authz.None, Nodes: make([]authz.Node, 1)}
	v, err := authz.Open(s.Encode())
	if err != nil {
		t.Fatal(err)
	}
	e := New(v)
	e.Start()
	list := []Value{{k: text, n: 0}, {k: text, n: 1}}
	for range 2 {
		for _, x := range []string{"a", "b", "c", "d"} {
			list = append(list, e.Text([]byte(x)))
		}
	}
	for _, x := range list {
		for _, y := range list {
			if want := string(e.bytes(&x)) == string(e.bytes(&y)); e.equal(&x, &y) != want {
				t.Errorf("%q and %q are equal: %t", e.bytes(&x), e.bytes(&y), !want)
			}
		}
	}
}

// Members of large sets, and of what entities are in, are found where they lie in order.
func TestMembersOfLargeSets(t *testing.T) {
	s := &authz.Section{Strings: []string{"E"}, Principal: authz.None, Group: authz.None, Action: authz.None, Nodes: make([]authz.Node, 1)}
	for i := range 40 {
		s.Strings = append(s.Strings, fmt.Sprintf("e%02d", i))
		s.Entities = append(s.Entities, authz.Entity{ID: uint32(i) + 1, Members: authz.None, Tags: authz.None})
	}
	// Entity 39 is in 20, 22, ... 38; a set has false, some numbers, texts and entities.
	for i := range uint32(10) {
		s.Lists = append(s.Lists, 20+2*i)
	}
	s.Entities[39].Parents = 10
	s.Values = append(s.Values, authz.Value{Kind: authz.ValueBool})
	for _, kind := range []authz.ValueKind{authz.ValueLong, authz.ValueString, authz.ValueEntity} {
		for i := range uint32(7) {
			s.Values = append(s.Values, authz.Value{Kind: kind, A: 3 * i})
		}
	}
	n := uint32(len(s.Values))
	for i := range n {
		s.Lists = append(s.Lists, i)
	}
	s.Values = append(s.Values, authz.Value{Kind: authz.ValueSet, A: 10, B: n})
	v, err := authz.Open(s.Encode())
	if err != nil {
		t.Fatal(err)
	}
	e := New(v)
	e.Start()
	all := e.constant(n)
	for i := range int64(40) {
		for _, k := range []kind{boolean, long, text, entity} {
			x := Value{k: k, n: i}
			if want := k == boolean && i == 0 || k != boolean && i <= 18 && i%3 == 0; e.contains(&all, &x) != want {
				t.Errorf("%d of kind %d is in the set: %t", i, k, !want)
			}
		}
		if want := i >= 20 && i%2 == 0; v.In(39, uint32(i)) != want {
			t.Errorf("entity 39 is in %d: %t", i, !want)
		}
	}
	// Whoever is asked for is in a set by himself, by what he is in, or by what a request says that he is in.
	some := e.Elements(Known(22), Known(31))
	who := e.Entity("E", "nobody")
	e.Who(who)
	for _, parent := range []uint32{39, 31, 5, 22} {
		e.parents = e.parents[:0]
		e.Member(parent)
		x := Known(parent)
		if want := parent != 5; e.inAny(&who, &some) != want || e.inAny(&x, &some) != want {
			t.Errorf("who is in entity %d is in the set: %t", parent, !want)
		}
	}
}

// What was decided is remembered by these keys.
func TestKeysTellScalarsApart(t *testing.T) {
	list := []Value{{}, Bool(false), Bool(true), Long(0), Long(1), Decimal(1), Datetime(1), Duration(1)}
	for _, x := range []string{"0.0.0.1", "0.0.0.1/31", "::1", "::1/127", "::1/31", "1::1", "::1:0:0:0:1", "0.0.0.2", "::2"} {
		v, err := Parse(authz.TypeIP, []byte(x))
		if err != nil || v.prefix().String() != x && v.prefix().Addr().String() != x {
			t.Fatalf("%s is %v (%v)", x, v.prefix(), err)
		}
		list = append(list, v)
	}
	for i, x := range list {
		for k, y := range list {
			if same := string(x.AppendKey(nil)) == string(y.AppendKey(nil)); same != (i == k) {
				t.Errorf("%+v and %+v have the same key: %t", x, y, same)
			}
		}
	}
}
