// Package process launches an image as a confined process: it finds out what
// the kernel gives, starts a stage of the running program in new namespaces,
// and the stage, having given up everything, executes the image. A program of the
// host that a tender needs is confined in the same way (Tool).
package process

import (
	"fmt"
	"os"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
)

// StageCommand is the argument that makes the running program act as the stage:
// its main must call Stage when it is os.Args[1].
const StageCommand = "tender-stage"

// unprivileged is the user and group that an image gets where the tender is
// root: the kernel's overflow id, which owns no files.
const unprivileged = 65534

// Confinement is what a launch uses of what the kernel offers.
type Confinement struct {
	Namespaces bool
	Landlock   int // ABI version; 0: none
}

// Tier returns the name of what c amounts to.
func (c Confinement) Tier() api.Tier {
	switch {
	case c.Landlock == 0:
		return api.TierNoLandlock
	case !c.Namespaces:
		return api.TierNoUserns
	}
	return api.TierFull
}

// Weakened returns c without what tier t does not have.
func (c Confinement) Weakened(t api.Tier) Confinement {
	switch t {
	case api.TierNoUserns:
		c.Namespaces = false
	case api.TierNoLandlock:
		c.Landlock = 0
	}
	return c
}

// A Spec is one launch. The files stay the caller's; the image gets duplicates.
type Spec struct {
	Image       *os.File   // from Measure
	Control     *os.File   // the image's end of the channel
	Program     *os.File   // the program memory
	Dial        *os.File   // the image's end of the dial socket; nil: it makes no connections
	Listeners   []*os.File // in the order of the launch parameters
	Net         *os.File   // the image's end of its network, in place of Dial and Listeners
	Output      *os.File   // what the image writes to its standard output and error
	Syscalls    []catalog.Syscall
	Memory      uint64 // bytes that the workload asked for
	Group       *Group // nil: RLIMIT_DATA alone limits it
	Confinement Confinement
}

// order is what the stage reads from its standard input.
type order struct {
	Probe       bool // leave the file system and stop there
	Confinement Confinement
	Syscalls    []catalog.Syscall
	Tool        *Tool // nil: the image
	ImageFD     int
	NullFD      int
	ReportFD    int // the stage's last words; closed by a successful exec
	DropUser    bool
	Groups      []int  // supplementary groups that it enters then
	Data        uint64 // RLIMIT_DATA
	Threads     uint64 // RLIMIT_NPROC; 0: leave it
}

// Limits that hold whatever the workload.
const (
	maxFiles = 65536
	// toolFiles is for a tool, which has few files and no clients: what sockets and pipes
	// hold in the kernel is no memory of a process, and limited by their number alone where
	// there is no group.
	toolFiles = 256
	// runtimeData is what the Go runtime maps writable beside the heap: its
	// tables, stacks and the arenas it grows by (measured: 20 to 70 MiB), and
	// room for a collection that comes late.
	runtimeData = 256 << 20
	maxThreads  = 1024
)

// dataLimit is the RLIMIT_DATA of an image whose workload asked for memory
// bytes, to which its runtime keeps. The limit counts private writable mappings,
// used or not, and the heap never gives addresses back: twice the memory leaves
// room for what fragmentation and late collections took once.
func dataLimit(memory uint64) uint64 { return 2*memory + runtimeData }

func (s *Spec) validate() error {
	switch {
	case s.Image == nil || s.Control == nil || s.Program == nil || s.Output == nil:
		return fmt.Errorf("process: a descriptor is missing from the launch")
	case s.Net != nil && (s.Dial != nil || len(s.Listeners) > 0):
		return fmt.Errorf("process: an image with a network of its own is handed no sockets")
	case s.Net == nil && (len(s.Listeners) == 0 || len(s.Listeners) > launch.MaxListener):
		return fmt.Errorf("process: %d listeners; an image takes 1 to %d", len(s.Listeners), launch.MaxListener)
	case s.Memory > 1<<40:
		return fmt.Errorf("process: %d bytes of memory; the limit is 1 TiB", s.Memory)
	}
	return nil
}
