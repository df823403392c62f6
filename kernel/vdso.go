package kernel

import "unsafe"

// The runtime reads clocks through the vDSO where it finds one, without a system
// call. This is the smallest ELF image in which it does: one symbol, no code (that is
// vdsoClock), and a version definition, which it reads without asking.

const (
	vdsoSize    = 512
	vdsoDynamic = 176
	vdsoSymbols = 256
	vdsoHash    = 304
	vdsoVersion = 328
	vdsoStrings = 360

	vdsoName    = "LINUX_2.6"
	vdsoNameSum = 0x03ae_75f6 // ELF hash of it
	vdsoSymbol  = "__vdso_clock_gettime"

	// ELF-64 object file format.
	ptLoad, ptDynamic                = 1, 2
	dtHash, dtStrings, dtSymbols     = 4, 5, 6
	dtVersionDef                     = 0x6fff_fffc
	globalFunction                   = 1<<4 | 2
	elfHeader, elfSegment, elfSymbol = 64, 56, 24
	auxSize                          = 20
)

var vdso [vdsoSize]byte

// writeVDSO fills the image at b and returns b.
//
//go:nosplit
func writeVDSO(b, clock uint64) uint64 {
	st(b+32, elfHeader)   // e_phoff
	st(b+56, 2)           // e_phnum
	st32(b+64, ptLoad)    // first segment: all of it, at 0
	st(b+64+40, vdsoSize) // p_memsz
	st32(b+elfHeader+elfSegment, ptDynamic)
	st(b+elfHeader+elfSegment+8, vdsoDynamic) // p_offset
	d := b + vdsoDynamic
	d = tag(d, dtStrings, vdsoStrings)
	d = tag(d, dtSymbols, vdsoSymbols)
	d = tag(d, dtHash, vdsoHash)
	tag(d, dtVersionDef, vdsoVersion)
	s := b + vdsoSymbols + elfSymbol // symbol 0 is none
	name := uint32(1 + len(vdsoName) + 1)
	st32(s, name)
	st32(s+4, globalFunction|1<<16) // st_info, and a section
	st(s+8, clock-b)                // st_value, from where the image lies
	st32(b+vdsoHash, 1)             // buckets
	st32(b+vdsoHash+4, 2)           // chains
	st32(b+vdsoHash+8, 1)           // bucket 0: symbol 1
	v := b + vdsoVersion
	st32(v, 1)             // vd_version, no flags
	st32(v+4, 2|1<<16)     // vd_ndx, vd_cnt
	st32(v+8, vdsoNameSum) // vd_hash
	st32(v+12, auxSize)    // vd_aux
	st32(v+auxSize, 1)     // vda_name
	n := putString(b+vdsoStrings+1, vdsoName)
	putString(n, vdsoSymbol)
	return b
}

//go:nosplit
func tag(at, key, value uint64) uint64 {
	st(at, key)
	st(at+8, value)
	return at + 16
}

//go:nosplit
func initVDSO() uint64 { return writeVDSO(addr(unsafe.Pointer(&vdso)), vdsoClockAt()) }
