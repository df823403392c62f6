#include "go_asm.h"
#include "textflag.h"

// How the processor gets into the kernel and out of it. A thread's registers lie
// at the start of its page in the order of the constants regR15... Everything in
// the kernel runs with interrupts off, on one stack, so that there are no locks.

#define FRAME (const_registers*8) // bytes of the registers of a thread
#define FXSIZE 512 // bytes of the area of FXSAVE

// The order of constants, for PUSHQ and POPQ.
#define PUSH_REGISTERS \
	PUSHQ	AX \
	PUSHQ	CX \
	PUSHQ	DX \
	PUSHQ	BX \
	PUSHQ	BP \
	PUSHQ	SI \
	PUSHQ	DI \
	PUSHQ	R8 \
	PUSHQ	R9 \
	PUSHQ	R10 \
	PUSHQ	R11 \
	PUSHQ	R12 \
	PUSHQ	R13 \
	PUSHQ	R14 \
	PUSHQ	R15

// ... and back to where they were interrupted; vector and error code go.
#define POP_AND_RETURN \
	POPQ	R15 \
	POPQ	R14 \
	POPQ	R13 \
	POPQ	R12 \
	POPQ	R11 \
	POPQ	R10 \
	POPQ	R9 \
	POPQ	R8 \
	POPQ	DI \
	POPQ	SI \
	POPQ	BP \
	POPQ	BX \
	POPQ	DX \
	POPQ	CX \
	POPQ	AX \
	ADDQ	$16, SP \
	IRETQ

// STACK is for code that cannot trust a variable to say where its stack is: top is from
// the first whole page of room on.
#define STACK(top) \
	LEAQ	·room+const_pageMask(SB), SP \
	ANDQ	$~const_pageMask, SP \
	ADDQ	$top, SP

// entry: long mode, interrupts off, DI = boot information.
TEXT ·entry(SB),NOSPLIT|NOFRAME,$0
	STACK(const_kernelTop)
	MOVQ	DI, R12
	// Wrappers of Go functions load g from below FS.
	LEAQ	·noTLS+64(SB), AX
	MOVQ	AX, DX
	SHRQ	$32, DX
	MOVL	$const_msrFSBase, CX
	WRMSR
	SUBQ	$16, SP
	MOVQ	R12, 0(SP)
	MOVQ	$·boot(SB), AX
	CALL	AX
	JMP	·resume(SB)

// syscallEntry: SYSCALL has put the return address into CX and flags into R11, and
// left SP alone. All other registers are the caller's.
TEXT ·syscallEntry(SB),NOSPLIT|NOFRAME,$0
	MOVQ	SP, ·callerSP(SB)
	MOVQ	·current(SB), SP
	ADDQ	$FRAME, SP
	PUSHQ	$const_selData
	PUSHQ	·callerSP(SB)
	PUSHQ	R11
	PUSHQ	$const_selCode
	PUSHQ	CX
	PUSHQ	$0
	PUSHQ	$const_vecSyscall
	PUSH_REGISTERS
	MOVQ	·kernelStack(SB), SP
	MOVQ	$1, ·inKernel(SB)
	CLD
	MOVQ	$·systemCall(SB), AX
	CALL	AX
	JMP	·resume(SB)

// resume runs the current thread.
TEXT ·resume(SB),NOSPLIT|NOFRAME,$0
	MOVQ	$0, ·inKernel(SB)
	MOVQ	·current(SB), SP
	CMPQ	(const_regVector*8)(SP), $const_vecSyscall
	JNE	interrupted
	// A system call leaves CX, R11 and the flags to the kernel, and returns to
	// where interrupts are on: no IRETQ. STI takes effect behind the jump. Go keeps
	// no vectors over a call but X15, which is zero: so the wrappers of systemCall and
	// trap have left it, whoever ran before.
	POPQ	R15
	POPQ	R14
	POPQ	R13
	POPQ	R12
	POPQ	CX // R11
	POPQ	R10
	POPQ	R9
	POPQ	R8
	POPQ	DI
	POPQ	SI
	POPQ	BP
	POPQ	BX
	POPQ	DX
	POPQ	CX // CX
	POPQ	AX
	MOVQ	((const_regIP-const_regVector)*8)(SP), CX
	MOVQ	((const_regSP-const_regVector)*8)(SP), SP
	STI
	JMP	CX
interrupted:
	CMPQ	thread_vectors(SP), $0
	JEQ	general
	MOVQ	$0, thread_vectors(SP)
	LEAQ	const_threadXSAVE(SP), BX
	MOVL	$-1, AX
	MOVL	$-1, DX
	XRSTOR64	(BX)
general:
	POP_AND_RETURN

// trapCommon: interrupts and exceptions, on a stack of the interrupt stack table,
// with vector and error code pushed.
TEXT ·trapCommon(SB),NOSPLIT|NOFRAME,$0
	PUSH_REGISTERS
	CLD
	CMPQ	(const_regVector*8)(SP), $const_vecPageFault
	JNE	general
	// Most page faults are first touches: served here, on this stack, wherever they
	// come from. The stack is aligned: the frame is 11 times 16 bytes.
	CMPQ	·inFault(SB), $0
	JNE	again
	MOVQ	$1, ·inFault(SB)
	MOVQ	SP, ·trapFrame(SB)
	SUBQ	$FXSIZE, SP
	FXSAVE64	(SP)
	MOVQ	$·firstTouch(SB), AX
	CALL	AX
	FXRSTOR64	(SP)
	ADDQ	$FXSIZE, SP
	MOVQ	$0, ·inFault(SB)
	CMPQ	·touched(SB), $0
	JEQ	general
	POP_AND_RETURN
again:
	MOVQ	SP, ·trapFrame(SB)
	MOVQ	$·faultInFault(SB), AX
	CALL	AX
general:
	CMPQ	·inKernel(SB), $0
	JNE	nested
	MOVQ	$1, ·inKernel(SB)
	MOVQ	SP, SI
	MOVQ	·current(SB), DI
	MOVQ	DI, R12
	MOVQ	$const_registers, CX
	REP; MOVSQ
	MOVQ	$1, thread_vectors(R12)
	LEAQ	const_threadXSAVE(R12), BX
	MOVL	$-1, AX
	MOVL	$-1, DX
	XSAVE64	(BX)
	MOVQ	·kernelStack(SB), SP
	MOVQ	$·trap(SB), AX
	CALL	AX
	JMP	·resume(SB)
nested:
	// An interrupt while idle, or a fault of the kernel.
	MOVQ	SP, ·trapFrame(SB)
	SUBQ	$FXSIZE, SP
	FXSAVE64	(SP)
	MOVQ	$·nestedTrap(SB), AX
	CALL	AX
	FXRSTOR64	(SP)
	ADDQ	$FXSIZE, SP
	POP_AND_RETURN

// abandon leaves a system call where it is and resumes the current thread.
TEXT ·abandon(SB),NOSPLIT|NOFRAME,$0
	MOVQ	·kernelStack(SB), SP
	JMP	·resume(SB)

// die(code uint64, text string, value uint64) goes on with dying on a stack of its
// own: the one that it was called on may be the reason.
TEXT ·die(SB),NOSPLIT,$0-32
	CLI
	MOVQ	code+0(FP), AX
	MOVQ	text_base+8(FP), BX
	MOVQ	text_len+16(FP), CX
	MOVQ	value+24(FP), DX
	STACK(const_deathTop)
	SUBQ	$32, SP
	MOVQ	AX, 0(SP)
	MOVQ	BX, 8(SP)
	MOVQ	CX, 16(SP)
	MOVQ	DX, 24(SP)
	MOVQ	$·dying(SB), AX
	CALL	AX
	INT	$3

// Handlers of the interrupt descriptor table, 16 bytes each, in order of their
// vectors. Exceptions 8, 10 to 14, 17, 21, 29 and 30 push an error code (Intel SDM
// volume 3A, table 6-1; AMD APM volume 2, table 8-1); the others get one here.
// PUSH is PUSHQ $v, unseen by the assembler, which would add up the stubs' stacks.
#define PUSH(v) BYTE $0x6a; BYTE $v
#define STUB(v) \
	PUSH(0) \
	PUSH(v) \
	JMP	·trapCommon(SB) \
	PCALIGN	$16
#define STUB_WITH_CODE(v) \
	PUSH(v) \
	JMP	·trapCommon(SB) \
	PCALIGN	$16

TEXT ·vectors(SB),NOSPLIT|NOFRAME,$0
	PCALIGN	$16
	STUB(0)
	STUB(1)
	STUB(2)
	STUB(3)
	STUB(4)
	STUB(5)
	STUB(6)
	STUB(7)
	STUB_WITH_CODE(8)
	STUB(9)
	STUB_WITH_CODE(10)
	STUB_WITH_CODE(11)
	STUB_WITH_CODE(12)
	STUB_WITH_CODE(13)
	STUB_WITH_CODE(14)
	STUB(15)
	STUB(16)
	STUB_WITH_CODE(17)
	STUB(18)
	STUB(19)
	STUB(20)
	STUB_WITH_CODE(21)
	STUB(22)
	STUB(23)
	STUB(24)
	STUB(25)
	STUB(26)
	STUB(27)
	STUB(28)
	STUB_WITH_CODE(29)
	STUB_WITH_CODE(30)
	STUB(31)
	STUB(32) // timer
	STUB(33) // pin 0 of the I/O APIC
	STUB(34)
	STUB(35)
	STUB(36)
	STUB(37)
	STUB(38)
	STUB(39)
	STUB(40)
	STUB(41)
	STUB(42)
	STUB(43)
	STUB(44)
	STUB(45)
	STUB(46)
	STUB(47)
	STUB(48)
	STUB(49)
	STUB(50)
	STUB(51)
	STUB(52)
	STUB(53)
	STUB(54)
	STUB(55)
	STUB(56) // pin 23
	IRETQ    // spurious: nothing to acknowledge

// vectorsAt() and the like are the addresses of code that only the machine calls.
TEXT ·vectorsAt(SB),NOSPLIT,$0-8
	LEAQ	·vectors(SB), AX
	MOVQ	AX, ret+0(FP)
	RET

TEXT ·syscallEntryAt(SB),NOSPLIT,$0-8
	LEAQ	·syscallEntry(SB), AX
	MOVQ	AX, ret+0(FP)
	RET

TEXT ·vdsoClockAt(SB),NOSPLIT,$0-8
	LEAQ	·vdsoClock(SB), AX
	MOVQ	AX, ret+0(FP)
	RET

TEXT ·entryAt(SB),NOSPLIT,$0-8
	LEAQ	·entry(SB), AX
	MOVQ	AX, ret+0(FP)
	RET

// vdsoClock(clock DI, timespec SI) is clock_gettime in the C calling convention: the
// runtime calls it for every time.Now. Clocks but 0 (real time) are monotonic.
TEXT ·vdsoClock(SB),NOSPLIT|NOFRAME,$0
	RDTSC
	SHLQ	$32, DX
	ORQ	DX, AX
	// Never back, should the counter go back (it may when the machine moves).
	CMPQ	AX, ·lastTSC(SB)
	JHI	forward
	MOVQ	·lastTSC(SB), AX
forward:
	MOVQ	AX, ·lastTSC(SB)
	SUBQ	·firstTSC(SB), AX
	MULQ	·nsPerTick(SB)
	SHRQ	$32, DX, AX
	TESTL	DI, DI
	JNE	monotonic
	ADDQ	·wallStart(SB), AX
monotonic:
	XORL	DX, DX
	MOVQ	$1000000000, CX
	DIVQ	CX
	MOVQ	AX, 0(SI)
	MOVQ	DX, 8(SI)
	XORL	AX, AX
	RET
