//go:build linux && amd64

// Package microvm is the platform of an image that is a machine of its own: its
// control channel is a virtio port, and the memory of its programs part of the
// machine's, which the tender writes and the kernel maps for reading alone.
package microvm

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"runtime/metrics"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/kernel"
	"lorica.dev/lorica/virtio"
)

// A Platform is a booted machine.
type Platform struct{}

// New returns the module.
func New() Platform { return Platform{} }

// Control opens the port.
func (Platform) Control() (io.ReadWriter, error) {
	if !kernel.Booted() {
		return nil, errors.New("this is an image of the microvm target: it boots as a machine, and is no program of this system")
	}
	all, err := virtio.Find(virtio.Kernel{}, kernel.CommandLine())
	if err != nil {
		return nil, err
	}
	port, err := all.Only(virtio.Port)
	if err != nil {
		return nil, err
	}
	return virtio.NewConsole(port)
}

// Window returns the range of memory that the tender chose. It sets the clock to the
// tender's, and lowers the limit of the Go runtime to what the machine has.
func (Platform) Window(p *launch.Params) ([]byte, error) {
	window := kernel.Window()
	size := int(p.Slots) * int(p.SlotSize)
	if len(window) < size {
		return nil, fmt.Errorf("the machine has a window of %d bytes for programs; the launch promised %d", len(window), size)
	}
	if err := kernel.SetClock(p.Now); err != nil {
		return nil, err
	}
	free, total := kernel.Memory()
	limit := memoryLimit(held(), free, total-uint64(len(window)))
	if p.MemoryLimit == 0 || limit < p.MemoryLimit {
		p.MemoryLimit = limit
	}
	// The default, 1 GB, is for machines that have it: endless recursion is to be a
	// Go panic's end, with its trace, and not one for want of memory.
	debug.SetMaxStack(int(min(p.MemoryLimit/4, 64<<20)))
	return window[:size:size], nil
}

// memoryLimit returns what the Go runtime may hold, where it holds some already and
// free of total bytes are left. The rest is for what it does not count (page tables,
// threads, the rings of devices), and for what it notices only when it is done: one
// allocation is made whatever its size, and the hash of a password takes 19 MiB.
func memoryLimit(held, free, total uint64) uint64 {
	rest := max(total/32, 1<<20) + min(free/3, 24<<20)
	return held + free - min(rest, free/2)
}

// held is what the Go runtime counts against its limit.
func held() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64() - s[1].Value.Uint64()
}

// SetClock sets the wall clock, at any time.
func (Platform) SetClock(ns int64) error { return kernel.SetClock(ns) }

// Seal has the kernel give no more of the machine away.
func (Platform) Seal(p *launch.Params) error {
	if len(p.Seal) > 0 || !p.Link.Present() {
		return errors.New("this is an image of the microvm target, and was launched as a process")
	}
	return kernel.Seal()
}
