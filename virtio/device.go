package virtio

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Registers of a device (section 4.2.2). Its configuration follows.
const (
	regMagic             = 0x000
	regVersion           = 0x004
	regDeviceID          = 0x008
	regDeviceFeatures    = 0x010
	regDeviceFeaturesSel = 0x014
	regDriverFeatures    = 0x020
	regDriverFeaturesSel = 0x024
	regQueueSel          = 0x030
	regQueueNumMax       = 0x034
	regQueueNum          = 0x038
	regQueueReady        = 0x044
	regQueueNotify       = 0x050
	regInterruptStatus   = 0x060 // the kernel reads and
	regInterruptACK      = 0x064 // acknowledges it
	regStatus            = 0x070
	regQueueDescLow      = 0x080
	regQueueDescHigh     = 0x084
	regQueueDriverLow    = 0x090
	regQueueDriverHigh   = 0x094
	regQueueDeviceLow    = 0x0a0
	regQueueDeviceHigh   = 0x0a4
	regConfigGeneration  = 0x0fc
	regConfig            = 0x100

	registersSize = 0x200
	magic         = 0x74726976 // "virt"
)

// Bits of the status register (section 2.1).
const (
	statusAcknowledge = 1
	statusDriver      = 2
	statusDriverOK    = 4
	statusFeaturesOK  = 8
	statusNeedsReset  = 64
	statusFailed      = 128
)

// featureVersion1 is VIRTIO_F_VERSION_1: the device keeps to this specification and
// not to what was before it (section 6).
const featureVersion1 = 1 << 32

// lookAfter is how long after an interrupt for a queue the device may have given up unseen.
const lookAfter = 100 * time.Millisecond

// A Device is one that was found and that no more than one driver takes.
type Device struct {
	kind Kind
	name string
	irq  int
	m    Machine
	regs Registers

	features   uint64 // negotiated
	queues     []*ring
	interrupts io.ReadCloser

	looks atomic.Bool // at its status, soon

	mu    sync.Mutex
	taken bool
	err   error         // why it is not used any more
	dead  chan struct{} // closed then
}

func (d *Device) String() string { return d.name }

// identify returns the device in a slot, or nil where the slot is empty
// (section 4.2.3.1.1).
func identify(m Machine, s slot) (*Device, error) {
	regs, err := m.Registers(s.addr)
	if err != nil {
		return nil, fmt.Errorf("virtio: registers at %#x: %w", s.addr, err)
	}
	d := &Device{name: fmt.Sprintf("device at %#x", s.addr), irq: s.irq, m: m, regs: regs, dead: make(chan struct{})}
	if got := regs.Load(regMagic, 4); got != magic {
		return nil, d.refuse("no virtio device: its first register reads %#x", got)
	}
	switch v := regs.Load(regVersion, 4); v {
	case 2:
	case 1:
		return nil, d.refuse("a legacy virtio device (version 1); QEMU wants -global virtio-mmio.force-legacy=false")
	default:
		return nil, d.refuse("version %d of virtio-mmio; this image speaks version 2", v)
	}
	d.kind = Kind(regs.Load(regDeviceID, 4))
	switch d.kind {
	case 0:
		return nil, nil
	case Network, Port, Entropy:
		d.name = fmt.Sprintf("%v at %#x", d.kind, s.addr)
		return d, nil
	}
	return nil, d.refuse("%v: this image has no driver for it; take it out of the machine", d.kind)
}

func (d *Device) refuse(format string, args ...any) error {
	return &DeviceError{d.name, fmt.Sprintf(format, args...)}
}

// take makes a driver the only one that the device has.
func (d *Device) take(k Kind) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.kind != k:
		return d.refuse("it is no %v", k)
	case d.taken:
		return d.refuse("it has a driver already")
	}
	d.taken = true
	return nil
}

// negotiate begins the life of the device: reset, and the features that both sides know
// (section 3.1.1). The driver needs those in need, and can use those in want that
// consistent leaves.
func (d *Device) negotiate(need, want uint64, consistent func(uint64) uint64) error {
	if err := d.reset(); err != nil {
		return err
	}
	status := uint32(statusAcknowledge)
	d.regs.Store(regStatus, status)
	status |= statusDriver
	d.regs.Store(regStatus, status)

	var offered uint64
	for half := range 2 {
		d.regs.Store(regDeviceFeaturesSel, uint32(half))
		offered |= uint64(d.regs.Load(regDeviceFeatures, 4)) << (32 * half)
	}
	need |= featureVersion1
	if lacks := need &^ offered; lacks != 0 {
		return d.refuse("it lacks features %#x of virtio; it offers %#x", lacks, offered)
	}
	d.features = offered & (need | want)
	if consistent != nil {
		d.features = consistent(d.features)
	}
	for half := range 2 {
		d.regs.Store(regDriverFeaturesSel, uint32(half))
		d.regs.Store(regDriverFeatures, uint32(d.features>>(32*half)))
	}
	status |= statusFeaturesOK
	d.regs.Store(regStatus, status)
	if d.regs.Load(regStatus, 4)&statusFeaturesOK == 0 {
		return d.refuse("it refuses to work with the features %#x of the %#x that it offers", d.features, offered)
	}
	return nil
}

// reset waits until the device has let go of everything (section 4.2.2.1 has it read
// zero then).
func (d *Device) reset() error {
	d.regs.Store(regStatus, 0)
	for range 1000 {
		if d.regs.Load(regStatus, 4) == 0 {
			return nil
		}
		runtime.Gosched()
	}
	return d.refuse("it does not come out of its reset")
}

func (d *Device) has(feature uint64) bool { return d.features&feature == feature }

// config reads configuration that belongs together: again, while the device changes it
// (section 2.5.3). read must look at nothing else.
func (d *Device) config(read func(load func(offset, size int) uint32)) error {
	for range 16 {
		before := d.regs.Load(regConfigGeneration, 4)
		read(func(offset, size int) uint32 { return d.regs.Load(regConfig+offset, size) })
		if d.regs.Load(regConfigGeneration, 4) == before {
			return nil
		}
	}
	return d.fail("its configuration does not stop changing")
}

// start lets the device run. All its queues have been set up.
func (d *Device) start() error {
	var err error
	if d.interrupts, err = d.m.Interrupt(d.irq, d.regs); err != nil {
		return fmt.Errorf("virtio: %s: interrupt %d: %w", d.name, d.irq, err)
	}
	d.regs.Store(regStatus, statusAcknowledge|statusDriver|statusFeaturesOK|statusDriverOK)
	go d.serve()
	return nil
}

// serve wakes those who wait for a queue whenever the device has interrupted. An
// interrupt for no queue is how a device says that it has given up (section 2.1.2),
// which is worth a look at its status; otherwise that costs more than the interrupt, but
// one may have been for both: the status is looked at once for all that soon follow.
func (d *Device) serve() {
	seen := make([]uint16, len(d.queues))
	var count [8]byte
	for {
		if _, err := d.interrupts.Read(count[:]); err != nil {
			d.end(d.refuse("its interrupt: %v", err))
			return
		}
		news := false
		for i, q := range d.queues {
			index := q.usedIndex()
			news = news || index != seen[i]
			seen[i] = index
			q.signal()
		}
		if !news {
			d.look()
		} else if !d.looks.Swap(true) {
			time.AfterFunc(lookAfter, func() {
				d.looks.Store(false)
				d.look()
			})
		}
	}
}

// look ends the use of a device that has given up.
func (d *Device) look() {
	if d.regs.Load(regStatus, 4)&statusNeedsReset != 0 {
		d.fail("it has given up (its status is DEVICE_NEEDS_RESET)")
	}
}

// fail ends the use of the device, and returns why.
func (d *Device) fail(format string, args ...any) error {
	return d.end(d.refuse(format+"; it is not used again", args...))
}

// close ends the use of the device because nobody wants it any more.
func (d *Device) close() error {
	if d.end(os.ErrClosed) == os.ErrClosed {
		return nil
	}
	return d.failure()
}

func (d *Device) end(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return d.err
	}
	d.err = err
	status := uint32(0) // reset: it lets go of the memory
	if _, broken := err.(*DeviceError); broken {
		status = statusFailed
	}
	d.regs.Store(regStatus, status)
	close(d.dead)
	if d.interrupts != nil {
		d.interrupts.Close()
	}
	return err
}

// failure returns why the device is not used any more, or nil.
func (d *Device) failure() error {
	select {
	case <-d.dead:
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.err
	default:
		return nil
	}
}
