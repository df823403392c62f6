package kernel

import "unsafe"

// Random bytes come from ChaCha20 with fast key erasure: every block that is computed
// gives its first half to the next key, so that what was given out cannot be computed
// from what the kernel keeps. The key is seeded from the virtio-rng device, which there
// must be. RDRAND is mixed in where the processor has it; it is not enough alone, or
// everything would rest on one instruction that nobody can examine.

const (
	seedBytes = keyWords * 4

	// The device is asked again after this many system calls or that much time.
	reseedRequests = 1024
	reseedAfter    = 60 * second

	// seedPatience bounds the wait for the device at boot.
	seedPatience = 2 * second

	cpuidFeatures = 1
	featureRDRAND = 1 << 30 // ECX
)

// A generator is used after its first mix only.
type generator struct {
	key   [keyWords]uint32
	block [blockWords]uint32 // not on the stack, which nobody erases
}

var (
	random     generator
	hasRDRAND  bool
	requests   uint64 // since the device was asked
	lastSeeded uint64 // nanotime
)

// step replaces the key and leaves seedBytes of output in the second half of block.
//
//go:nosplit
func (g *generator) step() {
	chachaBlock(&g.block, &g.key, 0, 0, 0, 0)
	for i := range g.key {
		g.key[i] = g.block[i]
		g.block[i] = 0
	}
}

// mix makes the key depend on the seedBytes at seed, and still on what it was.
//
//go:nosplit
func (g *generator) mix(seed uint64) {
	step := (*generator).step // indirect, as in walk
	for i := range g.key {
		g.key[i] ^= ld32(seed + uint64(i)*4)
	}
	step(g)
	g.erase()
}

//go:nosplit
func (g *generator) erase() {
	for i := range g.block {
		g.block[i] = 0
	}
}

// fill stores n bytes at p.
//
//go:nosplit
func (g *generator) fill(p, n uint64) {
	out := addr(unsafe.Pointer(&g.block)) + seedBytes
	for n > 0 {
		g.step()
		m := min(n, seedBytes)
		i := uint64(0)
		for ; i+8 <= m; i += 8 {
			st(p+i, ld(out+i))
		}
		for ; i < m; i++ {
			st8(p+i, ld8(out+i))
		}
		p += m
		n -= m
	}
	g.erase()
}

// mixProcessor mixes RDRAND in.
//
//go:nosplit
func mixProcessor() {
	if !hasRDRAND {
		return
	}
	var seed [seedBytes / 8]uint64
	for i := range seed {
		seed[i], _ = rdrand()
	}
	random.mix(addr(unsafe.Pointer(&seed)))
	for i := range seed {
		seed[i] = 0
	}
}

//go:nosplit
func initEntropy() {
	_, _, c, _ := cpuid(cpuidFeatures, 0)
	hasRDRAND = c&featureRDRAND != 0
	findRNG()
	if rng.regs == 0 {
		die(exitEntropy, "no source of entropy: give the machine a virtio-rng-device", noValue)
	}
	// A device may answer with less than it was asked for.
	for start, got := nanotime(), uint64(0); got < seedBytes; {
		if !rng.asked {
			askRNG()
		}
		if nanotime()-start > seedPatience || rng.broken {
			die(exitEntropy, "no entropy: the virtio-rng device does not answer, or not as it should", noValue)
		}
		pause()
		if answered() {
			got += rng.length
			reseed()
		}
	}
}

// reseed mixes in what the device has answered, and keeps nothing of it: from the first
// answer alone, which was mixed into a key of zeroes, all that was given out could be
// computed.
//
//go:nosplit
func reseed() {
	random.mix(rng.memory + rngBuffer)
	for i := uint64(0); i < seedBytes; i += 8 {
		st(rng.memory+rngBuffer+i, 0)
	}
	mixProcessor()
	requests, lastSeeded = 0, nanotime()
}

//go:nosplit
func sysGetrandom(p, n uint64) uint64 {
	n = min(n, 1<<20) // more takes another call: interrupts are off
	requests++
	switch {
	case rng.asked:
		if answered() {
			reseed()
		}
	case requests > reseedRequests || nanotime()-lastSeeded > reseedAfter:
		askRNG()
	}
	random.fill(p, n)
	return n
}
