package qemu

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// debugExit is the port of isa-debug-exit: a guest that writes n to it ends QEMU
// with status 2n+1.
const debugExit = 0xf4

// Where the guest below is loaded.
const guestBase = 1 << 20

// tinyGuest returns an image that runs code, which QEMU starts in 32-bit
// protected mode without paging: PVH, the protocol of Xen's
// docs/misc/pvh.pandoc, where an ELF note has the address to begin at.
func tinyGuest(code []byte) []byte {
	const note, notes = 18, "Xen\x00" // XEN_ELFNOTE_PHYS32_ENTRY
	le := binary.LittleEndian
	var n []byte
	for _, v := range []uint32{uint32(len(notes)), 4, note} {
		n = le.AppendUint32(n, v)
	}
	n = le.AppendUint32(append(n, notes...), guestBase)

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

// leave ends with what eax holds, where edx holds the port.
var leave = []byte{
	0xef,       // out dx, eax
	0xf4,       // hlt
	0xeb, 0xfd, // jmp to the hlt
}
