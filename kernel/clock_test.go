package kernel

import (
	"math/bits"
	"runtime"
	"testing"
	"time"
)

func TestCivil(t *testing.T) {
	for d := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC); d.Year() < 2100; d = d.AddDate(0, 0, 1) {
		if got := civil(uint64(d.Year()), uint64(d.Month()), uint64(d.Day())); int64(got) != d.Unix()/86400 {
			t.Fatalf("%v is day %d, not %d", d, d.Unix()/86400, got)
		}
	}
}

func TestRateOfKVM(t *testing.T) {
	for _, hz := range []uint64{100_000_000, 999_999_999, 1_000_000_001, 2_596_992_000, 3_700_000_000, 5_000_000_000} {
		// As Linux computes it (kvm_get_time_scale): mul is at least 2^31.
		shift, scaled := 0, hz
		for scaled > 2*second {
			scaled, shift = scaled>>1, shift-1
		}
		for scaled <= second {
			scaled, shift = scaled<<1, shift+1
		}
		mul, _ := bits.Div64(second>>32, second<<32&(1<<64-1), scaled)
		got := kvmRate(mul, shift)
		if diff := int64(got) - int64(hz); diff > int64(hz/1_000_000) || diff < -int64(hz/1_000_000) {
			t.Errorf("%d Hz: got %d (mul %#x, shift %d)", hz, got, mul, shift)
		}
	}
	for _, c := range []struct {
		mul   uint64
		shift int
	}{{0, 0}, {1, -1}, {1 << 31, -32}, {1 << 31, 32}, {1, -31}, {250_000_000, -30}, {249_999_999, -30}} {
		if got := kvmRate(c.mul, c.shift); got != 0 {
			t.Errorf("mul %#x, shift %d: %d Hz", c.mul, c.shift, got)
		}
	}
}

// TestWhatTheHypervisorWritesIsReadWhole: not while it writes, nor what it wrote before and
// after in one.
func TestWhatTheHypervisorWritesIsReadWhole(t *testing.T) {
	mem := make([]byte, 256)
	defer runtime.KeepAlive(mem)
	from, to := addrOf(mem)+64, addrOf(mem)+128
	st(from, 1)
	if copyVersion(to, from) {
		t.Error("what is being written was taken")
	}
	st(from, 2)
	st(from+kvmSize-8, 7)
	if !copyVersion(to, from) || ld(to) != 2 || ld(to+kvmSize-8) != 7 || ld(to+kvmSize) != 0 {
		t.Error("what was written was not taken, or more")
	}
	// The last word of a copy is where the version of this one was, which so is another
	// behind it than before.
	const later = 8
	st(from+kvmSize-8, later)
	to = from - (kvmSize - 8)
	if !copyVersion(to, from) || ld(to) != later {
		t.Errorf("the version of what was taken is %d, and was another one in the end", ld(to))
	}
}

func TestWallClockOfKVM(t *testing.T) {
	defer func() { firstTSC = 0 }()
	const hz, wall = 2_500_000_000, 1_800_000_000 * second
	firstTSC = 7 * hz
	for _, c := range []struct{ tsc, want uint64 }{
		{firstTSC, wall + 40*second},
		{firstTSC + 3*hz, wall + 37*second},
		{firstTSC + hz/1000, wall + 40*second - millisecond},
		{firstTSC - hz, wall + 40*second}, // it was said before the kernel began
	} {
		if got := kvmStart(wall, 40*second, c.tsc, hz); got != c.want {
			t.Errorf("system time said at %d: it began at %d, want %d", c.tsc, got, c.want)
		}
	}
}

func TestAgreement(t *testing.T) {
	for _, c := range []struct {
		a, b uint64
		want bool
	}{{2_445_000_000, 2_446_000_000, true}, {2_446_000_000, 2_445_000_000, true}, {2_445_000_000, 2_450_000_000, false}, {2_445_000_000, 13_400_000_000, false}, {0, 0, false}} {
		if got := agree(c.a, c.b); got != c.want {
			t.Errorf("%d and %d: %v", c.a, c.b, got)
		}
	}
}

func TestMonotonic(t *testing.T) {
	defer func() { firstTSC, lastTSC, nsPerTick = 0, 0, 0 }()
	firstTSC, nsPerTick = rdtsc(), 1<<32
	a := nanotime()
	lastTSC += 1 << 40 // as if the counter had gone back
	b := nanotime()
	if c := nanotime(); b < a+1<<40 || c != b {
		t.Errorf("%d, %d, %d", a, b, c)
	}
}
