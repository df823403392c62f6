package compiler

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// An authorization is the compiled Cedar part of a policy; it is the same at
// every level, since the level is an attribute.
type authorization struct {
	bytes  []byte
	routes []RouteReads
}

func authorize(d *policy.Deployment) (*authorization, policy.Errors) {
	a := d.Authorization
	names := collector{}
	b := &builder{names: &names, d: d, a: a, attrs: attributes(a)}
	if len(b.attrs) > authz.MaxAttributes {
		return nil, policy.Errors{{Pos: d.Policy.Authorization.Pos, Fix: "remove those that no policy reads",
			Message: fmt.Sprintf("the context has %d attributes; the limit is %d", len(b.attrs), authz.MaxAttributes)}}
	}
	b.section() // learns the names; their order gives the indices
	if len(b.errs) > 0 {
		return nil, b.errs
	}
	b = &builder{names: names.sorted(), d: d, a: a, attrs: b.attrs}
	s := b.section()
	out := &authorization{bytes: s.Encode()}
	if _, err := authz.Open(out.bytes); err != nil {
		return nil, policy.Errors{{Pos: d.Policy.Authorization.Pos, Message: "the compiled policy does not open: " + err.Error()}}
	}
	for _, r := range d.Policy.Routes {
		out.routes = append(out.routes, b.reads(s, r.Name))
	}
	return out, nil
}

// attributes returns those of the context; groups are parents of the principal.
func attributes(a *policy.Authorization) []authz.Attribute {
	return slices.DeleteFunc(slices.Clone(a.Attributes), func(x authz.Attribute) bool { return x.Source.Kind == authz.SourceGroups })
}

// A builder writes one section. It runs twice: first with names that collect,
// then with names that know their indices.
type builder struct {
	names names
	d     *policy.Deployment
	a     *policy.Authorization
	attrs []authz.Attribute
	rule  *policy.CedarRule // being compiled
	code  []authz.Node
	notes []note // by node
	lists []uint32
	errs  policy.Errors
}

// A note is what the builder knows about a node.
type note struct {
	reads uint64
	depth int
}

func (b *builder) fail(format string, args ...any) {
	e := &policy.Error{Pos: b.rule.Pos, Message: fmt.Sprintf("policy %s: ", b.rule.ID) + fmt.Sprintf(format, args...)}
	if n := len(b.errs); n == 0 || *b.errs[n-1] != *e {
		b.errs = append(b.errs, e)
	}
}

func (b *builder) section() *authz.Section {
	a := b.a
	s := &authz.Section{
		Principal: b.names.text(string(a.Principal)), Group: authz.None,
		Action:  b.names.entity(a.Action),
		Default: b.d.Policy.Default.Authorization, Rule: policy.AuthorizationDefault(b.d.Policy),
		Attributes: b.attrs,
	}
	if a.Group != "" {
		s.Group = b.names.text(string(a.Group))
	}
	var reads []uint64 // by rule
	for i := range a.Rules {
		b.rule = &a.Rules[i]
		r := authz.Rule{ID: b.names.text(b.rule.ID), Line: b.names.text(b.rule.Pos.Short()),
			Forbid: b.rule.Policy.Effect == ast.EffectForbid, Condition: authz.None}
		set := uint64(0)
		if conds := b.rule.Policy.Conditions; len(conds) > 0 {
			r.Condition = b.conditions(conds)
			set = b.notes[r.Condition].reads
		}
		s.Rules = append(s.Rules, r)
		reads = append(reads, set)
	}
	for _, r := range b.d.Policy.Routes {
		s.Routes = append(s.Routes, b.route(r, reads))
	}
	slices.SortFunc(s.Routes, func(x, y authz.Route) int { return cmp.Compare(x.Name, y.Name) })
	s.Nodes, s.Lists = b.code, b.lists
	s.Strings, s.Entities = b.names.tables()
	return s
}

// route puts the rules that can match at r into buckets by what is left of their
// scopes: one entity that the principal must be or be in.
func (b *builder) route(r api.Route, reads []uint64) authz.Route {
	self := cedar.NewEntityUID(b.a.Resource, cedar.String(r.Name))
	x := authz.Route{Name: b.names.text(r.Name), Resource: b.names.entity(self), Parent: authz.None}
	parent := cedar.EntityUID{}
	if r.Group != "" && b.a.RouteGroup != "" {
		parent = cedar.NewEntityUID(b.a.RouteGroup, cedar.String(r.Group))
		x.Parent = b.names.entity(parent)
	}
	rules := make(map[uint32][]uint32)
	for i := range b.a.Rules {
		p := b.a.Rules[i].Policy
		if !matches(p.Action, b.a.Action, cedar.EntityUID{}) || !matches(p.Resource, self, parent) {
			continue
		}
		key, ok := b.principal(p.Principal)
		if !ok {
			continue
		}
		rules[key] = append(rules[key], uint32(i))
		x.Reads |= reads[i]
	}
	for key, list := range rules {
		x.Buckets = append(x.Buckets, authz.Bucket{Key: key, Count: uint32(len(list))})
	}
	slices.SortFunc(x.Buckets, func(p, q authz.Bucket) int { return cmp.Compare(p.Key, q.Key) })
	for i := range x.Buckets {
		x.Buckets[i].First = uint32(len(b.lists))
		b.lists = append(b.lists, rules[x.Buckets[i].Key]...)
	}
	return x
}

// matches decides a scope about an entity that is known: the action, or the
// resource of a route, which is in parent only.
func matches(scope any, self, parent cedar.EntityUID) bool {
	in := func(e cedar.EntityUID) bool { return e == self || e == parent && parent != cedar.EntityUID{} }
	switch t := scope.(type) {
	case ast.ScopeTypeAll:
		return true
	case ast.ScopeTypeEq:
		return t.Entity == self
	case ast.ScopeTypeIn:
		return in(t.Entity)
	case ast.ScopeTypeInSet:
		return slices.ContainsFunc(t.Entities, in)
	case ast.ScopeTypeIs:
		return t.Type == self.Type
	case ast.ScopeTypeIsIn:
		return t.Type == self.Type && in(t.Entity)
	}
	return false
}

// principal reduces a scope to the entity that the principal must be or be in;
// ok is false where no principal can match.
func (b *builder) principal(scope ast.IsPrincipalScopeNode) (key uint32, ok bool) {
	switch t := scope.(type) {
	case ast.ScopeTypeAll:
		return authz.None, true
	case ast.ScopeTypeEq:
		return b.names.entity(t.Entity), t.Entity.Type == b.a.Principal
	case ast.ScopeTypeIn:
		return b.names.entity(t.Entity), true
	case ast.ScopeTypeIs:
		return authz.None, t.Type == b.a.Principal
	case ast.ScopeTypeIsIn:
		return b.names.entity(t.Entity), t.Type == b.a.Principal
	}
	return authz.None, false
}

// reads describes a route for plan.
func (b *builder) reads(s *authz.Section, name string) RouteReads {
	out := RouteReads{Route: name}
	i := slices.IndexFunc(s.Routes, func(r authz.Route) bool { return s.Strings[r.Name] == name })
	for set := s.Routes[i].Reads; set != 0; set &= set - 1 {
		out.Attributes = append(out.Attributes, b.attrs[bits.TrailingZeros64(set)].Name)
	}
	var rules []uint32
	for _, k := range s.Routes[i].Buckets {
		rules = append(rules, s.Lists[k.First:k.First+k.Count]...)
	}
	slices.Sort(rules)
	for _, r := range rules {
		out.Rules = append(out.Rules, b.a.Rules[r].ID)
	}
	return out
}
