#include "textflag.h"

// func touch(p *byte) (first, last uint64)
// stores to p with X0 and X15 set, and returns what is in them then.
TEXT ·touch(SB),NOSPLIT,$0-24
	MOVQ	p+0(FP), DI
	MOVQ	$0x0123456789abcdef, AX
	MOVQ	AX, X0
	MOVQ	AX, X15
	MOVB	$1, (DI)
	MOVQ	X0, AX
	MOVQ	AX, first+8(FP)
	MOVQ	X15, AX
	MOVQ	AX, last+16(FP)
	RET

// func interruptTable() uintptr
TEXT ·interruptTable(SB),NOSPLIT,$16-8
	MOVQ	IDTR, 0(SP)
	MOVQ	2(SP), AX
	MOVQ	AX, ret+0(FP)
	RET
