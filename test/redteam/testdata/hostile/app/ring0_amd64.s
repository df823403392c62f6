#include "textflag.h"

// What only ring 0 may do. In a process each of these is a signal.

// func out(port, size, v uintptr)
TEXT ·out(SB), NOSPLIT, $0-24
	MOVQ port+0(FP), DX
	MOVQ v+16(FP), AX
	CMPQ size+8(FP), $4
	JEQ  long
	CMPQ size+8(FP), $2
	JEQ  word
	OUTB
	RET
word:
	OUTW
	RET
long:
	OUTL
	RET

// func in(port, size uintptr) uintptr
TEXT ·in(SB), NOSPLIT, $0-24
	MOVQ port+0(FP), DX
	XORL AX, AX
	CMPQ size+8(FP), $4
	JEQ  long
	CMPQ size+8(FP), $2
	JEQ  word
	INB
	JMP  done
word:
	INW
	JMP  done
long:
	INL
done:
	MOVQ AX, ret+16(FP)
	RET

// func pokeAnything(at, v uintptr) stores a byte where the page tables forbid it.
TEXT ·pokeAnything(SB), NOSPLIT, $0-16
	MOVQ  at+0(FP), DI
	MOVQ  v+8(FP), BX
	CLI
	MOVQ  CR0, AX
	MOVQ  AX, CX
	ANDQ  $~0x10000, AX // WP
	MOVQ  AX, CR0
	MOVB  BX, (DI)
	MOVQ  CX, CR0
	STI
	RET

// func invalidate(at uintptr)
TEXT ·invalidate(SB), NOSPLIT, $0-8
	MOVQ   at+0(FP), AX
	INVLPG (AX)
	RET

// func halt() takes no interrupts any more, and rests.
TEXT ·halt(SB), NOSPLIT, $0-0
	CLI
again:
	HLT
	JMP again

// func spin() takes none either, and does not rest.
TEXT ·spin(SB), NOSPLIT, $0-0
	CLI
again:
	JMP again

// func noTables() has the processor find no page tables.
TEXT ·noTables(SB), NOSPLIT, $0-0
	MOVQ $0, AX
	MOVQ AX, CR3
	RET

// func tripleFault() has it find no handlers.
TEXT ·tripleFault(SB), NOSPLIT, $16-0
	MOVQ $0, 0(SP)
	MOVQ $0, 8(SP)
	LEAQ 0(SP), AX
	LIDT (AX)
	INT  $3
	RET

// func handlers() uintptr returns where the table of handlers is.
TEXT ·handlers(SB), NOSPLIT, $16-8
	MOVQ IDTR, 0(SP)
	MOVQ 2(SP), AX
	MOVQ AX, ret+0(FP)
	RET

// func unknownMSR() writes a register that no processor has.
TEXT ·unknownMSR(SB), NOSPLIT, $0-0
	MOVQ $0x4c4f5249, CX
	XORL AX, AX
	XORL DX, DX
	WRMSR
	RET
