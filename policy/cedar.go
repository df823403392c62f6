package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

// Bounds of Cedar text. The parser recurses into brackets and else-branches, so
// both are bounded before it runs.
const (
	maxStatement = 64 << 10 // bytes of one policy or of the schema
	maxBrackets  = 48       // brackets open at a time
	maxRules     = 10_000
)

// authorization parses and checks the Cedar part of a policy. cedar-go skips a
// forbid whose condition has an error, so policies are validated strictly here
// and every error denies when they are evaluated.
func (p *parsing) authorization(s *securityPolicy) {
	a := &Authorization{}
	s.auth = a
	p.checkSources(s)
	before := p.count()
	rs := p.schema(s)
	if rs != nil {
		p.shapes(s, a, rs)
		p.entities(s, a, rs)
	}
	shaped := rs != nil && p.count() == before
	p.rules(s, a)
	if shaped && p.attributes(s, rs.Actions[a.Action].AppliesTo.Context) {
		v := validate.New(rs, validate.WithStrict())
		routes, groups := make(map[string]bool), make(map[string]bool)
		for _, r := range s.Routes {
			routes[r.Name], groups[r.Group] = true, true
		}
		delete(groups, "")
		for i := range a.Rules {
			p.validate(s, v, i)
			p.checkLiterals(s, i, routes, groups)
		}
	}
	if p.count() > before {
		s.bad["spec.authorization"] = true
	}
}

func (p *parsing) schema(s *securityPolicy) *resolved.Schema {
	t := newBlock(s.src, s.Authorization.Schema)
	if t.Value == "" {
		return nil
	}
	if len(t.Value) > maxStatement {
		s.failAt(t.Pos, "keep what policies read", "the schema has %d bytes; the limit is %d", len(t.Value), maxStatement)
		return nil
	}
	if at, deep := brackets(t.Value); deep {
		s.failAt(t.pos(at), "write flat types", "brackets are nested more than %d deep", maxBrackets)
		return nil
	}
	var sch schema.Schema
	if err := guard(func() error { return sch.UnmarshalCedar([]byte(t.Value)) }); err != nil {
		at, msg := cedarProblem(err)
		s.failAt(t.pos(at), "see https://docs.cedarpolicy.com/schema/human-readable-schema.html", "Cedar schema: %s", msg)
		return nil
	}
	rs, err := sch.Resolve()
	if err != nil {
		s.failAt(t.pos(find(t.Value, quoted(err.Error()))), "declare it, or correct its name", "Cedar schema: %s", err)
		return nil
	}
	return rs
}

// shapes checks that the schema describes what the image knows: one action, a
// principal with its groups, a route with its group. Other entities are the policy's own.
func (p *parsing) shapes(s *securityPolicy, a *Authorization, rs *resolved.Schema) {
	t := newBlock(s.src, s.Authorization.Schema)
	at := func(word, fix, format string, args ...any) {
		s.failAt(t.pos(find(t.Value, word)), fix, "Cedar schema: "+format, args...)
	}
	a.Action = cedar.NewEntityUID("Action", "call")
	for uid := range rs.Actions {
		if uid != a.Action {
			at(string(uid.ID), `declare action "call" only; routes tell requests apart`, "action %s is not supported yet", uid)
		}
	}
	act, ok := rs.Actions[a.Action]
	switch {
	case !ok:
		at("", `add action "call" appliesTo { principal: User, resource: Route, context: {...} };`, `there is no action "call"`)
		return
	case act.AppliesTo == nil || len(act.AppliesTo.Principals) != 1 || len(act.AppliesTo.Resources) != 1:
		at("call", "write appliesTo { principal: User, resource: Route, context: {...} }", `action "call" must apply to one principal type and one resource type`)
		return
	case act.Entity.Parents.Len() > 0:
		at("call", "remove in [...]", "action groups are not supported yet")
	}
	a.Principal, a.Resource = act.AppliesTo.Principals[0], act.AppliesTo.Resources[0]
	a.Group, a.RouteGroup = p.parent(s, rs, a.Principal, at), p.parent(s, rs, a.Resource, at)
	known := []cedar.EntityType{a.Principal, a.Group, a.Resource, a.RouteGroup}
	for i, x := range known {
		if x != "" && slices.Contains(known[:i], x) {
			at(string(x), "declare one entity for each: User, Group, Route, RouteGroup", "entity %s is used for two things", x)
		}
	}
}

func (p *parsing) parent(s *securityPolicy, rs *resolved.Schema, of cedar.EntityType, at func(word, fix, format string, args ...any)) cedar.EntityType {
	switch ps := rs.Entities[of].ParentTypes; len(ps) {
	case 0:
		return ""
	case 1:
		return ps[0]
	default:
		at(string(of), "keep one", "entity %s has %d parent types; requests and routes name parents of one", of, len(ps))
		return ps[0]
	}
}

// rules parses the policies one by one, so that one bad policy does not hide the
// errors of the next.
func (p *parsing) rules(s *securityPolicy, a *Authorization) {
	t := newBlock(s.src, s.Authorization.Cedar)
	s.cedar, s.written = t, nil
	all := statements(t.Value)
	if len(all) > maxRules {
		s.failAt(t.Pos, "split the workload", "there are %d policies; the limit is %d", len(all), maxRules)
		return
	}
	for _, st := range all {
		if len(st.text) > maxStatement {
			s.failAt(t.pos(st.at(1, 1)), "split it", "the policy has %d bytes; the limit is %d", len(st.text), maxStatement)
			continue
		}
		if at, deep := brackets(st.text); deep {
			s.failAt(t.pos(st.at(at.line, at.col)), "split the condition over several policies", "brackets are nested more than %d deep", maxBrackets)
			continue
		}
		var list cedar.PolicyList
		if err := guard(func() error { return list.UnmarshalCedar([]byte(st.text)) }); err != nil {
			at, msg := cedarProblem(err)
			at, msg = offender(st.text, at, msg)
			s.failAt(t.pos(st.at(at.line, at.col)), "see https://docs.cedarpolicy.com/policies/syntax-policy.html", "Cedar: %s", msg)
			continue
		}
		for _, pol := range list {
			r := CedarRule{ID: "cedar-" + strconv.Itoa(len(a.Rules)+1), Policy: (*ast.Policy)(pol.AST())}
			if len(list) == 1 {
				r.Text = strings.TrimSpace(st.text)
			}
			r.Pos = t.pos(st.at(pol.Position().Line, pol.Position().Column))
			if id, ok := pol.Annotations()["id"]; ok {
				r.ID = string(id)
			}
			p.annotated(s, st, pol, &r)
			if !wordForm.MatchString(r.ID) {
				s.failAt(r.Pos, "use letters, digits, '.', '_' and '-', at most 63", "@id %q is not a name", clip(r.ID))
			}
			a.Rules = append(a.Rules, r)
			s.written = append(s.written, st)
		}
	}
}

// guard turns a panic of the parser on hostile text into an error.
func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("cannot be read: %v", r)
		}
	}()
	return f()
}

func flatten(err error) []error {
	if err == nil {
		return nil
	}
	var many interface{ Unwrap() []error }
	if !errors.As(err, &many) {
		return []error{err}
	}
	var out []error
	for _, e := range many.Unwrap() {
		out = append(out, flatten(e)...)
	}
	return out
}
