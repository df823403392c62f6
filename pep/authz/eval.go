package authz

import (
	"math"

	"lorica.dev/lorica/abi/authz"
)

// A fault says why a condition has no value.
type fault uint8

const (
	noFault fault = iota
	faultType
	faultAbsent
	faultOverflow
	faultFail
)

func (f fault) String() string {
	switch f {
	case faultAbsent:
		return "it reads an attribute that the request does not have"
	case faultOverflow:
		return "a number overflows"
	case faultFail:
		return "it reads an attribute that does not exist"
	}
	return "a value has the wrong type"
}

// An evaluation holds the facts of one request while its rules are evaluated.
// It is reused, never shared.
type evaluation struct {
	view      *authz.View
	principal int64   // entity, or otherPrincipal
	groups    []int64 // entities; groups that no policy names are left out
	resource  int64   // entity
	parent    int64   // entity, or authz.None
	attrs     []value // by attribute
	arena     []value // elements of sets
	fault     fault
}

// holds evaluates a condition, which must have a truth value. ok is false after
// a fault.
func (e *evaluation) holds(node uint32) (result, ok bool) {
	e.arena, e.fault = e.arena[:0], noFault
	v := e.eval(node)
	if v.k != boolean {
		return false, e.fail(faultType)
	}
	return v.n == 1, true
}

// fail notes the first fault; an absent value is passed up to the root.
func (e *evaluation) fail(f fault) bool {
	if e.fault == noFault {
		e.fault = f
	}
	return false
}

func (e *evaluation) none(f fault) value {
	e.fail(f)
	return value{}
}

// want evaluates a node to a value of one kind.
func (e *evaluation) want(node uint32, k kind) (value, bool) {
	v := e.eval(node)
	if v.k != k {
		return v, e.fail(faultType)
	}
	return v, true
}

// pair evaluates both operands of n to values of one kind.
func (e *evaluation) pair(n authz.Node, k kind) (a, b value, ok bool) {
	if a, ok = e.want(n.A, k); !ok {
		return a, b, false
	}
	b, ok = e.want(n.B, k)
	return a, b, ok
}

func wide(n authz.Node) int64 { return int64(uint64(n.B)<<32 | uint64(n.A)) }

// eval returns the value of a node; an absent one after a fault.
func (e *evaluation) eval(node uint32) value {
	n := e.view.Node(node)
	switch n.Op {
	case authz.OpBool:
		return value{k: boolean, n: int64(n.A)}
	case authz.OpLong:
		return value{k: long, n: wide(n)}
	case authz.OpDecimal:
		return value{k: decimal, n: wide(n)}
	case authz.OpString:
		return value{k: text, s: e.view.String(n.A)}
	case authz.OpEntity:
		return value{k: entity, n: int64(n.A)}
	case authz.OpIP:
		return value{k: ip, n: int64(n.B), s: e.view.String(n.A)}
	case authz.OpPrincipal:
		return value{k: entity, n: e.principal}
	case authz.OpAction:
		return value{k: entity, n: int64(e.view.Action)}
	case authz.OpResource:
		return value{k: entity, n: e.resource}
	case authz.OpAttr:
		if v := e.attrs[n.A]; v.k != absent {
			return v
		}
		return e.none(faultAbsent)
	case authz.OpHas:
		return truth(e.attrs[n.A].k != absent)
	case authz.OpSet:
		return e.set(n)
	case authz.OpAnd, authz.OpOr:
		return e.junction(n)
	case authz.OpIf:
		c, ok := e.want(n.A, boolean)
		if !ok {
			return value{}
		}
		if c.n == 1 {
			return e.eval(n.B)
		}
		return e.eval(n.C)
	case authz.OpNot:
		v, ok := e.want(n.A, boolean)
		if !ok {
			return value{}
		}
		return truth(v.n == 0)
	case authz.OpEq, authz.OpNe:
		a := e.eval(n.A)
		if a.k == absent {
			return a
		}
		b := e.eval(n.B)
		if b.k == absent {
			return b
		}
		return truth(e.equal(a, b) == (n.Op == authz.OpEq))
	case authz.OpLt, authz.OpLe, authz.OpGt, authz.OpGe:
		return e.compare(n, long, n.Op-authz.OpLt)
	case authz.OpDecimalLt, authz.OpDecimalLe, authz.OpDecimalGt, authz.OpDecimalGe:
		return e.compare(n, decimal, n.Op-authz.OpDecimalLt)
	case authz.OpNeg, authz.OpAdd, authz.OpSub, authz.OpMul:
		return e.arithmetic(n)
	case authz.OpLike:
		v, ok := e.want(n.A, text)
		if !ok {
			return value{}
		}
		return truth(like(v.s, e.view.String(n.B)))
	case authz.OpIs, authz.OpIsIn, authz.OpIn:
		return e.membership(n)
	case authz.OpIsEmpty, authz.OpContains, authz.OpContainsAll, authz.OpContainsAny:
		return e.sets(n)
	case authz.OpIsIPv4, authz.OpIsIPv6, authz.OpIsLoopback, authz.OpIsMulticast, authz.OpInRange:
		return e.address(n)
	}
	return e.none(faultFail)
}

// set evaluates every element into the arena.
func (e *evaluation) set(n authz.Node) value {
	first := len(e.arena)
	for range n.B {
		e.arena = append(e.arena, value{})
	}
	for i := range n.B {
		v := e.eval(e.view.List(n.A + i))
		if v.k == absent {
			return v
		}
		e.arena[first+int(i)] = v
	}
	return value{k: set, n: int64(first), c: int(n.B)}
}

// junction is && and ||: operands from the left, until one decides.
func (e *evaluation) junction(n authz.Node) value {
	decides := int64(0)
	if n.Op == authz.OpOr {
		decides = 1
	}
	for i := range n.B {
		v, ok := e.want(e.view.List(n.A+i), boolean)
		if !ok {
			return value{}
		}
		if v.n == decides {
			return v
		}
	}
	return value{k: boolean, n: 1 - decides}
}

// compare is <, <=, > and >= (op 0 to 3) of numbers of kind k.
func (e *evaluation) compare(n authz.Node, k kind, op authz.Op) value {
	a, b, ok := e.pair(n, k)
	if !ok {
		return value{}
	}
	switch op {
	case 0:
		return truth(a.n < b.n)
	case 1:
		return truth(a.n <= b.n)
	case 2:
		return truth(a.n > b.n)
	}
	return truth(a.n >= b.n)
}

func (e *evaluation) arithmetic(n authz.Node) value {
	if n.Op == authz.OpNeg {
		a, ok := e.want(n.A, long)
		if !ok {
			return value{}
		}
		return e.checked(-a.n, a.n != math.MinInt64)
	}
	a, b, ok := e.pair(n, long)
	if !ok {
		return value{}
	}
	x, y := a.n, b.n
	switch n.Op {
	case authz.OpAdd:
		r := x + y
		return e.checked(r, (r > x) == (y > 0))
	case authz.OpSub:
		r := x - y
		return e.checked(r, (r < x) == (y > 0))
	}
	if x == 0 || y == 0 {
		return value{k: long}
	}
	r := x * y
	return e.checked(r, (r < 0) == ((x < 0) != (y < 0)) && r/x == y)
}

func (e *evaluation) checked(r int64, ok bool) value {
	if !ok {
		return e.none(faultOverflow)
	}
	return value{k: long, n: r}
}

func (e *evaluation) membership(n authz.Node) value {
	a, ok := e.want(n.A, entity)
	if !ok {
		return value{}
	}
	switch n.Op {
	case authz.OpIs:
		return truth(e.typeOf(a) == n.B)
	case authz.OpIsIn:
		if e.typeOf(a) != n.C {
			return truth(false)
		}
	}
	b := e.eval(n.B)
	switch b.k {
	case absent:
		return b
	case entity:
		return truth(e.in(a, b))
	case set:
	default:
		return e.none(faultType)
	}
	found := false
	for _, x := range e.elements(b) {
		if x.k != entity {
			return e.none(faultType)
		}
		found = found || e.in(a, x)
	}
	return truth(found)
}

func (e *evaluation) typeOf(v value) uint32 {
	if v.n == otherPrincipal {
		return e.view.PrincipalType()
	}
	return e.view.EntityType(uint32(v.n))
}

// in is Cedar's "in" for two entities. Only the principal and the resource of
// the request have parents.
func (e *evaluation) in(a, b value) bool {
	if a.n == b.n || a.n == e.resource && b.n == e.parent {
		return true
	}
	if a.n == e.principal {
		for _, g := range e.groups {
			if g == b.n {
				return true
			}
		}
	}
	return false
}

func (e *evaluation) sets(n authz.Node) value {
	a, ok := e.want(n.A, set)
	if !ok {
		return value{}
	}
	switch n.Op {
	case authz.OpIsEmpty:
		return truth(a.c == 0)
	case authz.OpContains:
		b := e.eval(n.B)
		if b.k == absent {
			return b
		}
		return truth(e.contains(a, b))
	}
	b, ok := e.want(n.B, set)
	if !ok {
		return value{}
	}
	if n.Op == authz.OpContainsAll {
		return truth(e.within(b, a))
	}
	for _, x := range e.elements(b) {
		if e.contains(a, x) {
			return truth(true)
		}
	}
	return truth(false)
}

func (e *evaluation) address(n authz.Node) value {
	v, ok := e.want(n.A, ip)
	if !ok {
		return value{}
	}
	p := v.prefix()
	switch n.Op {
	case authz.OpIsIPv4:
		return truth(p.Addr().Is4())
	case authz.OpIsIPv6:
		return truth(p.Addr().Is6())
	case authz.OpIsLoopback:
		return truth(isLoopback(p))
	case authz.OpIsMulticast:
		return truth(isMulticast(p))
	}
	of, ok := e.want(n.B, ip)
	if !ok {
		return value{}
	}
	return truth(inRange(p, of.prefix()))
}
