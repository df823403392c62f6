package seccomp

import (
	"fmt"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/catalog"
)

// Classic BPF (Linux, Documentation/networking/filter.rst) as seccomp takes it:
// 32-bit words, forward jumps only, loads from struct seccomp_data.
const (
	opLoad    = 0x20 // BPF_LD | BPF_W | BPF_ABS
	opAnd     = 0x54 // BPF_ALU | BPF_AND | BPF_K
	opJump    = 0x05 // BPF_JMP | BPF_JA
	opEqual   = 0x15 // BPF_JMP | BPF_JEQ | BPF_K
	opAtLeast = 0x35 // BPF_JMP | BPF_JGE | BPF_K
	opReturn  = 0x06 // BPF_RET | BPF_K
)

// Offsets into struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

const (
	archX8664 = 0xc000003e // AUDIT_ARCH_X86_64
	x32Bit    = 0x40000000 // __X32_SYSCALL_BIT
)

type assembler struct{ code []launch.Instruction }

func (a *assembler) emit(code uint16, k uint32, jt, jf uint8) {
	a.code = append(a.code, launch.Instruction{Code: code, JT: jt, JF: jf, K: k})
}

func (a *assembler) answer(r Answer) { a.emit(opReturn, uint32(r), 0, 0) }

// prologue leaves the call's number in the accumulator.
func (a *assembler) prologue() {
	a.emit(opLoad, offArch, 0, 0)
	a.emit(opEqual, archX8664, 1, 0)
	a.answer(Kill)
	a.emit(opLoad, offNumber, 0, 0)
	a.emit(opAtLeast, x32Bit, 0, 1)
	a.answer(Kill)
}

// call adds the block of one call: it answers for that number and falls through
// with the accumulator unchanged for any other.
func (a *assembler) call(c *call, self uint32) error {
	if c.plain() {
		a.emit(opEqual, c.number, 0, 1)
		a.answer(c.alternatives[0].Answer)
		return nil
	}
	a.emit(opEqual, c.number, 1, 0)
	skip := len(a.code)
	a.emit(opJump, 0, 0, 0)
	for _, alt := range c.alternatives {
		if err := a.alternative(alt, self); err != nil {
			return err
		}
	}
	a.answer(Kill)
	a.code[skip].K = uint32(len(a.code) - skip - 1)
	return nil
}

// alternative answers when every condition holds and else falls through to what
// follows.
func (a *assembler) alternative(r Rule, self uint32) error {
	start := len(a.code)
	var b body
	for _, w := range r.Call.When {
		b.condition(w, self)
	}
	a.code = append(a.code, b.code...)
	a.answer(r.Answer)
	end := len(a.code)
	for _, i := range b.misses {
		at := start + i
		distance := end - at - 1
		if distance > 255 {
			return fmt.Errorf("seccomp: %s: too many conditions for one alternative", r.Call.Name)
		}
		if a.code[at].JT == miss {
			a.code[at].JT = uint8(distance)
		} else {
			a.code[at].JF = uint8(distance)
		}
	}
	return nil
}

// miss stands for "the condition does not hold" until the distance is known.
const miss = 255

// A body is the code of one alternative; misses are the jumps to patch.
type body struct {
	code   []launch.Instruction
	misses []int
}

func (b *body) emit(code uint16, k uint32, jt, jf uint8) {
	if jt == miss || jf == miss {
		b.misses = append(b.misses, len(b.code))
	}
	b.code = append(b.code, launch.Instruction{Code: code, JT: jt, JF: jf, K: k})
}

func low(arg int) uint32  { return uint32(offArgs + 8*arg) }
func high(arg int) uint32 { return uint32(offArgs + 8*arg + 4) }

func (b *body) condition(c catalog.Condition, self uint32) {
	switch c.Kind {
	case catalog.Equal:
		b.word(low(c.Arg), ^uint32(0), uint32(c.Value))
		b.word(high(c.Arg), ^uint32(0), uint32(c.Value>>32))
	case catalog.Self:
		b.word(low(c.Arg), ^uint32(0), self)
		b.word(high(c.Arg), ^uint32(0), 0)
	case catalog.Masked:
		b.word(low(c.Arg), uint32(c.Mask), uint32(c.Value))
		b.word(high(c.Arg), uint32(c.Mask>>32), uint32(c.Value>>32))
	case catalog.Outside:
		b.emit(opLoad, high(c.Arg), 0, 0)
		b.emit(opEqual, launch.GuardHigh, miss, 0)
		b.emit(opEqual, launch.WindowHigh, miss, 0)
		b.word(high(c.Length), ^uint32(0), 0)
	}
}

// word requires that the masked word at off is value.
func (b *body) word(off, mask, value uint32) {
	if mask == 0 {
		return
	}
	b.emit(opLoad, off, 0, 0)
	if mask != ^uint32(0) {
		b.emit(opAnd, mask, 0, 0)
	}
	b.emit(opEqual, value, 0, miss)
}
