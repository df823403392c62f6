package kernel

import (
	"syscall"
	"testing"
)

// newArena gives the kernel's allocator and tables memory of the test's process, and
// everything else the state of a machine that has just booted: an image, a window.
// The direct map is an addition, so there is a "physical" address for every byte.
func newArena(t testing.TB, pages int) {
	t.Helper()
	const tableBytes = maxAreas * areaSize
	mem, err := syscall.Mmap(-1, 0, pages*pageSize+int(tableBytes), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		topTable, freeList, nranges, freePages = 0, 0, 0, 0
		ranges, areas, image, imageEnd, window = [maxRanges]physRange{}, areaTable{}, span{}, 0, span{}
		if err := syscall.Munmap(mem); err != nil {
			t.Error(err)
		}
	})
	base := addrOf(mem)
	start := base - direct
	addPages(start, start+uint64(pages)*pageSize)
	topTable = allocPage()
	areas.base, areas.limit = base+uint64(pages)*pageSize, tableBytes
	image, imageEnd = span{0x40_0000, 0x60_0000}, 0x80_0000
	window = span{0x1000_0000, 0x1020_0000}
	areas.set(image.end, imageEnd, protRead|protWrite)
	areas.set(firstStackBottom, userEnd, protRead|protWrite)
}
