package main

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/cedar-policy/cedar-go"
)

// TestRandomPoliciesDecideAsCedarGo judges policies of the whole language; the command
// judges as many as one likes, with -random.
func TestRandomPoliciesDecideAsCedarGo(t *testing.T) {
	s, all := &suite{}, counts{}
	for seed := range uint64(120) {
		c := s.judgeSet(newAuthor(number(seed)), "seed", 100)
		all = counts{all.allowed + c.allowed, all.denied + c.denied, all.silent + c.silent, all.faulty + c.faulty}
	}
	s.tell(t)
	t.Logf("%d requests: %+v", s.Requests, all)
	if s.Unreadable != "" {
		t.Error(s.Unreadable)
	}
	if n := s.Requests / 10; min(all.allowed, all.denied, all.silent, all.faulty) < n {
		t.Errorf("%+v: the author is too narrow", all)
	}
}

// FuzzCedar lets the fuzzer choose what an author writes.
func FuzzCedar(f *testing.F) {
	f.Add([]byte("permit"), uint8(40))
	f.Add([]byte{0, 255, 1, 254, 2, 253, 3, 252}, uint8(8))
	f.Fuzz(func(t *testing.T, data []byte, requests uint8) {
		s := &suite{}
		s.judgeSet(newAuthor(data), "fuzz", int(requests)+1)
		s.tell(t)
		if s.Unreadable != "" {
			t.Error(s.Unreadable)
		}
	})
}

// FuzzCedarText lets the fuzzer write the policies. The world that they are about is
// always one of a few.
func FuzzCedarText(f *testing.F) {
	for seed := range uint64(6) {
		f.Add(newAuthor(number(seed)).policy(), uint8(seed))
	}
	f.Add(`permit (principal, action, resource) when { ip("::1").isIpv4(1) && ip().isIpv4() || decimal("1.0", "2.0") == 1 };`, uint8(0))
	f.Add(`@id("x") forbid (principal in User::"a", action in [], resource) unless { context has a.b.c && "a\*\u{1F600}" like "*\*\x41" };`, uint8(1))
	f.Fuzz(func(t *testing.T, text string, world uint8) {
		a := newAuthor([]byte{world})
		if _, err := cedar.NewPolicyListFromBytes("", []byte(text)); err != nil || len(text) > 4000 {
			return
		}
		p, err := newPair([]byte(text), a.entities())
		var refused refusal
		if errors.As(err, &refused) {
			return // nested deeper than the stack
		}
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if _, m := p.compare(a.request()); m != nil {
				t.Fatalf("%s", m)
			}
		}
	})
}

// TestSetsAndRecordsOfRequests holds values that only requests bring to those of policies.
func TestSetsAndRecordsOfRequests(t *testing.T) {
	p := must(newPair([]byte(`
permit (principal, action, resource) when { context == {a: [1, 2, [3]], b: {c: "x", d: User::"nobody known"}} };
permit (principal, action, resource) when { context.a.contains([3]) && context.a.containsAll([2, 1]) };
permit (principal, action, resource) when { context.b.d == principal && context.b.d in context.b.d };
permit (principal, action, resource) when { context.a == [[3, 3], 2, 1, 2] };
`), nil))
	var context cedar.Record
	if err := json.Unmarshal([]byte(`{"a": [2, [3], 1, 2], "b": {"d": {"__entity": {"type": "User", "id": "nobody known"}}, "c": "x"}}`), &context); err != nil {
		t.Fatal(err)
	}
	o, m := p.compare(cedar.Request{Principal: cedar.NewEntityUID("User", "nobody known"), Action: cedar.NewEntityUID("Action", "a"), Resource: cedar.NewEntityUID("R", "r"), Context: context})
	if m != nil || len(o.reasons) != 4 {
		t.Errorf("%v %v", o, m)
	}
}
