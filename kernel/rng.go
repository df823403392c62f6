package kernel

import "unsafe"

// A virtio entropy device (virtio 1.2, 5.4) on virtio-mmio (4.2), polled: the runtime
// wants random bytes before there are goroutines. Whatever the device writes is taken
// for hostile: of its ring only the index and one length are read, and both must be
// what one answered request makes them.

// Registers of virtio-mmio: virtio 1.2, 4.2.2.
const (
	vioMagic         = 0x00
	vioVersion       = 0x04
	vioDevice        = 0x08
	vioFeatures      = 0x10
	vioFeaturesSel   = 0x14
	vioDriver        = 0x20
	vioDriverSel     = 0x24
	vioQueueSel      = 0x30
	vioQueueMax      = 0x34
	vioQueueSize     = 0x38
	vioQueueReady    = 0x44
	vioNotify        = 0x50
	vioStatus        = 0x70
	vioDescriptors   = 0x80
	vioAvailable     = 0x90
	vioUsed          = 0xa0
	vioMagicValue    = 0x7472_6976 // "virt"
	vioModern        = 2
	vioEntropy       = 4
	vioVersion1      = 1 // bit 32 of the features: bit 0 of word 1
	statusAck        = 1
	statusDriver     = 2
	statusDriverOK   = 4
	statusFeaturesOK = 8

	descriptorWrite = 2 // VIRTQ_DESC_F_WRITE
	noInterrupt     = 1 // VIRTQ_AVAIL_F_NO_INTERRUPT
	indexMask16     = 0xffff
)

// The device's page: a queue of one descriptor, and the buffer it fills.
const (
	rngDescriptors = 0x000
	rngAvailable   = 0x100
	rngUsed        = 0x200
	rngBuffer      = 0x400
	rngQueue       = 1
)

var rng struct {
	regs   uint64
	memory uint64 // virtual address of the page
	index  uint64 // requests so far
	length uint64 // of the last answer
	asked  bool
	broken bool // it has said what it must not; it is not asked again
}

// findRNG sets rng up with the first entropy device of the command line.
//
//go:nosplit
func findRNG() {
	line := addr(unsafe.Pointer(&commandLine))
	var w word
	for i := uint64(0); ; {
		w, i = nextWord(line, lineLength, i)
		if w.n == 0 {
			return
		}
		phys, ok := parseDevice(w)
		if !ok || phys%4 != 0 || !isDevice(phys) {
			continue
		}
		r := mapRegisters(phys)
		if r == 0 || readDevice(r+vioMagic) != vioMagicValue || readDevice(r+vioVersion) != vioModern || readDevice(r+vioDevice) != vioEntropy {
			continue
		}
		if startRNG(r) {
			rng.regs = r
			return
		}
	}
}

// startRNG brings a device up as virtio 1.2, 3.1.1 says.
//
//go:nosplit
func startRNG(r uint64) bool {
	writeDevice(r+vioStatus, 0)
	writeDevice(r+vioStatus, statusAck)
	writeDevice(r+vioStatus, statusAck|statusDriver)
	writeDevice(r+vioFeaturesSel, 1)
	if readDevice(r+vioFeatures)&vioVersion1 == 0 {
		return false
	}
	writeDevice(r+vioDriverSel, 0)
	writeDevice(r+vioDriver, 0)
	writeDevice(r+vioDriverSel, 1)
	writeDevice(r+vioDriver, vioVersion1)
	writeDevice(r+vioStatus, statusAck|statusDriver|statusFeaturesOK)
	if readDevice(r+vioStatus)&statusFeaturesOK == 0 {
		return false
	}
	writeDevice(r+vioQueueSel, 0)
	if readDevice(r+vioQueueMax) < rngQueue || readDevice(r+vioQueueReady) != 0 {
		return false
	}
	p := allocPage()
	if p == 0 {
		return false
	}
	rng.memory = direct + p
	writeDevice(r+vioQueueSize, rngQueue)
	setRing(r+vioDescriptors, p+rngDescriptors)
	setRing(r+vioAvailable, p+rngAvailable)
	setRing(r+vioUsed, p+rngUsed)
	writeDevice(r+vioQueueReady, 1)
	writeDevice(r+vioStatus, statusAck|statusDriver|statusFeaturesOK|statusDriverOK)

	d := rng.memory + rngDescriptors
	st(d, p+rngBuffer)
	st32(d+8, seedBytes)
	st32(d+12, descriptorWrite)                // flags, and no next
	st32(rng.memory+rngAvailable, noInterrupt) // flags, and index 0; its ring says descriptor 0
	return true
}

//go:nosplit
func setRing(reg, p uint64) {
	writeDevice(reg, uint32(p))
	writeDevice(reg+4, uint32(p>>32))
}

// askRNG makes the buffer available.
//
//go:nosplit
func askRNG() {
	if rng.broken {
		return
	}
	rng.index++
	rng.asked = true
	st32(rng.memory+rngAvailable, noInterrupt|uint32(rng.index&indexMask16)<<16)
	writeDevice(rng.regs+vioNotify, 0)
}

// answered reports whether a seed has come.
//
//go:nosplit
func answered() bool {
	was := rng.broken
	ok := judgeRNG()
	if rng.broken && !was {
		say("the virtio-rng device answers what nobody asked; it is not asked again\n")
	}
	return ok
}

// judgeRNG looks at the used ring: nothing new, one answer to the one request, or
// what a device must not write.
//
//go:nosplit
func judgeRNG() bool {
	used := rng.memory + rngUsed
	index := uint64(readDevice(used)>>16) & indexMask16
	if rng.broken || index == (rng.index-1)&indexMask16 {
		return false
	}
	id, n := readDevice(used+4), readDevice(used+8)
	rng.asked, rng.length = false, uint64(n)
	rng.broken = index != rng.index&indexMask16 || id != 0 || n == 0 || n > seedBytes
	return !rng.broken
}
