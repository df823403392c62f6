package compiler

import (
	"math"
	"slices"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"lorica.dev/lorica/abi/authz"
)

// A test is something that a rule demands of a request before anything in it can fault:
// where the value of path is none of the keys, the rule does not apply.
type test struct {
	kind   authz.GroupKind
	path   ast.IsNode
	name   string // of the path: the same text for the same path
	keys   []uint32
	faults bool // where the path has no value, the rule does not just not apply: it faults
}

// maxKeys bounds the copies of a rule in one group.
const maxKeys = 16

// tests returns what the index can know of a rule. They are found in the order in which
// the rule looks at them, as far as it cannot fault before.
func (b *builder) tests(p *ast.Policy) []test {
	var out []test
	add := func(t test, ok bool) {
		if ok && len(t.keys) <= maxKeys {
			out = append(out, t)
		}
	}
	add(b.scopeTest("principal", p.Principal))
	add(b.scopeTest("action", p.Action))
	add(b.scopeTest("resource", p.Resource))
	known := facts{} // what holds where the rule looks further
	for _, c := range p.Conditions {
		for _, n := range conjuncts(c) {
			add(b.test(n, known))
			if !b.total(n, known) {
				return out
			}
			b.learn(n, known)
		}
	}
	return out
}

// sure reports whether a rule cannot fault. It may say no of one that cannot.
func (b *builder) sure(p *ast.Policy) bool {
	known := facts{}
	for _, c := range p.Conditions {
		for _, n := range conjuncts(c) {
			if !b.total(n, known) {
				return false
			}
			b.learn(n, known)
		}
	}
	return true
}

func (b *builder) scopeTest(variable types.String, scope any) (t test, ok bool) {
	t = test{path: ast.NodeTypeVariable{Name: variable}, name: string(variable)}
	switch s := scope.(type) {
	case ast.ScopeTypeEq:
		t.kind, t.keys = authz.GroupEntity, []uint32{b.names.entity(s.Entity)}
	case ast.ScopeTypeIn:
		t.kind, t.keys = authz.GroupIn, []uint32{b.names.entity(s.Entity)}
	case ast.ScopeTypeIsIn:
		t.kind, t.keys = authz.GroupIn, []uint32{b.names.entity(s.Entity)}
	case ast.ScopeTypeInSet:
		t.kind, t.keys = authz.GroupIn, b.entityKeys(s.Entities)
	case ast.ScopeTypeIs:
		t.kind, t.keys = authz.GroupIs, []uint32{b.names.text(string(s.Type))}
	default:
		return t, false
	}
	return t, true
}

func (b *builder) entityKeys(list []cedar.EntityUID) (keys []uint32) {
	for _, e := range list {
		keys = append(keys, b.names.entity(e))
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// test reads one condition as a test, where it is one.
func (b *builder) test(n ast.IsNode, known facts) (t test, ok bool) {
	switch x := n.(type) {
	case ast.NodeTypeEquals:
		if v, isValue := fold(x.Right); isValue {
			return b.among(x.Left, known, v)
		}
		if v, isValue := fold(x.Left); isValue {
			return b.among(x.Right, known, v)
		}
	case ast.NodeTypeContains:
		if v, isValue := fold(x.Left); isValue {
			if set, isSet := v.(types.Set); isSet && set.Len() > 0 {
				return b.among(x.Right, known, slices.Collect(set.All())...)
			}
		}
	case ast.NodeTypeOr:
		t, ok = b.test(x.Left, known)
		u, too := b.test(x.Right, known)
		if ok && too && t.kind == u.kind && t.name == u.name {
			t.keys = append(slices.Clone(t.keys), u.keys...)
			slices.Sort(t.keys)
			t.keys = slices.Compact(t.keys)
			return t, true
		}
	case ast.NodeTypeIn:
		if v, isValue := fold(x.Right); isValue {
			var list []cedar.EntityUID
			switch v := v.(type) {
			case types.EntityUID:
				list = append(list, v)
			case types.Set:
				for e := range v.All() {
					uid, isEntity := e.(types.EntityUID)
					if !isEntity {
						return t, false
					}
					list = append(list, uid)
				}
			default:
				return t, false
			}
			t, ok = b.on(authz.GroupIn, x.Left, known)
			t.keys = b.entityKeys(list)
			return t, ok && len(list) > 0
		}
	case ast.NodeTypeIs:
		t, ok = b.on(authz.GroupIs, x.Left, known)
		t.keys = []uint32{b.names.text(string(x.EntityType))}
		return t, ok
	}
	return t, false
}

// among is the test that a path is one of some values, which must be of one kind.
func (b *builder) among(path ast.IsNode, known facts, values ...types.Value) (test, bool) {
	var kind authz.GroupKind
	var keys []uint32
	for _, v := range values {
		var k authz.GroupKind
		switch v := v.(type) {
		case types.String:
			k, keys = authz.GroupString, append(keys, b.names.text(string(v)))
		case types.EntityUID:
			k, keys = authz.GroupEntity, append(keys, b.names.entity(v))
		case types.Long:
			if v < 0 || v > math.MaxUint32 {
				return test{}, false
			}
			k, keys = authz.GroupLong, append(keys, uint32(v))
		default:
			return test{}, false
		}
		if kind != 0 && k != kind {
			return test{}, false
		}
		kind = k
	}
	t, ok := b.on(kind, path, known)
	slices.Sort(keys)
	t.keys = slices.Compact(keys)
	return t, ok
}

// on begins a test of a path: a variable, or what is reached from one by names.
func (b *builder) on(kind authz.GroupKind, path ast.IsNode, known facts) (test, bool) {
	name, ok := pathName(path)
	return test{kind: kind, path: path, name: name, faults: !b.certain(path, known) || b.mustBeEntity(kind, path)}, ok
}

// mustBeEntity reports whether a test faults on a value that the path may have.
func (b *builder) mustBeEntity(kind authz.GroupKind, path ast.IsNode) bool {
	_, variable := path.(ast.NodeTypeVariable)
	return (kind == authz.GroupIn || kind == authz.GroupIs) && !(variable && !isContext(path))
}

func pathName(n ast.IsNode) (string, bool) {
	switch t := n.(type) {
	case ast.NodeTypeVariable:
		return string(t.Name), true
	case ast.NodeTypeAccess:
		name, ok := pathName(t.Arg)
		return name + "\x00" + string(t.Value), ok
	}
	return "", false
}

// facts are the paths that are known to have a value.
type facts map[string]bool

// learn adds what a condition that holds says.
func (b *builder) learn(n ast.IsNode, known facts) {
	switch t := n.(type) {
	case ast.NodeTypeHas:
		if name, ok := pathName(ast.NodeTypeAccess(t)); ok {
			known[name] = true
		}
	case ast.NodeTypeAnd:
		b.learn(t.Left, known)
		b.learn(t.Right, known)
	}
}

// certain reports whether an expression always has a value.
func (b *builder) certain(n ast.IsNode, known facts) bool {
	if _, ok := fold(n); ok {
		return true
	}
	switch n.(type) {
	case ast.NodeTypeVariable:
		return true
	case ast.NodeTypeAccess:
		if name, ok := pathName(n); ok && known[name] {
			return true
		}
		if i := b.attribution(n); i >= 0 {
			return !b.attrs[i].Optional
		}
	}
	return b.total(n, known)
}

// attribution returns the attribute of requests that an expression is, or -1.
func (b *builder) attribution(n ast.IsNode) int {
	t, ok := n.(ast.NodeTypeAccess)
	if !ok || b.anything() || !isContext(t.Arg) {
		return -1
	}
	return b.attr(string(t.Value))
}

// typeOf returns the type of a scalar attribute or constant, where it is known.
func (b *builder) typeOf(n ast.IsNode) authz.Type {
	if i := b.attribution(n); i >= 0 && !b.attrs[i].Set {
		return b.attrs[i].Type
	}
	v, _ := fold(n)
	switch v.(type) {
	case types.String:
		return authz.TypeString
	case types.Long:
		return authz.TypeLong
	case types.Boolean:
		return authz.TypeBool
	case types.IPAddr:
		return authz.TypeIP
	case types.Datetime:
		return authz.TypeDatetime
	case types.Duration:
		return authz.TypeDuration
	}
	return 0
}

// total reports whether a condition is true or false whatever a request says. It may say
// no of one that is.
func (b *builder) total(n ast.IsNode, known facts) bool {
	if v, ok := fold(n); ok {
		_, isBool := v.(types.Boolean)
		return isBool
	}
	typed := func(of authz.Type, list ...ast.IsNode) bool {
		return !slices.ContainsFunc(list, func(x ast.IsNode) bool { return b.typeOf(x) != of || !b.certain(x, known) })
	}
	ordered := func(x ast.BinaryNode) bool {
		of := b.typeOf(x.Left)
		return (of == authz.TypeLong || of == authz.TypeDatetime || of == authz.TypeDuration) && typed(of, x.Left, x.Right)
	}
	switch t := n.(type) {
	case ast.NodeTypeEquals:
		return b.certain(t.Left, known) && b.certain(t.Right, known)
	case ast.NodeTypeNotEquals:
		return b.certain(t.Left, known) && b.certain(t.Right, known)
	case ast.NodeTypeHas:
		_, ok := t.Arg.(ast.NodeTypeVariable)
		return ok
	case ast.NodeTypeIs:
		v, ok := t.Left.(ast.NodeTypeVariable)
		return ok && v.Name != "context"
	case ast.NodeTypeIn:
		x, ok := b.test(n, known)
		return ok && !x.faults
	case ast.NodeTypeContains:
		v, ok := fold(t.Left)
		if _, isSet := v.(types.Set); ok && isSet {
			return b.certain(t.Right, known)
		}
	case ast.NodeTypeNot:
		return b.total(t.Arg, known)
	case ast.NodeTypeAnd:
		return b.total(t.Left, known) && b.total(t.Right, known)
	case ast.NodeTypeOr:
		return b.total(t.Left, known) && b.total(t.Right, known)
	case ast.NodeTypeLike:
		return typed(authz.TypeString, t.Arg)
	case ast.NodeTypeLessThan:
		return ordered(t.BinaryNode)
	case ast.NodeTypeLessThanOrEqual:
		return ordered(t.BinaryNode)
	case ast.NodeTypeGreaterThan:
		return ordered(t.BinaryNode)
	case ast.NodeTypeGreaterThanOrEqual:
		return ordered(t.BinaryNode)
	case ast.NodeTypeExtensionCall:
		switch t.Name {
		case "isInRange":
			return len(t.Args) == 2 && typed(authz.TypeIP, t.Args...)
		case "isIpv4", "isIpv6", "isLoopback", "isMulticast":
			return len(t.Args) == 1 && typed(authz.TypeIP, t.Args...)
		}
	case ast.NodeTypeAccess:
		return typed(authz.TypeBool, n)
	}
	return false
}
