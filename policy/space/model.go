package space

import (
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"

	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/policy"
)

// A rule is a tree of && and || over atoms. What an atom says depends on few facts of a
// call, and an atom whose facts are known is put to the reference evaluator. Of others
// nothing is known; so a part of the facts already shows which rules cannot hold any more.

// An outcome is what may come of a condition.
type outcome uint8

const (
	holds outcome = 1 << iota
	fails
	errs
	anything = holds | fails | errs
)

type op uint8

const (
	isAtom op = iota
	isAnd
	isOr
	isNot
	isIf
)

type expr struct {
	op   op
	kids []*expr
	atom int
}

// A factKey names a fact of a call.
type factKey struct {
	kind factKind
	name string
}

type factKind uint8

const (
	aUser factKind = iota
	aGroup
	anAttribute
)

// An atom is a condition without && and ||.
type atom struct {
	side   int
	node   ast.IsNode
	facts  []int
	level  bool // it reads the level
	simple bool // it compares, with constants or with other facts
	consts []types.Value
	likes  []types.Pattern
	looks  []string // attributes of entities that are looked up
	mayErr bool     // it computes, or looks up what may not be there; the validator refuses what else may fail
}

// A ruleExpr is a rule of one policy.
type ruleExpr struct {
	rule  *policy.CedarRule
	side  int
	e     *expr
	facts []int // sorted
	level bool
	names []cedar.EntityUID // that it compares with
}

// A model is the rules of one policy or of two, in terms of the same facts.
type model struct {
	facts []factKey
	ids   map[factKey]int
	atoms []atom
	sides []*modelSide
}

type modelSide struct {
	d     *policy.Deployment
	ref   *policy.Reference
	a     *policy.Authorization
	rules map[*policy.CedarRule]*ruleExpr
	conds map[*policy.CedarRule]*ruleExpr // without their scopes
	look  map[string][]types.Value        // values of attributes of entities

	extra  []string // groups of a call that is asked about
	groups []string
	unders map[cedar.EntityUID][]string
}

func newModel(list ...*policy.Deployment) *model {
	m := &model{ids: make(map[factKey]int)}
	m.fact(factKey{aUser, ""})
	for _, d := range list {
		m.sides = append(m.sides, &modelSide{d: d, ref: d.Reference(), a: d.Authorization, rules: make(map[*policy.CedarRule]*ruleExpr), conds: make(map[*policy.CedarRule]*ruleExpr), unders: make(map[cedar.EntityUID][]string)})
	}
	if len(m.sides) > 1 { // what one policy names may be in something of the other
		all := slices.Clone(m.sides[0].candidates())
		all = append(all, m.sides[1].candidates()...)
		all = append(all, m.moved()...)
		for _, s := range m.sides {
			s.extra, s.groups = all, nil
		}
	}
	return m
}

func (m *model) fact(k factKey) int {
	if i, ok := m.ids[k]; ok {
		return i
	}
	m.ids[k] = len(m.facts)
	m.facts = append(m.facts, k)
	return len(m.facts) - 1
}

// rule returns a rule of one side as a tree.
func (m *model) rule(s int, r *policy.CedarRule) *ruleExpr {
	if x, ok := m.sides[s].rules[r]; ok {
		return x
	}
	x := m.compile(s, r, eval.PolicyToNode(r.Policy).AsIsNode())
	m.sides[s].rules[r] = x
	return x
}

// conditions returns what a rule says behind its scope.
func (m *model) conditions(s int, r *policy.CedarRule) *ruleExpr {
	if x, ok := m.sides[s].conds[r]; ok {
		return x
	}
	p := *r.Policy
	p.Principal, p.Action, p.Resource = ast.ScopeTypeAll{}, ast.ScopeTypeAll{}, ast.ScopeTypeAll{}
	x := m.compile(s, r, eval.PolicyToNode(&p).AsIsNode())
	m.sides[s].conds[r] = x
	return x
}

func (m *model) compile(s int, r *policy.CedarRule, n ast.IsNode) *ruleExpr {
	x := &ruleExpr{rule: r, side: s}
	x.e = m.expr(x, n)
	slices.Sort(x.facts)
	x.facts = slices.Compact(x.facts)
	return x
}

func (m *model) expr(x *ruleExpr, n ast.IsNode) *expr {
	switch t := n.(type) {
	case ast.NodeTypeAnd:
		return &expr{op: isAnd, kids: []*expr{m.expr(x, t.Left), m.expr(x, t.Right)}}
	case ast.NodeTypeOr:
		return &expr{op: isOr, kids: []*expr{m.expr(x, t.Left), m.expr(x, t.Right)}}
	case ast.NodeTypeNot:
		return &expr{op: isNot, kids: []*expr{m.expr(x, t.Arg)}}
	case ast.NodeTypeIfThenElse:
		return &expr{op: isIf, kids: []*expr{m.expr(x, t.If), m.expr(x, t.Then), m.expr(x, t.Else)}}
	}
	a := m.newAtom(x.side, n)
	m.atoms = append(m.atoms, a)
	x.facts, x.level = append(x.facts, a.facts...), x.level || a.level
	for _, v := range a.consts {
		if uid, ok := v.(cedar.EntityUID); ok {
			x.names = append(x.names, uid)
		}
	}
	return &expr{op: isAtom, atom: len(m.atoms) - 1}
}

func (m *model) newAtom(s int, n ast.IsNode) atom {
	side := m.sides[s]
	a := atom{side: s, node: n, simple: side.simple(n)}
	add := func(k factKey) { a.facts = append(a.facts, m.fact(k)) }
	attribute := func(name string) {
		if side.isLevel(name) {
			a.level = true
		} else {
			add(factKey{anAttribute, name})
		}
	}
	ast.Inspect(ast.NewNode(n), func(n ast.IsNode) bool {
		switch t := n.(type) {
		case ast.NodeTypeIn:
			for _, g := range side.groupsOf(t.Left, t.Right) {
				add(factKey{aGroup, g})
			}
		case ast.NodeTypeIsIn:
			for _, g := range side.groupsOf(t.Left, t.Entity) {
				add(factKey{aGroup, g})
			}
		case ast.NodeTypeAccess:
			if isContext(t.Arg) {
				attribute(string(t.Value))
				return false
			}
			a.looks = append(a.looks, string(t.Value))
		case ast.NodeTypeHas:
			if isContext(t.Arg) {
				attribute(string(t.Value))
				return false
			}
		case ast.NodeTypeGetTag, ast.NodeTypeHasTag:
			a.looks = append(a.looks, allTags)
		case ast.NodeTypeVariable:
			if t.Name == "principal" {
				add(factKey{aUser, ""})
			}
			if isContext(t) { // as a whole
				a.simple = false
				for _, x := range side.a.Attributes {
					attribute(x.Name)
				}
			}
		case ast.NodeTypeLike:
			a.likes = append(a.likes, t.Value)
		}
		if v, ok := constant(n); ok {
			a.consts = append(a.consts, spread(v)...)
			return false
		}
		return true
	})
	slices.Sort(a.facts)
	a.facts = slices.Compact(a.facts)
	a.mayErr = !a.simple || len(a.looks) > 0
	return a
}

// allTags stands for the tags of entities among the attributes that are looked up.
const allTags = "\x00tags"

func isContext(n ast.IsNode) bool {
	v, ok := n.(ast.NodeTypeVariable)
	return ok && v.Name == "context"
}

// constant evaluates what depends on nothing.
func constant(n ast.IsNode) (types.Value, bool) {
	if v, ok := n.(ast.NodeValue); ok {
		return v.Value, true
	}
	switch n.(type) {
	case ast.NodeTypeVariable, ast.NodeTypeAnd, ast.NodeTypeOr, ast.NodeTypeIn, ast.NodeTypeAccess, ast.NodeTypeHas:
		return nil, false
	}
	free := true
	ast.Inspect(ast.NewNode(n), func(n ast.IsNode) bool {
		if _, ok := n.(ast.NodeTypeVariable); ok {
			free = false
		}
		return free
	})
	if !free {
		return nil, false
	}
	v, err := eval.Eval(n, eval.Env{Entities: types.EntityMap{}, Context: types.Record{}})
	return v, err == nil
}

// spread returns a value, or the elements of a set.
func spread(v types.Value) []types.Value {
	s, ok := v.(types.Set)
	if !ok {
		return []types.Value{v}
	}
	var out []types.Value
	for e := range s.All() {
		out = append(out, spread(e)...)
	}
	return out
}

func (s *modelSide) isLevel(name string) bool {
	return slices.ContainsFunc(s.a.Attributes, func(x authz.Attribute) bool {
		return x.Name == name && x.Source.Kind == authz.SourceLevel
	})
}

// simple reports whether an atom's facts have finitely many kinds as far as it is
// concerned: it is a value, compares values, or asks whether one is there.
func (s *modelSide) simple(n ast.IsNode) bool {
	plain := func(list ...ast.IsNode) bool {
		for _, x := range list {
			if !s.plain(x) {
				return false
			}
		}
		return true
	}
	switch t := n.(type) {
	case ast.NodeTypeEquals:
		return plain(t.Left, t.Right)
	case ast.NodeTypeNotEquals:
		return plain(t.Left, t.Right)
	case ast.NodeTypeLessThan:
		return plain(t.Left, t.Right)
	case ast.NodeTypeLessThanOrEqual:
		return plain(t.Left, t.Right)
	case ast.NodeTypeGreaterThan:
		return plain(t.Left, t.Right)
	case ast.NodeTypeGreaterThanOrEqual:
		return plain(t.Left, t.Right)
	case ast.NodeTypeContains:
		return plain(t.Left, t.Right)
	case ast.NodeTypeContainsAny:
		return plain(t.Left, t.Right)
	case ast.NodeTypeContainsAll:
		return plain(t.Left, t.Right)
	case ast.NodeTypeIsEmpty:
		return plain(t.Arg)
	case ast.NodeTypeLike:
		return plain(t.Arg)
	case ast.NodeTypeIn:
		return plain(t.Left, t.Right)
	case ast.NodeTypeIs:
		return plain(t.Left)
	case ast.NodeTypeIsIn:
		return plain(t.Left, t.Entity)
	case ast.NodeTypeHas:
		return plain(t.Arg)
	case ast.NodeTypeHasTag:
		return plain(t.Left, t.Right)
	case ast.NodeTypeExtensionCall:
		switch t.Name {
		case "lessThan", "lessThanOrEqual", "greaterThan", "greaterThanOrEqual", "isIpv4", "isIpv6", "isLoopback", "isMulticast", "isInRange":
			return plain(t.Args...)
		}
	}
	return s.plain(n)
}

// plain reports whether an operand is a value as it stands: a constant, an attribute, or
// what an entity has.
func (s *modelSide) plain(n ast.IsNode) bool {
	if _, ok := constant(n); ok {
		return true
	}
	switch t := n.(type) {
	case ast.NodeTypeVariable:
		return true
	case ast.NodeTypeAccess:
		return s.plain(t.Arg)
	case ast.NodeTypeGetTag:
		_, ok := constant(t.Right)
		return ok && s.plain(t.Left)
	case ast.NodeTypeSet:
		return !slices.ContainsFunc(t.Elements, func(x ast.IsNode) bool { return !s.plain(x) })
	}
	return false
}

// groupsOf returns the groups of which it may matter whether the principal is in them, for
// a question whether something is in a target.
func (s *modelSide) groupsOf(left, target ast.IsNode) []string {
	if v, ok := left.(ast.NodeTypeVariable); ok && v.Name != "principal" || s.a.Group == "" {
		return nil
	}
	v, ok := constant(target)
	if !ok { // what entities have
		return s.candidates()
	}
	var out []string
	for _, x := range spread(v) {
		if uid, ok := x.(cedar.EntityUID); ok {
			out = append(out, s.under(uid)...)
		}
	}
	return out
}

// under returns the candidates that are a target, or in it.
func (s *modelSide) under(target cedar.EntityUID) []string {
	if list, ok := s.unders[target]; ok {
		return list
	}
	var list []string
	for _, g := range s.candidates() {
		if s.isIn(cedar.NewEntityUID(s.a.Group, cedar.String(g)), target) {
			list = append(list, g)
		}
	}
	s.unders[target] = list
	return list
}

// candidates are the groups that a call may name: those that rules or entities name, and
// those in something else that they name. Any other group is in no more of these than the
// principal can be by being in each of them.
func (s *modelSide) candidates() []string {
	if s.groups != nil {
		return s.groups
	}
	out := slices.Clone(s.extra)
	add := func(v types.Value) {
		for _, x := range spread(v) {
			switch uid, ok := x.(cedar.EntityUID); {
			case !ok:
			case uid.Type == s.a.Group:
				out = append(out, string(uid.ID))
			case uid.Type != s.a.Principal && uid.Type != s.a.Resource && uid.Type != s.a.RouteGroup && uid.Type != s.a.Action.Type: // groups may be in it
				out = append(out, s.below(uid)...)
			}
		}
	}
	for i := range s.a.Rules {
		ast.Inspect(eval.PolicyToNode(s.a.Rules[i].Policy), func(n ast.IsNode) bool {
			if v, ok := n.(ast.NodeValue); ok {
				add(v.Value)
			}
			return true
		})
	}
	for _, list := range s.lookups() {
		for _, v := range list {
			add(v)
		}
	}
	slices.Sort(out)
	s.groups = append([]string{}, slices.Compact(out)...)
	return s.groups
}

// below returns the groups that are in an entity.
func (s *modelSide) below(uid cedar.EntityUID) []string {
	var out []string
	for x := range s.ref.World() {
		if x.Type == s.a.Group && s.isIn(x, uid) {
			out = append(out, string(x.ID))
		}
	}
	slices.Sort(out)
	return out
}

func (s *modelSide) isIn(x, target cedar.EntityUID) bool {
	seen := map[cedar.EntityUID]bool{}
	for todo := []cedar.EntityUID{x}; len(todo) > 0; todo = todo[1:] {
		if todo[0] == target {
			return true
		}
		if !seen[todo[0]] {
			seen[todo[0]] = true
			todo = append(todo, slices.Collect(s.ref.World()[todo[0]].Parents.All())...)
		}
	}
	return false
}

// lookups returns the values of each attribute of the entities.
func (s *modelSide) lookups() map[string][]types.Value {
	if s.look == nil {
		s.look = make(map[string][]types.Value)
		seen := make(map[string]bool)
		var add func(name string, v types.Value)
		add = func(name string, v types.Value) {
			if r, ok := v.(types.Record); ok {
				for k, v := range r.All() {
					add(string(k), v)
				}
				return
			}
			for _, x := range spread(v) {
				if k := name + "\x00" + string(x.MarshalCedar()); !seen[k] {
					seen[k] = true
					s.look[name] = append(s.look[name], x)
				}
			}
		}
		for _, uid := range sortedEntities(s.ref.World()) {
			e := s.ref.World()[uid]
			for k, v := range e.Attributes.All() {
				add(string(k), v)
			}
			for _, v := range e.Tags.All() {
				add(allTags, v)
			}
		}
	}
	return s.look
}
