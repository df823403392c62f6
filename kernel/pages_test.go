package kernel

import (
	"testing"
	"unsafe"
)

func addrOf(b []byte) uint64 { return addr(unsafe.Pointer(unsafe.SliceData(b))) }

func TestPagesAreZeroedAndCounted(t *testing.T) {
	newArena(t, 300)
	all := freePages
	seen := map[uint64]bool{}
	var got []uint64
	for {
		p := allocPage()
		if p == 0 {
			break
		}
		if seen[p] || p%pageSize != 0 {
			t.Fatalf("page %#x came twice or is none", p)
		}
		seen[p] = true
		got = append(got, p)
		st(direct+p+pageSize-8, ^uint64(0))
	}
	if uint64(len(got)) != all || freePages != 0 {
		t.Fatalf("%d pages of %d, %d left", len(got), all, freePages)
	}
	for _, p := range got {
		freePage(p)
	}
	for range got {
		p := allocPage()
		if p == 0 || ld(direct+p+pageSize-8) != 0 || ld(direct+p) != 0 {
			t.Fatalf("page %#x is not zero", p)
		}
	}
}

func TestContiguousPagesLeaveTheReserve(t *testing.T) {
	newArena(t, 300)
	before := freePages
	p := allocContiguous(16)
	if p == 0 || freePages != before-16 {
		t.Fatalf("at %#x, %d pages free of %d", p, freePages, before)
	}
	for _, n := range []uint64{0, 1 << 60, freePages, freePages - reserve + 1} {
		if p := allocContiguous(n); p != 0 {
			t.Errorf("%d pages of %d: got %#x", n, freePages, p)
		}
	}
	if p := allocContiguous(freePages - reserve); p == 0 {
		t.Error("the last pages above the reserve are refused")
	}
	if p := userPage(); p != 0 {
		t.Error("a program gets a page of the reserve")
	}
	if p := allocPage(); p == 0 {
		t.Error("the kernel gets no page of the reserve")
	}
}

func TestPageTables(t *testing.T) {
	newArena(t, 300)
	for _, va := range []uint64{0x1000, 0x40_0000, WindowBase, userEnd - pageSize, threadBase, registerBase + 5*pageSize} {
		if walk(va, shiftPage, false) != 0 && ld(walk(va, shiftPage, false)) != 0 {
			t.Errorf("%#x is mapped", va)
		}
		p := allocPage()
		if !mapPage(va, p, pteData) {
			t.Fatalf("no tables for %#x", va)
		}
		if e := ld(walk(va, shiftPage, false)); e != p|pteData {
			t.Errorf("the entry of %#x is %#x", va, e)
		}
	}
	// 2 MB pages are not taken for tables.
	*(*uint64)(at(walk(0x7000_0000_0000, shiftLarge, true))) = pteData | pteLarge
	if e := walk(0x7000_0000_0000, shiftPage, true); e != 0 {
		t.Errorf("a table below a large page, at %#x", e)
	}
}

func TestTablesFailCleanlyWithoutMemory(t *testing.T) {
	newArena(t, 10)
	for allocPage() != 0 {
	}
	if mapPage(0x1234_5678_9000, 0, pteData) || mapNew(threadBase) {
		t.Error("mapped without memory for tables")
	}
}

func TestFreePartsOfRAM(t *testing.T) {
	defer func() { holes = [3]span{} }()
	holes = [3]span{{shimStart, shimEnd}, {0x40_0000, 0x60_0000}, {0x60_0000, 0x70_0000}}
	for _, c := range []struct{ start, end, from, to uint64 }{
		{0x10_0000, 0x100_0000, shimEnd, 0x40_0000},
		{0x40_0000, 0x100_0000, 0x70_0000, 0x100_0000},
		{0x50_0000, 0x60_0000, 0x60_0000, 0x60_0000},
		{0x65_0000, 0x66_0000, 0x66_0000, 0x66_0000},
		{0x80_0000, 0x90_0000, 0x80_0000, 0x90_0000},
		{0x3f_f000, 0x40_1000, 0x3f_f000, 0x40_0000},
	} {
		from, to := freePart(c.start, c.end)
		if from != c.from && from < to || to != c.to {
			t.Errorf("[%#x, %#x): got [%#x, %#x), want [%#x, %#x)", c.start, c.end, from, to, c.from, c.to)
		}
	}
}

func TestRAMIsSortedAndCut(t *testing.T) {
	defer func() { ram, rams, totalBytes = [maxMemoryMap]span{}, 0, 0 }()
	addRAM(1<<32, 1<<32+1<<20)
	addRAM(0, 0xa_0000)            // below the first megabyte
	addRAM(0x10_0001, 0x200_0fff)  // not whole pages
	addRAM(0x300_0000, 0x300_0800) // less than a page
	want := []span{{0x10_1000, 0x200_0000}, {1 << 32, 1<<32 + 1<<20}}
	if rams != len(want) || ram[0] != want[0] || ram[1] != want[1] {
		t.Fatalf("got %#x", ram[:rams])
	}
	if totalBytes != 0x1ef_f000+1<<20 {
		t.Errorf("%#x bytes", totalBytes)
	}
	for _, c := range []struct {
		start, end uint64
		want       bool
	}{
		{0x10_1000, 0x200_0000, true}, {0x10_0000, 0x200_0000, false}, {0x1ff_f000, 0x200_1000, false}, {1 << 32, 1<<32 + 4096, true},
	} {
		if got := inRAM(c.start, c.end); got != c.want {
			t.Errorf("[%#x, %#x): %v", c.start, c.end, got)
		}
	}
}

// TestAllRAMIsUsed, of a memory map of as many pieces as there may be, in any order, on
// both sides of 4 GB and at the end of what can be mapped: each page once, and none of
// the holes.
func TestAllRAMIsUsed(t *testing.T) {
	defer func() {
		ram, rams, totalBytes, holes = [maxMemoryMap]span{}, 0, 0, [3]span{}
		ranges, nranges, freePages = [maxRanges]physRange{}, 0, 0
	}()
	holes = [3]span{{shimStart, shimEnd}, {0x40_0000, 0x60_0000}, {0xbfe0_0000, 0xc000_0000}}
	addRAM(1<<32, 5<<30)
	addRAM(firstMB, 0xc000_0000)
	addRAM(maxRAM-largePage, maxRAM)
	for i := uint64(maxMemoryMap); i > 3; i-- {
		addRAM(6<<30+i*3*pageSize, 6<<30+(i*3+1)*pageSize)
	}
	initMemory()
	var held, inHoles uint64
	for _, h := range holes {
		inHoles += h.end - h.start
	}
	for i, r := range ranges[:nranges] {
		held += r.end - r.next
		if !inRAM(r.next, r.end) {
			t.Errorf("[%#x, %#x) is no RAM", r.next, r.end)
		}
		for _, h := range holes {
			if overlap(r.next, r.end, h.start, h.end) {
				t.Errorf("[%#x, %#x) is a hole", r.next, r.end)
			}
		}
		for _, o := range ranges[:i] {
			if overlap(r.next, r.end, o.next, o.end) {
				t.Errorf("[%#x, %#x) is used twice", r.next, r.end)
			}
		}
	}
	if rams != maxMemoryMap || held != totalBytes-inHoles || held != freePages*pageSize {
		t.Errorf("%d ranges, %#x bytes in use and %#x counted, of %#x with holes of %#x", rams, held, freePages*pageSize, totalBytes, inHoles)
	}
}
