package virtio

import (
	"fmt"
	"strconv"
	"strings"
)

// maxSlots bounds the devices of a machine. QEMU's microvm has places for 24.
const maxSlots = 32

// A slot is where a device may be: its registers, and the interrupt it raises.
type slot struct {
	addr, size uint64
	irq        int
}

// parseCommandLine reads the words virtio_mmio.device=SIZE@ADDRESS:IRQ, which is how
// a machine without ACPI says where its devices are. Other words are not for it.
func parseCommandLine(cmdline string) ([]slot, error) {
	var slots []slot
	for word := range strings.FieldsSeq(cmdline) {
		value, ok := strings.CutPrefix(word, "virtio_mmio.device=")
		if !ok {
			continue
		}
		s, err := parseSlot(value)
		if err != nil {
			return nil, fmt.Errorf("virtio: command line: %.100q: %w", word, err)
		}
		for _, other := range slots {
			if s.irq == other.irq || s.addr < other.addr+other.size && other.addr < s.addr+s.size {
				return nil, fmt.Errorf("virtio: command line: the devices at %#x and %#x overlap", other.addr, s.addr)
			}
		}
		if slots = append(slots, s); len(slots) > maxSlots {
			return nil, fmt.Errorf("virtio: command line: more than %d devices", maxSlots)
		}
	}
	return slots, nil
}

func parseSlot(value string) (slot, error) {
	size, rest, at := strings.Cut(value, "@")
	addr, irq, colon := strings.Cut(rest, ":")
	if !at || !colon {
		return slot{}, fmt.Errorf("want SIZE@ADDRESS:IRQ")
	}
	unit := uint64(1)
	if s, kib := strings.CutSuffix(size, "K"); kib {
		size, unit = s, 1024
	}
	var s slot
	var err error
	if s.size, err = strconv.ParseUint(size, 0, 32); err != nil {
		return slot{}, fmt.Errorf("size: %w", err)
	}
	if s.addr, err = strconv.ParseUint(addr, 0, 64); err != nil {
		return slot{}, fmt.Errorf("address: %w", err)
	}
	line, err := strconv.ParseUint(irq, 0, 16)
	if err != nil {
		return slot{}, fmt.Errorf("interrupt: %w", err)
	}
	s.size *= unit
	s.irq = int(line)
	switch {
	case s.size < registersSize:
		return slot{}, fmt.Errorf("a device has at least %d bytes of registers", registersSize)
	case s.addr%4 != 0 || s.addr%pageSize+registersSize > pageSize:
		return slot{}, fmt.Errorf("registers are aligned and in one page")
	case s.addr+s.size < s.addr:
		return slot{}, fmt.Errorf("registers end beyond the last address")
	case s.irq == 0:
		return slot{}, fmt.Errorf("a device has an interrupt")
	}
	return s, nil
}
