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

// func sleepZero(time *[2]int64) (last uint64)
// sleeps by nanosleep, and returns what is in X15 then.
TEXT ·sleepZero(SB),NOSPLIT,$0-16
	MOVQ	time+0(FP), DI
	XORL	SI, SI
	MOVL	$35, AX
	SYSCALL
	MOVQ	X15, AX
	MOVQ	AX, last+8(FP)
	RET

// func spinFull(stop *uint32)
// has X15 full until stop is set.
TEXT ·spinFull(SB),NOSPLIT,$0-8
	MOVQ	stop+0(FP), DI
	MOVQ	$0x0123456789abcdef, AX
	MOVQ	AX, X15
again:
	PAUSE
	CMPL	(DI), $0
	JEQ	again
	RET

// func descriptors() (interrupts, segments uintptr)
TEXT ·descriptors(SB),NOSPLIT,$16-16
	MOVQ	IDTR, 0(SP)
	MOVQ	2(SP), AX
	MOVQ	AX, interrupts+0(FP)
	MOVQ	GDTR, 0(SP)
	MOVQ	2(SP), AX
	MOVQ	AX, segments+8(FP)
	RET

// func topTable() uint64
TEXT ·topTable(SB),NOSPLIT,$0-8
	MOVQ	CR3, AX
	MOVQ	AX, ret+0(FP)
	RET

// func control() (cr0, cr4, efer uint64)
TEXT ·control(SB),NOSPLIT,$0-24
	MOVQ	CR0, AX
	MOVQ	AX, cr0+0(FP)
	MOVQ	CR4, AX
	MOVQ	AX, cr4+8(FP)
	MOVL	$0xc0000080, CX // IA32_EFER
	RDMSR
	SHLQ	$32, DX
	ORQ	DX, AX
	MOVQ	AX, efer+16(FP)
	RET

// func features() (b, c uint32)
// returns what leaf 7 of CPUID says in EBX and ECX, 0 where it does not exist.
TEXT ·features(SB),NOSPLIT,$0-8
	XORL	AX, AX
	CPUID
	XORL	BX, BX
	XORL	CX, CX
	CMPL	AX, $7
	JLT	done
	MOVL	$7, AX
	CPUID
done:
	MOVL	BX, b+0(FP)
	MOVL	CX, c+4(FP)
	RET
