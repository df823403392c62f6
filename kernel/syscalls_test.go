package kernel

import "testing"

// TestTheKernelsMemoryIsNotForCalls: no call reads or writes what lies behind the memory
// of programs. The test would die of one that tries.
func TestTheKernelsMemoryIsNotForCalls(t *testing.T) {
	const good = 0x10_0000
	for _, c := range []struct {
		name string
		nr   uint64
		args []int // places of addresses
	}{
		{"read", nrRead, []int{1}},
		{"write", nrWrite, []int{1}},
		{"rt_sigaction", nrRtSigaction, []int{1, 2}},
		{"rt_sigprocmask", nrRtSigprocmask, []int{1, 2}},
		{"rt_sigreturn", nrRtSigreturn, []int{4}},
		{"nanosleep", nrNanosleep, []int{0}},
		{"uname", nrUname, []int{0}},
		{"sigaltstack", nrSigaltstack, []int{0, 1}},
		{"futex", nrFutex, []int{0, 3}},
		{"sched_getaffinity", nrSchedGetaffinity, []int{2}},
		{"clock_gettime", nrClockGettime, []int{1}},
		{"epoll_wait", nrEpollWait, []int{1}},
		{"epoll_ctl", nrEpollCtl, []int{3}},
		{"epoll_pwait", nrEpollPwait, []int{1}},
		{"prlimit64", nrPrlimit64, []int{3}},
		{"getrandom", nrGetrandom, []int{0}},
		{"pages", nrPages, []int{1}},
		{"registers", nrRegisters, []int{1}},
		{"clone", nrClone, []int{1}},
	} {
		for _, i := range c.args {
			for _, a := range []uint64{userEnd, lowerEnd - 4, lowerEnd, 1 << 63, direct, threadBase, registerBase, ^uint64(0)} {
				th := &thread{}
				registers := []uint64{regDI, regSI, regDX, regR10, regSP}
				for _, r := range registers {
					th.reg[r] = good
				}
				th.reg[registers[i]] = a
				if r, left := dispatch(th, c.nr); r != fail(eFAULT) || left {
					t.Errorf("%s with argument %d of %#x: %d, left %v", c.name, i, a, int64(r), left)
				}
			}
		}
	}
}

// TestBasesOfFS: the processor would not take one.
func TestBasesOfFS(t *testing.T) {
	for _, c := range [][2]uint64{{archSetFS, userEnd}, {archSetFS, direct}, {archSetFS, ^uint64(0)}, {archSetFS - 1, 0}, {archSetFS + 1, 0}} {
		if r := rare(&thread{}, nrArchPrctl, c[0], c[1], 0, 0); r != fail(eINVAL) {
			t.Errorf("arch_prctl %#x, %#x: %d", c[0], c[1], int64(r))
		}
	}
}

// TestSignalStacks: signals come to memory of programs only.
func TestSignalStacks(t *testing.T) {
	for _, c := range []struct{ sp, size, want uint64 }{
		{0x10_0000, smallestStack, 0},
		{userEnd - smallestStack, smallestStack, 0},
		{0x10_0000, smallestStack - 1, fail(eNOMEM)},
		{userEnd - smallestStack, smallestStack + 1, fail(eFAULT)},
		{userEnd, smallestStack, fail(eFAULT)},
		{direct, 1 << 16, fail(eFAULT)},
		{0x10_0000, ^uint64(0), fail(eFAULT)},
	} {
		th := &thread{}
		set := make([]byte, 24)
		st(addrOf(set), c.sp)
		st(addrOf(set)+16, c.size)
		if got := sysSigaltstack(th, addrOf(set), 0); got != c.want || (th.altSize != 0) != (got == 0) {
			t.Errorf("%#x bytes at %#x: %d, and then %#x", c.size, c.sp, int64(got), th.altSize)
		}
	}
}
