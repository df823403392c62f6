package kernel

import "unsafe"

// Areas say which addresses programs may touch, and how. They are sorted, do not
// overlap, and neighbours of equal protection are one. The table grows page by page.

type area struct{ start, end, prot uint64 }

const (
	areaSize = uint64(unsafe.Sizeof(area{}))
	maxAreas = 65530 // as many as Linux allows (vm.max_map_count)
)

// An areaTable lies at base; pages of it exist up to limit.
type areaTable struct {
	base  uint64
	count int
	limit uint64 // bytes
}

var areas areaTable

//go:nosplit
func (t *areaTable) get(i int) *area { return (*area)(at(t.base + uint64(i)*areaSize)) }

// room makes place for two more areas: no change needs more. It reports failure
// before anything has changed.
//
//go:nosplit
func (t *areaTable) room() bool {
	if t.count+2 > maxAreas {
		return false
	}
	for uint64(t.count+2)*areaSize > t.limit {
		if !mapNew(t.base + t.limit) {
			return false
		}
		t.limit += pageSize
	}
	return true
}

// splits reports whether taking [start, end) out makes one area two.
//
//go:nosplit
func (t *areaTable) splits(start, end uint64) bool {
	i := t.find(start)
	return i < t.count && t.get(i).start < start && t.get(i).end > end
}

// find returns the first area that ends behind va.
//
//go:nosplit
func (t *areaTable) find(va uint64) int {
	lo, hi := 0, t.count
	for lo < hi {
		m := int(uint(lo+hi) / 2)
		if t.get(m).end > va {
			hi = m
		} else {
			lo = m + 1
		}
	}
	return lo
}

// free reports whether no area touches [start, end).
//
//go:nosplit
func (t *areaTable) free(start, end uint64) bool {
	i := t.find(start)
	return i == t.count || t.get(i).start >= end
}

// allows reports whether all of [start, end) has every bit of prot.
//
//go:nosplit
func (t *areaTable) allows(start, end, prot uint64) bool {
	for i := t.find(start); start < end; i++ {
		if i == t.count {
			return false
		}
		a := t.get(i)
		if a.start > start || a.prot&prot != prot {
			return false
		}
		start = a.end
	}
	return true
}

// gap returns the lowest free range of n bytes in [start, end), or 0.
//
//go:nosplit
func (t *areaTable) gap(start, end, n uint64) uint64 {
	for i := t.find(start); ; i++ {
		stop := end
		if i < t.count {
			stop = min(stop, t.get(i).start)
		}
		if stop > start && stop-start >= n {
			return start
		}
		if i >= t.count || stop == end {
			return 0
		}
		start = max(start, t.get(i).end)
	}
}

// shift moves areas from index i on by n places.
//
//go:nosplit
func (t *areaTable) shift(i, n int) {
	if n < 0 {
		for ; i < t.count; i++ {
			*t.get(i + n) = *t.get(i)
		}
	} else {
		for j := t.count - 1; j >= i; j-- {
			*t.get(j + n) = *t.get(j)
		}
	}
	t.count += n
}

// clear removes [start, end) and returns where an area of it would go. It needs
// room for one.
//
//go:nosplit
func (t *areaTable) clear(start, end uint64) int {
	i := t.find(start)
	if i < t.count && t.get(i).start < start {
		a := t.get(i)
		if a.end > end {
			t.shift(i+1, 1)
			*t.get(i + 1) = *a
			t.get(i + 1).start = end
			a.end = start
			return i + 1
		}
		a.end = start
		i++
	}
	j := i
	for j < t.count && t.get(j).end <= end {
		j++
	}
	if j > i {
		t.shift(j, i-j)
	}
	if i < t.count && t.get(i).start < end {
		t.get(i).start = end
	}
	return i
}

// set gives [start, end) the protection prot. It needs room for two.
//
//go:nosplit
func (t *areaTable) set(start, end, prot uint64) {
	i := t.clear(start, end)
	before := i > 0 && t.get(i-1).end == start && t.get(i-1).prot == prot
	after := i < t.count && t.get(i).start == end && t.get(i).prot == prot
	switch {
	case before && after:
		t.get(i - 1).end = t.get(i).end
		t.shift(i+1, -1)
	case before:
		t.get(i - 1).end = end
	case after:
		t.get(i).start = start
	default:
		t.shift(i, 1)
		a := t.get(i)
		a.start, a.end, a.prot = start, end, prot
	}
}
