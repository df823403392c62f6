package authz

import (
	"fmt"
	"strings"
	"testing"
)

func TestManyNamesAreFound(t *testing.T) {
	s := &Section{Principal: None, Group: None, Action: None, Nodes: make([]Node, 1)}
	for i := range 3000 {
		s.Strings = append(s.Strings, fmt.Sprintf("%04d%s", i, strings.Repeat("x", i%40)))
	}
	s.Strings[0] = ""
	for kind := range uint32(3) {
		for id := range uint32(1000) {
			s.Entities = append(s.Entities, Entity{kind, 3*id + kind, None, None, 0, 0})
		}
	}
	v, err := Open(s.Encode())
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range s.Strings {
		if v.Index(x) != uint32(i) || v.Intern([]byte(x)) != uint32(i) || v.Index(x+"y") != None || v.Index("y"+x) != None {
			t.Fatalf("%q is found at %d", x, v.Index(x))
		}
	}
	for i, e := range s.Entities {
		for kind := range uint32(3) {
			want := None
			if kind == e.Type {
				want = uint32(i)
			}
			if got := v.Find(kind, s.Strings[e.ID]); got != want {
				t.Fatalf("%d of type %d is found at %d", e.ID, kind, got)
			}
		}
	}
}

// A name is never taken for another one, were their hashes the same: here their spots are
// said to be.
func TestHashesDoNotDecide(t *testing.T) {
	v, err := Open(sample().Encode())
	if err != nil {
		t.Fatal(err)
	}
	const name = "unheard of"
	for i := range v.names.strings {
		v.names.strings[i] = spot{tag: tag(hash(0, name))}
		v.names.strings[i].at, v.names.strings[i].size = word(v.spans, 0), word(v.spans, 1)
	}
	v.names.strings[(hash(0, name)+1)&uint64(len(v.names.strings)-1)].index = None
	if i := v.Index(name); i != None {
		t.Errorf("%q is taken for string %d", name, i)
	}
	for i := range v.names.entities {
		v.names.entities[i] = spot{tag: tag(hash(textUser, name)), index: 3, at: word(v.spans, 0), size: word(v.spans, 1)}
	}
	v.names.entities[(hash(textUser, name)+1)&uint64(len(v.names.entities)-1)].index = None
	if i := v.Find(textUser, name); i != None {
		t.Errorf("%q is taken for entity %d", name, i)
	}
	r := word(v.entities, 6*3+1)
	for i := range v.names.entities {
		v.names.entities[i] = spot{tag: tag(hash(textAction, "r")), index: 3, at: word(v.spans, 2*r), size: word(v.spans, 2*r+1)}
	}
	v.names.entities[(hash(textAction, "r")+1)&uint64(len(v.names.entities)-1)].index = None
	if i := v.Find(textAction, "r"); i != None {
		t.Errorf("an action is taken for entity %d, a user", i)
	}
}
