package direct

import (
	"math/bits"
	"runtime"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"lorica.dev/lorica/virtio"
)

// acks holds segments back that acknowledge and do nothing else, one for each
// connection, until everybody who can run now has run: most often the answer to what
// arrived is sent meanwhile, and acknowledges it as well. Of two, the second is sent
// alone, but for those that say the same: that is how TCP tells of a loss.
type acks struct {
	mu   sync.Mutex
	held [ackSlots]ack // connections have one by their ports, and may share it
	used uint64        // a bit for each slot
	bell chan struct{} // has room for one: something is held
}

// An ack is a segment that is held: a copy of its bytes, which fit where there are no
// options but the time, and what the device is to do to them.
type ack struct {
	ports  uint32 // of the connection: both hosts are always the same
	number uint32
	window uint16
	size   int
	bytes  [ackSize]byte
	frame  virtio.Frame // without Parts
}

const (
	ackSlots = 64
	ackSize  = ethernetSize + header.IPv4MinimumSize + header.TCPMinimumSize + 12
)

func newAcks() *acks { return &acks{bell: make(chan struct{}, 1)} }

// pass decides on a packet that is about to be sent: another may have to go before it,
// and it may be held itself.
func (a *acks) pass(pkt *stack.PacketBuffer) (before *virtio.Frame, hold bool) {
	if pkt.TransportProtocolNumber != header.TCPProtocolNumber {
		return nil, false
	}
	t := header.TCP(pkt.TransportHeader().Slice())
	if len(t) < header.TCPMinimumSize {
		return nil, false
	}
	flags, number, window := t.Flags(), t.AckNumber(), t.WindowSize()
	ports := uint32(t.SourcePort())<<16 | uint32(t.DestinationPort())
	only := flags == header.TCPFlagAck && pkt.Data().Size() == 0 && pkt.Size() <= ackSize
	slot := (ports ^ ports>>16) % ackSlots
	h := &a.held[slot]
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.used&(1<<slot) != 0 {
		same := h.ports == ports
		if !same && !only {
			return nil, false
		}
		if !same || !flags.Contains(header.TCPFlagAck) || only && h.number == number && h.window == window {
			before = h.take()
		}
		a.used &^= 1 << slot
		if same {
			return before, false
		}
	}
	if !only {
		return nil, false
	}
	f := frame(pkt)
	h.ports, h.number, h.window, h.size = ports, number, window, 0
	for _, part := range f.Parts {
		h.size += copy(h.bytes[h.size:], part)
	}
	h.frame = *f
	h.frame.Parts = nil
	a.used |= 1 << slot
	select {
	case a.bell <- struct{}{}:
	default:
	}
	return before, true
}

// take returns a frame of its own.
func (h *ack) take() *virtio.Frame {
	f := h.frame
	f.Parts = [][]byte{append([]byte(nil), h.bytes[:h.size]...)}
	return &f
}

// release sends what is held, each time when others have run, until done is closed.
func (a *acks) release(send func(*virtio.Frame) error, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-a.bell:
		}
		runtime.Gosched()
		var list []*virtio.Frame
		a.mu.Lock()
		for a.used != 0 {
			slot := bits.TrailingZeros64(a.used)
			a.used &^= 1 << slot
			list = append(list, a.held[slot].take())
		}
		a.mu.Unlock()
		for _, f := range list {
			if send(f) != nil {
				return // Receive has the reason
			}
		}
	}
}
