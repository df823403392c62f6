package direct

import (
	"encoding/binary"
	"math/bits"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// acks holds segments back that acknowledge and do nothing else, one for each
// connection, for some milliseconds: most often the answer to what arrived is sent
// meanwhile, and acknowledges it as well. Of two, the second is sent alone, but for
// those that say the same: that is how TCP tells of a loss.
type acks struct {
	mu   sync.Mutex
	held [ackSlots]ack         // connections have one by their ports, and may share it
	used [ackSlots / 64]uint64 // a bit for each slot
	aged [ackSlots / 64]uint64 // the same for those that were held when release last looked
	bell chan struct{}         // has room for one: something is held
}

// An ack is a segment that is held: a copy of its bytes, which fit where there are no
// options but the time, and what the device is to do to them.
type ack struct {
	flow   flow
	number uint32
	window uint16
	size   int
	bytes  [ackSize]byte
	frame  Frame // without Parts
}

// A flow tells connections apart.
type flow struct {
	hosts [2 * header.IPv6AddressSize]byte // as they stand in the header of IP, at its end
	ports uint32
}

const (
	ackSlots = 256
	ackHold  = 2 * time.Millisecond // and twice that at most; others hold them for 40
	ackSize  = ethernetSize + header.IPv6MinimumSize + header.TCPMinimumSize + 12
)

func newAcks() *acks { return &acks{bell: make(chan struct{}, 1)} }

// pass decides on a packet that is about to be sent: another may have to go before it,
// and it may be held itself.
func (a *acks) pass(pkt *stack.PacketBuffer, parts [][]byte) (before *Frame, hold bool) {
	if pkt.TransportProtocolNumber != header.TCPProtocolNumber {
		return nil, false
	}
	ip, t := pkt.NetworkHeader().Slice(), header.TCP(pkt.TransportHeader().Slice())
	if len(t) < header.TCPMinimumSize || len(ip) < header.IPv4MinimumSize {
		return nil, false
	}
	flags, number, window := t.Flags(), t.AckNumber(), t.WindowSize()
	to := flow{ports: uint32(t.SourcePort())<<16 | uint32(t.DestinationPort())}
	if ip[0]>>4 == 4 {
		copy(to.hosts[:], ip[12:20])
	} else {
		copy(to.hosts[:], ip[8:])
	}
	only := flags == header.TCPFlagAck && pkt.Data().Size() == 0 && pkt.Size() <= ackSize
	slot := to.slot()
	h := &a.held[slot]
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.used[slot/64]&(1<<(slot%64)) != 0 {
		same := h.flow == to
		if !same && !only {
			return nil, false
		}
		if !same || !flags.Contains(header.TCPFlagAck) || only && h.number == number && h.window == window {
			before = h.take()
		}
		a.used[slot/64] &^= 1 << (slot % 64)
		if same {
			return before, false
		}
	}
	if !only {
		return nil, false
	}
	f := frame(pkt, parts)
	h.flow, h.number, h.window, h.size = to, number, window, 0
	for _, part := range f.Parts {
		h.size += copy(h.bytes[h.size:], part)
	}
	h.frame = *f
	h.frame.Parts = nil
	a.used[slot/64] |= 1 << (slot % 64)
	a.aged[slot/64] &^= 1 << (slot % 64)
	select {
	case a.bell <- struct{}{}:
	default:
	}
	return before, true
}

// slot spreads connections: those of one client have ports close to each other.
func (f *flow) slot() uint32 {
	s := uint32(0)
	for i := 0; i < len(f.hosts); i += 4 {
		s = s*31 + binary.LittleEndian.Uint32(f.hosts[i:])
	}
	return (s*31 + f.ports) * 0x9e3779b1 >> 24 % ackSlots // 2^32 divided by the golden ratio
}

// take returns a frame of its own.
func (h *ack) take() *Frame {
	f := h.frame
	f.Parts = [][]byte{append([]byte(nil), h.bytes[:h.size]...)}
	return &f
}

// release sends what has been held for long enough, until done is closed.
func (a *acks) release(send func(*Frame) error, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-a.bell:
		}
		for left := true; left; {
			time.Sleep(ackHold)
			var list []*Frame
			list, left = a.due()
			for _, f := range list {
				if send(f) != nil {
					return // Receive has the reason
				}
			}
		}
	}
}

// due takes what was held the last time already, and reports whether anything is left.
func (a *acks) due() (list []*Frame, left bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.used {
		for old := a.used[i] & a.aged[i]; old != 0; old &= old - 1 {
			list = append(list, a.held[64*i+bits.TrailingZeros64(old)].take())
		}
		a.used[i] &^= a.aged[i]
		a.aged[i] = a.used[i]
		left = left || a.used[i] != 0
	}
	return list, left
}
