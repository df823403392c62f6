package kernel

import (
	"testing"
	"unsafe"
)

// TestEveryStackHasAGuard, and nothing else is one: stacks and tables are whole.
func TestEveryStackHasAGuard(t *testing.T) {
	layOut()
	type stack struct{ top, pages uint64 }
	stacks := []stack{{kernelStack, kernelStackPages}, {stacksStart + deathTop, istPages}}
	for i := uint64(1); i <= ists; i++ {
		stacks = append(stacks, stack{istTops[i], istPages})
	}
	want := map[uint64]bool{}
	for _, s := range stacks {
		want[s.top-(s.pages+1)*pageSize] = true
		for a := s.top - s.pages*pageSize; a < s.top; a += pageSize {
			if _, twice := want[a]; twice {
				t.Errorf("page %#x of the stack at %#x has another use", a, s.top)
			}
			want[a] = false
		}
	}
	end := addr(unsafe.Pointer(&room)) + uint64(unsafe.Sizeof(room))
	if len(want) != int((tablesStart-stacksStart)/pageSize) || tablesEnd > end || stacksStart%pageSize != 0 {
		t.Errorf("%d pages of stacks in [%#x, %#x), tables up to %#x, room up to %#x", len(want), stacksStart, tablesStart, tablesEnd, end)
	}
	for a := stacksStart - pageSize; a < tablesEnd+pageSize; a += pageSize {
		if isGuard(a) != want[a] {
			t.Errorf("page %#x: a guard %v", a, isGuard(a))
		}
	}
}
