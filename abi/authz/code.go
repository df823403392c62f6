package authz

// An Op is an operation of the code. Code is flat: it works on a stack of values, and
// jumps forward only, so that it ends within its length. A fault (a wrong type, an
// attribute that is not there, an overflow) ends it at once.
type Op uint8

const (
	opInvalid Op = iota

	OpFail      // faults: what it reads does not exist
	OpValue     // push constant A
	OpPrincipal // push the principal, ...
	OpAction
	OpResource
	OpContext
	OpAttr    // push attribute A of the context
	OpHasAttr // push whether it is there

	// Of the value on top:
	OpGet // its member, the string A
	OpHas // whether it has it
	OpNot
	OpNeg
	OpBool // it must be a truth value
	OpIsEmpty
	OpIs   // whether it is an entity of the type A, a string
	OpLike // whether it matches the string A, in which * is any text, and \ makes the next byte stand for itself
	OpParse
	OpIsIPv4
	OpIsIPv6
	OpIsLoopback
	OpIsMulticast
	OpToDate
	OpToTime
	OpToMilliseconds
	OpToSeconds
	OpToMinutes
	OpToHours
	OpToDays

	// Of the two on top, in the order in which they were pushed:
	OpGetTag
	OpHasTag
	OpEq
	OpNe
	OpLt
	OpLe
	OpGt
	OpGe
	OpAdd
	OpSub
	OpMul
	OpIn
	OpContains
	OpContainsAll
	OpContainsAny
	OpDecimalLt
	OpDecimalLe
	OpDecimalGt
	OpDecimalGe
	OpInRange
	OpOffset
	OpDurationSince

	OpSet    // make a set of the A values on top
	OpRecord // make a record of the B values on top; their names are strings from list element A on, ascending

	OpDup  // push what is on top once more
	OpPop  // forget it
	OpJump // go on at A
	OpIf   // take a truth value off; where it is false, go on at A
	OpAnd  // where a truth value is false, leave it and go on at A; else take it off
	OpOr   // where it is true, leave it and go on at A; else take it off

	OpEnsure // take a truth value off; where it is false, the rule does not apply

	// Whether the rule applies to the principal (A is 0), the action (1), the resource (2):
	OpScopeEq // it is entity B
	OpScopeIn // it is in entity B
	OpScopeAny
	OpScopeIs // its type is string B

	opEnd
)

// Notes on some: the A of OpParse is a Type, that of the extension function which reads a
// string; the B of OpScopeAny is a constant, a set of entities of which the scope must be
// in one.

// What OpScope... are about.
const (
	ScopePrincipal = iota
	ScopeAction
	ScopeResource
)

// An Instruction is an operation and its operands, zero where it has none. Targets of
// jumps are counted from the first instruction of the code that they are in.
type Instruction struct {
	Op   Op
	A, B uint32
}

// pops and pushes tell what an operation does to the stack where it goes on with the
// next; ok is false for one that does not exist.
func (i Instruction) effect() (pops, pushes int, ok bool) {
	switch o := i.Op; {
	case o >= OpFail && o <= OpHasAttr:
		return 0, 1, true
	case o >= OpGet && o <= OpToDays:
		return 1, 1, true
	case o >= OpGetTag && o <= OpDurationSince:
		return 2, 1, true
	case o == OpSet:
		return int(i.A), 1, i.A <= MaxElements
	case o == OpRecord:
		return int(i.B), 1, i.B <= MaxElements
	case o == OpDup:
		return 1, 2, true
	case o == OpPop, o == OpIf, o == OpAnd, o == OpOr, o == OpEnsure:
		return 1, 0, true
	case o == OpJump, o >= OpScopeEq && o <= OpScopeIs:
		return 0, 0, true
	}
	return 0, 0, false
}

// A ValueKind is the kind of a constant.
type ValueKind uint8

const (
	ValueBool     ValueKind = 1 + iota // A: 0 or 1
	ValueLong                          // A and B: the low and the high half of a signed number
	ValueDecimal                       // the same, in ten-thousandths
	ValueDatetime                      // the same, in milliseconds since 1970
	ValueDuration                      // the same, in milliseconds
	ValueString                        // A: a string
	ValueEntity                        // A: an entity
	ValueIP                            // A: a string, of 4 or 16 bytes; B: bits of the prefix
	ValueSet                           // B list elements from A on: constants before this one, ascending by CompareValues, each once
	ValueRecord                        // B pairs of list elements from A on: name, a string, ascending, and constant before this one
	valueEnd
)

// A Value is a constant.
type Value struct {
	Kind ValueKind
	A, B uint32
}

// Number returns the number that a and b are the halves of.
func (v Value) Number() int64 { return int64(uint64(v.B)<<32 | uint64(v.A)) }

// NumberValue is the constant of a kind that is a number.
func NumberValue(k ValueKind, n int64) Value {
	return Value{Kind: k, A: uint32(uint64(n)), B: uint32(uint64(n) >> 32)}
}

// CompareValues orders the elements of sets: by kind, then by the two operands as one
// unsigned number.
func CompareValues(x, y Value) int {
	switch a, b := x.order(), y.order(); {
	case x.Kind != y.Kind && x.Kind < y.Kind, x.Kind == y.Kind && a < b:
		return -1
	case x.Kind != y.Kind || a > b:
		return 1
	}
	return 0
}

func (v Value) order() uint64 { return uint64(v.B)<<32 | uint64(v.A) }
