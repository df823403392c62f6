package kernel

import "math/bits"

// Interrupts: the local APIC with its timer (Intel SDM volume 3A, chapter 10) and the
// I/O APIC (82093AA data sheet). Handlers run with interrupts off and only make
// threads ready: they touch no memory of programs.

const (
	apicPhys   = 0xfee0_0000
	ioapicPhys = 0xfec0_0000

	apicPriority  = 0x80 // task priority
	apicEOI       = 0xb0
	apicSpurious  = 0xf0
	apicTimer     = 0x320 // local vector table
	apicLINT0     = 0x350
	apicLINT1     = 0x360
	apicInitial   = 0x380
	apicCurrent   = 0x390
	apicDivide    = 0x3e0
	apicEnable    = 1 << 8
	apicMasked    = 1 << 16
	apicDivideBy1 = 0xb

	ioapicIndex  = 0x00
	ioapicWindow = 0x10
	ioapicTable  = 0x10 // index of the first of two words for each pin
	ioapicLevel  = 1 << 15
	ioapicMasked = 1 << 16
	pins         = 24

	// The two 8259 PICs, which stay silent.
	pic1Mask, pic2Mask = 0x21, 0xa1

	// Registers of a virtio-mmio device: virtio 1.2, 4.2.2.
	virtioInterruptStatus = 0x60
	virtioInterruptACK    = 0x64

	// Vectors.
	vecDivide       = 0
	vecNMI          = 2
	vecBreakpoint   = 3
	vecInvalid      = 6
	vecDoubleFault  = 8
	vecPageFault    = 14
	vecX87          = 16
	vecMachineCheck = 18
	vecSIMD         = 19
	vecTimer        = 32
	vecPin          = 33 // of pin 0
	vecSpurious     = 0xff
	lastStub        = vecPin + pins // all vectors from here on are spurious

	timeSlice    = 10 * millisecond
	timerMin     = 1000       // ns
	timerMax     = 2 * second // a longer wait is cut
	noDescriptor = 0
)

var (
	apic   uint64 // virtual addresses of registers
	ioapic uint64
	armed  uint64 = never // when the timer goes off
	pinFD  [pins]uint64
)

//go:nosplit
func initAPIC() { apic, ioapic = deviceBoot(apicPhys), deviceBoot(ioapicPhys) }

//go:nosplit
func startAPICTimer() {
	writeDevice(apic+apicSpurious, apicEnable|vecSpurious)
	writeDevice(apic+apicDivide, apicDivideBy1)
	writeDevice(apic+apicTimer, apicMasked)
	writeDevice(apic+apicInitial, 1<<32-1)
}

//go:nosplit
func apicCount() uint64 { return uint64(readDevice(apic + apicCurrent)) }

//go:nosplit
func stopAPICTimer() { writeDevice(apic+apicInitial, 0) }

//go:nosplit
func initInterrupts() {
	outb(pic1Mask, 0xff)
	outb(pic2Mask, 0xff)
	writeDevice(apic+apicPriority, 0)
	writeDevice(apic+apicTimer, vecTimer) // once
	writeDevice(apic+apicLINT0, apicMasked)
	writeDevice(apic+apicLINT1, apicMasked)
	for p := uint64(0); p < pins; p++ {
		unroute(p)
	}
}

//go:nosplit
func setPin(pin uint64, low, high uint32) {
	writeDevice(ioapic+ioapicIndex, uint32(ioapicTable+pin*2+1))
	writeDevice(ioapic+ioapicWindow, high)
	writeDevice(ioapic+ioapicIndex, uint32(ioapicTable+pin*2))
	writeDevice(ioapic+ioapicWindow, low)
}

//go:nosplit
func unroute(pin uint64) {
	setPin(pin, ioapicMasked, 0)
	pinFD[pin] = noDescriptor
}

// sysInterrupt returns a descriptor that counts the interrupts of a pin, raised by
// the virtio device with these registers.
//
//go:nosplit
func sysInterrupt(pin, regs uint64) uint64 {
	switch {
	case sealed:
		return fail(ePERM)
	case pin >= pins || regs%4 != 0 || !isRegister(regs) || !isRegister(regs+virtioInterruptACK):
		return fail(eINVAL)
	case pinFD[pin] != noDescriptor:
		return fail(eBUSY)
	}
	fd := newFD(fdInterrupt)
	if int64(fd) < 0 {
		return fd
	}
	descriptors[fd].regs, descriptors[fd].pin = regs, pin
	pinFD[pin] = fd
	setPin(pin, uint32(vecPin+pin)|ioapicLevel, 0) // to the only processor, active high
	return fd
}

// interrupt handles one. The device is told before the APIC: its line is a level.
//
//go:nosplit
func interrupt(vector uint64) {
	if vector == vecTimer {
		armed = never
		now := nanotime()
		wakeExpired(now)
	} else if fd := pinFD[vector-vecPin]; fd != noDescriptor {
		regs := descriptors[fd].regs
		if s := readDevice(regs + virtioInterruptStatus); s != 0 {
			writeDevice(regs+virtioInterruptACK, s)
		}
		raise(fd)
	}
	writeDevice(apic+apicEOI, 0)
}

// armTimer sets the timer for the next deadline or the end of the time slice, unless
// it goes off before anyway.
//
//go:nosplit
func armTimer(now uint64) {
	d := nextWake
	if runQueue.head != 0 {
		d = min(d, now+timeSlice)
	}
	if d >= armed {
		return
	}
	wait := uint64(timerMin)
	if d > now {
		wait = min(max(d-now, timerMin), timerMax)
	}
	armed = now + wait
	hi, lo := bits.Mul64(wait, ticksPerNS)
	writeDevice(apic+apicInitial, uint32(min(hi<<32|lo>>32, 1<<32-1))|1)
}
