package direct

import (
	"encoding/binary"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// windows remembers what receivers last said of their windows. The stack takes the one
// of every segment that arrives, also of one that others have overtaken; where it then
// has less room than for what it has to send again, it neither sends that nor looks at
// the connection ever again. So of segments that were overtaken, the window is replaced
// by the latest. Who forges one and does not know the numbers of a connection within
// overtaken bytes changes nothing.
type windows [windowSlots]window

// A window is what a connection's receiver said. Connections may share a slot: then the
// last is known.
type window struct {
	flow     flow
	seq, ack uint32
	size     uint16
}

const (
	windowSlots = ackSlots
	overtaken   = 1 << 16 // bytes that a segment may be behind the latest
)

// settle replaces the window in a segment, if it is an old one.
func (w *windows) settle(from flow, t header.TCP) {
	if !t.Flags().Contains(header.TCPFlagAck) {
		return
	}
	now := window{from, t.SequenceNumber(), t.AckNumber(), t.WindowSize()}
	last := &w[from.slot()]
	if t.Flags().Intersects(header.TCPFlagSyn) {
		*last = window{} // its window is of another scale
		return
	}
	if last.flow != from || !now.old(last) {
		*last = now
		return
	}
	sum := checksum.Combine(^t.Checksum(), checksum.Combine(^now.size, last.size))
	t.SetWindowSize(last.size)
	t.SetChecksum(^sum)
}

// old reports whether a segment was sent before one that said last: nobody takes back
// what he has offered, but for all of it.
func (w *window) old(last *window) bool {
	seq, ack := last.seq-w.seq, last.ack-w.ack
	return seq < overtaken && ack < overtaken && (ack > 0 || w.size < last.size && (w.size > 0 || seq > 0))
}

// parseTCP returns the segment in a packet, and whose it is.
func parseTCP(p []byte) (f flow, t header.TCP, ok bool) {
	switch {
	case p[0]>>4 == 4 && p[9] == uint8(header.TCPProtocolNumber):
		copy(f.hosts[:], p[12:header.IPv4MinimumSize])
		t = p[header.IPv4MinimumSize:]
	case p[0]>>4 == 6 && p[6] == uint8(header.TCPProtocolNumber):
		copy(f.hosts[:], p[8:header.IPv6MinimumSize])
		t = p[header.IPv6MinimumSize:]
	default:
		return f, nil, false
	}
	f.ports = binary.BigEndian.Uint32(t)
	return f, t, true
}
