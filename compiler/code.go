package compiler

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"lorica.dev/lorica/abi/authz"
)

// emit appends an instruction which changes the height of the stack by so much, and
// returns its index.
func (b *builder) emit(op authz.Op, x, y uint32, change int) int {
	b.code = append(b.code, authz.Instruction{Op: op, A: x, B: y})
	if b.height += change; b.height > authz.MaxStack {
		b.fail("the condition is nested too deep: it needs more than %d values at a time", authz.MaxStack)
		b.height = 0
	}
	return len(b.code) - 1
}

// here has the jump at an index go on with the instruction that comes next.
func (b *builder) here(jump int) { b.code[jump].A = uint32(len(b.code)) - b.start }

// rule compiles a scope and conditions: all must hold, from the first to the last.
func (b *builder) compile(p *ast.Policy) authz.Span {
	b.start, b.height, b.reads = uint32(len(b.code)), 0, 0
	b.scope(authz.ScopePrincipal, p.Principal)
	b.scope(authz.ScopeAction, p.Action)
	b.scope(authz.ScopeResource, p.Resource)
	slices.SortStableFunc(b.code[b.start:], func(x, y authz.Instruction) int { return cmp.Compare(effort(x), effort(y)) })
	for _, c := range p.Conditions {
		for _, n := range conjuncts(c) {
			if v, ok := fold(n); ok && v == types.Boolean(true) {
				continue
			}
			b.expr(n)
			b.emit(authz.OpEnsure, 0, 0, -1)
		}
	}
	return b.span()
}

// effort orders what a scope asks, which cannot fault, by what it costs: in what somebody is
// takes longest, and actions are in little.
func effort(x authz.Instruction) int {
	switch {
	case x.Op == authz.OpScopeEq, x.Op == authz.OpScopeIs:
		return 0
	case x.A == authz.ScopeAction:
		return 1
	case x.Op == authz.OpScopeIn:
		return 2
	}
	return 3
}

func (b *builder) span() authz.Span {
	return authz.Span{First: b.start, Count: uint32(len(b.code)) - b.start}
}

// conjuncts returns what must hold for a clause to, in order.
func conjuncts(c ast.ConditionType) []ast.IsNode {
	if c.Condition == ast.ConditionUnless {
		return []ast.IsNode{ast.NodeTypeNot{UnaryNode: ast.UnaryNode{Arg: c.Body}}}
	}
	return operandsOf[ast.NodeTypeAnd](nil, c.Body)
}

func (b *builder) scope(of uint32, s any) {
	switch t := s.(type) {
	case ast.ScopeTypeEq:
		b.emit(authz.OpScopeEq, of, b.names.entity(t.Entity), 0)
	case ast.ScopeTypeIn:
		b.emit(authz.OpScopeIn, of, b.names.entity(t.Entity), 0)
	case ast.ScopeTypeInSet:
		var list []types.Value
		for _, e := range t.Entities {
			list = append(list, e)
		}
		b.emit(authz.OpScopeAny, of, b.constant(types.NewSet(list...)), 0)
	case ast.ScopeTypeIs:
		b.emit(authz.OpScopeIs, of, b.names.text(string(t.Type)), 0)
	case ast.ScopeTypeIsIn:
		b.emit(authz.OpScopeIs, of, b.names.text(string(t.Type)), 0)
		b.emit(authz.OpScopeIn, of, b.names.entity(t.Entity), 0)
	}
}

// expr compiles an expression: its code leaves one value.
func (b *builder) expr(n ast.IsNode) {
	if v, ok := fold(n); ok {
		b.emit(authz.OpValue, b.constant(v), 0, 1)
		return
	}
	switch t := n.(type) {
	case ast.NodeTypeVariable:
		b.variable(t)
	case ast.NodeTypeAccess:
		b.attribute(authz.OpGet, t.StrOpNode)
	case ast.NodeTypeHas:
		b.attribute(authz.OpHas, t.StrOpNode)
	case ast.NodeTypeAnd:
		b.junction(authz.OpAnd, operandsOf[ast.NodeTypeAnd](nil, t))
	case ast.NodeTypeOr:
		b.junction(authz.OpOr, operandsOf[ast.NodeTypeOr](nil, t))
	case ast.NodeTypeIfThenElse:
		b.either(t)
	case ast.NodeTypeSet:
		b.exprs(t.Elements)
		b.emit(authz.OpSet, uint32(len(t.Elements)), 0, 1-len(t.Elements))
	case ast.NodeTypeRecord:
		b.record(t)
	case ast.NodeTypeLike:
		b.expr(t.Arg)
		b.emit(authz.OpLike, b.names.text(b.pattern(t.Value)), 0, 0)
	case ast.NodeTypeIs:
		b.expr(t.Left)
		b.emit(authz.OpIs, b.names.text(string(t.EntityType)), 0, 0)
	case ast.NodeTypeIsIn:
		b.isIn(t)
	case ast.NodeTypeExtensionCall:
		b.call(t)
	default:
		if op, x, ok := unaryOf(n); ok {
			b.expr(x)
			b.emit(op, 0, 0, 0)
		} else if op, x, ok := binaryOf(n); ok {
			b.expr(x.Left)
			b.expr(x.Right)
			b.emit(op, 0, 0, -1)
		} else {
			b.unsupported(fmt.Sprintf("%T is", n))
		}
	}
}

func (b *builder) exprs(list []ast.IsNode) {
	if len(list) > authz.MaxElements {
		b.fail("%d elements are made of attributes; the limit is %d: keep constants in a set of their own", len(list), authz.MaxElements)
		list = list[:1]
	}
	for _, x := range list {
		b.expr(x)
	}
}

// unsupported notes an error and stands in for what cannot be compiled.
func (b *builder) unsupported(what string) {
	b.fail("%s not supported", what)
	b.emit(authz.OpFail, 0, 0, 1)
}

// junction compiles && and ||: operands from the left, until one decides. All must be
// truth values as far as they are looked at, the last one too.
func (b *builder) junction(op authz.Op, operands []ast.IsNode) {
	var jumps []int
	for i, x := range operands {
		b.expr(x)
		if i < len(operands)-1 {
			jumps = append(jumps, b.emit(op, 0, 0, -1))
		} else {
			b.emit(authz.OpBool, 0, 0, 0)
		}
	}
	for _, j := range jumps {
		b.here(j)
	}
}

func (b *builder) either(t ast.NodeTypeIfThenElse) {
	b.expr(t.If)
	otherwise := b.emit(authz.OpIf, 0, 0, -1)
	b.expr(t.Then)
	end := b.emit(authz.OpJump, 0, 0, -1) // the other branch leaves the value
	b.here(otherwise)
	b.expr(t.Else)
	b.here(end)
}

// isIn looks at what it is in only where the type is right.
func (b *builder) isIn(t ast.NodeTypeIsIn) {
	b.expr(t.Left)
	b.emit(authz.OpDup, 0, 0, 1)
	b.emit(authz.OpIs, b.names.text(string(t.EntityType)), 0, 0)
	other := b.emit(authz.OpIf, 0, 0, -1)
	b.expr(t.Entity)
	b.emit(authz.OpIn, 0, 0, -1)
	end := b.emit(authz.OpJump, 0, 0, 0)
	b.here(other)
	b.emit(authz.OpPop, 0, 0, -1)
	b.emit(authz.OpValue, b.constant(types.False), 0, 1)
	b.here(end)
}

func (b *builder) record(t ast.NodeTypeRecord) {
	elements := slices.Clone(t.Elements)
	slices.SortFunc(elements, func(x, y ast.RecordElementNode) int { return strings.Compare(string(x.Key), string(y.Key)) })
	var values []ast.IsNode
	first := uint32(len(b.lists))
	for _, x := range elements {
		values = append(values, x.Value)
		b.lists = append(b.lists, b.names.text(string(x.Key)))
	}
	b.exprs(values)
	b.emit(authz.OpRecord, first, uint32(len(values)), 1-len(values))
}

func (b *builder) variable(v ast.NodeTypeVariable) {
	switch v.Name {
	case "principal":
		b.emit(authz.OpPrincipal, 0, 0, 1)
	case "action":
		b.emit(authz.OpAction, 0, 0, 1)
	case "resource":
		b.emit(authz.OpResource, 0, 0, 1)
	default:
		b.reads |= 1<<len(b.attrs) - 1
		b.emit(authz.OpContext, 0, 0, 1)
	}
}

// attribute compiles X.NAME and X has NAME. An attribute that the context of requests does
// not have is never there.
func (b *builder) attribute(op authz.Op, n ast.StrOpNode) {
	if !isContext(n.Arg) || b.anything() {
		b.expr(n.Arg)
		b.emit(op, b.names.text(string(n.Value)), 0, 0)
		return
	}
	i := b.attr(string(n.Value))
	switch {
	case i >= 0 && op == authz.OpHas:
		b.reads |= 1 << i
		b.emit(authz.OpHasAttr, uint32(i), 0, 1)
	case i >= 0:
		b.reads |= 1 << i
		b.emit(authz.OpAttr, uint32(i), 0, 1)
	case op == authz.OpHas:
		b.emit(authz.OpValue, b.constant(types.False), 0, 1)
	default:
		b.emit(authz.OpFail, 0, 0, 1)
	}
}

// anything reports whether the context may hold anything.
func (b *builder) anything() bool { return b.open && len(b.attrs) == 0 }

// attr returns the index of an attribute of the context, or -1.
func (b *builder) attr(name string) int {
	return slices.IndexFunc(b.attrs, func(a authz.Attribute) bool { return a.Name == name })
}

func isContext(n ast.IsNode) bool {
	v, ok := n.(ast.NodeTypeVariable)
	return ok && v.Name == "context"
}

var unaryCalls = map[types.Path]authz.Op{
	"isIpv4": authz.OpIsIPv4, "isIpv6": authz.OpIsIPv6, "isLoopback": authz.OpIsLoopback, "isMulticast": authz.OpIsMulticast,
	"toDate": authz.OpToDate, "toTime": authz.OpToTime, "toMilliseconds": authz.OpToMilliseconds, "toSeconds": authz.OpToSeconds,
	"toMinutes": authz.OpToMinutes, "toHours": authz.OpToHours, "toDays": authz.OpToDays,
}

var binaryCalls = map[types.Path]authz.Op{
	"isInRange": authz.OpInRange, "lessThan": authz.OpDecimalLt, "lessThanOrEqual": authz.OpDecimalLe,
	"greaterThan": authz.OpDecimalGt, "greaterThanOrEqual": authz.OpDecimalGe, "offset": authz.OpOffset, "durationSince": authz.OpDurationSince,
}

var constructors = map[types.Path]authz.Type{
	"ip": authz.TypeIP, "decimal": authz.TypeDecimal, "datetime": authz.TypeDatetime, "duration": authz.TypeDuration,
}

// call compiles an extension function. A constructor of a literal that it cannot read
// faults whenever it is reached: no policy is meant that way.
func (b *builder) call(n ast.NodeTypeExtensionCall) {
	op, unary := unaryCalls[n.Name]
	two, binary := binaryCalls[n.Name]
	of, constructs := constructors[n.Name]
	switch {
	case constructs && len(n.Args) == 1:
		if v, ok := n.Args[0].(ast.NodeValue); ok && !b.open {
			if _, err := constantCall(n); err != nil {
				b.fail("%s(%s): %v", n.Name, v.Value, err)
			}
		}
		b.expr(n.Args[0])
		b.emit(authz.OpParse, uint32(of), 0, 0)
	case unary && len(n.Args) == 1:
		b.expr(n.Args[0])
		b.emit(op, 0, 0, 0)
	case binary && len(n.Args) == 2:
		b.expr(n.Args[0])
		b.expr(n.Args[1])
		b.emit(two, 0, 0, -1)
	case b.open: // it parses, and faults where it is reached
		b.emit(authz.OpFail, 0, 0, 1)
	default:
		b.unsupported(fmt.Sprintf("%s with %d arguments is", n.Name, len(n.Args)))
	}
}

// operandsOf flattens a chain of one operator: a && b && c is one node, however
// long, and evaluates as the nested form does.
func operandsOf[T ast.NodeTypeAnd | ast.NodeTypeOr](list []ast.IsNode, n ast.IsNode) []ast.IsNode {
	if t, same := n.(T); same {
		var x ast.BinaryNode
		switch t := any(t).(type) {
		case ast.NodeTypeAnd:
			x = t.BinaryNode
		case ast.NodeTypeOr:
			x = t.BinaryNode
		}
		return operandsOf[T](operandsOf[T](list, x.Left), x.Right)
	}
	return append(list, n)
}

func unaryOf(n ast.IsNode) (authz.Op, ast.IsNode, bool) {
	switch t := n.(type) {
	case ast.NodeTypeNot:
		return authz.OpNot, t.Arg, true
	case ast.NodeTypeNegate:
		return authz.OpNeg, t.Arg, true
	case ast.NodeTypeIsEmpty:
		return authz.OpIsEmpty, t.Arg, true
	}
	return 0, nil, false
}

func binaryOf(n ast.IsNode) (authz.Op, ast.BinaryNode, bool) {
	switch t := n.(type) {
	case ast.NodeTypeEquals:
		return authz.OpEq, t.BinaryNode, true
	case ast.NodeTypeNotEquals:
		return authz.OpNe, t.BinaryNode, true
	case ast.NodeTypeLessThan:
		return authz.OpLt, t.BinaryNode, true
	case ast.NodeTypeLessThanOrEqual:
		return authz.OpLe, t.BinaryNode, true
	case ast.NodeTypeGreaterThan:
		return authz.OpGt, t.BinaryNode, true
	case ast.NodeTypeGreaterThanOrEqual:
		return authz.OpGe, t.BinaryNode, true
	case ast.NodeTypeAdd:
		return authz.OpAdd, t.BinaryNode, true
	case ast.NodeTypeSub:
		return authz.OpSub, t.BinaryNode, true
	case ast.NodeTypeMult:
		return authz.OpMul, t.BinaryNode, true
	case ast.NodeTypeIn:
		return authz.OpIn, t.BinaryNode, true
	case ast.NodeTypeContains:
		return authz.OpContains, t.BinaryNode, true
	case ast.NodeTypeContainsAll:
		return authz.OpContainsAll, t.BinaryNode, true
	case ast.NodeTypeContainsAny:
		return authz.OpContainsAny, t.BinaryNode, true
	case ast.NodeTypeGetTag:
		return authz.OpGetTag, t.BinaryNode, true
	case ast.NodeTypeHasTag:
		return authz.OpHasTag, t.BinaryNode, true
	}
	return 0, ast.BinaryNode{}, false
}

// pattern writes a pattern as package authz reads it. Its parts are reached
// through its JSON form, there being no other way.
func (b *builder) pattern(p types.Pattern) string {
	data, err := p.MarshalJSON()
	var parts []json.RawMessage
	if err == nil {
		err = json.Unmarshal(data, &parts)
	}
	var out strings.Builder
	for _, part := range parts {
		var text struct{ Literal string }
		if string(part) == `"Wildcard"` {
			out.WriteByte('*')
		} else if e := json.Unmarshal(part, &text); e != nil {
			err = e
		} else {
			out.WriteString(strings.NewReplacer(`\`, `\\`, `*`, `\*`).Replace(text.Literal))
		}
	}
	if err != nil {
		b.fail("pattern: %v", err)
	}
	return out.String()
}
