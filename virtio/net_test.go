package virtio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

const allNet = netCsum | netGuestCsum | netMAC | netGuestTSO4 | netGuestTSO6 | netHostTSO4 | netHostTSO6 | netMergeable

// netConfig is the configuration of a network device.
func netConfig(mac string, mtu uint16) []byte {
	return binary.LittleEndian.AppendUint16(append([]byte(mac), 0, 0, 0, 0), mtu)
}

var goodConfig = netConfig("\x52\x54\x00\x12\x34\x56", 0)

// A fakeNet is a network device whose network is the test.
type fakeNet struct {
	*fakeDevice
	sent chan []byte // with their headers
}

// newFakeNet returns a device and its driver. The device takes no frame before gate
// says so, if there is a gate.
func newFakeNet(t *testing.T, features uint64, gate chan struct{}) (*fakeNet, *Net) {
	t.Helper()
	f := &fakeNet{newFake(Network, features, goodConfig), make(chan []byte, 4096)}
	n, err := NewNet(f.find(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	go func() {
		for {
			b, ok := f.wait(netTransmit)
			if !ok {
				return
			}
			if gate != nil {
				select {
				case <-gate:
				case <-f.closed:
					return
				}
			}
			f.sent <- bytes.Clone(b.mem)
			f.push(netTransmit, usedElem{uint32(b.id), 0})
		}
	}()
	return f, n
}

// deliver writes a frame to as many buffers as it needs, as they come.
func (f *fakeNet) deliver(flags byte, frame []byte) {
	var header [netHeader]byte
	rest := append(header[:], frame...)
	var used []usedElem
	var first memory
	for len(rest) > 0 {
		b, ok := f.wait(netReceive)
		if !ok {
			return
		}
		if first == nil {
			first = b.mem
		}
		n := copy(b.mem, rest)
		rest = rest[n:]
		used = append(used, usedElem{uint32(b.id), uint32(n)})
	}
	first[headerFlags] = flags
	first.put16(headerBuffers, uint16(len(used)))
	if f.features&netMergeable == 0 {
		first.put16(headerBuffers, 0xffff) // means nothing
	}
	f.push(netReceive, used...)
}

// A received is a frame as Receive saw it.
type received struct {
	frame    []byte
	verified bool
}

func receive(n *Net) (frames chan received, end chan error) {
	frames, end = make(chan received, 4096), make(chan error, 1)
	go func() {
		end <- n.Receive(func(p *Packet) {
			b := make([]byte, p.Len())
			if got := p.CopyTo(b); got != len(b) {
				panic(fmt.Sprintf("%d of %d bytes", got, len(b)))
			}
			frames <- received{b, p.ChecksumVerified()}
		})
	}()
	return frames, end
}

// pattern returns n bytes that differ from those of another seed, and from themselves
// when they are moved.
func pattern(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

func TestFramesAreSent(t *testing.T) {
	f, n := newFakeNet(t, allNet, nil)
	for i, size := range []int{14, 60, 1514, 2048, 4000, MaxFrame, 14, MaxFrame, MaxFrame, MaxFrame, MaxFrame, 99} {
		want := pattern(uint64(i), size)
		if err := n.Send(&Frame{Parts: [][]byte{want[:3], nil, want[3:14], want[14:]}}); err != nil {
			t.Fatal(err)
		}
		if got := within(t, "sending", f.sent); !bytes.Equal(got, append(make([]byte, netHeader), want...)) {
			t.Fatalf("frame %d of %d bytes: the device got %d others", i, size, len(got)-netHeader)
		}
	}
}

func TestTheDeviceIsToldWhatToDoWithFrames(t *testing.T) {
	content := make([]byte, 3000)
	for _, c := range []struct {
		name     string
		features uint64
		frame    Frame
		want     string // header, or what the error says
	}{
		{"nothing", allNet, Frame{}, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
		{"a checksum", allNet, Frame{Checksum: true, ChecksumStart: 0x122, ChecksumOffset: 16}, "\x01\x00\x00\x00\x00\x00\x22\x01\x10\x00\x00\x00"},
		{"segments of IPv4", allNet, Frame{Checksum: true, ChecksumStart: 34, ChecksumOffset: 16, Segmentation: TCP4, SegmentSize: 1448, HeaderSize: 0x142}, "\x01\x01\x42\x01\xa8\x05\x22\x00\x10\x00\x00\x00"},
		{"segments of IPv6", allNet, Frame{Checksum: true, ChecksumStart: 54, ChecksumOffset: 16, Segmentation: TCP6, SegmentSize: 1428, HeaderSize: 86}, "\x01\x04\x56\x00\x94\x05\x36\x00\x10\x00\x00\x00"},
		{"a checksum that nobody offers", allNet &^ netCsum, Frame{Checksum: true}, "no checksums"},
		{"segments that nobody offers", allNet &^ netHostTSO4, Frame{Checksum: true, Segmentation: TCP4, SegmentSize: 1, HeaderSize: 54}, "does not segment"},
		{"segments of the other kind", allNet &^ netHostTSO6, Frame{Checksum: true, Segmentation: TCP6, SegmentSize: 1, HeaderSize: 54}, "does not segment"},
		{"segments without checksums to build on", allNet &^ netCsum, Frame{Segmentation: TCP4, SegmentSize: 1, HeaderSize: 54}, "does not segment"},
		{"segments without a checksum", allNet, Frame{Segmentation: TCP4, SegmentSize: 1, HeaderSize: 54}, "needs a checksum"},
		{"segments without a size", allNet, Frame{Checksum: true, Segmentation: TCP4, HeaderSize: 54}, "needs a checksum"},
		{"segments without content", allNet, Frame{Checksum: true, Segmentation: TCP4, SegmentSize: 1, HeaderSize: 3000}, "needs a checksum"},
		{"an unknown segmentation", allNet, Frame{Checksum: true, Segmentation: 9, SegmentSize: 1, HeaderSize: 54}, "does not segment"},
		{"a checksum at the end", allNet, Frame{Checksum: true, ChecksumStart: 2982, ChecksumOffset: 16}, "\x01\x00\x00\x00\x00\x00\xa6\x0b\x10\x00\x00\x00"},
		{"a checksum behind the end", allNet, Frame{Checksum: true, ChecksumStart: 2983, ChecksumOffset: 16}, "behind the end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, n := newFakeNet(t, c.features, nil)
			c.frame.Parts = [][]byte{content}
			if err := n.Send(&c.frame); err != nil {
				if !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v", err)
				}
				return
			}
			if got := within(t, "sending", f.sent)[:netHeader]; string(got) != c.want {
				t.Errorf("got the header %x", got)
			}
		})
	}
}

func TestWhatIsNoFrameIsNotSent(t *testing.T) {
	f, n := newFakeNet(t, allNet, nil)
	for _, size := range []int{0, 13, MaxFrame + 1} {
		if err := n.Send(&Frame{Parts: [][]byte{make([]byte, size)}}); err == nil {
			t.Errorf("%d bytes were sent", size)
		}
	}
	if err := n.Send(&Frame{Parts: [][]byte{make([]byte, 14)}}); err != nil {
		t.Fatal(err)
	}
	if got := within(t, "sending", f.sent); len(got) != netHeader+14 {
		t.Errorf("the device got %d bytes", len(got))
	}
}

func TestFramesAreReceived(t *testing.T) {
	for _, features := range []uint64{allNet, allNet &^ netMergeable} {
		f, n := newFakeNet(t, features, nil)
		frames, _ := receive(n)
		sizes := []int{0, 14, 60, 1514}
		if features&netMergeable != 0 {
			sizes = append(sizes, 2036, 2037, MaxFrame, 5000, MaxFrame)
		}
		for i, size := range sizes {
			want := pattern(uint64(i), size)
			f.deliver(0, want)
			if got := within(t, "receiving", frames); !bytes.Equal(got.frame, want) || got.verified {
				t.Fatalf("frame %d of %d bytes: got %d others, verified: %v", i, size, len(got.frame), got.verified)
			}
		}
	}
}

func TestChecksumsOfTheHost(t *testing.T) {
	for _, c := range []struct {
		features uint64
		flags    byte
		want     bool
	}{
		{allNet, 0, false}, {allNet, flagNeedsCsum, true}, {allNet, flagDataValid, true}, {allNet, 4, false},
		{allNet &^ netGuestCsum, flagNeedsCsum | flagDataValid, false},
	} {
		f, n := newFakeNet(t, c.features, nil)
		frames, _ := receive(n)
		f.deliver(c.flags, make([]byte, 60))
		if got := within(t, "receiving", frames); got.verified != c.want {
			t.Errorf("features %#x, flags %d: verified is %v", c.features, c.flags, got.verified)
		}
	}
}

// A frame that is too long is the network's fault, not the device's.
func TestFramesThatAreTooLongAreDropped(t *testing.T) {
	f, n := newFakeNet(t, allNet, nil)
	frames, _ := receive(n)
	f.deliver(0, make([]byte, MaxFrame+1))
	f.deliver(0, make([]byte, 77))
	if got := within(t, "receiving", frames); len(got.frame) != 77 {
		t.Errorf("got a frame of %d bytes", len(got.frame))
	}
}

// More frames than there are buffers, many times over.
func TestAFloodUsesTheSameBuffersAgain(t *testing.T) {
	f, n := newFakeNet(t, allNet, nil)
	frames, _ := receive(n)
	pages := f.m.left
	const count = 3000
	go func() {
		for i := range count {
			f.deliver(0, pattern(uint64(i), i))
		}
	}()
	for i := range count {
		if got := within(t, "receiving", frames); !bytes.Equal(got.frame, pattern(uint64(i), i)) {
			t.Fatalf("frame %d: got %d bytes", i, len(got.frame))
		}
	}
	if f.m.left != pages {
		t.Errorf("it took %d pages", pages-f.m.left)
	}
}

func TestSendersWaitForTheDevice(t *testing.T) {
	for _, size := range []int{60, 1514, MaxFrame} {
		gate := make(chan struct{})
		f, n := newFakeNet(t, allNet, gate)
		const senders, each = 4, 150
		var all sync.WaitGroup
		for s := range senders {
			all.Go(func() {
				for i := range each {
					frame := make([]byte, size)
					frame[0], frame[1] = byte(s), byte(i)
					if err := n.Send(&Frame{Parts: [][]byte{frame}}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		// The device takes nothing before as much is sent as there is room for.
		room := min(netRing, len(n.out.mem)/((netHeader+size+align-1)&^(align-1)))
		if room >= senders*each {
			t.Fatal("the test sends too little")
		}
		_, avail, _ := f.ring(netTransmit)
		for start := time.Now(); int(avail.load(0)>>16) != room; runtime.Gosched() {
			if time.Since(start) > patience {
				t.Fatalf("%d frames of %d bytes are sent, and there is room for %d", avail.load(0)>>16, size, room)
			}
		}
		go func() {
			for range senders * each {
				gate <- struct{}{}
			}
		}()
		var next [senders]byte
		for range senders * each {
			got := within(t, "sending", f.sent)
			s, i := got[netHeader], got[netHeader+1]
			if len(got) != netHeader+size || i != next[s] {
				t.Fatalf("frame %d of sender %d, of %d bytes; want frame %d", i, s, len(got), next[s])
			}
			next[s]++
		}
		all.Wait()
	}
}

func TestBuffersComeBackInAnyOrder(t *testing.T) {
	f := newFake(Network, allNet, goodConfig)
	n, err := NewNet(f.find(t))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	const count = 2000
	done := make(chan error, 1)
	go func() {
		for i := range count {
			if err := n.Send(&Frame{Parts: [][]byte{pattern(uint64(i), 14+i%5000)}}); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	var held []usedElem
	for i := range count {
		b, ok := f.wait(netTransmit)
		if !ok {
			t.Fatal("closed")
		}
		if !bytes.Equal(b.mem[netHeader:], pattern(uint64(i), 14+i%5000)) {
			t.Fatalf("frame %d is not what was sent: its memory was used again too early", i)
		}
		if held = append(held, usedElem{uint32(b.id), 0}); len(held) == 5 || i == count-1 {
			rand.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
			f.push(netTransmit, held...)
			held = nil
		}
	}
	if err := within(t, "sending", done); err != nil {
		t.Error(err)
	}
}

// A doorbell costs more than a small frame does.
func TestDoorbellsAreShared(t *testing.T) {
	f := newFake(Network, allNet, goodConfig)
	n, err := NewNet(f.find(t))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	frame := &Frame{Parts: [][]byte{make([]byte, 60)}}
	for range netRing {
		if err := n.Send(frame); err != nil {
			t.Fatal(err)
		}
	}
	for range netRing {
		if _, ok := f.wait(netTransmit); !ok {
			t.Fatal("closed")
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if got := f.doorbells[netTransmit]; got == 0 || got > netRing/4 {
		t.Errorf("%d doorbells for %d frames", got, netRing)
	}
}

func TestDoorbellsThatNobodyWantsAreNotRung(t *testing.T) {
	f := newFake(Network, allNet, goodConfig)
	n, err := NewNet(f.find(t))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	q, _, _ := f.ring(netTransmit)
	q.flags = noNotify
	f.push(netTransmit)
	n.out.announce()
	if f.doorbells[netTransmit] != 0 {
		t.Error("the device was told")
	}
	q.flags = 0
	f.push(netTransmit)
	n.out.announce()
	if f.doorbells[netTransmit] != 1 {
		t.Error("the device was not told")
	}
}

// What a frame costs is what it takes to copy it.
func TestFramesDoNotAllocate(t *testing.T) {
	f := newFake(Network, allNet, goodConfig)
	n, err := NewNet(f.find(t))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	frame := &Frame{Parts: [][]byte{make([]byte, 54), make([]byte, 1000)}, Checksum: true, ChecksumStart: 34, ChecksumOffset: 16}
	if got := testing.AllocsPerRun(2*netRing, func() {
		if err := n.Send(frame); err != nil {
			t.Fatal(err)
		}
		b, _ := f.pop(netTransmit)
		f.push(netTransmit, usedElem{uint32(b.id), 0})
	}); got > 0 {
		t.Errorf("to send one takes %v allocations", got)
	}
	p, ids := Packet{parts: make([]memory, 0, 1)}, make([]uint16, 0, 1)
	if got := testing.AllocsPerRun(2*netRing, func() {
		b, _ := f.pop(netReceive)
		b.mem.put16(headerBuffers, 1)
		f.push(netReceive, usedElem{uint32(b.id), 60})
		if ids, err = n.gather(&p, ids[:0]); err != nil {
			t.Fatal(err)
		}
		n.in.put(ids[0])
	}); got > 0 {
		t.Errorf("to receive one takes %v allocations", got)
	}
}

func TestClosingEndsReceivers(t *testing.T) {
	f, n := newFakeNet(t, allNet, nil)
	_, end := receive(n)
	f.deliver(0, make([]byte, 60))
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if err := within(t, "closing", end); err == nil {
		t.Error("Receive returned without an error")
	}
	if err := n.Send(&Frame{Parts: [][]byte{make([]byte, 60)}}); err == nil {
		t.Error("a closed device was sent on")
	}
	within(t, "giving the interrupt back", f.closed)
	if f.status != 0 {
		t.Errorf("its status is %d; a reset makes it let go of the memory", f.status)
	}
}

// Nobody waits for ever for a device that takes nothing: who does so is told when it is
// closed, or has broken the rules.
func TestSendersDoNotOutliveTheDevice(t *testing.T) {
	for name, end := range map[string]func(f *fakeNet, n *Net){
		"it is closed":        func(_ *fakeNet, n *Net) { n.Close() },
		"it breaks the rules": func(f *fakeNet, _ *Net) { f.push(netTransmit, usedElem{netRing, 0}) },
		"it gives up":         func(f *fakeNet, _ *Net) { f.mu.Lock(); f.status |= statusNeedsReset; f.mu.Unlock(); f.interrupt() },
	} {
		t.Run(name, func(t *testing.T) {
			f, n := newFakeNet(t, allNet, make(chan struct{}))
			const senders = 3
			ends := make(chan error, senders)
			for range senders {
				go func() {
					var err error
					for err == nil {
						err = n.Send(&Frame{Parts: [][]byte{make([]byte, 60)}})
					}
					ends <- err
				}()
			}
			_, avail, _ := f.ring(netTransmit)
			for start := time.Now(); avail.load(0) != netRing<<16; runtime.Gosched() { // full, and it wants interrupts
				if time.Since(start) > patience {
					t.Fatal("nobody waits")
				}
			}
			end(f, n)
			first := within(t, "ending", ends)
			for range senders - 1 {
				if err := within(t, "ending", ends); err != first {
					t.Errorf("one hears %v, another %v", first, err)
				}
			}
		})
	}
}

func TestOneReceives(t *testing.T) {
	f, n := newFakeNet(t, allNet, nil)
	frames, _ := receive(n)
	f.deliver(0, make([]byte, 60))
	within(t, "receiving", frames)
	var refused *DeviceError
	if err := n.Receive(func(*Packet) {}); !errors.As(err, &refused) {
		t.Errorf("got %v", err)
	}
}
