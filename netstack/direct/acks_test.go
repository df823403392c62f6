package direct

import (
	"bytes"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"lorica.dev/lorica/virtio"
)

// A segment is what is sent in a test; data is how many bytes it carries.
type segment struct {
	from   uint16
	flags  header.TCPFlags
	ack    uint32
	window uint16
	data   int
}

func (s segment) packet() *stack.PacketBuffer {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: ackSize, Payload: buffer.MakeWithData(make([]byte, s.data))})
	pkt.TransportProtocolNumber = header.TCPProtocolNumber
	header.TCP(pkt.TransportHeader().Push(header.TCPMinimumSize)).Encode(&header.TCPFields{
		SrcPort: s.from, DstPort: 1000, AckNum: s.ack, Flags: s.flags, WindowSize: s.window, DataOffset: header.TCPMinimumSize})
	pkt.NetworkHeader().Push(header.IPv4MinimumSize)
	pkt.LinkHeader().Push(ethernetSize)
	pkt.GSOOptions = stack.GSO{Type: stack.GSOTCPv4, NeedsCsum: true, CsumOffset: header.TCPChecksumOffset, MSS: 1000, L3HdrLen: header.IPv4MinimumSize}
	return pkt
}

// A sink is a device that keeps what is sent.
type sink struct {
	mu     sync.Mutex
	frames []*virtio.Frame
}

func (s *sink) Traits() Traits             { return Traits{Checksums: true, Segments: true} }
func (s *sink) Receive(func(Packet)) error { return nil }

func (s *sink) Send(f *virtio.Frame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frames = append(s.frames, &virtio.Frame{Parts: [][]byte{bytes.Join(f.Parts, nil)}, Checksum: f.Checksum,
		ChecksumStart: f.ChecksumStart, ChecksumOffset: f.ChecksumOffset})
	return nil
}

// sent returns which of segments a device is sent, by their positions.
func sent(t *testing.T, segments []segment) (order []int) {
	t.Helper()
	s := &sink{}
	e := newEndpoint(s, netip.AddrFrom4([4]byte{1}), netip.AddrFrom4([4]byte{2}), newClock(), func(err error) { t.Error(err) })
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
		i := slices.IndexFunc(segments, func(seg segment) bool {
			return bytes.Equal(f.Parts[0], bytes.Join(frame(seg.packet()).Parts, nil))
		})
		for slices.Contains(order, i) { // of equal ones, the next
			i++
		}
		order = append(order, i)
		if want := frame(segments[i].packet()); f.Checksum != want.Checksum || f.ChecksumStart != want.ChecksumStart || f.ChecksumOffset != want.ChecksumOffset {
			t.Errorf("segment %d lost what the device is to do: %+v, and not %+v", i, f, want)
		}
	}
	return order
}

// left reports whether something is held.
func (a *acks) left() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.used != 0
}

func TestAcknowledgementsGoWithWhatFollows(t *testing.T) {
	const ack, push, fin, rst = header.TCPFlagAck, header.TCPFlagAck | header.TCPFlagPsh, header.TCPFlagAck | header.TCPFlagFin, header.TCPFlagRst
	const other = 1 + ackSlots // shares the slot of 1
	for _, c := range []struct {
		name     string
		segments []segment
		want     []int
	}{
		{"alone", []segment{{1, ack, 10, 5, 0}}, []int{0}},
		{"with an answer", []segment{{1, ack, 10, 5, 0}, {1, push, 10, 5, 7}}, []int{1}},
		{"with an end", []segment{{1, ack, 10, 5, 0}, {1, fin, 10, 5, 0}}, []int{1}},
		{"before a reset", []segment{{1, ack, 10, 5, 0}, {1, rst, 0, 0, 0}}, []int{0, 1}},
		{"every second", []segment{{1, ack, 10, 5, 0}, {1, ack, 20, 5, 0}, {1, ack, 30, 5, 0}, {1, ack, 40, 5, 0}}, []int{1, 3}},
		{"of a loss", []segment{{1, ack, 10, 5, 0}, {1, ack, 10, 5, 0}, {1, ack, 10, 5, 0}}, []int{0, 1, 2}},
		{"of a window", []segment{{1, ack, 10, 5, 0}, {1, ack, 10, 6, 0}}, []int{1}},
		{"of two connections", []segment{{1, ack, 10, 5, 0}, {2, ack, 10, 5, 0}, {1, push, 10, 5, 1}}, []int{2, 1}},
		{"in one slot", []segment{{1, ack, 10, 5, 0}, {other, ack, 11, 5, 0}, {1, push, 10, 5, 1}}, []int{0, 2, 1}},
		{"beside data in its slot", []segment{{1, ack, 10, 5, 0}, {other, push, 10, 5, 3}}, []int{1, 0}},
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
	if before, hold := newAcks().pass(pkt); before != nil || hold {
		t.Error("it was held")
	}
}

func TestTheClockMovesByEvents(t *testing.T) {
	c := newClock()
	first := c.NowMonotonic()
	time.Sleep(2 * time.Millisecond)
	if c.NowMonotonic() != first {
		t.Error("it moved by itself")
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
