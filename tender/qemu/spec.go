// Package qemu runs an image as a microVM: it finds QEMU and what it can do here,
// starts it confined as images of the process target are, with the devices that a
// manifest names and nothing else, watches it, and says how it ended.
package qemu

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"lorica.dev/lorica/tender/process"
)

// Accelerators.
const (
	TCG = "tcg"
	KVM = "kvm"
)

// Devices that a guest can have, as manifests name them.
const (
	DeviceNet     = "virtio-net"
	DeviceControl = "virtio-serial" // one port: the control channel
	DeviceEntropy = "virtio-rng"
	DeviceConsole = "isa-serial" // what the guest writes there is its output
	DeviceExit    = "isa-debug-exit"
)

// A Network is what carries the frames of the guest.
type Network uint8

const (
	Stream    Network = iota + 1 // one end of a socket pair; before each frame its length, 32 bits, big endian
	Interface                    // a TAP device
)

// HardwareAddress is that of the guest on its network, where it is alone with the tender.
const HardwareAddress = "02:4c:00:00:00:02"

// maxMTU leaves room for Ethernet's header in what a TAP device takes.
const maxMTU = 65535 - 14

// A Spec is one launch. The files stay the caller's; QEMU gets duplicates.
type Spec struct {
	Image       *os.File // a PVH ELF, from process.Measure
	RAM         *RAM     // of this launch alone
	Devices     []string
	Control     *os.File // the guest's end of the control channel, with DeviceControl
	Net         *os.File // with DeviceNet
	Network     Network
	MTU         int      // of the network, bytes; 0: the guest is not told
	MAC         [6]byte  // of the guest on it; zero: HardwareAddress
	Output      *os.File // what the guest writes to its console
	Arguments   string   // more words for the guest's command line
	Accel       string
	Group       *process.Group // nil: RLIMIT_DATA alone limits QEMU, and the guest by its RAM
	Confinement process.Confinement
}

func (s *Spec) has(device string) bool { return slices.Contains(s.Devices, device) }

func (s *Spec) validate() error {
	switch {
	case s.Image == nil || s.RAM == nil || s.Output == nil:
		return errors.New("qemu: a file is missing from the launch")
	case s.has(DeviceControl) != (s.Control != nil):
		return fmt.Errorf("qemu: the control channel and %s need each other", DeviceControl)
	case s.has(DeviceNet) != (s.Net != nil):
		return fmt.Errorf("qemu: the network and %s need each other", DeviceNet)
	case s.Net != nil && (s.Network != Stream && s.Network != Interface):
		return fmt.Errorf("qemu: network of kind %d", s.Network)
	case s.MTU < 0 || s.MTU > maxMTU:
		return fmt.Errorf("qemu: an MTU of %d bytes", s.MTU)
	case s.Accel != TCG && s.Accel != KVM:
		return fmt.Errorf("qemu: accelerator %q", s.Accel)
	}
	known := []string{DeviceNet, DeviceControl, DeviceEntropy, DeviceConsole, DeviceExit}
	for i, d := range s.Devices {
		if !slices.Contains(known, d) || slices.Contains(s.Devices[:i], d) {
			return fmt.Errorf("qemu: device %q; known are %q, each once", d, known)
		}
	}
	return nil
}
