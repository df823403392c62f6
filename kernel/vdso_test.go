package kernel

import (
	"bytes"
	"encoding/binary"
	"testing"
	"unsafe"
)

// TestVDSO reads the image as the runtime does (runtime/vdso_linux.go), by its
// segments, the dynamic section, and the hash table.
func TestVDSO(t *testing.T) {
	b := make([]byte, vdsoSize)
	base := addrOf(b)
	const clock = 0x1234_5678
	if got := writeVDSO(base, base+clock); got != base {
		t.Fatalf("at %#x", got)
	}
	le := binary.LittleEndian
	phoff, phnum := le.Uint64(b[32:]), le.Uint16(b[56:])
	var loadAt, dynamic uint64
	for i := range uint64(phnum) {
		p := b[phoff+i*elfSegment:]
		switch le.Uint32(p) {
		case ptLoad:
			loadAt = base + le.Uint64(p[8:]) - le.Uint64(p[16:])
			if le.Uint64(p[40:]) != vdsoSize {
				t.Error("the segment is not all of it")
			}
		case ptDynamic:
			dynamic = le.Uint64(p[8:])
		}
	}
	tags := map[uint64]uint64{}
	for d := dynamic; le.Uint64(b[d:]) != 0; d += 16 {
		tags[le.Uint64(b[d:])] = le.Uint64(b[d+8:])
	}
	text := func(at uint64) string { s, _, _ := bytes.Cut(b[at:], []byte{0}); return string(s) }
	strings, symbols, hash, version := tags[dtStrings], tags[dtSymbols], tags[dtHash], tags[dtVersionDef]
	if strings == 0 || symbols == 0 || hash == 0 || version == 0 {
		t.Fatalf("tags %v", tags)
	}
	if le.Uint16(b[version:]) != 1 || le.Uint16(b[version+4:]) != 2 || le.Uint16(b[version+6:]) != 1 || le.Uint32(b[version+8:]) != elfHash(vdsoName) {
		t.Error("the version definition is not of", vdsoName)
	}
	aux := version + uint64(le.Uint32(b[version+12:]))
	if got := text(strings + uint64(le.Uint32(b[aux:]))); got != vdsoName {
		t.Errorf("the version is called %q", got)
	}
	if le.Uint32(b[hash:]) != 1 || le.Uint32(b[hash+4:]) != 2 {
		t.Error("not one bucket of two symbols")
	}
	s := symbols + uint64(le.Uint32(b[hash+8:]))*elfSymbol
	if b[s+4] != globalFunction || le.Uint16(b[s+6:]) == 0 || text(strings+uint64(le.Uint32(b[s:]))) != vdsoSymbol {
		t.Errorf("the symbol is %x", b[s:s+elfSymbol])
	}
	if got := loadAt + le.Uint64(b[s+8:]); got != base+clock {
		t.Errorf("the clock is at %#x", got-base)
	}
}

// TestTheClockOfTheVDSO is that of the kernel, and never goes back.
func TestTheClockOfTheVDSO(t *testing.T) {
	defer func() { firstTSC, lastTSC, nsPerTick, wallStart = 0, 0, 0, 0 }()
	firstTSC, nsPerTick, wallStart = rdtsc(), 1<<31, 1_800_000_000*second+999_999_999
	code := vdsoClockAt()
	entry := &code
	// The fourth and fifth arguments of Go's calling convention are in the registers of the
	// first and second one of C's.
	call := *(*func(a, b, c, clock uint64, timespec *[2]uint64))(unsafe.Pointer(&entry))
	read := func(clock uint64) uint64 {
		var now [2]uint64
		call(0, 0, 0, clock, &now)
		if now[1] >= second {
			t.Errorf("%d ns beside the seconds", now[1])
		}
		return now[0]*second + now[1]
	}
	for range 1000 {
		before, now, after := nanotime(), read(1), nanotime()
		if now < before || now > after {
			t.Fatalf("%d is not between %d and %d", now, before, after)
		}
	}
	lastTSC += 1 << 40 // as if the counter had gone back
	want := (lastTSC - firstTSC) / 2
	if a, b := read(1), read(0); a != want || b != want+wallStart {
		t.Errorf("%d and %d, want %d and %d", a, b, want, want+wallStart)
	}
}

// elfHash is the hash function of the System V ABI.
func elfHash(s string) uint32 {
	var h uint32
	for _, c := range []byte(s) {
		h = h<<4 + uint32(c)
		g := h & 0xf000_0000
		h = h ^ g>>24
		h &^= g
	}
	return h
}
