package tap

import (
	"encoding/binary"

	"lorica.dev/lorica/netstack/direct"
)

// The header before each frame: struct virtio_net_hdr of linux/virtio_net.h, in the
// byte order of the host.
const (
	headerSize = 10

	needsChecksum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM: its checksum is to be completed, and was never wrong
	dataValid     = 2 // VIRTIO_NET_HDR_F_DATA_VALID: its checksum was verified

	gsoNone = 0
	gsoTCP4 = 1
	gsoTCP6 = 4
	gsoECN  = 0x80

	ethernetSize = 14
	maxFrame     = ethernetSize + 1<<16 - 1
)

// A vnet is the header of a frame.
type vnet struct {
	flags, gso                      uint8
	headers, segment, start, offset uint16
}

// header is what the other end is told of a frame.
func header(f *direct.Frame) (h vnet) {
	if f.Checksum {
		h.flags, h.start, h.offset = needsChecksum, f.ChecksumStart, f.ChecksumOffset
	}
	if f.Segmentation != direct.Whole {
		h.gso, h.headers, h.segment = gsoTCP4, f.HeaderSize, f.SegmentSize
		if f.Segmentation == direct.TCP6 {
			h.gso = gsoTCP6
		}
	}
	return h
}

func (h vnet) append(b []byte) []byte {
	b = append(b, h.flags, h.gso)
	for _, v := range []uint16{h.headers, h.segment, h.start, h.offset} {
		b = binary.NativeEndian.AppendUint16(b, v)
	}
	return b
}

// A packet is a frame that was read.
type packet struct {
	frame    []byte
	verified bool
}

func (p packet) Len() int               { return len(p.frame) }
func (p packet) CopyTo(b []byte) int    { return copy(b, p.frame) }
func (p packet) ChecksumVerified() bool { return p.verified }

// parse reads what arrived; false if its header does not fit its frame, or asks for what
// was never offered. The stack takes frames longer than the MTU as they are: that the
// other end did not cut them is of no interest here.
func parse(b []byte, verified bool) (p packet, ok bool) {
	size := len(b) - headerSize
	if size < ethernetSize || size > maxFrame {
		return packet{}, false
	}
	at := func(i int) int { return int(binary.NativeEndian.Uint16(b[i:])) }
	h := struct{ flags, gso uint8 }{b[0], b[1] &^ gsoECN}
	headers, segment, end := at(2), at(4), at(6)+at(8)+2
	switch {
	case h.flags&needsChecksum != 0 && (at(6) < ethernetSize || end > size):
		return packet{}, false
	case h.gso == gsoNone:
	case h.gso != gsoTCP4 && h.gso != gsoTCP6, h.flags&needsChecksum == 0, segment == 0, headers > size:
		return packet{}, false
	}
	return packet{b[headerSize:], verified || h.flags&(needsChecksum|dataValid) != 0}, true
}
