package compiler

import (
	"cmp"
	"fmt"
	"maps"
	"math/bits"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/policy"
)

// An authorization is the compiled Cedar part of a policy; it is the same at
// every level, since the level is an attribute.
type authorization struct {
	bytes  []byte
	routes []RouteReads
}

func authorize(d *policy.Deployment, rules []policy.CedarRule) (*authorization, policy.Errors) {
	a := d.Authorization
	attrs := attributes(a)
	if len(attrs) > authz.MaxAttributes {
		return nil, policy.Errors{{Pos: d.Policy.Authorization.Pos, Fix: "remove those that no policy reads",
			Message: fmt.Sprintf("the context has %d attributes; the limit is %d", len(attrs), authz.MaxAttributes)}}
	}
	in := &builder{d: d, rules: rules, attrs: attrs, entities: d.World()}
	s, b := in.section()
	if len(b.errs) > 0 {
		return nil, b.errs
	}
	out := &authorization{bytes: s.Encode()}
	if _, err := authz.Open(out.bytes); err != nil {
		return nil, policy.Errors{{Pos: d.Policy.Authorization.Pos, Message: "the compiled policy does not open: " + err.Error()}}
	}
	for _, r := range d.Policy.Routes {
		out.routes = append(out.routes, b.reached(s, r.Name))
	}
	return out, nil
}

// Cedar compiles policies and entities alone, for requests that may name any principal,
// action and resource: what suites of the field judge. The context is that of a schema,
// given as attributes whose sources mean nothing here; without any it may hold anything.
func Cedar(rules []policy.CedarRule, entities types.EntityMap, context ...authz.Attribute) (*authz.Section, error) {
	in := &builder{rules: rules, entities: entities, attrs: context, open: true}
	s, b := in.section()
	if len(b.errs) > 0 {
		return nil, b.errs
	}
	return s, nil
}

// attributes returns those of the context; groups are parents of the principal.
func attributes(a *policy.Authorization) []authz.Attribute {
	return slices.DeleteFunc(slices.Clone(a.Attributes), func(x authz.Attribute) bool { return x.Source.Kind == authz.SourceGroups })
}

// A builder writes one section. It runs twice: first with names that collect,
// then with names that know their indices.
type builder struct {
	d        *policy.Deployment // nil where open
	rules    []policy.CedarRule
	attrs    []authz.Attribute
	entities types.EntityMap
	open     bool // requests name anything

	names     names
	rule      *policy.CedarRule // being compiled
	start     uint32            // of its code
	height    int               // of the stack
	reads     uint64            // attributes
	code      []authz.Instruction
	lists     []uint32
	values    []authz.Value
	depths    []int // by value: how deep it is nested
	scalars   map[authz.Value]uint32
	compounds map[string]uint32
	ancestors map[cedar.EntityUID][]cedar.EntityUID
	errs      policy.Errors
}

func (b *builder) fail(format string, args ...any) {
	e := &policy.Error{Message: fmt.Sprintf(format, args...)}
	if b.rule != nil {
		e.Pos, e.Message = b.rule.Pos, fmt.Sprintf("policy %s: %s", b.rule.ID, e.Message)
	}
	if n := len(b.errs); n == 0 || *b.errs[n-1] != *e {
		b.errs = append(b.errs, e)
	}
}

// section returns the section and the builder that wrote it.
func (in *builder) section() (*authz.Section, *builder) {
	first := *in
	first.names = &collector{}
	first.write(false) // learns the names; their order gives the indices
	if len(first.errs) > 0 {
		return nil, &first
	}
	second := *in
	second.names = first.names.(*collector).sorted()
	return second.write(true), &second
}

func (b *builder) write(index bool) *authz.Section {
	b.scalars, b.compounds, b.ancestors = make(map[authz.Value]uint32), make(map[string]uint32), make(map[cedar.EntityUID][]cedar.EntityUID)
	s := &authz.Section{Principal: authz.None, Group: authz.None, Action: authz.None, Attributes: b.attrs}
	if b.d != nil {
		a := b.d.Authorization
		s.Principal, s.Action = b.names.text(string(a.Principal)), b.names.entity(a.Action)
		if a.Group != "" {
			s.Group = b.names.text(string(a.Group))
		}
		s.Default, s.Rule = b.d.Policy.Default.Authorization, policy.AuthorizationDefault(b.d.Policy)
	} else {
		s.Rule = abi.Rule{ID: abi.RuleAuthz}
	}
	var reads []uint64 // by rule
	for i := range b.rules {
		b.rule = &b.rules[i]
		r := authz.Rule{ID: b.names.text(b.rule.ID), Line: b.names.text(b.rule.Pos.Short()),
			Forbid: b.rule.Policy.Effect == ast.EffectForbid, Sure: b.sure(b.rule.Policy), Code: b.compile(b.rule.Policy)}
		s.Rules, reads = append(s.Rules, r), append(reads, b.reads)
	}
	b.rule = nil
	if b.d != nil {
		for _, r := range b.d.Policy.Routes {
			x := authz.Route{Name: b.names.text(r.Name), Resource: b.names.entity(b.route(r.Name))}
			for i, set := range reads {
				if b.reaches(i, b.route(r.Name)) {
					x.Reads |= set
				}
			}
			s.Routes = append(s.Routes, x)
		}
	}
	slices.SortFunc(s.Routes, func(x, y authz.Route) int { return cmp.Compare(x.Name, y.Name) })
	for _, uid := range slices.SortedFunc(maps.Keys(b.entities), compareEntities) { // in one order, for one program
		b.facts(uid)
	}
	tests := b.demands()
	if index {
		b.index(s, tests)
	}
	s.Strings, s.Entities = b.names.tables()
	for i := range s.Entities {
		b.entity(s, i)
	}
	s.Code, s.Lists, s.Values = b.code, b.lists, b.values
	return s
}

// facts notes the names and constants of an entity.
func (b *builder) facts(uid cedar.EntityUID) {
	b.names.entity(uid)
	for _, up := range b.above(uid) {
		b.names.entity(up)
	}
	b.constant(b.entities[uid].Attributes)
	b.constant(b.entities[uid].Tags)
}

// entity fills in what entity i of the section has and is in.
func (b *builder) entity(s *authz.Section, i int) {
	x := &s.Entities[i]
	x.Members, x.Tags = authz.None, authz.None
	uid := cedar.NewEntityUID(cedar.EntityType(s.Strings[x.Type]), cedar.String(s.Strings[x.ID]))
	e, ok := b.entities[uid]
	if !ok {
		return
	}
	x.Members, x.Tags = b.constant(e.Attributes), b.constant(e.Tags)
	var up []uint32
	for _, a := range b.above(uid) {
		up = append(up, b.names.entity(a))
	}
	slices.Sort(up)
	x.First, x.Parents = uint32(len(b.lists)), uint32(len(up))
	b.lists = append(b.lists, up...)
}

func (b *builder) route(name string) cedar.EntityUID {
	return cedar.NewEntityUID(b.d.Authorization.Resource, cedar.String(name))
}

// reaches reports whether rule i can apply to a request of a route, for all that its scope
// says.
func (b *builder) reaches(i int, route cedar.EntityUID) bool {
	p, a := b.rules[i].Policy, b.d.Authorization
	if !b.matches(p.Action, a.Action) || !b.matches(p.Resource, route) {
		return false
	}
	switch t := p.Principal.(type) {
	case ast.ScopeTypeEq:
		return t.Entity.Type == a.Principal
	case ast.ScopeTypeIs:
		return t.Type == a.Principal
	case ast.ScopeTypeIsIn:
		return t.Type == a.Principal
	}
	return true
}

// matches decides a scope about an entity that is known.
func (b *builder) matches(scope any, self cedar.EntityUID) bool {
	in := func(e cedar.EntityUID) bool { return e == self || slices.Contains(b.above(self), e) }
	switch t := scope.(type) {
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
	return true
}

// reached describes a route for plan.
func (b *builder) reached(s *authz.Section, name string) RouteReads {
	out := RouteReads{Route: name}
	i := slices.IndexFunc(s.Routes, func(r authz.Route) bool { return s.Strings[r.Name] == name })
	for set := s.Routes[i].Reads; set != 0; set &= set - 1 {
		out.Attributes = append(out.Attributes, b.attrs[bits.TrailingZeros64(set)].Name)
	}
	for r := range b.rules {
		if b.reaches(r, b.route(name)) {
			out.Rules = append(out.Rules, b.rules[r].ID)
		}
	}
	return out
}
