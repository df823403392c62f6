#include "textflag.h"

// func overflow(n uint64)
TEXT ·overflow(SB),NOSPLIT|NOFRAME,$0-8
	MOVQ	n+0(FP), AX
	CLI
	MOVQ	$1, lorica·dev∕lorica∕kernel·inKernel(SB)
	LEAQ	lorica·dev∕lorica∕kernel·istTops(SB), CX
	MOVQ	(CX)(AX*8), SP
	CMPQ	AX, $4
	JLS	again
	MOVQ	lorica·dev∕lorica∕kernel·tablesStart(SB), SP
again:
	BYTE	$0x50 // PUSHQ AX
	JMP	again

TEXT ·trap(SB),NOSPLIT|NOFRAME,$0-0
	CLI
	MOVQ	$1, lorica·dev∕lorica∕kernel·inKernel(SB)
	MOVQ	$0x123456789000, AX
	MOVQ	(AX), AX
	RET

TEXT ·nmi(SB),NOSPLIT|NOFRAME,$0-0
	INT	$2
	RET

TEXT ·refault(SB),NOSPLIT|NOFRAME,$0-0
	CLI
	MOVQ	$1, lorica·dev∕lorica∕kernel·inFault(SB)
	MOVQ	$0x123456789000, AX
	MOVQ	(AX), AX
	RET
