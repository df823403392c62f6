package qemu

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWhereTheWindowIs(t *testing.T) {
	for _, c := range []struct{ memory, window, size, at uint64 }{
		{8 << 20, 0, 8 << 20, 8 << 20},
		{64 << 20, 48 << 20, 112 << 20, 64 << 20},
		{64<<20 + 1, 48 << 20, 114 << 20, 66 << 20},
		{64 << 20, 4096, 66 << 20, 64 << 20},
		{3 << 30, 48 << 20, 3<<30 + 48<<20, 3<<30 - 48<<20}, // the top of what is below 3 GiB
		{8 << 30, 48 << 20, 8<<30 + 48<<20, 3<<30 - 48<<20},
	} {
		r, err := NewRAM(c.memory, c.window)
		if err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		if r.Size() != c.size || r.WindowAt() != c.at || uint64(len(r.Window())) != c.window {
			t.Errorf("%+v: %d bytes, a window of %d at %#x", c, r.Size(), len(r.Window()), r.WindowAt())
		}
		if c.window > 0 { // the tender's window is that part of the file
			r.Window()[5] = 42
			b := make([]byte, 1)
			if _, err := r.File().ReadAt(b, int64(r.WindowAt())+5); err != nil || b[0] != 42 {
				t.Errorf("%+v: the file has %d, %v", c, b[0], err)
			}
		}
		r.Close()
	}
}

func TestMemoryThatIsRefused(t *testing.T) {
	for name, c := range map[string][2]uint64{
		"none": {0, 0}, "too little": {leastRAM - 1, 0}, "too much": {maxMemory + 1, 0},
		"half a page": {64 << 20, 2048}, "a window beyond the low memory": {8 << 30, 2 << 30},
	} {
		if r, err := NewRAM(c[0], c[1]); err == nil {
			t.Errorf("%s: %d bytes", name, r.Size())
		}
	}
}

// What a guest has altered is noticed in its code and its constants, and nowhere else.
func TestAlteredCodeIsNoticed(t *testing.T) {
	r, err := NewRAM(leastRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	const entry, text, data, size = 1 << 20, 2 << 20, 3 << 20, lookBytes + 100
	bytesOf := func(b byte) []byte { return bytes.Repeat([]byte{b}, size) }
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Entry: entry + 4, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 3, Shentsize: 64}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	var image bytes.Buffer
	binary.Write(&image, binary.LittleEndian, h)
	for i, at := range []uint64{entry, text, data} {
		flags := elf.PF_R | elf.PF_X
		if at == data {
			flags = elf.PF_R | elf.PF_W
		}
		binary.Write(&image, binary.LittleEndian, elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(flags), Off: 64 + 3*56 + uint64(i)*size,
			Vaddr: at, Paddr: at, Filesz: size, Memsz: size, Align: 1})
		if _, err := r.File().WriteAt(bytesOf(byte(i+1)), int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		image.Write(bytesOf(byte(i + 1)))
	}
	file := bytes.NewReader(image.Bytes())
	for _, c := range []struct {
		at   int64
		want bool
	}{{entry, false}, {text - 1, false}, {text, true}, {text + size - 1, true}, {text + size, false}, {data, false}} {
		was := make([]byte, 1)
		r.File().ReadAt(was, c.at)
		r.File().WriteAt([]byte{was[0] ^ 1}, c.at)
		if err := r.Holds(file); (err != nil) != c.want {
			t.Errorf("%#x is altered: %v", c.at, err)
		}
		r.File().WriteAt(was, c.at)
		if err := r.Holds(file); err != nil {
			t.Error(err)
		}
	}
	r.Close()
	if err := r.Holds(file); !errors.Is(err, os.ErrClosed) {
		t.Errorf("of a guest that has ended: %v", err)
	}
}

// A file that shrank would kill the tender; one that grew would not be bounded.
func TestTheSizeOfMemoryIsSealed(t *testing.T) {
	r, err := NewRAM(leastRAM, 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fd := int(r.File().Fd())
	for _, size := range []int64{0, int64(r.Size()) + 4096} {
		if err := unix.Ftruncate(fd, size); err != unix.EPERM {
			t.Errorf("to %d bytes: %v", size, err)
		}
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_FUTURE_WRITE); err != unix.EPERM {
		t.Errorf("another seal: %v", err)
	}
	if err := unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, int64(r.Size())); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(r.Window(), make([]byte, 4096)) {
		t.Error("memory that is not empty")
	}
}
