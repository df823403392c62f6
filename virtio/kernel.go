package virtio

import (
	"errors"
	"io"
	"os"
	"unsafe"

	"lorica.dev/lorica/kernel"
)

// Kernel is the machine that package kernel runs on.
type Kernel struct{}

// Pages returns memory of the kernel's for devices.
func (Kernel) Pages(n int) (mem []byte, phys uint64, err error) {
	virt, phys, err := kernel.Pages(n)
	if err != nil {
		return nil, 0, err
	}
	return unsafe.Slice((*byte)(address(virt)), n*pageSize), phys, nil
}

// Registers returns the registers of a device.
func (Kernel) Registers(phys uint64) (Registers, error) {
	virt, err := kernel.Registers(phys)
	return mapped(virt), err
}

// Interrupt returns the interrupts of a device. Whoever waits for them takes no thread.
func (Kernel) Interrupt(gsi int, r Registers) (io.ReadCloser, error) {
	m, ok := r.(mapped)
	if !ok {
		return nil, errors.New("virtio: the registers are of another machine")
	}
	fd, err := kernel.Interrupt(gsi, uintptr(m))
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "virtio interrupt"), nil
}

// mapped is where the registers of a device are. Each access is one instruction of the
// size that it is for, and none is left out or done twice: hence the functions that the
// compiler cannot look into. An atomic store would be a read as well, which a device
// does not expect.
type mapped uintptr

//go:noinline
func (m mapped) Load(offset, size int) uint32 {
	p := address(uintptr(m) + uintptr(offset))
	switch size {
	case 1:
		return uint32(*(*uint8)(p))
	case 2:
		return uint32(*(*uint16)(p))
	}
	return *(*uint32)(p)
}

//go:noinline
func (m mapped) Store(offset int, v uint32) {
	*(*uint32)(address(uintptr(m) + uintptr(offset))) = v
}

// address is a place that Go's collector knows nothing of.
func address(a uintptr) unsafe.Pointer { return unsafe.Add(unsafe.Pointer(nil), a) }
