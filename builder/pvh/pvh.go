// Package pvh turns a static Go program for linux/amd64 that contains package
// kernel into an ELF image that a virtual machine boots by the PVH protocol.
//
// The program's segments stay where they are, at equal virtual and physical
// addresses. Before them comes a shim, which takes the machine from the protocol's
// 32-bit entry to the kernel. Zero pages behind the kernel's own variables are
// left out: the kernel maps them when they are touched.
package pvh

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

const (
	kernelPrefix = "lorica.dev/lorica/kernel."
	entrySymbol  = kernelPrefix + "entry"

	// The note that carries the 32-bit entry: Xen, elfnote.h.
	noteName = "Xen\x00"
	noteType = 18 // XEN_ELFNOTE_PHYS32_ENTRY

	headerSize, progSize = 64, 56
)

// Link returns the bootable image of a program. Symbols is the same program, linked
// without stripping: symbols say where its kernel is. It may be image itself.
func Link(image, symbols []byte) ([]byte, error) {
	f, segs, err := open(image)
	if err != nil {
		return nil, fmt.Errorf("pvh: the program: %w", err)
	}
	twin, twinSegs, err := open(symbols)
	if err != nil {
		return nil, fmt.Errorf("pvh: the program with symbols: %w", err)
	}
	if !same(segs, twinSegs) || f.Entry != twin.Entry {
		return nil, errors.New("pvh: the program and the one with symbols were not linked alike")
	}
	entry, end, err := kernelOf(twin)
	if err != nil {
		return nil, fmt.Errorf("pvh: %w", err)
	}
	if !inText(segs, entry) {
		return nil, fmt.Errorf("pvh: the kernel's entry %#x is not in executable memory", entry)
	}
	if !inText(segs, f.Entry) {
		return nil, fmt.Errorf("pvh: the program's entry %#x is not in executable memory", f.Entry)
	}
	last := segs[len(segs)-1]
	lazy := min(roundUp(max(end, last.Vaddr+last.Filesz)), last.Vaddr+last.Memsz)
	if roundUp(lazy) > mapped {
		return nil, fmt.Errorf("pvh: the program ends at %#x, above the first GB", lazy)
	}
	info := []uint64{infoMagic, 0, f.Entry, lazy, uint64(len(segs))}
	for _, s := range segs {
		info = append(info, s.Vaddr, s.Memsz, uint64(s.Flags))
	}
	out := write(image, shim(entry, info), segs, lazy)
	if err := Check(out); err != nil {
		return nil, fmt.Errorf("pvh: the image just made is bad: %w", err)
	}
	return out, nil
}

// open parses an ELF file and holds its segments to what the kernel can map.
func open(b []byte) (*elf.File, []elf.ProgHeader, error) {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return nil, nil, fmt.Errorf("not a whole ELF file: %w", err)
	}
	if f.Class != elf.ELFCLASS64 || f.Data != elf.ELFDATA2LSB || f.Machine != elf.EM_X86_64 {
		return nil, nil, fmt.Errorf("built for %v, %v: build it with GOARCH=amd64", f.Machine, f.Class)
	}
	if f.Type != elf.ET_EXEC {
		return nil, nil, fmt.Errorf("its type is %v: build it with -buildmode=exe", f.Type)
	}
	var segs []elf.ProgHeader
	for _, p := range f.Progs {
		switch {
		case p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC:
			return nil, nil, errors.New("dynamically linked: build it with CGO_ENABLED=0")
		case p.Type != elf.PT_LOAD || p.Memsz == 0:
			continue
		}
		if err := fits(p.ProgHeader, uint64(len(b))); err != nil {
			return nil, nil, fmt.Errorf("segment %d: %w", len(segs), err)
		}
		if n := len(segs); n > 0 && p.Vaddr&^(pageSize-1) < roundUp(segs[n-1].Vaddr+segs[n-1].Memsz) {
			return nil, nil, fmt.Errorf("segments %d and %d share a page or are out of order", n-1, n)
		}
		segs = append(segs, p.ProgHeader)
	}
	if len(segs) == 0 || len(segs) > maxSegments {
		return nil, nil, fmt.Errorf("%d segments; 1 to %d can be booted", len(segs), maxSegments)
	}
	return f, segs, nil
}

// fits checks one segment of a file of size bytes. Additions cannot overflow: each
// operand is bounded before.
func fits(p elf.ProgHeader, size uint64) error {
	const top = 1 << 46 // far below what user addresses end at
	switch {
	case p.Filesz > size || p.Off > size-p.Filesz:
		return errors.New("its bytes are not all in the file")
	case p.Vaddr < shimEnd || p.Vaddr >= mapped:
		return fmt.Errorf("its address %#x is not between the boot shim (%#x) and 1 GB", p.Vaddr, shimEnd)
	case p.Memsz > top || p.Filesz > p.Memsz:
		return fmt.Errorf("%d bytes of memory for %d of the file", p.Memsz, p.Filesz)
	case p.Flags&elf.PF_W != 0 && p.Flags&elf.PF_X != 0:
		return errors.New("writable and executable")
	}
	return nil
}

// kernelOf returns the kernel's entry and the end of its variables.
func kernelOf(f *elf.File) (entry, end uint64, err error) {
	syms, err := f.Symbols()
	if err != nil {
		return 0, 0, fmt.Errorf("no symbols (is it stripped?): %w", err)
	}
	for _, s := range syms {
		if !strings.HasPrefix(s.Name, kernelPrefix) {
			continue
		}
		if s.Name == entrySymbol || s.Name == entrySymbol+".abi0" {
			entry = s.Value
		}
		if s.Size < mapped && s.Value < mapped {
			end = max(end, s.Value+s.Size)
		}
	}
	if entry == 0 {
		return 0, 0, fmt.Errorf("there is no %s in the program: it must call kernel.Booted", entrySymbol)
	}
	return entry, end, nil
}

func inText(segs []elf.ProgHeader, a uint64) bool {
	for _, s := range segs {
		if s.Flags&elf.PF_X != 0 && a >= s.Vaddr && a-s.Vaddr < s.Filesz {
			return true
		}
	}
	return false
}

func same(a, b []elf.ProgHeader) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Vaddr != b[i].Vaddr || a[i].Memsz != b[i].Memsz || a[i].Filesz != b[i].Filesz || a[i].Flags != b[i].Flags {
			return false
		}
	}
	return true
}

func roundUp(n uint64) uint64 { return (n + pageSize - 1) &^ (pageSize - 1) }

// write lays the image out: headers, note, shim, and the segments of the program.
func write(image, shim []byte, segs []elf.ProgHeader, lazy uint64) []byte {
	le := binary.LittleEndian
	note := le.AppendUint32(nil, uint32(len(noteName)))
	note = le.AppendUint32(note, 8) // bytes of the address
	note = le.AppendUint32(note, noteType)
	note = le.AppendUint64(append(note, noteName...), shimBase)

	var progs []elf.Prog64
	var body []byte
	at := uint64(headerSize + progSize*(len(segs)+3))
	add := func(kind elf.ProgType, flags elf.ProgFlag, va, memsz uint64, b []byte) {
		for (at+uint64(len(body)))%16 != 0 {
			body = append(body, 0)
		}
		progs = append(progs, elf.Prog64{Type: uint32(kind), Flags: uint32(flags), Off: at + uint64(len(body)),
			Vaddr: va, Paddr: va, Filesz: uint64(len(b)), Memsz: memsz, Align: 4})
		body = append(body, b...)
	}
	add(elf.PT_NOTE, elf.PF_R, 0, uint64(len(note)), note)
	add(elf.PT_LOAD, elf.PF_R|elf.PF_X, shimBase, uint64(len(shim)), shim)
	add(elf.PT_LOAD, elf.PF_R|elf.PF_W, tablesAt, shimEnd-tablesAt, nil)
	for _, s := range segs {
		add(elf.PT_LOAD, s.Flags, s.Vaddr, min(s.Memsz, lazy-s.Vaddr), image[s.Off:s.Off+s.Filesz])
	}
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Entry: shimBase,
		Phoff: headerSize, Ehsize: headerSize, Phentsize: progSize, Phnum: uint16(len(progs)), Shentsize: headerSize}
	copy(h.Ident[:], []byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)})
	out := new(bytes.Buffer)
	binary.Write(out, le, h)     // a bytes.Buffer
	binary.Write(out, le, progs) // does not fail
	out.Write(body)
	return out.Bytes()
}

// Check holds an image to what Link promises: a static x86-64 ELF without memory
// that is writable and executable, entered in its shim, with the note that says so.
func Check(image []byte) error {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return fmt.Errorf("not a whole ELF file: %w", err)
	}
	if f.Class != elf.ELFCLASS64 || f.Machine != elf.EM_X86_64 || f.Type != elf.ET_EXEC {
		return fmt.Errorf("%v, %v, %v: not a static x86-64 image", f.Class, f.Machine, f.Type)
	}
	note, entry, end := false, false, uint64(0)
	for i, p := range f.Progs {
		if p.Off > uint64(len(image)) || p.Filesz > uint64(len(image))-p.Off || p.Filesz > p.Memsz {
			return fmt.Errorf("segment %d is not all in the file", i)
		}
		b := image[p.Off : p.Off+p.Filesz]
		switch p.Type {
		case elf.PT_NOTE:
			note = len(b) == 24 && string(b[12:16]) == noteName && binary.LittleEndian.Uint32(b[8:]) == noteType &&
				binary.LittleEndian.Uint64(b[16:]) == f.Entry
		case elf.PT_LOAD:
			if p.Flags&elf.PF_W != 0 && p.Flags&elf.PF_X != 0 {
				return fmt.Errorf("segment %d is writable and executable", i)
			}
			if p.Vaddr != p.Paddr || p.Vaddr < shimBase || p.Vaddr >= mapped || p.Memsz > mapped || roundUp(p.Vaddr+p.Memsz) > mapped {
				return fmt.Errorf("segment %d at %#x, physically %#x, of %#x bytes, is not in the first GB", i, p.Vaddr, p.Paddr, p.Memsz)
			}
			if p.Vaddr&^(pageSize-1) < end {
				return fmt.Errorf("segment %d shares a page with the one before", i)
			}
			end = roundUp(p.Vaddr + p.Memsz)
			entry = entry || p.Vaddr == shimBase && p.Flags&elf.PF_X != 0 && f.Entry-p.Vaddr < p.Filesz
		default:
			return fmt.Errorf("segment %d is a %v", i, p.Type)
		}
	}
	if !note {
		return errors.New("no note of the PVH entry")
	}
	if !entry {
		return fmt.Errorf("the entry %#x is not in the shim", f.Entry)
	}
	return nil
}
