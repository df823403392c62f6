package kernel

// Physical pages. A page is handed out zeroed, by its physical address, and the
// kernel reads and writes it through the direct map.

const (
	pageSize  = 4096
	largePage = 2 << 20

	// reserve is what is left to the kernel (page tables, threads) when programs get
	// no more memory.
	reserve = 64

	maxRanges = maxMemoryMap + 3 // each hole cuts one in two at most
)

type physRange struct{ next, end uint64 }

var (
	ranges    [maxRanges]physRange // never handed out yet
	nranges   int
	freeList  uint64 // pages given back, linked through their first words
	freePages uint64 // on the list and in ranges
)

//go:nosplit
func addPages(start, end uint64) {
	ranges[nranges].next, ranges[nranges].end = start, end
	nranges++
	freePages += (end - start) / pageSize
}

// allocPage returns 0 where there is no page.
//
//go:nosplit
func allocPage() uint64 {
	p := freeList
	if p != 0 {
		freeList = ld(direct + p)
	} else {
		for i := range ranges {
			if r := &ranges[i]; r.next < r.end {
				p = r.next
				r.next += pageSize
				break
			}
		}
		if p == 0 {
			return 0
		}
	}
	freePages--
	zeroPage(direct + p)
	return p
}

//go:nosplit
func freePage(p uint64) {
	st(direct+p, freeList)
	freeList = p
	freePages++
}

// allocContiguous takes n pages from the end of a range, or returns 0.
//
//go:nosplit
func allocContiguous(n uint64) uint64 {
	if n == 0 || n > freePages || freePages-n < reserve {
		return 0
	}
	for i := nranges - 1; i >= 0; i-- {
		r := &ranges[i]
		if (r.end-r.next)/pageSize < n {
			continue
		}
		r.end -= n * pageSize
		freePages -= n
		for p := r.end; p < r.end+n*pageSize; p += pageSize {
			zeroPage(direct + p)
		}
		return r.end
	}
	return 0
}
