package direct

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A segment is what is sent in a test; data is how many bytes it carries.
type sending struct {
	to     uint16 // the end of the address of a client; of IPv6 where it is odd
	from   uint16
	flags  header.TCPFlags
	ack    uint32
	window uint16
	data   int
}

func (s sending) packet() *stack.PacketBuffer {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: ackSize, Payload: buffer.MakeWithData(make([]byte, s.data))})
	pkt.TransportProtocolNumber = header.TCPProtocolNumber
	header.TCP(pkt.TransportHeader().Push(header.TCPMinimumSize)).Encode(&header.TCPFields{
		SrcPort: s.from, DstPort: 1000, AckNum: s.ack, Flags: s.flags, WindowSize: s.window, DataOffset: header.TCPMinimumSize})
	pkt.GSOOptions = stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, CsumOffset: header.TCPChecksumOffset, MSS: 1000, L3HdrLen: header.IPv4MinimumSize}
	if s.to%2 == 0 {
		b := pkt.NetworkHeader().Push(header.IPv4MinimumSize)
		b[0] = 0x45
		binary.BigEndian.PutUint16(b[18:], s.to)
	} else {
		b := pkt.NetworkHeader().Push(header.IPv6MinimumSize)
		b[0] = 0x60
		binary.BigEndian.PutUint16(b[38:], s.to)
		pkt.GSOOptions.Type, pkt.GSOOptions.L3HdrLen = stack.GSOTCPv6, header.IPv6MinimumSize
	}
	pkt.LinkHeader().Push(ethernetSize)
	return pkt
}

// A sink is a device that keeps what is sent.
type sink struct {
	mu     sync.Mutex
	frames []*Frame
}

func (s *sink) Traits() Traits             { return Traits{Checksums: true, Segments: true} }
func (s *sink) Receive(func(Packet)) error { return nil }

func (s *sink) Send(f *Frame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frames = append(s.frames, &Frame{Parts: [][]byte{bytes.Join(f.Parts, nil)}, Checksum: f.Checksum,
		ChecksumStart: f.ChecksumStart, ChecksumOffset: f.ChecksumOffset})
	return nil
}

// sent returns which of segments a device is sent, by their positions.
func sent(t *testing.T, segments []sending) (order []int) {
	t.Helper()
	s := &sink{}
	e := newEndpoint(s, nil, nil, newClock(), func(err error) { t.Error(err) })
	for _, seg := range segments {
		var list stack.PacketBufferList
		list.PushBack(seg.packet())
		if _, err := e.WritePackets(list); err != nil {
			t.Fatal(err)
		}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		e.acks.release(s.Send, done)
		close(ended)
	}()
	for e.acks.left() {
		time.Sleep(time.Millisecond)
	}
	close(done)
	<-ended
	for _, f := range s.frames {
		i := slices.IndexFunc(segments, func(seg sending) bool {
			return bytes.Equal(f.Parts[0], bytes.Join(seg.packet().AsSlices(), nil))
		})
		for slices.Contains(order, i) { // of equal ones, the next
			i++
		}
		order = append(order, i)
		if want := frame(segments[i].packet(), nil); f.Checksum != want.Checksum || f.ChecksumStart != want.ChecksumStart || f.ChecksumOffset != want.ChecksumOffset {
			t.Errorf("segment %d lost what the device is to do: %+v, and not %+v", i, f, want)
		}
	}
	return order
}

// left reports whether something is held.
func (a *acks) left() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.used != [len(a.used)]uint64{}
}

func TestAcknowledgementsGoWithWhatFollows(t *testing.T) {
	const ack, push, fin, rst = header.TCPFlagAck, header.TCPFlagAck | header.TCPFlagPsh, header.TCPFlagAck | header.TCPFlagFin, header.TCPFlagRst
	slot := func(to, from uint16) uint32 {
		f := flow{ports: uint32(from)<<16 | 1000}
		binary.BigEndian.PutUint16(f.hosts[6:], to)
		return f.slot()
	}
	other, twin := uint16(2), uint16(2) // share the slot of 0 and 1
	for slot(0, other) != slot(0, 1) {
		other++
	}
	for slot(twin, 1) != slot(0, 1) {
		twin += 2
	}
	for _, c := range []struct {
		name     string
		segments []sending
		want     []int
	}{
		{"alone", []sending{{0, 1, ack, 10, 5, 0}}, []int{0}},
		{"with an answer", []sending{{0, 1, ack, 10, 5, 0}, {0, 1, push, 10, 5, 7}}, []int{1}},
		{"with an end", []sending{{0, 1, ack, 10, 5, 0}, {0, 1, fin, 10, 5, 0}}, []int{1}},
		{"before a reset", []sending{{0, 1, ack, 10, 5, 0}, {0, 1, rst, 0, 0, 0}}, []int{0, 1}},
		{"every second", []sending{{0, 1, ack, 10, 5, 0}, {0, 1, ack, 20, 5, 0}, {0, 1, ack, 30, 5, 0}, {0, 1, ack, 40, 5, 0}}, []int{1, 3}},
		{"of a loss", []sending{{0, 1, ack, 10, 5, 0}, {0, 1, ack, 10, 5, 0}, {0, 1, ack, 10, 5, 0}}, []int{0, 1, 2}},
		{"of a window", []sending{{0, 1, ack, 10, 5, 0}, {0, 1, ack, 10, 6, 0}}, []int{1}},
		{"of two connections", []sending{{0, 1, ack, 10, 5, 0}, {0, 2, ack, 10, 5, 0}, {0, 1, push, 10, 5, 1}}, []int{2, 1}},
		{"in one slot", []sending{{0, 1, ack, 10, 5, 0}, {0, other, ack, 11, 5, 0}, {0, 1, push, 10, 5, 1}}, []int{0, 2, 1}},
		{"of two clients", []sending{{0, 1, ack, 10, 5, 0}, {2, 1, ack, 10, 5, 0}, {0, 1, push, 10, 5, 1}}, []int{2, 1}},
		{"of two clients in one slot", []sending{{0, 1, ack, 10, 5, 0}, {twin, 1, ack, 11, 5, 0}, {0, 1, push, 10, 5, 1}}, []int{0, 2, 1}},
		{"of two clients of IPv6", []sending{{1, 1, ack, 10, 5, 0}, {3, 1, ack, 10, 5, 0}, {3, 1, push, 10, 5, 1}}, []int{2, 0}},
		{"with an answer over IPv6", []sending{{1, 1, ack, 10, 5, 0}, {1, 1, push, 10, 5, 7}}, []int{1}},
		{"beside data in its slot", []sending{{0, 1, ack, 10, 5, 0}, {0, other, push, 10, 5, 3}}, []int{1, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := sent(t, c.segments); !slices.Equal(got, c.want) {
				t.Errorf("sent %v, and not %v", got, c.want)
			}
		})
	}
}

// What is not TCP is none of its business.
func TestOtherPacketsPass(t *testing.T) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: ackSize})
	pkt.TransportProtocolNumber = header.ICMPv4ProtocolNumber
	if before, hold := newAcks().pass(pkt, pkt.AsSlices()); before != nil || hold {
		t.Error("it was held")
	}
}

func TestTheClockMovesByEvents(t *testing.T) {
	c := newClock()
	first := c.NowMonotonic()
	time.Sleep(2 * time.Millisecond)
	if d := c.NowMonotonic().Sub(first); d != 1 {
		t.Errorf("it moved by %v by itself", d)
	}
	c.move()
	second := c.NowMonotonic()
	if d := second.Sub(first); d < 2*time.Millisecond {
		t.Errorf("it moved by %v in 2ms", d)
	}
	fired := make(chan tcpip.MonotonicTime)
	c.AfterFunc(2*time.Millisecond, func() { fired <- c.NowMonotonic() })
	if at := <-fired; at.Sub(second) < 2*time.Millisecond {
		t.Errorf("a timer of 2ms was over at %v", at.Sub(second))
	}
}
