package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"

	"lorica.dev/lorica/kernel"
)

// interrupts drives the machine's second entropy device, waiting for it as drivers do.
func interrupts(rounds int) error {
	regs, gsi, err := secondRNG()
	if err != nil {
		return err
	}
	reg := func(off uintptr) *uint32 { return (*uint32)(unsafe.Add(unsafe.Pointer(nil), regs+off)) }
	virt, phys, err := kernel.Pages(1)
	if err != nil {
		return err
	}
	mem := unsafe.Slice(at(virt), 4096)
	le := binary.LittleEndian
	*reg(0x70) = 0
	*reg(0x70) = 3 // acknowledge, driver
	*reg(0x24), *reg(0x20) = 1, 1
	*reg(0x70) = 11 // features are all right
	*reg(0x30), *reg(0x38) = 0, 1
	for i, off := range []uint64{0, 0x100, 0x200} {
		*reg(0x80 + 0x10*uintptr(i)) = uint32(phys + off)
		*reg(0x84 + 0x10*uintptr(i)) = uint32((phys + off) >> 32)
	}
	*reg(0x44) = 1
	*reg(0x70) = 15
	le.PutUint64(mem, phys+0x400)
	le.PutUint32(mem[8:], 64)
	le.PutUint16(mem[12:], 2)

	fd, err := kernel.Interrupt(gsi, regs)
	if err != nil {
		return err
	}
	if _, err := kernel.Interrupt(gsi, regs); !errors.Is(err, syscall.EBUSY) {
		return fmt.Errorf("the same interrupt again: %v", err)
	}
	if _, err := kernel.Interrupt(99, regs); !errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("pin 99: %v", err)
	}
	if _, err := kernel.Interrupt(gsi+1, virt); !errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("memory as registers: %v", err)
	}
	events := os.NewFile(uintptr(fd), "interrupt")
	var total uint64
	for i := range rounds {
		le.PutUint16(mem[0x102:], uint16(i+1))
		*reg(0x50) = 0
		for le.Uint16(mem[0x202:]) != uint16(i+1) {
			var b [8]byte
			if _, err := events.Read(b[:]); err != nil {
				return fmt.Errorf("round %d: %w", i, err)
			}
			total += le.Uint64(b[:])
		}
	}
	if total == 0 { // the device was always done before it was asked: its interrupts wait
		var b [8]byte
		if _, err := events.Read(b[:]); err != nil {
			return fmt.Errorf("what waits: %w", err)
		}
		total = le.Uint64(b[:])
	}
	fmt.Println("interrupts", total > 0 && total <= uint64(rounds))
	return events.Close()
}

// secondRNG finds the entropy device that is not the kernel's: the second one.
func secondRNG() (regs uintptr, gsi int, err error) {
	found := 0
	for _, w := range strings.Fields(kernel.CommandLine()) {
		var size, phys uint64
		if n, _ := fmt.Sscanf(w, "virtio_mmio.device=%d@0x%x:%d", &size, &phys, &gsi); n != 3 {
			continue
		}
		if regs, err = kernel.Registers(phys); err != nil {
			return 0, 0, err
		}
		if *(*uint32)(unsafe.Add(unsafe.Pointer(nil), regs+8)) == 4 {
			if found++; found == 2 {
				return regs, gsi, nil
			}
		}
	}
	return 0, 0, fmt.Errorf("%d entropy devices", found)
}
