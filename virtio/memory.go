package virtio

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"
)

// A memory is a part of what the device reads and writes while this code runs. Words
// that tell of other memory, or that may change at any time, are read and written
// atomically; the rest is written before such a word, or read after one.
type memory []byte

// word is the aligned 32 bits at an offset. Slicing checks the bounds.
func (m memory) word(off int) *uint32 {
	b := m[off : off+4 : off+4]
	return (*uint32)(unsafe.Pointer(unsafe.SliceData(b)))
}

func (m memory) load(off int) uint32 { return atomic.LoadUint32(m.word(off)) }

// store is also a full barrier: what is read after it is read after the device can
// see it (section 2.7.13.4.1 wants that).
func (m memory) store(off int, v uint32) { atomic.StoreUint32(m.word(off), v) }

func (m memory) put16(off int, v uint16) { binary.LittleEndian.PutUint16(m[off:], v) }
func (m memory) put32(off int, v uint32) { binary.LittleEndian.PutUint32(m[off:], v) }
func (m memory) put64(off int, v uint64) { binary.LittleEndian.PutUint64(m[off:], v) }
