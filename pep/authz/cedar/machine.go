package cedar

import (
	"math"

	"lorica.dev/lorica/abi/authz"
)

// run executes code, and returns the value that it leaves, if it leaves one. ok is false
// where a rule does not apply, or after a fault.
func (e *Evaluation) run(code authz.Code) (v Value, ok bool) {
	s := &e.stack
	top := 0 // how many values there are; within bounds, as Open has checked
	e.fault = NoFault
	for pc, end := uint32(0), code.Len(); pc < end; pc++ {
		x := code.At(pc)
		switch x.Op {
		case authz.OpFail:
			return e.stop(faultFail)
		case authz.OpValue:
			s[top] = e.constant(x.A)
			top++
		case authz.OpPrincipal, authz.OpAction, authz.OpResource:
			s[top] = e.scope[x.Op-authz.OpPrincipal]
			top++
		case authz.OpContext:
			s[top] = e.everything()
			top++
		case authz.OpAttr:
			if s[top] = e.attrs[x.A]; s[top].k == absent {
				return e.stop(faultAbsent)
			}
			top++
		case authz.OpHasAttr:
			s[top] = Bool(e.attrs[x.A].k != absent)
			top++
		case authz.OpSet:
			first := len(e.arena)
			e.arena = append(e.arena, s[top-int(x.A):top]...)
			top -= int(x.A)
			s[top] = e.collect(first)
			top++
		case authz.OpRecord:
			r := Value{k: record, n: int64(len(e.arena)), c: x.B}
			top -= int(x.B)
			for i := range x.B {
				name := e.view.List(x.A + i)
				e.arena = append(e.arena, Value{k: text, n: int64(name)}, s[top+int(i)])
			}
			s[top] = r
			top++
		case authz.OpDup:
			s[top] = s[top-1]
			top++
		case authz.OpPop:
			top--
		case authz.OpJump:
			pc = x.A - 1
		case authz.OpIf, authz.OpEnsure, authz.OpAnd, authz.OpOr:
			top--
			if s[top].k != boolean {
				return e.stop(faultType)
			}
			switch is := s[top].n == 1; {
			case x.Op == authz.OpIf && !is:
				pc = x.A - 1
			case x.Op == authz.OpAnd && !is, x.Op == authz.OpOr && is:
				top++
				pc = x.A - 1
			case x.Op == authz.OpEnsure && !is:
				return Value{}, false
			}
		case authz.OpScopeEq:
			if a := &e.scope[x.A]; a.k != entity || a.n != int64(x.B) {
				return Value{}, false
			}
		case authz.OpScopeIn:
			if a := &e.scope[x.A]; a.k != entity || !e.below(a, x.B) {
				return Value{}, false
			}
		case authz.OpScopeAny:
			set := e.constant(x.B)
			if a := &e.scope[x.A]; a.k != entity || !e.inAny(a, &set) {
				return Value{}, false
			}
		case authz.OpScopeIs:
			if a := &e.scope[x.A]; a.k != entity || e.typeOf(a) != x.B {
				return Value{}, false
			}
		default:
			if x.Op < authz.OpGetTag {
				s[top-1] = e.unary(x, &s[top-1])
			} else {
				top--
				s[top-1] = e.binary(x.Op, &s[top-1], &s[top])
			}
			if e.fault != NoFault {
				return Value{}, false
			}
		}
	}
	if top > 0 {
		v = s[top-1]
	}
	return v, true
}

func (e *Evaluation) stop(f Fault) (Value, bool) {
	e.fault = f
	return Value{}, false
}

// none notes a fault.
func (e *Evaluation) none(f Fault) Value {
	e.fault = f
	return Value{}
}

// everything returns the context as a record.
func (e *Evaluation) everything() Value {
	if e.whole {
		return e.context
	}
	// Of the evaluation of one rule: the elements go with it.
	r := Value{k: record, n: int64(len(e.arena))}
	for i := range e.attrs {
		if e.attrs[i].k != absent {
			e.arena = append(e.arena, Value{k: text, n: -1 - int64(i)}, e.attrs[i])
			r.c++
		}
	}
	return r
}

func (e *Evaluation) unary(x authz.Instruction, a *Value) Value {
	switch x.Op {
	case authz.OpGet:
		if v := e.attribute(a, x.A); v.k != absent || e.fault != NoFault {
			return v
		}
		return e.none(faultAbsent)
	case authz.OpHas:
		return Bool(e.attribute(a, x.A).k != absent)
	case authz.OpNot, authz.OpBool:
		if a.k != boolean {
			return e.none(faultType)
		}
		return Bool((a.n == 1) == (x.Op == authz.OpBool))
	case authz.OpNeg:
		if a.k != long {
			return e.none(faultType)
		}
		return e.checked(long, -a.n, a.n != math.MinInt64)
	case authz.OpIsEmpty:
		if a.k != set {
			return e.none(faultType)
		}
		return Bool(a.c == 0)
	case authz.OpIs:
		if a.k != entity {
			return e.none(faultType)
		}
		return Bool(e.typeOf(a) == x.A)
	case authz.OpLike:
		if a.k != text {
			return e.none(faultType)
		}
		return Bool(like(e.bytes(a), e.view.String(x.A)))
	case authz.OpParse:
		if a.k != text {
			return e.none(faultType)
		}
		v, ok := construct(authz.Type(x.A), string(e.bytes(a)))
		if !ok {
			return e.none(faultParse)
		}
		return v
	case authz.OpIsIPv4, authz.OpIsIPv6, authz.OpIsLoopback, authz.OpIsMulticast:
		return e.address(x.Op, a)
	}
	return e.clock(x.Op, a)
}

// attribute returns a member of a record or an entity, absent where it has none.
func (e *Evaluation) attribute(a *Value, name uint32) Value {
	key := Value{k: text, n: int64(name)}
	switch a.k {
	case record:
		return e.lookup(a, &key)
	case entity:
		r := e.has(a, false)
		if r.k == absent {
			return r
		}
		return e.lookup(&r, &key)
	}
	return e.none(faultType)
}

// has returns the attributes or the tags of an entity: a record, or absent.
func (e *Evaluation) has(a *Value, tags bool) Value {
	if a.n < 0 {
		return Value{}
	}
	x := e.view.Entity(uint32(a.n))
	at := x.Members
	if tags {
		at = x.Tags
	}
	if at == authz.None {
		return Value{}
	}
	return e.constant(at)
}

func (e *Evaluation) address(op authz.Op, a *Value) Value {
	if a.k != ip {
		return e.none(faultType)
	}
	switch p := a.prefix(); op {
	case authz.OpIsIPv4:
		return Bool(p.Addr().Is4())
	case authz.OpIsIPv6:
		return Bool(p.Addr().Is6())
	case authz.OpIsLoopback:
		return Bool(isLoopback(p))
	default:
		return Bool(isMulticast(p))
	}
}

const (
	second = 1000
	minute = 60 * second
	hour   = 60 * minute
	day    = 24 * hour
)

// clock is what is asked of one time or duration. Division truncates, as in cedar-go.
func (e *Evaluation) clock(op authz.Op, a *Value) Value {
	want := duration
	if op == authz.OpToDate || op == authz.OpToTime {
		want = datetime
	}
	if a.k != want {
		return e.none(faultType)
	}
	switch op {
	case authz.OpToDate:
		return Datetime(a.n - a.n%day)
	case authz.OpToTime:
		return Duration(a.n % day)
	case authz.OpToSeconds:
		return Long(a.n / second)
	case authz.OpToMinutes:
		return Long(a.n / minute)
	case authz.OpToHours:
		return Long(a.n / hour)
	case authz.OpToDays:
		return Long(a.n / day)
	}
	return Long(a.n)
}
