package authz

// An Op is an operation of the condition code. Conditions are expression trees:
// the operands of a node lie before it, and no node is an operand twice, so
// that the cost of a condition is bounded by its size. Types are checked while
// it is evaluated, as Cedar does; a wrong one is an evaluation error.
type Op uint8

// Operands are written A, B, C. "list" is A and B: a start and a length in
// Section.Lists.
const (
	OpFail      Op = 1 + iota // always an evaluation error
	OpBool                    // A: 0 or 1
	OpLong                    // A: low 32 bits, B: high 32 bits
	OpDecimal                 // the same, in ten-thousandths
	OpString                  // A: string
	OpEntity                  // A: entity
	OpIP                      // A: string of 4 or 16 bytes, B: prefix length
	OpPrincipal               //
	OpAction                  //
	OpResource                //
	OpAttr                    // A: attribute; absent is an error
	OpHas                     // A: attribute
	OpSet                     // list of nodes
	OpAnd                     // list of nodes; stops at the first false
	OpOr                      // list of nodes; stops at the first true
	OpIf                      // A: condition, B: then, C: else
	OpNot                     // A, and so on: nodes
	OpNeg
	OpIsEmpty
	OpIsIPv4
	OpIsIPv6
	OpIsLoopback
	OpIsMulticast
	OpLike // A: node, B: string, the pattern: "*" matches anything, "\" escapes
	OpIs   // A: node, B: string, the entity type
	OpIsIn // A: node, B: node, C: string, the entity type
	OpEq
	OpNe
	OpLt // of Longs, like the next three
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
	OpInRange
	OpDecimalLt
	OpDecimalLe
	OpDecimalGt
	OpDecimalGe
	opEnd
)

// A Node is one operation.
type Node struct {
	Op      Op
	A, B, C uint32
}

// A shape says what the operands of an operation are.
type shape uint8

const (
	shapeInvalid shape = iota
	shapePlain         // none: A, B and C are zero
	shapeBool
	shapeNumber
	shapeString
	shapeEntity
	shapeIP
	shapeAttr
	shapeList
	shapeUnary      // A is a node
	shapeUnaryText  // A is a node, B a string
	shapeBinary     // A and B are nodes
	shapeBinaryText // A and B are nodes, C a string
	shapeTernary    // A, B and C are nodes
)

func (o Op) shape() shape {
	switch o {
	case OpFail, OpPrincipal, OpAction, OpResource:
		return shapePlain
	case OpBool:
		return shapeBool
	case OpLong, OpDecimal:
		return shapeNumber
	case OpString:
		return shapeString
	case OpEntity:
		return shapeEntity
	case OpIP:
		return shapeIP
	case OpAttr, OpHas:
		return shapeAttr
	case OpSet, OpAnd, OpOr:
		return shapeList
	case OpIf:
		return shapeTernary
	case OpNot, OpNeg, OpIsEmpty, OpIsIPv4, OpIsIPv6, OpIsLoopback, OpIsMulticast:
		return shapeUnary
	case OpLike, OpIs:
		return shapeUnaryText
	case OpIsIn:
		return shapeBinaryText
	}
	if o >= OpEq && o < opEnd {
		return shapeBinary
	}
	return shapeInvalid
}
