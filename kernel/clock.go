package kernel

import "math/bits"

// Clocks. The time stamp counter is the clock; its rate comes from kvm-clock where
// the hypervisor offers it, and from measuring it against the PIT elsewhere. The
// wall clock comes from kvm-clock, or from the real-time clock (rtc.go).

const (
	second      = 1_000_000_000
	millisecond = 1_000_000

	// The 8254 PIT.
	pitCounter0 = 0x40
	pitControl  = 0x43
	pitLatch    = 0x00 // counter 0
	pitMode2    = 0x34 // counter 0, both bytes, rate generator
	pitHz       = 1_193_182
	pitMask     = 0xffff

	// calibration is how long each measurement takes: 2 ms of PIT ticks.
	calibration = pitHz / 500
	maxRuns     = 8
	// Two measurements agree where they differ by less than one part of this.
	agreement = 1024
	// pitPatience bounds the wait for a PIT that does not count.
	pitPatience = 1 << 15

	// kvm-clock: Linux, Documentation/virt/kvm/x86/cpuid.rst and msr.rst.
	cpuidHypervisor  = 0x4000_0000
	cpuidKVM         = 0x4000_0001
	kvmSignature0    = 0x4b4d_564b // "KVMK"
	kvmSignature1    = 0x564b_4d56 // "VMKV"
	kvmSignature2    = 0x4d        // "M"
	kvmClockSource2  = 1 << 3
	msrKVMWall       = 0x4b56_4d00
	msrKVMSystem     = 0x4b56_4d01
	kvmSystemEnabled = 1

	// The page that is lent to the hypervisor: what it writes, and from kvmCopy on copies.
	kvmTimeAt = 64
	kvmCopy   = 1024
	kvmSize   = 32 // bytes of the larger structure
	kvmTries  = 1 << 10

	slowestTSC, fastestTSC = 50_000_000, 20_000_000_000 // Hz; what is outside is a bad measurement
)

// kvmWall is struct pvclock_wall_clock, kvmTime struct pvclock_vcpu_time_info.
type kvmWall struct{ version, sec, nsec uint32 }

type kvmTime struct {
	version, pad uint32
	tsc, system  uint64
	mul          uint32
	shift        int8
	flags        uint8
	pad2         [2]uint8
}

var (
	firstTSC    uint64
	lastTSC     uint64 // the highest value that was used
	nsPerTick   uint64 // times 2^32
	ticksPerNS  uint64 // of the APIC timer, times 2^32
	wallStart   uint64 // Unix time in ns at firstTSC
	tscHz       uint64
	kvmClockSet bool
)

// nanotime is the monotonic clock: it starts at boot.
//
//go:nosplit
func nanotime() uint64 {
	t := rdtsc()
	if t < lastTSC {
		t = lastTSC
	}
	lastTSC = t
	hi, lo := bits.Mul64(t-firstTSC, nsPerTick)
	return hi<<32 | lo>>32
}

//go:nosplit
func initClock() {
	lastTSC = firstTSC
	kvm := kvmClock()
	measure(kvm)
	if tscHz < slowestTSC || tscHz > fastestTSC {
		die(exitBoot, "no clock: the time stamp counter seems to run at Hz ", tscHz)
	}
	nsPerTick = second << 32 / tscHz
	if !kvmClockSet {
		startRTC()
	}
}

// measure finds the rates of the time stamp counter (unless known is not 0) and of
// the APIC timer. The processor may be taken away at any point, for longer even than
// the PIT takes to wrap around, so it goes on until two measurements agree.
//
//go:nosplit
func measure(known uint64) {
	outb(pitControl, pitMode2)
	outb(pitCounter0, 0)
	outb(pitCounter0, 0)
	startAPICTimer()
	var hz, rate [maxRuns]uint64
	once := measureOnce // indirect, as in walk
	for i := range hz {
		hz[i], rate[i] = once()
		for j := range hz {
			if j < i && agree(hz[i], hz[j]) && agree(rate[i], rate[j]) {
				stopAPICTimer()
				tscHz, ticksPerNS = (hz[i]+hz[j])/2, (rate[i]+rate[j])/2
				if known != 0 {
					tscHz = known
				}
				return
			}
		}
	}
	die(exitBoot, "no clock: no two measurements of it agree", noValue)
}

//go:nosplit
func agree(a, b uint64) bool {
	return max(a, b)-min(a, b) < a/agreement
}

//go:nosplit
func measureOnce() (hz, rate uint64) {
	p0, t0, a0 := sample()
	p1, t1, a1 := p0, t0, a0
	for n := 0; (p0-p1)&pitMask < calibration; n++ {
		if n == pitPatience {
			die(exitBoot, "no clock: the PIT does not count", noValue)
		}
		p1, t1, a1 = sample()
	}
	ns := (p0 - p1) & pitMask * second / pitHz
	return (t1 - t0) * second / ns, (a0 - a1) << 32 / ns
}

// sample reads the PIT, the time stamp counter and the APIC timer as close together
// as four attempts allow.
//
//go:nosplit
func sample() (pit, tsc, apic uint64) {
	best := ^uint64(0)
	for i := 0; i < 4; i++ {
		a := rdtsc()
		outb(pitControl, pitLatch)
		lo := inb(pitCounter0)
		hi := inb(pitCounter0)
		c := apicCount()
		b := rdtsc()
		if b-a < best {
			best, pit, tsc, apic = b-a, hi<<8|lo, a+(b-a)/2, c
		}
	}
	return pit, tsc, apic
}

// kvmClock returns the rate of the time stamp counter, and sets the wall clock, if
// the hypervisor says both; otherwise it returns 0.
//
//go:nosplit
func kvmClock() uint64 {
	_, b, c, d := cpuid(cpuidHypervisor, 0)
	if b != kvmSignature0 || c != kvmSignature1 || d != kvmSignature2 {
		return 0
	}
	if a, _, _, _ := cpuid(cpuidKVM, 0); a&kvmClockSource2 == 0 {
		return 0
	}
	p := allocPage()
	if p == 0 {
		return 0
	}
	page := direct + p
	wrmsr(msrKVMWall, p)
	wrmsr(msrKVMSystem, (p+kvmTimeAt)|kvmSystemEnabled)
	whole := copyVersion(page+kvmCopy, page) && copyVersion(page+kvmCopy+kvmTimeAt, page+kvmTimeAt)
	wrmsr(msrKVMSystem, 0)
	wall, now := (*kvmWall)(at(page+kvmCopy)), (*kvmTime)(at(page+kvmCopy+kvmTimeAt))
	mul, shift, tsc, system := uint64(now.mul), int(now.shift), now.tsc, now.system
	sec, nsec := uint64(wall.sec), uint64(wall.nsec)
	freePage(p)
	hz := kvmRate(mul, shift)
	if sec == 0 || !whole || hz < slowestTSC || hz > fastestTSC {
		return 0
	}
	wallStart = kvmStart(sec*second+nsec, system, tsc, hz)
	kvmClockSet = true
	return hz
}

// kvmStart returns the wall clock at firstTSC: wall is where system time was 0, and that
// was what system says when the counter was at tsc.
//
//go:nosplit
func kvmStart(wall, system, tsc, hz uint64) uint64 {
	if tsc < firstTSC {
		return wall + system
	}
	return wall + system - (tsc-firstTSC)/(hz/1000)*millisecond
}

// copyVersion copies what the hypervisor writes at from, whole: its first word is the
// version, odd while it is written and another one afterwards (Linux,
// Documentation/virt/kvm/x86/msr.rst). It reports failure where that does not end.
//
//go:nosplit
func copyVersion(to, from uint64) bool {
	for range kvmTries {
		version := readDevice(from)
		for i := uint64(0); i < kvmSize; i += 8 {
			st(to+i, ld(from+i))
		}
		if version&1 == 0 && readDevice(from) == version {
			return true
		}
		pause()
	}
	return false
}

// kvmRate returns the Hz of a counter whose ticks are (ticks << shift) * mul >> 32
// nanoseconds, 0 where that makes no sense.
//
//go:nosplit
func kvmRate(mul uint64, shift int) uint64 {
	if mul == 0 || shift < -31 || shift > 31 {
		return 0
	}
	hz := second << 32 / mul
	switch {
	case shift >= 0:
		return hz >> uint(shift)
	case hz > fastestTSC>>uint(-shift):
		return 0
	}
	return hz << uint(-shift)
}
