package compiler

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"

	"lorica.dev/lorica/abi/authz"
)

// fold returns the value of an expression that has the same one in every request. It is
// nothing that reads an entity, an attribute or a tag, whoever asks may matter there, and
// nothing that faults: that is for the request to meet, if it comes so far.
func fold(n ast.IsNode) (types.Value, bool) {
	if v, ok := n.(ast.NodeValue); ok {
		return v.Value, true
	}
	if !closed(n) {
		return nil, false
	}
	v, err := eval.Eval(n, eval.Env{})
	return v, err == nil
}

func constantCall(n ast.NodeTypeExtensionCall) (types.Value, error) { return eval.Eval(n, eval.Env{}) }

func closed(n ast.IsNode) bool {
	ok := true
	ast.Inspect(ast.NewNode(n), func(x ast.IsNode) bool {
		switch x.(type) {
		case ast.NodeTypeVariable, ast.NodeTypeAccess, ast.NodeTypeHas, ast.NodeTypeIn, ast.NodeTypeIsIn, ast.NodeTypeGetTag, ast.NodeTypeHasTag:
			ok = false
		}
		return ok
	})
	return ok
}

// constant returns the index of a value.
func (b *builder) constant(v types.Value) uint32 {
	switch t := v.(type) {
	case types.Boolean:
		x := authz.Value{Kind: authz.ValueBool}
		if t {
			x.A = 1
		}
		return b.scalar(x)
	case types.Long:
		return b.scalar(authz.NumberValue(authz.ValueLong, int64(t)))
	case types.Decimal:
		return b.scalar(authz.NumberValue(authz.ValueDecimal, tenThousandths(t)))
	case types.Datetime:
		return b.scalar(authz.NumberValue(authz.ValueDatetime, t.Milliseconds()))
	case types.Duration:
		return b.scalar(authz.NumberValue(authz.ValueDuration, t.ToMilliseconds()))
	case types.String:
		return b.scalar(authz.Value{Kind: authz.ValueString, A: b.names.text(string(t))})
	case types.EntityUID:
		return b.scalar(authz.Value{Kind: authz.ValueEntity, A: b.names.entity(t)})
	case types.IPAddr:
		p := t.Prefix()
		return b.scalar(authz.Value{Kind: authz.ValueIP, A: b.names.text(string(p.Addr().AsSlice())), B: uint32(p.Bits())})
	case types.Set:
		var list []uint32
		// Elements come in any order, and constants are numbered as they come.
		for _, e := range slices.SortedFunc(t.All(), func(x, y types.Value) int { return bytes.Compare(x.MarshalCedar(), y.MarshalCedar()) }) {
			list = append(list, b.constant(e))
		}
		slices.SortFunc(list, func(x, y uint32) int { return authz.CompareValues(b.values[x], b.values[y]) })
		return b.compound(authz.ValueSet, list, 1)
	case types.Record:
		var list []uint32
		for _, k := range slices.SortedFunc(t.Keys(), func(x, y types.String) int { return strings.Compare(string(x), string(y)) }) {
			m, _ := t.Get(k)
			list = append(list, b.names.text(string(k)), b.constant(m))
		}
		return b.compound(authz.ValueRecord, list, 2)
	}
	b.fail("a constant is a %T, which is not supported", v)
	return 0
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

func (b *builder) scalar(v authz.Value) uint32 {
	if i, ok := b.scalars[v]; ok {
		return i
	}
	b.values, b.depths = append(b.values, v), append(b.depths, 0)
	i := uint32(len(b.values) - 1)
	b.scalars[v] = i
	return i
}

// compound returns the constant that holds list: elements, or each after its name.
func (b *builder) compound(k authz.ValueKind, list []uint32, each int) uint32 {
	key := fmt.Sprint(k, list)
	if i, ok := b.compounds[key]; ok {
		return i
	}
	depth := 0
	for i := each - 1; i < len(list); i += each {
		depth = max(depth, b.depths[list[i]]+1)
	}
	if depth > authz.MaxNesting {
		b.fail("a constant holds sets and records nested deeper than %d", authz.MaxNesting)
		depth = 0
	}
	v := authz.Value{Kind: k, A: uint32(len(b.lists)), B: uint32(len(list) / each)}
	b.lists = append(b.lists, list...)
	b.values, b.depths = append(b.values, v), append(b.depths, depth)
	i := uint32(len(b.values) - 1)
	b.compounds[key] = i
	return i
}

// above returns everything that e is in, without itself.
func (b *builder) above(e cedar.EntityUID) []cedar.EntityUID {
	list, known := b.ancestors[e]
	if known {
		return list
	}
	seen := map[cedar.EntityUID]bool{e: true}
	for todo := []cedar.EntityUID{e}; len(todo) > 0; todo = todo[1:] {
		for p := range b.entities[todo[0]].Parents.All() {
			if !seen[p] {
				seen[p] = true
				list, todo = append(list, p), append(todo, p)
			}
		}
	}
	b.ancestors[e] = list
	return list
}
