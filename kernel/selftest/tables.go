package main

import (
	"errors"
	"fmt"
	"unsafe"

	"lorica.dev/lorica/kernel"
)

// direct is where the kernel has mapped all memory, the page tables with it.
const direct = 0xffff_8000_0000_0000

// A leaf is an entry of the page tables that maps memory.
type leaf struct {
	virt, phys, size uintptr // virt is what the tables are asked with: 48 bits
	write, exec      bool
}

func topTable() uint64 // where the processor says that they begin (CR3)

// leaves adds what the table at phys maps from virt on. Its entries stand for 1<<shift
// bytes each.
func leaves(list []leaf, phys uint64, virt uintptr, shift int) []leaf {
	const present, write, large, noExec, address = 1, 1 << 1, 1 << 7, 1 << 63, 0x000f_ffff_ffff_f000
	for i := range uintptr(512) {
		e := *(*uint64)(unsafe.Pointer(at(direct + uintptr(phys) + i*8)))
		v := virt | i<<shift
		switch {
		case e&present == 0:
		case shift == 12 || e&large != 0:
			list = append(list, leaf{v, uintptr(e & address), 1 << shift, e&write != 0, e&noExec == 0})
		default:
			list = leaves(list, e&address, v, shift-9)
		}
	}
	return list
}

// pageTables looks at all there is: nothing can be written and executed, nothing but the
// image be executed, and no page of it or of the window has a second mapping.
func pageTables() (string, error) {
	list := leaves(nil, topTable()&^4095, 0, 39)
	single := map[uintptr]uintptr{} // pages that may be mapped once, and where
	text, window := 0, 0
	var errs []error
	for _, l := range list {
		image := l.virt == l.phys
		inWindow := l.virt >= kernel.WindowBase && l.virt-kernel.WindowBase < uintptr(len(kernel.Window()))
		switch {
		case l.exec && (l.write || !image):
			errs = append(errs, fmt.Errorf("%#x can be executed, and written: %v", l.virt, l.write))
		case inWindow && l.write:
			errs = append(errs, fmt.Errorf("%#x of the window can be written", l.virt))
		case l.exec:
			text++
		case inWindow:
			window++
		}
		if image || inWindow {
			single[l.phys] = l.virt
		}
	}
	for _, l := range list {
		for p := l.phys; p < l.phys+l.size; p += 4096 {
			if virt, ok := single[p]; ok && virt != l.virt {
				errs = append(errs, fmt.Errorf("%#x of the image or the window is at %#x as well", virt, l.virt))
			}
		}
	}
	if text == 0 || window*4096 != len(kernel.Window()) {
		errs = append(errs, fmt.Errorf("%d pages of text and %d of the window are mapped", text, window))
	}
	return fmt.Sprintf("%d entries, %d of text, %d of the window", len(list), text, window), errors.Join(errs[:min(len(errs), 5)]...)
}
