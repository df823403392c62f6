package policy

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"

	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/api"
)

func (p *parsing) validate(s *securityPolicy, v *validate.Validator, i int) {
	r := &s.auth.Rules[i]
	var err error
	if perr := guard(func() error { err = v.Policy("", r.Policy); return nil }); perr != nil {
		err = perr
	}
	all := flatten(err)
	for _, e := range all {
		if len(all) > 1 && strings.Contains(e.Error(), "unable to find an applicable action") {
			continue // what follows from a type that does not exist
		}
		word := quoted(e.Error())
		s.failAt(s.within(i, word), s.validationFix(e.Error(), word), "policy %s: %s", r.ID, e)
	}
	p.checkExpressions(s, i)
}

func (s *securityPolicy) validationFix(msg, word string) string {
	a := s.auth
	var known []string
	switch {
	case strings.Contains(msg, "optional attribute"):
		return fmt.Sprintf("ask first: context has %s && ...", word)
	case strings.Contains(msg, "in context"):
		for _, x := range a.Attributes {
			known = append(known, x.Name)
		}
	case strings.Contains(msg, "unrecognized entity type"):
		for _, t := range []cedar.EntityType{a.Principal, a.Group, a.Resource, a.RouteGroup} {
			if t != "" {
				known = append(known, string(t))
			}
		}
	case strings.Contains(msg, "applicable action"):
		return fmt.Sprintf("principal is a %s, action is %s, resource is a %s", a.Principal, a.Action, a.Resource)
	default:
		return "the schema declares the types"
	}
	return didYouMean(word, known)
}

// within returns the place of a word inside rule i, or the rule's own.
func (s *securityPolicy) within(i int, word string) api.Pos {
	st := s.written[i]
	if at, ok := locate(st.text, word); ok {
		return s.cedar.pos(st.at(at.line, at.col))
	}
	return s.auth.Rules[i].Pos
}

// checkLiterals finds names of routes and groups that do not exist: a rule about
// them would silently decide nothing.
func (p *parsing) checkLiterals(s *securityPolicy, i int, routes, groups map[string]bool) {
	a, r := s.auth, &s.auth.Rules[i]
	if len(routes) == 0 {
		return
	}
	for _, uid := range Literals(r.Policy) {
		id, what, known := string(uid.ID), "", map[string]bool(nil)
		switch uid.Type {
		case a.Resource:
			what, known = "route", routes
		case a.RouteGroup:
			what, known = "group of routes", groups
		default:
			continue
		}
		if !known[id] {
			s.failAt(s.within(i, strconv.Quote(id)), didYouMean(id, sortedKeys(known)), "policy %s: there is no %s %q", r.ID, what, clip(id))
		}
	}
}

// Literals returns the entities that a policy names.
func Literals(p *ast.Policy) []cedar.EntityUID {
	var out []cedar.EntityUID
	for _, scope := range []any{p.Principal, p.Action, p.Resource} {
		switch x := scope.(type) {
		case ast.ScopeTypeEq:
			out = append(out, x.Entity)
		case ast.ScopeTypeIn:
			out = append(out, x.Entity)
		case ast.ScopeTypeInSet:
			out = append(out, x.Entities...)
		case ast.ScopeTypeIsIn:
			out = append(out, x.Entity)
		}
	}
	for _, c := range p.Conditions {
		ast.Inspect(ast.NewNode(c.Body), func(n ast.IsNode) bool {
			if v, ok := n.(ast.NodeValue); ok {
				out = append(out, entitiesIn(v.Value)...)
			}
			return true
		})
	}
	return out
}

func entitiesIn(v cedar.Value) []cedar.EntityUID {
	var out []cedar.EntityUID
	switch x := v.(type) {
	case cedar.EntityUID:
		out = append(out, x)
	case cedar.Set:
		for e := range x.All() {
			out = append(out, entitiesIn(e)...)
		}
	}
	return out
}

// checkExpressions refuses conditions that an image has no room for.
func (p *parsing) checkExpressions(s *securityPolicy, i int) {
	r := &s.auth.Rules[i]
	for _, c := range r.Policy.Conditions {
		if depth(c.Body) > maxCondition {
			s.failAt(r.Pos, "split the condition over several policies", "policy %s: its condition is nested more than %d deep", r.ID, maxCondition)
			return
		}
	}
}

// maxCondition is what the stack of an image has room for, with what a set needs.
const maxCondition = authz.MaxStack - 32

// depth is how deep an expression is nested, where a chain of && or of || counts
// once, as in images.
func depth(n ast.IsNode) int {
	var below func(n ast.IsNode, chain string) int
	below = func(n ast.IsNode, chain string) int {
		kind := ""
		switch n.(type) {
		case ast.NodeTypeAnd:
			kind = "&&"
		case ast.NodeTypeOr:
			kind = "||"
		}
		deepest, first := 0, true
		ast.Inspect(ast.NewNode(n), func(c ast.IsNode) bool {
			if first { // n itself
				first = false
				return true
			}
			deepest = max(deepest, below(c, kind))
			return false
		})
		if kind != "" && kind == chain {
			return deepest
		}
		return deepest + 1
	}
	return below(n, "")
}

func isContext(n ast.IsNode) bool {
	v, ok := n.(ast.NodeTypeVariable)
	return ok && v.Name == "context"
}
