package compiler

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"

	"lorica.dev/lorica/abi/authz"
)

// add appends a node whose operands are nodes, and returns its index.
func (b *builder) add(n authz.Node, operands ...uint32) uint32 {
	var x note
	for _, o := range operands {
		x.reads |= b.notes[o].reads
		x.depth = max(x.depth, b.notes[o].depth+1)
	}
	if n.Op == authz.OpAttr || n.Op == authz.OpHas {
		x.reads = 1 << n.A
	}
	if x.depth == authz.MaxDepth+1 {
		b.fail("the condition is nested deeper than %d", authz.MaxDepth)
	}
	b.code = append(b.code, n)
	b.notes = append(b.notes, x)
	return uint32(len(b.code) - 1)
}

// list appends a node over any number of operands.
func (b *builder) list(op authz.Op, operands []uint32) uint32 {
	first := uint32(len(b.lists))
	b.lists = append(b.lists, operands...)
	return b.add(authz.Node{Op: op, A: first, B: uint32(len(operands))}, operands...)
}

// conditions compiles the when and unless clauses of a rule to one node: all
// must hold, from the first to the last.
func (b *builder) conditions(list []ast.ConditionType) uint32 {
	var nodes []uint32
	for _, c := range list {
		n := b.expr(c.Body)
		if c.Condition == ast.ConditionUnless {
			n = b.add(authz.Node{Op: authz.OpNot, A: n}, n)
		}
		nodes = append(nodes, n)
	}
	if len(nodes) == 1 {
		return nodes[0]
	}
	return b.list(authz.OpAnd, nodes)
}

// unsupported notes an error and stands in for what cannot be compiled.
func (b *builder) unsupported(what string) uint32 {
	b.fail("%s not supported yet", what)
	return b.add(authz.Node{Op: authz.OpFail})
}

func (b *builder) expr(n ast.IsNode) uint32 {
	switch t := n.(type) {
	case ast.NodeValue:
		return b.value(t.Value)
	case ast.NodeTypeVariable:
		return b.variable(t)
	case ast.NodeTypeAccess:
		return b.attribute(authz.OpAttr, t.StrOpNode)
	case ast.NodeTypeHas:
		return b.attribute(authz.OpHas, t.StrOpNode)
	case ast.NodeTypeAnd:
		return b.list(authz.OpAnd, b.exprs(operandsOf[ast.NodeTypeAnd](nil, t)))
	case ast.NodeTypeOr:
		return b.list(authz.OpOr, b.exprs(operandsOf[ast.NodeTypeOr](nil, t)))
	case ast.NodeTypeSet:
		return b.list(authz.OpSet, b.exprs(t.Elements))
	case ast.NodeTypeNot:
		return b.unary(authz.OpNot, t.UnaryNode)
	case ast.NodeTypeNegate:
		return b.unary(authz.OpNeg, t.UnaryNode)
	case ast.NodeTypeIsEmpty:
		return b.unary(authz.OpIsEmpty, t.UnaryNode)
	case ast.NodeTypeIfThenElse:
		x, y, z := b.expr(t.If), b.expr(t.Then), b.expr(t.Else)
		return b.add(authz.Node{Op: authz.OpIf, A: x, B: y, C: z}, x, y, z)
	case ast.NodeTypeLike:
		x := b.expr(t.Arg)
		return b.add(authz.Node{Op: authz.OpLike, A: x, B: b.names.text(b.pattern(t.Value))}, x)
	case ast.NodeTypeIs:
		x := b.expr(t.Left)
		return b.add(authz.Node{Op: authz.OpIs, A: x, B: b.names.text(string(t.EntityType))}, x)
	case ast.NodeTypeIsIn:
		x, y := b.expr(t.Left), b.expr(t.Entity)
		return b.add(authz.Node{Op: authz.OpIsIn, A: x, B: y, C: b.names.text(string(t.EntityType))}, x, y)
	case ast.NodeTypeExtensionCall:
		return b.call(t)
	case ast.NodeTypeRecord:
		return b.unsupported("records in conditions are")
	case ast.NodeTypeGetTag, ast.NodeTypeHasTag:
		return b.unsupported("tags are")
	}
	if op, x, ok := binaryOf(n); ok {
		return b.binary(op, x.Left, x.Right)
	}
	return b.unsupported(fmt.Sprintf("%T is", n))
}

func (b *builder) exprs(list []ast.IsNode) []uint32 {
	nodes := make([]uint32, 0, len(list))
	for _, x := range list {
		nodes = append(nodes, b.expr(x))
	}
	return nodes
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
	}
	return 0, ast.BinaryNode{}, false
}

func (b *builder) unary(op authz.Op, n ast.UnaryNode) uint32 {
	x := b.expr(n.Arg)
	return b.add(authz.Node{Op: op, A: x}, x)
}

func (b *builder) binary(op authz.Op, left, right ast.IsNode) uint32 {
	x := b.expr(left)
	y := b.expr(right)
	return b.add(authz.Node{Op: op, A: x, B: y}, x, y)
}

func (b *builder) variable(v ast.NodeTypeVariable) uint32 {
	switch v.Name {
	case "principal":
		return b.add(authz.Node{Op: authz.OpPrincipal})
	case "action":
		return b.add(authz.Node{Op: authz.OpAction})
	case "resource":
		return b.add(authz.Node{Op: authz.OpResource})
	}
	return b.unsupported(string(v.Name) + " as a whole is")
}

// attribute compiles context.NAME and context has NAME. An attribute that the
// context does not have is never there.
func (b *builder) attribute(op authz.Op, n ast.StrOpNode) uint32 {
	if v, ok := n.Arg.(ast.NodeTypeVariable); !ok || v.Name != "context" {
		return b.unsupported(fmt.Sprintf("attribute %q of something other than the context is", n.Value))
	}
	i := slices.IndexFunc(b.attrs, func(a authz.Attribute) bool { return a.Name == string(n.Value) })
	switch {
	case i >= 0:
		return b.add(authz.Node{Op: op, A: uint32(i)})
	case op == authz.OpHas:
		return b.add(authz.Node{Op: authz.OpBool})
	}
	return b.add(authz.Node{Op: authz.OpFail})
}

func wide(op authz.Op, v int64) authz.Node {
	return authz.Node{Op: op, A: uint32(uint64(v)), B: uint32(uint64(v) >> 32)}
}

func (b *builder) value(v types.Value) uint32 {
	switch t := v.(type) {
	case types.Boolean:
		if t {
			return b.add(authz.Node{Op: authz.OpBool, A: 1})
		}
		return b.add(authz.Node{Op: authz.OpBool})
	case types.Long:
		return b.add(wide(authz.OpLong, int64(t)))
	case types.String:
		return b.add(authz.Node{Op: authz.OpString, A: b.names.text(string(t))})
	case types.EntityUID:
		return b.add(authz.Node{Op: authz.OpEntity, A: b.names.entity(t)})
	}
	return b.unsupported(fmt.Sprintf("a %T as a constant is", v))
}

// call compiles an extension function. Constructors take literals only, as
// Cedar's strict validation demands.
func (b *builder) call(n ast.NodeTypeExtensionCall) uint32 {
	if n.Name == "ip" || n.Name == "decimal" {
		return b.literal(n)
	}
	unary := map[types.Path]authz.Op{"isIpv4": authz.OpIsIPv4, "isIpv6": authz.OpIsIPv6, "isLoopback": authz.OpIsLoopback, "isMulticast": authz.OpIsMulticast}
	binary := map[types.Path]authz.Op{"isInRange": authz.OpInRange, "lessThan": authz.OpDecimalLt, "lessThanOrEqual": authz.OpDecimalLe,
		"greaterThan": authz.OpDecimalGt, "greaterThanOrEqual": authz.OpDecimalGe}
	if op, ok := unary[n.Name]; ok && len(n.Args) == 1 {
		return b.unary(op, ast.UnaryNode{Arg: n.Args[0]})
	}
	if op, ok := binary[n.Name]; ok && len(n.Args) == 2 {
		return b.binary(op, n.Args[0], n.Args[1])
	}
	return b.unsupported(fmt.Sprintf("%s with %d arguments is", n.Name, len(n.Args)))
}

func (b *builder) literal(n ast.NodeTypeExtensionCall) uint32 {
	var s types.String
	if len(n.Args) == 1 {
		if v, ok := n.Args[0].(ast.NodeValue); ok {
			s, _ = v.Value.(types.String)
		}
	}
	if s == "" {
		return b.unsupported(fmt.Sprintf("%s of something other than a literal is", n.Name))
	}
	if n.Name == "decimal" {
		d, err := types.ParseDecimal(string(s))
		if err != nil {
			b.fail("%v", err)
		}
		return b.add(wide(authz.OpDecimal, tenThousandths(d)))
	}
	p, err := types.ParseIPAddr(string(s))
	if err != nil {
		b.fail("%v", err)
	}
	return b.add(authz.Node{Op: authz.OpIP, A: b.names.text(string(p.Addr().AsSlice())), B: uint32(max(0, p.Prefix().Bits()))})
}

// tenThousandths returns the value of a decimal, which has no other accessor
// that is exact, from its text.
func tenThousandths(d types.Decimal) int64 {
	whole, places, _ := strings.Cut(d.String(), ".")
	neg := strings.HasPrefix(whole, "-")
	n := int64(0)
	for _, c := range strings.TrimPrefix(whole, "-") + places + "0000"[min(4, len(places)):] {
		n = 10*n - int64(c-'0') // negative: the lowest value has no positive counterpart
	}
	if neg {
		return n
	}
	return -n
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
