package microvm

import (
	"testing"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/kernel"
)

// The Go runtime is never told to hold all there is, and always something.
func TestTheMemoryLimit(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct{ held, free, total, most uint64 }{
		{3 * mib, 4 * mib, 16 * mib, 5 * mib},
		{4 * mib, 12 * mib, 24 * mib, 11 * mib},
		{4 * mib, 52 * mib, 64 * mib, 56*mib - 19*mib},
		{8 * mib, 1000 * mib, 1024 * mib, 960 * mib},
		{0, 0, 16 * mib, 0},
	} {
		got := memoryLimit(c.held, c.free, c.total)
		if got > c.most || got < c.held+c.free/2 {
			t.Errorf("%d held, %d free of %d MiB: limit %d MiB, want at most %d", c.held/mib, c.free/mib, c.total/mib, got/mib, c.most/mib)
		}
	}
}

// An image of this target that is run as a program says what it is.
func TestAnImageIsNoProgram(t *testing.T) {
	if _, err := New().Control(); err == nil || kernel.Booted() {
		t.Errorf("control: %v", err)
	}
	if err := New().Seal(&launch.Params{}); err == nil {
		t.Error("sealed as a process")
	}
	if _, err := New().Window(&launch.Params{Slots: 2, SlotSize: 4096}); err == nil {
		t.Error("there is a window")
	}
}
