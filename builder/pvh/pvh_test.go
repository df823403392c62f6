package pvh

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A program as small as Link takes it, with room for what tests break.
type program struct {
	class, machine, kind byte
	entry                uint64
	segs                 []elf.Prog64
	symbols              []symbol
}

type symbol struct {
	name        string
	value, size uint64
}

const (
	textAt, dataAt = 0x40_0000, 0x40_2000
	entryAt        = textAt + 0x100
	rt0At          = textAt + 0x200
)

func sample() program {
	return program{
		class: byte(elf.ELFCLASS64), machine: byte(elf.EM_X86_64), kind: byte(elf.ET_EXEC), entry: rt0At,
		segs: []elf.Prog64{
			{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: textAt, Paddr: textAt, Filesz: 0x300, Memsz: 0x300},
			{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W), Off: 0x200, Vaddr: dataAt, Paddr: dataAt, Filesz: 0x100, Memsz: 0x10_0000},
		},
		symbols: []symbol{{"main.main", rt0At, 8}, {entrySymbol, entryAt, 32}, {kernelPrefix + "room", dataAt + 0x800, 0x1800}},
	}
}

// encode lays p out: header, segments' headers, contents up to 1 KB, symbols.
func (p program) encode() []byte {
	le := binary.LittleEndian
	const contents = 1024
	var names, syms []byte
	names = append(names, 0)
	syms = append(syms, make([]byte, 24)...)
	for _, s := range p.symbols {
		syms = le.AppendUint32(syms, uint32(len(names)))
		syms = append(syms, 1<<4|2, 0, 1, 0)
		syms = le.AppendUint64(le.AppendUint64(syms, s.value), s.size)
		names = append(append(names, s.name...), 0)
	}
	out := new(bytes.Buffer)
	h := elf.Header64{Type: uint16(p.kind), Machine: uint16(p.machine), Version: 1, Entry: p.entry, Phoff: 64, Ehsize: 64, Phentsize: 56,
		Phnum: uint16(len(p.segs)), Shentsize: 64}
	copy(h.Ident[:], []byte{0x7f, 'E', 'L', 'F', p.class, 1, 1})
	if len(p.symbols) > 0 {
		h.Shoff, h.Shnum, h.Shstrndx = uint64(contents+len(syms)+len(names)), 3, 2
	}
	binary.Write(out, le, h)
	binary.Write(out, le, p.segs)
	for out.Len() < contents {
		out.WriteByte(byte(out.Len() * 7))
	}
	out.Write(syms)
	out.Write(names)
	binary.Write(out, le, []elf.Section64{
		{},
		{Type: uint32(elf.SHT_SYMTAB), Off: contents, Size: uint64(len(syms)), Link: 2, Info: 1, Entsize: 24},
		{Type: uint32(elf.SHT_STRTAB), Off: uint64(contents + len(syms)), Size: uint64(len(names))},
	})
	return out.Bytes()
}

func with(change func(*program)) []byte {
	p := sample()
	change(&p)
	return p.encode()
}

func TestLink(t *testing.T) {
	twin := sample().encode()
	stripped := with(func(p *program) { p.symbols = nil })
	out, err := Link(stripped, twin)
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.NewFile(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	// Note, shim, its tables, text, data.
	if len(f.Progs) != 5 || f.Entry != shimBase {
		t.Fatalf("%d segments, entry %#x", len(f.Progs), f.Entry)
	}
	text, data := f.Progs[3], f.Progs[4]
	if text.Paddr != textAt || !bytes.Equal(out[text.Off:text.Off+text.Filesz], stripped[:0x300]) {
		t.Error("the text is not what it was")
	}
	if data.Paddr != dataAt || !bytes.Equal(out[data.Off:data.Off+data.Filesz], stripped[0x200:0x300]) {
		t.Error("the data is not what it was")
	}
	if want := uint64(0x2000); data.Memsz != want { // up to the page in which the kernel's last variable ends
		t.Errorf("%#x bytes of data are in memory, want %#x", data.Memsz, want)
	}
	shim := out[f.Progs[1].Off:]
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(shim[infoAt-shimBase+8*i:]) }
	for i, want := range []uint64{infoMagic, 0, rt0At, dataAt + 0x2000, 2, textAt, 0x300, 5, dataAt, 0x10_0000, 6} {
		if word(i) != want {
			t.Errorf("word %d of the boot information is %#x, want %#x", i, word(i), want)
		}
	}
	if !bytes.Contains(shim[:0x100], binary.LittleEndian.AppendUint64([]byte{0x48, 0xb8}, entryAt)) {
		t.Error("the shim does not jump to the kernel")
	}
	again, err := Link(stripped, twin)
	if err != nil || !bytes.Equal(out, again) {
		t.Errorf("a second image differs: %v", err)
	}
}

func TestLinkRefuses(t *testing.T) {
	good := sample().encode()
	for _, c := range []struct {
		name, want  string
		image, twin []byte
	}{
		{"nothing", "not a whole ELF", nil, good},
		{"a script", "not a whole ELF", []byte("#!/bin/sh\necho an image\n"), good},
		{"half a header", "not a whole ELF", good[:40], good},
		{"half a segment", "not all in the file", with(func(p *program) { p.symbols = nil; p.segs[1].Off = 1 << 20 }), good},
		{"another machine", "GOARCH=amd64", with(func(p *program) { p.machine = byte(elf.EM_AARCH64) }), good},
		{"position independent", "buildmode=exe", with(func(p *program) { p.kind = byte(elf.ET_DYN) }), good},
		{"dynamically linked", "CGO_ENABLED=0", with(func(p *program) { p.segs[0].Type = uint32(elf.PT_INTERP) }), good},
		{"no segments", "0 segments", with(func(p *program) { p.segs = nil }), good},
		{"many segments", "9 segments", with(func(p *program) {
			for i := range uint64(7) {
				s := p.segs[0]
				s.Vaddr += 0x100_0000 + i<<20
				p.segs = append(p.segs, s)
			}
		}), good},
		{"writable text", "writable and executable", with(func(p *program) { p.segs[0].Flags = 7 }), good},
		{"below the shim", "boot shim", with(func(p *program) { p.segs[0].Vaddr = 0x10_0000 }), good},
		{"above 1 GB", "1 GB", with(func(p *program) { p.segs[1].Vaddr = mapped }), good},
		{"text and data in a page", "share a page", with(func(p *program) { p.segs[1].Vaddr = textAt + 0x800 }), good},
		{"out of order", "out of order", with(func(p *program) { p.segs[0], p.segs[1] = p.segs[1], p.segs[0] }), good},
		{"more of the file than memory", "bytes of memory", with(func(p *program) { p.segs[0].Memsz = 0x10 }), good},
		{"endless", "bytes of memory", with(func(p *program) { p.segs[1].Memsz = 1<<64 - 1 }), good},
		{"an entry in data", "program's entry", with(func(p *program) { p.entry = dataAt }), with(func(p *program) { p.entry = dataAt })},
		{"the symbols of another program", "not linked alike", good, with(func(p *program) { p.segs[1].Filesz++ })},
		{"another entry", "not linked alike", good, with(func(p *program) { p.entry++ })},
		{"stripped", "no symbols", good, with(func(p *program) { p.symbols = nil })},
		{"without the kernel", "must call kernel.Booted", good, with(func(p *program) { p.symbols = p.symbols[:1] })},
		{"a kernel in data", "kernel's entry", good, with(func(p *program) { p.symbols[1].value = dataAt })},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := Link(c.image, c.twin)
			if err == nil || !strings.Contains(err.Error(), c.want) || out != nil {
				t.Errorf("got %v, want an error that says %q", err, c.want)
			}
		})
	}
}

func TestCheckRefuses(t *testing.T) {
	good, err := Link(sample().encode(), sample().encode())
	if err != nil {
		t.Fatal(err)
	}
	prog := func(b []byte, i int) []byte { return b[headerSize+progSize*i:] }
	le := binary.LittleEndian
	for _, c := range []struct {
		name, want string
		change     func(b []byte) []byte
	}{
		{"nothing", "", func(b []byte) []byte { return b }},
		{"the end is missing", "not all in the file", func(b []byte) []byte { return b[:len(b)-1] }},
		{"a program that was not linked", "no note", func([]byte) []byte { return sample().encode() }},
		{"another machine", "EM_AARCH64", func(b []byte) []byte { b[18] = byte(elf.EM_AARCH64); return b }},
		{"writable text", "writable and executable", func(b []byte) []byte { prog(b, 3)[4] = 7; return b }},
		{"moved text", "physically", func(b []byte) []byte { le.PutUint64(prog(b, 3)[24:], 0x80_0000); return b }},
		{"text below the shim", "first GB", func(b []byte) []byte {
			le.PutUint64(prog(b, 3)[16:], 0x1000)
			le.PutUint64(prog(b, 3)[24:], 0x1000)
			return b
		}},
		{"data above 1 GB", "first GB", func(b []byte) []byte { le.PutUint64(prog(b, 4)[40:], mapped); return b }},
		{"data without an end", "first GB", func(b []byte) []byte { le.PutUint64(prog(b, 4)[40:], 1<<64-1); return b }},
		{"data over text", "shares a page", func(b []byte) []byte {
			le.PutUint64(prog(b, 4)[16:], textAt+0x800)
			le.PutUint64(prog(b, 4)[24:], textAt+0x800)
			return b
		}},
		{"more of the file than memory", "not all in the file", func(b []byte) []byte { le.PutUint64(prog(b, 4)[40:], 0x10); return b }},
		{"a note of another owner", "note", func(b []byte) []byte { b[le.Uint64(prog(b, 0)[8:])+12] = 'Y'; return b }},
		{"a note of another kind", "note", func(b []byte) []byte { b[le.Uint64(prog(b, 0)[8:])+8]++; return b }},
		{"another entry", "note", func(b []byte) []byte { le.PutUint64(b[24:], textAt); return b }},
		{"another entry in the note", "note", func(b []byte) []byte { b[le.Uint64(prog(b, 0)[8:])+16]++; return b }},
		{"a shim that is not executable", "not in the shim", func(b []byte) []byte { prog(b, 1)[4] = 4; return b }},
		{"an interpreter", "PT_INTERP", func(b []byte) []byte { prog(b, 4)[0] = 3; return b }},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Check(c.change(bytes.Clone(good)))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestRealProgram links what the Go toolchain makes, stripped and not.
func TestRealProgram(t *testing.T) {
	dir := t.TempDir()
	build := func(name string, flags ...string) []byte {
		file := filepath.Join(dir, name)
		cmd := exec.Command("go", append(append([]string{"build", "-trimpath", "-buildvcs=false", "-o", file}, flags...), "lorica.dev/lorica/kernel/selftest")...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	twin, stripped := build("twin"), build("stripped", "-ldflags=-s -w")
	out, err := Link(stripped, twin)
	if err != nil {
		t.Fatal(err)
	}
	if len(out) >= len(twin) {
		t.Errorf("%d bytes of image for %d of program", len(out), len(twin))
	}
	if _, err := Link(stripped, stripped); err == nil || !strings.Contains(err.Error(), "no symbols") {
		t.Errorf("without symbols: %v", err)
	}
}

// FuzzLink: any file is refused with an error, or makes an image that Check takes and
// that has every loaded byte of the program.
func FuzzLink(f *testing.F) {
	f.Add(sample().encode())
	f.Add(with(func(p *program) { p.symbols = nil }))
	f.Add(with(func(p *program) { p.segs[1].Memsz = 1 << 40 }))
	f.Fuzz(func(t *testing.T, image []byte) {
		out, err := Link(image, image)
		if err != nil {
			if out != nil {
				t.Error("an image and an error")
			}
			return
		}
		if err := Check(out); err != nil {
			t.Fatal(err)
		}
		_, segs, err := open(image)
		if err != nil {
			t.Fatal(err)
		}
		made, err := elf.NewFile(bytes.NewReader(out))
		if err != nil {
			t.Fatal(err)
		}
		if len(made.Progs) != len(segs)+3 {
			t.Fatalf("%d segments of %d", len(made.Progs), len(segs))
		}
		for i, s := range segs {
			m := made.Progs[i+3]
			if m.Vaddr != s.Vaddr || !bytes.Equal(out[m.Off:m.Off+m.Filesz], image[s.Off:s.Off+s.Filesz]) {
				t.Errorf("segment %d is another", i)
			}
		}
	})
}
