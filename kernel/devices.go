package kernel

// Registers of devices: pages outside of RAM, mapped uncached.

const maxRegisterPages = 64

var (
	registerPages [maxRegisterPages]uint64 // physical
	nregisters    uint64
)

// mapRegisters returns the virtual address of device registers, 0 where there is no
// room or no memory.
//
//go:nosplit
func mapRegisters(phys uint64) uint64 {
	page := roundDown(phys)
	i := uint64(0)
	for ; i < nregisters; i++ {
		if registerPages[i] == page {
			return registerBase + i*pageSize + phys - page
		}
	}
	if i == maxRegisterPages || !mapPage(registerBase+i*pageSize, page, pteDevice) {
		return 0
	}
	registerPages[i] = page
	nregisters++
	return registerBase + i*pageSize + phys - page
}

//go:nosplit
func deviceBoot(phys uint64) uint64 {
	va := mapRegisters(phys)
	if va == 0 {
		die(exitBoot, "too little RAM for page tables", noValue)
	}
	return va
}

// isRegister reports whether va is in a page that sysRegisters gave out.
//
//go:nosplit
func isRegister(va uint64) bool {
	return va >= registerBase+2*pageSize && va < registerBase+nregisters*pageSize // behind the APICs
}

// isDevice reports whether phys is in a page that is neither RAM nor firmware's nor part
// of the interrupt controllers.
//
//go:nosplit
func isDevice(phys uint64) bool {
	page := roundDown(phys)
	if phys >= maxRAM || page < firstMB || page == apicPhys || page == ioapicPhys {
		return false
	}
	for i := 0; i < rams; i++ {
		if overlap(page, page+pageSize, ram[i].start, ram[i].end) {
			return false
		}
	}
	return true
}

// sysRegisters maps registers of devices.
//
//go:nosplit
func sysRegisters(phys, result uint64) uint64 {
	switch {
	case sealed:
		return fail(ePERM)
	case !isDevice(phys):
		return fail(eINVAL)
	}
	va := mapRegisters(phys)
	if va == 0 {
		return fail(eNOMEM)
	}
	st(result, va)
	return 0
}

// sysPages gives out memory that devices read and write. It never comes back.
//
//go:nosplit
func sysPages(n, result uint64) uint64 {
	if sealed {
		return fail(ePERM)
	}
	p := allocContiguous(n)
	if p == 0 {
		return fail(eNOMEM)
	}
	st(result, p)
	return 0
}
