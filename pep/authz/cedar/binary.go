package cedar

import "lorica.dev/lorica/abi/authz"

func (e *Evaluation) binary(op authz.Op, a, b *Value) Value {
	switch op {
	case authz.OpEq:
		return Bool(e.equal(a, b))
	case authz.OpNe:
		return Bool(!e.equal(a, b))
	case authz.OpIn:
		return e.membership(a, b)
	case authz.OpContains:
		if a.k != set {
			return e.none(faultType)
		}
		return Bool(e.contains(a, b))
	case authz.OpGetTag, authz.OpHasTag:
		return e.tag(op, a, b)
	case authz.OpLt, authz.OpLe, authz.OpGt, authz.OpGe:
		if a.k != b.k || a.k != long && a.k != datetime && a.k != duration {
			return e.none(faultType)
		}
		return ordered(op-authz.OpLt, a.n, b.n)
	}
	if x, y := operands(op); a.k != x || b.k != y {
		return e.none(faultType)
	}
	switch op {
	case authz.OpDecimalLt, authz.OpDecimalLe, authz.OpDecimalGt, authz.OpDecimalGe:
		return ordered(op-authz.OpDecimalLt, a.n, b.n)
	case authz.OpAdd:
		return e.sum(long, a.n, b.n)
	case authz.OpOffset:
		return e.sum(datetime, a.n, b.n)
	case authz.OpSub:
		return e.difference(long, a.n, b.n)
	case authz.OpDurationSince:
		return e.difference(duration, a.n, b.n)
	case authz.OpMul:
		return e.product(a.n, b.n)
	case authz.OpInRange:
		return Bool(inRange(a.prefix(), b.prefix()))
	case authz.OpContainsAll:
		return Bool(e.within(b, a))
	}
	for i := range b.c { // OpContainsAny
		if x := e.element(b, i); e.contains(a, &x) {
			return Bool(true)
		}
	}
	return Bool(false)
}

// ordered compares numbers: less, at most, more, at least, by the number of the relation.
func ordered(relation authz.Op, x, y int64) Value {
	switch relation {
	case 0:
		return Bool(x < y)
	case 1:
		return Bool(x <= y)
	case 2:
		return Bool(x > y)
	}
	return Bool(x >= y)
}

// operands returns the kinds that an operation takes.
func operands(op authz.Op) (a, b kind) {
	switch op {
	case authz.OpDecimalLt, authz.OpDecimalLe, authz.OpDecimalGt, authz.OpDecimalGe:
		return decimal, decimal
	case authz.OpContainsAll, authz.OpContainsAny:
		return set, set
	case authz.OpInRange:
		return ip, ip
	case authz.OpOffset:
		return datetime, duration
	case authz.OpDurationSince:
		return datetime, datetime
	}
	return long, long // OpAdd, OpSub, OpMul
}

func (e *Evaluation) sum(k kind, x, y int64) Value {
	r := x + y
	return e.checked(k, r, (r > x) == (y > 0))
}

func (e *Evaluation) difference(k kind, x, y int64) Value {
	r := x - y
	return e.checked(k, r, (r < x) == (y > 0))
}

func (e *Evaluation) product(x, y int64) Value {
	if x == 0 || y == 0 {
		return Long(0)
	}
	r := x * y
	return e.checked(long, r, (r < 0) == ((x < 0) != (y < 0)) && r/x == y)
}

func (e *Evaluation) checked(k kind, r int64, ok bool) Value {
	if !ok {
		return e.none(faultOverflow)
	}
	return Value{k: k, n: r}
}

// tag returns what an entity has under a tag, or whether it has it.
func (e *Evaluation) tag(op authz.Op, a, b *Value) Value {
	if a.k != entity || b.k != text {
		return e.none(faultType)
	}
	tags, v := e.has(a, true), Value{}
	if tags.k != absent {
		v = e.lookup(&tags, b)
	}
	switch {
	case op == authz.OpHasTag:
		return Bool(v.k != absent)
	case v.k == absent:
		return e.none(faultAbsent)
	}
	return v
}

func (e *Evaluation) membership(a, b *Value) Value {
	switch {
	case a.k != entity:
		return e.none(faultType)
	case b.k == entity:
		return Bool(e.in(a, b))
	case b.k != set:
		return e.none(faultType)
	}
	for i := range b.c {
		if e.element(b, i).k != entity {
			return e.none(faultType)
		}
	}
	return Bool(e.inAny(a, b))
}

// inAny reports whether an entity is in one of a set of entities.
func (e *Evaluation) inAny(a, s *Value) bool {
	if e.contains(s, a) || a.n >= 0 && e.meets(s, e.view.Above(uint32(a.n))) {
		return true
	}
	if len(e.parents) > 0 && e.equal(a, &e.scope[authz.ScopePrincipal]) {
		for _, p := range e.parents {
			if x := Known(p); e.contains(s, &x) || e.meets(s, e.view.Above(p)) {
				return true
			}
		}
	}
	return false
}

// meets reports whether a set has one of some entities.
func (e *Evaluation) meets(s *Value, list authz.List) bool {
	for k := range list.Len() {
		if x := Known(list.At(k)); e.contains(s, &x) {
			return true
		}
	}
	return false
}
