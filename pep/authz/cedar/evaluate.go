// Package cedar evaluates Cedar policies that were compiled: it runs their code and finds
// by the index of the program which of them a request can concern. It decides nothing:
// what becomes of rules that apply, and of those that fault, is its caller's.
//
// The semantics are those of cedar-go 1.9, which test/conform holds it to.
package cedar

import (
	"lorica.dev/lorica/abi/authz"
)

// A Fault says why a condition has no value.
type Fault uint8

const (
	NoFault Fault = iota
	faultType
	faultAbsent
	faultOverflow
	faultParse
	faultFail
)

func (f Fault) String() string {
	switch f {
	case NoFault:
		return ""
	case faultAbsent:
		return "it reads an attribute that the request does not have"
	case faultOverflow:
		return "a number overflows"
	case faultParse:
		return "it reads a text as something that it is not"
	case faultFail:
		return "it reads an attribute that does not exist"
	}
	return "a value has the wrong type"
}

// An Evaluation holds the facts of one request while its rules are evaluated, and the
// room for that. It is reused from request to request, and never shared.
type Evaluation struct {
	view      *authz.View
	scope     [3]Value // principal, action, resource
	parents   []uint32 // of the principal, besides those that the program knows: entities
	context   Value
	whole     bool      // context is made
	attrs     []Value   // of the context, by attribute
	texts     []passage // first the names of the attributes
	strangers []stranger
	types     [3]typeName // a few that requests had
	oldest    int         // of types
	arena     []Value     // what sets and records hold
	facts     int         // as many elements are the request's
	stack     [authz.MaxStack]Value
	marks     marks    // of rules, while the index is walked
	rules     []uint32 // candidates
	fault     Fault
}

// New returns an Evaluation for the programs of a view.
func New(v *authz.View) *Evaluation {
	e := &Evaluation{view: v, attrs: make([]Value, len(v.Attributes)), arena: make([]Value, 0, min(v.Elements, maxRoom)), marks: newMarks(len(v.Rules))}
	for i := range v.Attributes {
		e.Text([]byte(v.Attributes[i].Name))
	}
	for i := range e.types {
		e.types[i].of = v.Index("")
	}
	return e
}

// maxRoom is how many elements there is room for from the start.
const maxRoom = 256

// Start forgets the facts of the request before.
func (e *Evaluation) Start() {
	e.scope, e.context, e.whole, e.fault = [3]Value{}, Value{}, false, NoFault
	e.parents, e.texts, e.strangers, e.arena, e.facts = e.parents[:0], e.texts[:len(e.attrs)], e.strangers[:0], e.arena[:0], 0
	clear(e.attrs)
}

// Set gives an attribute of the context its value.
func (e *Evaluation) Set(attribute int, v Value) {
	e.attrs[attribute], e.whole = v, false
}

// Who, What and On say what the request is: its principal, action and resource.
func (e *Evaluation) Who(v Value)  { e.scope[authz.ScopePrincipal] = v }
func (e *Evaluation) What(v Value) { e.scope[authz.ScopeAction] = v }
func (e *Evaluation) On(v Value)   { e.scope[authz.ScopeResource] = v }

// Member says that the principal is in an entity.
func (e *Evaluation) Member(parent uint32) { e.parents = append(e.parents, parent) }

// Context gives the whole context, a record, where the program has no attributes.
func (e *Evaluation) Context(v Value) { e.context, e.whole = v, true }

// Entity returns the entity of a type and name, known or not.
func (e *Evaluation) Entity(kind, id string) Value {
	of := e.kind(kind)
	if i := e.view.Find(of, id); i != authz.None {
		return Known(i)
	}
	e.strangers = append(e.strangers, stranger{of, kind, id})
	return Value{k: entity, n: -int64(len(e.strangers))}
}

// A typeName is the name of a type and its string in the program, or None.
type typeName struct {
	name string
	of   uint32
}

// kind returns the string that the name of a type is, or None. Those of a request are mostly
// those of the one before.
func (e *Evaluation) kind(name string) uint32 {
	for i := range e.types {
		if t := &e.types[i]; t.name == name {
			return t.of
		}
	}
	e.types[e.oldest] = typeName{name, e.view.Index(name)}
	of := e.types[e.oldest].of
	e.oldest = (e.oldest + 1) % len(e.types)
	return of
}

// Known returns an entity of the program.
func Known(i uint32) Value { return Value{k: entity, n: int64(i)} }

// Elements returns a set of values.
func (e *Evaluation) Elements(list ...Value) Value {
	first := len(e.arena)
	e.arena = append(e.arena, list...)
	v := e.collect(first)
	e.facts = len(e.arena)
	return v
}

// Members returns a record of pairs of name, a text, and value.
func (e *Evaluation) Members(pairs ...Value) Value {
	v := Value{k: record, n: int64(len(e.arena)), c: uint32(len(pairs) / 2)}
	e.arena = append(e.arena, pairs...)
	e.facts = len(e.arena)
	return v
}

// Applies reports whether a rule applies: its scope matches and its conditions hold.
// It does not, where there is a fault, but might for another evaluator: see Fault.
func (e *Evaluation) Applies(rule uint32) (bool, Fault) {
	code := e.view.Condition(rule)
	e.arena = e.arena[:e.facts]
	_, ok := e.run(code)
	return ok && e.fault == NoFault, e.fault
}

// Candidates returns the rules that may apply or fault, ascending; all others would do
// neither. The list is good until the next call.
func (e *Evaluation) Candidates() []uint32 {
	e.visit(0)
	e.rules = e.marks.drain(e.rules[:0])
	return e.rules
}

func (e *Evaluation) visit(node uint32) {
	n := e.view.Node(node)
	rules := e.view.Listed(n.Rules)
	for i := range rules.Len() {
		e.marks.add(rules.At(i))
	}
	for i := range n.Groups.Count {
		g := e.view.Group(n.Groups.First + i)
		e.follow(&g)
	}
}

// follow visits the nodes that a group leads to.
func (e *Evaluation) follow(g *authz.Group) {
	v := e.subject(g)
	switch {
	case v.k == absent, (g.Kind == authz.GroupIn || g.Kind == authz.GroupIs) && v.k != entity:
		if g.Fault != authz.None {
			e.visit(g.Fault)
		}
	case g.Kind == authz.GroupIn:
		e.upwards(g, &v)
	case g.Kind == authz.GroupIs:
		e.lead(g, e.typeOf(&v))
	case g.Kind == authz.GroupString && v.k == text:
		e.lead(g, e.index(&v))
	case g.Kind == authz.GroupEntity && v.k == entity && v.n >= 0,
		g.Kind == authz.GroupLong && v.k == long && v.n >= 0 && v.n <= int64(^uint32(0)):
		e.lead(g, uint32(v.n))
	}
}

// subject returns the value of the code of a group, absent where it faults. Most are one
// instruction.
func (e *Evaluation) subject(g *authz.Group) Value {
	code := e.view.Code(g.Code)
	if code.Len() == 1 {
		switch x := code.At(0); x.Op {
		case authz.OpPrincipal, authz.OpAction, authz.OpResource:
			return e.scope[x.Op-authz.OpPrincipal]
		case authz.OpAttr:
			return e.attrs[x.A]
		}
	}
	e.arena = e.arena[:e.facts]
	v, _ := e.run(code)
	e.fault = NoFault
	return v
}

func (e *Evaluation) lead(g *authz.Group, key uint32) {
	if node := e.view.Lead(g, key); node != authz.None {
		e.visit(node)
	}
}

// upwards follows an entity and all that it is in.
func (e *Evaluation) upwards(g *authz.Group, v *Value) {
	if v.n >= 0 {
		e.ancestors(g, uint32(v.n))
	}
	if len(e.parents) > 0 && e.equal(v, &e.scope[authz.ScopePrincipal]) {
		for _, p := range e.parents {
			e.ancestors(g, p)
		}
	}
}

func (e *Evaluation) ancestors(g *authz.Group, i uint32) {
	if e.view.Leads(i) {
		e.lead(g, i)
	}
	up := e.view.Above(i)
	for k := range up.Len() {
		if x := up.At(k); e.view.Leads(x) {
			e.lead(g, x)
		}
	}
}

// typeOf returns the type of an entity, a string, or None.
func (e *Evaluation) typeOf(v *Value) uint32 {
	if v.n >= 0 {
		return e.view.EntityType(uint32(v.n))
	}
	return e.strangers[-1-v.n].of
}

// in is Cedar's "in" for two entities.
func (e *Evaluation) in(a, b *Value) bool {
	if b.n < 0 {
		return e.equal(a, b)
	}
	return e.below(a, uint32(b.n))
}

// below reports whether an entity is one of the program, or is in it.
func (e *Evaluation) below(a *Value, of uint32) bool {
	if a.n == int64(of) || a.n >= 0 && e.view.In(uint32(a.n), of) {
		return true
	}
	if len(e.parents) > 0 && e.equal(a, &e.scope[authz.ScopePrincipal]) {
		for _, p := range e.parents {
			if p == of || e.view.In(p, of) {
				return true
			}
		}
	}
	return false
}
