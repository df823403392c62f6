package kernel

import (
	"slices"
	"testing"
)

// A model of memory that is plain: a protection for every page. The calls of the
// kernel are held against it.
type model map[uint64]uint64

const (
	playground = 0x20_0000_0000 // 64 pages that the calls are about
	playPages  = 64
)

// checkAreas holds the table to its invariants and to the model.
func checkAreas(t *testing.T, m model) {
	t.Helper()
	for i := range areas.count {
		a := areas.get(i)
		if a.start >= a.end || a.start%pageSize != 0 || a.end%pageSize != 0 {
			t.Fatalf("area %d is [%#x, %#x)", i, a.start, a.end)
		}
		if i == 0 {
			continue
		}
		if b := areas.get(i - 1); b.end > a.start || b.end == a.start && b.prot == a.prot {
			t.Fatalf("areas %d and %d overlap or are one", i-1, i)
		}
	}
	for i := range uint64(playPages) {
		a := playground + i*pageSize
		prot, mapped := m[a]
		if free := areas.free(a, a+pageSize); free == mapped {
			t.Fatalf("page %d: free is %v", i, free)
		}
		if mapped && (!areas.allows(a, a+pageSize, prot) || areas.get(areas.find(a)).prot != prot) {
			t.Fatalf("page %d: protection %d, want %d", i, areas.get(areas.find(a)).prot, prot)
		}
		checkEntry(t, a, prot, mapped)
	}
}

func checkEntry(t *testing.T, a, prot uint64, mapped bool) {
	t.Helper()
	e := walk(a, shiftPage, false)
	if e == 0 || ld(e) == 0 {
		return
	}
	v := ld(e)
	switch {
	case !mapped:
		t.Fatalf("%#x has a page and no area", a)
	case prot == 0 && v&(ptePresent|pteKept) != pteKept:
		t.Fatalf("%#x is accessible: %#x", a, v)
	case prot != 0 && (v&ptePresent == 0 || v&pteNoExec == 0 || (v&pteWrite != 0) != (prot&protWrite != 0)):
		t.Fatalf("%#x has entry %#x for protection %d", a, v, prot)
	}
}

// pagesHeld counts the pages of the playground and the chosen addresses.
func pagesHeld(start, end uint64) (n uint64) {
	for a := start; a < end; {
		e := walk(a, shiftPage, false)
		if e == 0 {
			a = behind(a)
			continue
		}
		if ld(e) != 0 {
			n++
		}
		a += pageSize
	}
	return n
}

// FuzzMemoryCalls runs calls in any order against the model. Each call is four bytes:
// what, first page, pages, protection.
func FuzzMemoryCalls(f *testing.F) {
	f.Add([]byte{
		0, 0, 63, 3, // map all
		5, 3, 9, 0, // touch some
		3, 4, 2, 0, // take access away
		5, 4, 1, 0,
		0, 2, 20, 1, // map over them
		5, 2, 20, 0,
		2, 3, 3, 0, // a hole
		1, 3, 2, 3, // into it
		1, 2, 9, 3, // where there is something
		4, 0, 63, 0, // give pages back
		5, 0, 63, 0,
	})
	f.Fuzz(func(t *testing.T, calls []byte) {
		newArena(t, 600)
		m := model{}
		for i := range uint64(playPages) { // the tables of the playground
			walk(playground+i*pageSize, shiftPage, true)
		}
		total := freePages
		for len(calls) >= 4 && len(calls) < 4000 {
			play(t, m, calls[0]%6, uint64(calls[1])%playPages, uint64(calls[2])%playPages, uint64(calls[3])%4)
			calls = calls[4:]
			checkAreas(t, m)
			if held := pagesHeld(playground, playground+playPages*pageSize); freePages+held != total {
				t.Fatalf("%d pages are free and %d held, of %d", freePages, held, total)
			}
		}
	})
}

func play(t *testing.T, m model, what byte, first, n, prot uint64) {
	a := playground + first*pageSize
	n = min(n, playPages-first)
	end := a + n*pageSize
	all := true
	for p := a; p < end; p += pageSize {
		_, mapped := m[p]
		all = all && mapped
	}
	var got, want uint64
	switch what {
	case 0, 1:
		flags := uint64(mapAnonymous | mapFixed)
		if what == 1 {
			flags = mapAnonymous | mapNoReplace
		}
		got = sysMmap(a, n*pageSize, prot, flags)
		want = a
		for p := a; p < end && what == 1; p += pageSize {
			if _, mapped := m[p]; mapped {
				want = fail(eEXIST)
			}
		}
		if n == 0 {
			want = fail(eINVAL)
		}
		for p := a; p < end && want == a; p += pageSize {
			m[p] = prot
		}
		if held := pagesHeld(a, end); held != 0 && want == a {
			t.Fatalf("%d pages of before are in a new mapping", held)
		}
	case 2:
		got = sysMunmap(a, n*pageSize)
		if n == 0 {
			want = fail(eINVAL)
		}
		for p := a; p < end; p += pageSize {
			delete(m, p)
		}
	case 3:
		got = sysMprotect(a, n*pageSize, prot)
		switch {
		case n == 0:
			want = fail(eINVAL)
		case !all:
			want = fail(eNOMEM)
		default:
			for p := a; p < end; p += pageSize {
				m[p] = prot
			}
		}
	case 4:
		got = sysMadvise(a, n*pageSize, adviseDontNeed)
		if held := pagesHeld(a, end); held != 0 {
			t.Fatalf("%d pages stay after madvise", held)
		}
	case 5:
		for p := a; p < end; p += pageSize {
			touch(t, m, p)
		}
	}
	if got != want {
		t.Fatalf("call %d of %d pages from page %d: got %d, want %d", what, n, first, int64(got), int64(want))
	}
}

// touch is what the processor does with a write to address p.
func touch(t *testing.T, m model, p uint64) {
	e := walk(p, shiftPage, false)
	if ld(e)&ptePresent == 0 {
		prot, mapped := m[p]
		if served := pageFault(p+123, faultWrite); served != (mapped && prot != 0) {
			t.Fatalf("a touch of %#x: served is %v", p, served)
		}
		if ld(e)&ptePresent == 0 {
			return
		}
		for i := uint64(0); i < pageSize; i += 8 {
			if ld(direct+ld(e)&pteAddr+i) != 0 {
				t.Fatalf("a new page of %#x is not zero", p)
			}
		}
	}
	st(direct+ld(e)&pteAddr+64, p)
}

func TestFaultsThatAreNoTouches(t *testing.T) {
	newArena(t, 300)
	if sysMmap(playground, 8*pageSize, protRead|protWrite, mapAnonymous|mapFixed) != playground {
		t.Fatal("mmap")
	}
	for _, code := range []uint64{faultPresent, faultPresent | faultWrite, faultFetch, faultReserve} {
		if pageFault(playground, code) {
			t.Errorf("a fault with code %#x is served", code)
		}
	}
	for _, va := range []uint64{0, 8, userStart, playground - 1, playground + 8*pageSize, image.start, WindowBase, userEnd, direct, threadBase, ^uint64(0)} {
		if pageFault(va, faultWrite) {
			t.Errorf("a touch of %#x is served", va)
		}
	}
	if !pageFault(playground, 0) || !pageFault(image.end, faultWrite) || !pageFault(firstStackBottom, faultWrite) {
		t.Error("a touch is not served")
	}
}

// TestATouchMapsNeighboursOfItsAreaOnly: not behind its ends, and not over pages.
func TestATouchMapsNeighboursOfItsAreaOnly(t *testing.T) {
	newArena(t, 1000)
	start := uint64(playground + pageSize)
	sysMmap(start, 2*pageSize, protRead|protWrite, mapAnonymous|mapFixed)
	pageFault(start+pageSize, faultWrite)
	if n := pagesHeld(playground, playground+playPages*pageSize); n != 2 {
		t.Errorf("%d pages of an area of 2", n)
	}
	before := ld(walk(start, shiftPage, false))
	sysMunmap(start+pageSize, pageSize)
	sysMmap(start+pageSize, pageSize, protRead|protWrite, mapAnonymous|mapFixed)
	pageFault(start+pageSize, faultWrite)
	if ld(walk(start, shiftPage, false)) != before {
		t.Error("a touch replaced its neighbour's page")
	}
}

func TestUntouchableMemory(t *testing.T) {
	newArena(t, 300)
	for _, r := range []span{
		{image.start, image.start + pageSize}, {image.end - pageSize, image.end}, {imageEnd - pageSize, imageEnd},
		{image.start - pageSize, image.start + pageSize}, {image.start - pageSize, imageEnd + pageSize},
		{WindowBase, WindowBase + pageSize}, {WindowBase - pageSize, WindowBase + pageSize},
		{WindowBase + window.end - window.start - pageSize, WindowBase + window.end - window.start + pageSize},
		{0, pageSize}, {userStart - pageSize, userStart + pageSize}, {userEnd - pageSize, userEnd + pageSize},
	} {
		n := r.end - r.start
		for name, got := range map[string]uint64{
			"mmap":            sysMmap(r.start, n, protRead|protWrite, mapAnonymous|mapFixed),
			"mmap no replace": sysMmap(r.start, n, protRead, mapAnonymous|mapNoReplace),
			"munmap":          sysMunmap(r.start, n),
			"mprotect":        sysMprotect(r.start, n, protRead),
			"madvise":         sysMadvise(r.start, n, adviseDontNeed),
			"madvise huge":    sysMadvise(r.start, n, adviseHuge),
		} {
			if got != fail(ePERM) && got != fail(eINVAL) {
				t.Errorf("%s of [%#x, %#x): got %d", name, r.start, r.end, int64(got))
			}
		}
	}
	for name, got := range map[string]uint64{
		"mmap":     sysMmap(0, pageSize, protRead|protExec, mapAnonymous),
		"mprotect": sysMprotect(firstStackBottom, pageSize, protExec),
	} {
		if got != fail(ePERM) {
			t.Errorf("executable memory by %s: %d", name, int64(got))
		}
	}
	for _, n := range []uint64{^uint64(0), 1 << 63, userEnd + 1, ^uint64(0) - pageSize + 1} {
		for name, got := range map[string]uint64{
			"mmap":     sysMmap(playground, n, protRead, mapAnonymous|mapFixed),
			"munmap":   sysMunmap(playground, n),
			"mprotect": sysMprotect(playground, n, protRead),
			"madvise":  sysMadvise(playground, n, adviseDontNeed),
		} {
			if got != fail(eINVAL) && got != fail(ePERM) {
				t.Errorf("%s of %#x bytes: %d", name, n, int64(got))
			}
		}
	}
	if areas.count != 2 {
		t.Errorf("%d areas", areas.count)
	}
}

func TestAddressesAreUsedAgain(t *testing.T) {
	newArena(t, 300)
	const n = 1 << 20
	var got []uint64
	for range 5 {
		a := sysMmap(0, n, protRead|protWrite, mapAnonymous)
		b := sysMmap(0, n, 0, mapAnonymous)
		if a < mmapStart || b < mmapStart || a == b {
			t.Fatalf("at %#x and %#x", a, b)
		}
		got = append(got, a)
		sysMunmap(a, n)
		sysMunmap(b, n)
	}
	if len(slices.Compact(got)) != 1 {
		t.Errorf("at %#x", got)
	}
	// A hint is taken where it is free, and only there.
	if a := sysMmap(playground, n, protRead, mapAnonymous); a != playground {
		t.Errorf("a free hint: %#x", a)
	}
	if a := sysMmap(playground, n, protRead, mapAnonymous); a < mmapStart || int64(a) < 0 {
		t.Errorf("a hint that is taken: %#x", a)
	}
	if a := sysMmap(image.start, n, protRead, mapAnonymous); a < mmapStart || int64(a) < 0 {
		t.Errorf("a hint in the image: %#x", a)
	}
	if a := sysMmap(0, firstStackBottom-mmapStart, protRead, mapAnonymous); a != fail(eNOMEM) {
		t.Errorf("more addresses than there are: %#x", a)
	}
}

func TestTheTableOfAreasEnds(t *testing.T) {
	newArena(t, 300)
	n := 0
	for a := uint64(playground); ; a += 2 * pageSize {
		if r := sysMmap(a, pageSize, protRead, mapAnonymous|mapFixed); r != a {
			if r != fail(eNOMEM) {
				t.Fatalf("got %d", int64(r))
			}
			break
		}
		n++
	}
	if n < maxAreas-10 {
		t.Errorf("full after %d", n)
	}
	if r := sysMprotect(playground, pageSize, 0); r != fail(eNOMEM) {
		t.Errorf("mprotect in a full table: %d", int64(r))
	}
	if r := sysMunmap(playground+2*pageSize, pageSize); r != 0 {
		t.Errorf("munmap in a full table: %d", int64(r))
	}
	if !areas.allows(playground, playground+pageSize, protRead) {
		t.Error("a call that failed changed the table")
	}
}
