#include "textflag.h"

// Single instructions that Go has no words for.

TEXT ·outb(SB),NOSPLIT,$0-16
	MOVQ	port+0(FP), DX
	MOVQ	v+8(FP), AX
	OUTB
	RET

TEXT ·outl(SB),NOSPLIT,$0-16
	MOVQ	port+0(FP), DX
	MOVQ	v+8(FP), AX
	OUTL
	RET

TEXT ·inb(SB),NOSPLIT,$0-16
	MOVQ	port+0(FP), DX
	XORL	AX, AX
	INB
	MOVQ	AX, ret+8(FP)
	RET

TEXT ·rdtsc(SB),NOSPLIT,$0-8
	RDTSC
	SHLQ	$32, DX
	ORQ	DX, AX
	MOVQ	AX, ret+0(FP)
	RET

// rdrand() (v uint64, ok bool): Intel recommends ten tries.
TEXT ·rdrand(SB),NOSPLIT,$0-9
	MOVQ	$10, CX
again:
	RDRANDQ	AX
	JCS	ok
	DECQ	CX
	JNZ	again
	MOVQ	$0, v+0(FP)
	MOVB	$0, ok+8(FP)
	RET
ok:
	MOVQ	AX, v+0(FP)
	MOVB	$1, ok+8(FP)
	RET

TEXT ·wrmsr(SB),NOSPLIT,$0-16
	MOVQ	msr+0(FP), CX
	MOVQ	v+8(FP), AX
	MOVQ	AX, DX
	SHRQ	$32, DX
	WRMSR
	RET

TEXT ·cpuid(SB),NOSPLIT,$0-24
	MOVL	leaf+0(FP), AX
	MOVL	sub+4(FP), CX
	CPUID
	MOVL	AX, a+8(FP)
	MOVL	BX, b+12(FP)
	MOVL	CX, c+16(FP)
	MOVL	DX, d+20(FP)
	RET

TEXT ·readCR2(SB),NOSPLIT,$0-8
	MOVQ	CR2, AX
	MOVQ	AX, ret+0(FP)
	RET

TEXT ·writeCR3(SB),NOSPLIT,$0-8
	MOVQ	v+0(FP), AX
	MOVQ	AX, CR3
	RET

TEXT ·readCR4(SB),NOSPLIT,$0-8
	MOVQ	CR4, AX
	MOVQ	AX, ret+0(FP)
	RET

TEXT ·writeCR4(SB),NOSPLIT,$0-8
	MOVQ	v+0(FP), AX
	MOVQ	AX, CR4
	RET

TEXT ·xsetbv(SB),NOSPLIT,$0-8
	MOVQ	v+0(FP), AX
	MOVQ	AX, DX
	SHRQ	$32, DX
	XORL	CX, CX
	XSETBV
	RET

TEXT ·invlpg(SB),NOSPLIT,$0-8
	MOVQ	va+0(FP), AX
	INVLPG	(AX)
	RET

// zeroPage(a uint64): stores in a loop; REP STOSQ is slow where it is emulated.
TEXT ·zeroPage(SB),NOSPLIT,$0-8
	MOVQ	a+0(FP), DI
	XORL	AX, AX
	MOVQ	$(4096/64), CX
next:
	MOVQ	AX, 0(DI)
	MOVQ	AX, 8(DI)
	MOVQ	AX, 16(DI)
	MOVQ	AX, 24(DI)
	MOVQ	AX, 32(DI)
	MOVQ	AX, 40(DI)
	MOVQ	AX, 48(DI)
	MOVQ	AX, 56(DI)
	ADDQ	$64, DI
	DECQ	CX
	JNZ	next
	RET

// copyWords(dst, src, n uint64) copies n 64-bit words.
TEXT ·copyWords(SB),NOSPLIT,$0-24
	MOVQ	dst+0(FP), DI
	MOVQ	src+8(FP), SI
	MOVQ	n+16(FP), CX
	CLD
	REP; MOVSQ
	RET

// loadTables(gdtr, idtr, task uint64): pointers to the operands, and the selector.
TEXT ·loadTables(SB),NOSPLIT,$0-24
	MOVQ	gdtr+0(FP), AX
	LGDT	(AX)
	MOVQ	idtr+8(FP), AX
	LIDT	(AX)
	MOVQ	task+16(FP), AX
	LTR	AX
	RET

// idle waits for one interrupt.
TEXT ·idle(SB),NOSPLIT,$0-0
	STI
	HLT
	CLI
	RET

TEXT ·pause(SB),NOSPLIT,$0-0
	PAUSE
	RET

// stop ends the machine where nothing else did: an exception without a table of
// handlers is a triple fault.
TEXT ·stop(SB),NOSPLIT,$0-0
	CLI
	LIDT	·noTable(SB)
	INT	$3
again:
	HLT
	JMP	again
