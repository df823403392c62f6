package pvh

import "encoding/binary"

// Physical memory of the shim. It lies below every Go image (they begin at 4 MB)
// and above the first megabyte, which belongs to firmware and its boot data.
const (
	shimBase = 0x10_0000
	gdtAt    = shimBase + 0x100  // three descriptors, then the operand of LGDT
	infoAt   = shimBase + 0x200  // boot information, read by package kernel
	tablesAt = shimBase + 0x1000 // PML4, PDPT and page directory
	shimEnd  = tablesAt + 3*pageSize

	pageSize = 4096
	// mapped is what the shim maps, one to one and again at 0xffff_8000_0000_0000:
	// one page directory of 2 MB pages.
	mapped = 1 << 30
)

// Boot information: 64-bit little-endian words from infoAt on. Package kernel has
// the same list; it refuses another magic number, so the two change together.
const (
	infoMagic    = 0x3130_4143_4952_4f4c // "LORICA01"
	infoStart    = 1                     // physical address of hvm_start_info, stored by the shim
	infoEntry    = 2                     // where the Go runtime begins
	infoLazy     = 3                     // from here on the last segment has no physical memory yet
	infoSegments = 4                     // their number; address, size and flags of each follow
	maxSegments  = 8
)

// code collects machine code. Each call is one instruction; its comment in shim
// is how it reads in Intel's notation.
type code struct{ b []byte }

func (c *code) op(b ...byte) { c.b = append(c.b, b...) }

// op32 is an instruction that ends in 32-bit operands.
func (c *code) op32(op []byte, imm ...uint32) {
	c.b = append(c.b, op...)
	for _, v := range imm {
		c.b = binary.LittleEndian.AppendUint32(c.b, v)
	}
}

// shim returns the first page of the shim: the entry of the PVH boot protocol,
// which is 32-bit code with paging off and EBX pointing to the start information
// (Xen, "x86/HVM direct boot ABI"). It builds page tables, enters long mode (Intel
// SDM volume 3A, 10.8.5) and jumps to entry with RDI pointing to info.
func shim(entry uint64, info []uint64) []byte {
	const (
		pml4, pdpt, pd = tablesAt, tablesAt + pageSize, tablesAt + 2*pageSize
		present        = 0x3  // present, writable
		large          = 0x83 // and of 2 MB
		upper          = 256 * 8

		cr4  = 1<<5 | 1<<9 | 1<<10                       // PAE, OSFXSR, OSXMMEXCPT
		efer = 1<<0 | 1<<8                               // SCE, LME; the kernel adds NXE
		cr0  = 1<<0 | 1<<1 | 1<<4 | 1<<5 | 1<<16 | 1<<31 // PE, MP, ET, NE, WP, PG

		eferMSR            = 0xc000_0080
		codeSel, dataSel   = 0x08, 0x10
		code64, data       = 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff
		gdtBytes, gdtrAt   = 3 * 8, gdtAt + 3*8
		entries, tableSize = 512, 3 * pageSize / 4
	)
	var c code
	c.op(0xfa)                                                   // cli
	c.op(0xfc)                                                   // cld
	c.op32([]byte{0x89, 0x1d}, infoAt+8*infoStart)               // mov [info.start], ebx
	c.op32([]byte{0xbf}, tablesAt)                               // mov edi, tables
	c.op(0x31, 0xc0)                                             // xor eax, eax
	c.op32([]byte{0xb9}, tableSize)                              // mov ecx, their size in words
	c.op(0xf3, 0xab)                                             // rep stosd
	c.op32([]byte{0xc7, 0x05}, pml4, pdpt|present)               // mov dword [pml4], pdpt
	c.op32([]byte{0xc7, 0x05}, pml4+upper, pdpt|present)         // mov dword [pml4+256*8], pdpt
	c.op32([]byte{0xc7, 0x05}, pdpt, pd|present)                 // mov dword [pdpt], pd
	c.op32([]byte{0xbf}, pd)                                     // mov edi, pd
	c.op32([]byte{0xb8}, large)                                  // mov eax, the first page
	c.op32([]byte{0xb9}, entries)                                // mov ecx, 512
	next := len(c.b)                                             // next:
	c.op(0x89, 0x07)                                             // mov [edi], eax
	c.op(0x83, 0xc7, 8)                                          // add edi, 8
	c.op32([]byte{0x05}, 2<<20)                                  // add eax, 2 MB
	c.op(0xe2, byte(next-len(c.b)-2))                            // loop next
	c.op32([]byte{0xb8}, cr4)                                    // mov eax, cr4 bits
	c.op(0x0f, 0x22, 0xe0)                                       // mov cr4, eax
	c.op32([]byte{0xb8}, pml4)                                   // mov eax, pml4
	c.op(0x0f, 0x22, 0xd8)                                       // mov cr3, eax
	c.op32([]byte{0xb9}, eferMSR)                                // mov ecx, IA32_EFER
	c.op(0x0f, 0x32)                                             // rdmsr
	c.op32([]byte{0x0d}, efer)                                   // or eax, its bits
	c.op(0x0f, 0x30)                                             // wrmsr
	c.op32([]byte{0xb8}, cr0)                                    // mov eax, cr0 bits
	c.op(0x0f, 0x22, 0xc0)                                       // mov cr0, eax
	c.op32([]byte{0x0f, 0x01, 0x15}, gdtrAt)                     // lgdt [gdtr]
	c.op32([]byte{0xea}, uint32(shimBase+len(c.b)+7))            // jmp code64:long, of 7 bytes
	c.op(codeSel, 0)                                             //
	c.op32([]byte{0xb8}, dataSel)                                // long: mov eax, data
	c.op(0x8e, 0xd8)                                             // mov ds, eax
	c.op(0x8e, 0xc0)                                             // mov es, eax
	c.op(0x8e, 0xd0)                                             // mov ss, eax
	c.op(0x31, 0xc0)                                             // xor eax, eax
	c.op(0x8e, 0xe0)                                             // mov fs, eax
	c.op(0x8e, 0xe8)                                             // mov gs, eax
	c.op32([]byte{0xbf}, infoAt)                                 // mov edi, info
	c.op32([]byte{0x48, 0xb8}, uint32(entry), uint32(entry>>32)) // mov rax, entry
	c.op(0xff, 0xe0)                                             // jmp rax

	page := make([]byte, pageSize)
	copy(page[:gdtAt-shimBase], c.b)
	le := binary.LittleEndian
	le.PutUint64(page[gdtAt-shimBase+codeSel:], code64)
	le.PutUint64(page[gdtAt-shimBase+dataSel:], data)
	le.PutUint16(page[gdtrAt-shimBase:], gdtBytes-1)
	le.PutUint32(page[gdtrAt-shimBase+2:], gdtAt)
	for i, v := range info {
		le.PutUint64(page[infoAt-shimBase+8*i:], v)
	}
	return page
}
