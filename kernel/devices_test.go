package kernel

import "testing"

// newRegisters is a machine with 16 MB of RAM, whose interrupt controllers and three
// pages of registers are mapped.
func newRegisters(t *testing.T) {
	newArena(t, 100)
	t.Cleanup(func() {
		ram, rams, totalBytes, nregisters, sealed, ioapic = [maxMemoryMap]span{}, 0, 0, 0, false, 0
		descriptors, pinFD = [maxFDs]descriptor{}, [pins]uint64{}
	})
	ioapic = direct + allocPage()
	addRAM(firstMB, 16<<20)
	for _, phys := range []uint64{apicPhys, ioapicPhys, 0xfeb0_0000} {
		if mapRegisters(phys) == 0 {
			t.Fatalf("no place for %#x", phys)
		}
	}
}

func TestRegisters(t *testing.T) {
	newRegisters(t)
	var va [8]byte
	result := addrOf(va[:])
	for _, phys := range []uint64{0, 0xb8000, firstMB, firstMB - 1, 4 << 20, 16<<20 - 1, apicPhys, apicPhys + 0x300, ioapicPhys, ioapicPhys + 0x10, maxRAM, ^uint64(0)} {
		if r := sysRegisters(phys, result); r != fail(eINVAL) {
			t.Errorf("%#x: %d", phys, int64(r))
		}
	}
	for i, phys := range []uint64{0xfeb0_0e00, 0xfeb0_1000, 16 << 20, maxRAM - pageSize} {
		want := registerBase + (2+uint64(i))*pageSize + phys%pageSize
		if r := sysRegisters(phys, result); r != 0 || ld(result) != want {
			t.Errorf("%#x: %d, at %#x, want %#x", phys, int64(r), ld(result), want)
		}
		if e := ld(walk(want, shiftPage, false)); e != roundDown(phys)|pteDevice {
			t.Errorf("%#x is mapped by %#x", phys, e)
		}
	}
	for nregisters < maxRegisterPages {
		sysRegisters(0xd000_0000+nregisters*pageSize, result)
	}
	if r := sysRegisters(0xe000_0000, result); r != fail(eNOMEM) {
		t.Errorf("a page more than there may be: %d", int64(r))
	}
	sealed = true
	if r := sysRegisters(0xfeb0_0e00, result); r != fail(ePERM) {
		t.Errorf("sealed: %d", int64(r))
	}
}

func TestInterruptsThatAreNone(t *testing.T) {
	newRegisters(t)
	const regs = registerBase + 2*pageSize
	for _, c := range []struct{ pin, regs, want uint64 }{
		{pins, regs, fail(eINVAL)},
		{^uint64(0), regs, fail(eINVAL)},
		{5, regs + 1, fail(eINVAL)},
		{5, registerBase, fail(eINVAL)}, // of the interrupt controllers
		{5, registerBase + pageSize, fail(eINVAL)},
		{5, regs + pageSize, fail(eINVAL)},
		{5, regs + pageSize - virtioInterruptACK, fail(eINVAL)},
		{5, 0, fail(eINVAL)},
		{5, direct, fail(eINVAL)},
		{5, ^uint64(3), fail(eINVAL)},
		{5, regs, firstFD},
		{5, regs, fail(eBUSY)},
		{6, regs + pageSize - virtioInterruptACK - 4, firstFD + 1},
	} {
		if got := sysInterrupt(c.pin, c.regs); got != c.want {
			t.Errorf("pin %d, registers at %#x: %d, want %d", c.pin, c.regs, int64(got), int64(c.want))
		}
	}
	if sysClose(firstFD) != 0 || sysInterrupt(5, regs) != firstFD {
		t.Error("a closed interrupt is not to be had again")
	}
	sealed = true
	if got := sysInterrupt(7, regs); got != fail(ePERM) {
		t.Errorf("sealed: %d", int64(got))
	}
}
