package main

import (
	"testing"

	"lorica.dev/lorica/abi/authz"
)

// chance does not find the bounds of a section and the ends of its index: here each is
// met, and passed by one.
func TestTheVerifierAgreesAtTheEdges(t *testing.T) {
	span := func(at, n int) authz.Span { return authz.Span{First: uint32(at), Count: uint32(n)} }
	for name, c := range map[string]struct {
		most int
		edge func(s *authz.Section, n int)
	}{
		"attributes": {authz.MaxAttributes, func(s *authz.Section, n int) {
			for range n {
				s.Attributes = append(s.Attributes, authz.Attribute{Type: authz.TypeLong, Source: authz.Source{Kind: authz.SourceHour}})
			}
		}},
		"nesting": {authz.MaxNesting, func(s *authz.Section, n int) {
			s.Values = append(s.Values, authz.Value{Kind: authz.ValueBool})
			for i := range n {
				s.Lists = append(s.Lists, uint32(i))
				s.Values = append(s.Values, authz.Value{Kind: authz.ValueSet, A: uint32(i), B: 1})
			}
		}},
		"steps from the root": {authz.MaxNesting, func(s *authz.Section, n int) {
			s.Code = []authz.Instruction{{Op: authz.OpPrincipal}}
			for i := range n {
				s.Nodes[i].Groups = span(i, 1)
				s.Groups = append(s.Groups, authz.Group{Kind: authz.GroupIs, Code: span(0, 1), Fault: uint32(i + 1), Slots: span(i, 1)})
				s.Slots = append(s.Slots, authz.Slot{Node: authz.None})
				s.Nodes = append(s.Nodes, authz.Node{Groups: span(i+1, 0)})
			}
		}},
		"the stack": {authz.MaxStack, func(s *authz.Section, n int) {
			for i := range 2 * n {
				s.Code = append(s.Code, authz.Instruction{Op: []authz.Op{authz.OpPrincipal, authz.OpPop}[i/n]})
			}
			s.Rules = []authz.Rule{{Code: span(0, 2*n)}}
		}},
		"one root":              {0, func(s *authz.Section, n int) { s.Nodes = s.Nodes[n:] }},
		"nodes that are led to": {0, func(s *authz.Section, n int) { s.Nodes = append(s.Nodes, make([]authz.Node, n)...) }},
		"groups of a node in order": {0, func(s *authz.Section, n int) {
			s.Code = []authz.Instruction{{Op: authz.OpPrincipal}}
			s.Groups = []authz.Group{{Kind: authz.GroupIs, Code: span(0, 1), Fault: 1, Slots: span(0, 1)}}
			s.Slots = []authz.Slot{{Node: 2}}
			s.Nodes = []authz.Node{{Groups: span(0, 1)}, {Groups: span(1-n, 0)}, {Groups: span(1, 0)}}
		}},
	} {
		for over := range 2 {
			s := &authz.Section{Strings: []string{""}, Principal: authz.None, Group: authz.None, Action: authz.None, Nodes: make([]authz.Node, 1)}
			c.edge(s, c.most+over)
			if ok := both(t, authz.Name, s.Encode()); ok != (over == 0) {
				t.Errorf("%s: %d over the bound, accepted: %v", name, over, ok)
			}
		}
	}
}
