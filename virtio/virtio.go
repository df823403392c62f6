// Package virtio drives the devices of a microVM: its network card, and the port
// that the control channel runs over. It speaks virtio 1.2 over memory-mapped
// registers, and refuses what is older.
//
// Nothing that a device says is believed. What the driver must know of its buffers it
// keeps in memory that the device does not see; what the device wrote is read once,
// checked, and copied before anybody parses it. A device that breaks the rules once is
// not used again: every call on it returns the same *DeviceError from then on.
//
// Sections in comments are those of "Virtual I/O Device (VIRTIO) Version 1.2".
package virtio

import (
	"fmt"
	"io"
)

// Registers are those of one device. Offsets are from their beginning.
type Registers interface {
	Load(offset, size int) uint32 // size is 1, 2 or 4 bytes
	Store(offset int, v uint32)
}

// A Machine is what devices are in: package kernel in a microVM, and a fake in tests.
type Machine interface {
	// Pages returns n pages of zeroed memory that devices read and write, and where
	// they lie for devices.
	Pages(n int) (mem []byte, phys uint64, err error)
	Registers(phys uint64) (Registers, error)
	// Interrupt returns what can be read, 8 bytes at a time, whenever the device has
	// interrupted, until it is closed.
	Interrupt(gsi int, r Registers) (io.ReadCloser, error)
}

const pageSize = 4096

// A Kind is what a device is for (section 5).
type Kind uint32

// Kinds of devices that a microVM of Lorica may have.
const (
	Network Kind = 1
	Port    Kind = 3 // what virtio calls a console
	Entropy Kind = 4 // belongs to the kernel, which needs it before there are goroutines
)

func (k Kind) String() string {
	switch k {
	case Network:
		return "virtio-net"
	case Port:
		return "virtio-console"
	case Entropy:
		return "virtio-rng"
	}
	return fmt.Sprintf("virtio device %d", uint32(k))
}

// A DeviceError says what a device did, or lacks, for which it is not used.
type DeviceError struct{ Device, Reason string }

func (e *DeviceError) Error() string { return e.Device + ": " + e.Reason }

// Devices are those of one machine.
type Devices []*Device

// Find looks at every device that the command line of the kernel names, and starts
// none of them. It refuses a machine with a device that nothing here drives: what is
// attached and idle is attached by mistake.
func Find(m Machine, cmdline string) (Devices, error) {
	slots, err := parseCommandLine(cmdline)
	if err != nil {
		return nil, err
	}
	var list Devices
	for _, s := range slots {
		d, err := identify(m, s)
		if err != nil {
			return nil, err
		}
		if d != nil {
			list = append(list, d)
		}
	}
	return list, nil
}

// Only returns the device of a kind, of which there must be just one.
func (l Devices) Only(k Kind) (*Device, error) {
	var found *Device
	for _, d := range l {
		switch {
		case d.kind != k:
		case found != nil:
			return nil, fmt.Errorf("virtio: two devices of one kind: %s and %s", found.name, d.name)
		default:
			found = d
		}
	}
	if found == nil {
		return nil, fmt.Errorf("virtio: the machine has no %v; its command line names %d devices", k, len(l))
	}
	return found, nil
}
