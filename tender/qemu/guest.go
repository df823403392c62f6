package qemu

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// debugExit is the port of isa-debug-exit: a guest that writes n to it ends QEMU
// with status 2n+1.
const debugExit = 0xf4

// PVH is the protocol of Xen's docs/misc/pvh.pandoc: an ELF note has the address
// to begin at, in 32-bit protected mode without paging.
const (
	noteName  = "Xen\x00"
	noteEntry = 18 // XEN_ELFNOTE_PHYS32_ENTRY
)

// Where the guest below is loaded.
const guestBase = 1 << 20

// bootable reports why image is none that QEMU starts as it is meant to be: what
// it does not know it takes for something else. Its memory ends at end.
func bootable(image io.ReaderAt, end uint64) error {
	f, err := elf.NewFile(image)
	if err != nil {
		return fmt.Errorf("qemu: the image is no ELF file: %w", err)
	}
	le := binary.LittleEndian
	head := le.AppendUint32(nil, uint32(len(noteName)))
	starts := false
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && (p.Paddr > end || p.Memsz > end-p.Paddr) {
			return fmt.Errorf("qemu: the image takes memory up to %#x, and has it up to %#x", p.Paddr+p.Memsz, end)
		}
		if p.Type != elf.PT_NOTE || p.Filesz > 1<<16 {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			continue
		}
		for i := 0; i+12+len(noteName) <= len(b); i += 4 {
			if bytes.Equal(b[i:i+4], head) && le.Uint32(b[i+8:]) == noteEntry && string(b[i+12:i+12+len(noteName)]) == noteName {
				starts = true
			}
		}
	}
	if starts {
		return nil
	}
	return errors.New("qemu: the image does not say where it starts (PVH); it was built for another target")
}

// tinyGuest returns an image that runs code.
func tinyGuest(code []byte) []byte {
	le := binary.LittleEndian
	var n []byte
	for _, v := range []uint32{uint32(len(noteName)), 4, noteEntry} {
		n = le.AppendUint32(n, v)
	}
	n = le.AppendUint32(append(n, noteName...), guestBase)

	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Entry: guestBase,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2, Shentsize: 64}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	at := h.Phoff + uint64(h.Phnum)*uint64(h.Phentsize)
	size := uint64(len(code))
	segments := []elf.Prog64{
		{Type: uint32(elf.PT_NOTE), Flags: uint32(elf.PF_R), Off: at, Filesz: uint64(len(n)), Memsz: uint64(len(n)), Align: 4},
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Off: at + uint64(len(n)), Vaddr: guestBase, Paddr: guestBase, Filesz: size, Memsz: size, Align: 1},
	}
	var b bytes.Buffer
	binary.Write(&b, le, h)
	binary.Write(&b, le, segments)
	b.Write(n)
	b.Write(code)
	return b.Bytes()
}

// exitWith is the code of a guest that ends with n.
func exitWith(n uint32) []byte {
	code := []byte{0xba, debugExit, 0, 0, 0, 0xb8} // mov edx, debugExit; mov eax, n
	code = binary.LittleEndian.AppendUint32(code, n)
	return append(code, leave...)
}

// vectors is the code of a guest that uses vector registers, as compiled code does,
// before it goes on. Where KVM has no hardware below it and emulates each instruction, it does not
// know these.
var vectors = []byte{
	0x0f, 0x20, 0xe0, // mov eax, cr4
	0x0d, 0x00, 0x06, 0, 0, // or eax, OSFXSR | OSXMMEXCPT
	0x0f, 0x22, 0xe0, // mov cr4, eax
	0x0f, 0x57, 0xc0, // xorps xmm0, xmm0
}

// leave ends with what eax holds, where edx holds the port.
var leave = []byte{
	0xef,       // out dx, eax
	0xf4,       // hlt
	0xeb, 0xfd, // jmp to the hlt
}
