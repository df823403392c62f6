package virtio

import (
	"errors"
	"strings"
	"testing"
)

// A device that breaks the rules of a queue once is not used again, in no way.
func TestADeviceThatBreaksTheRules(t *testing.T) {
	write := func(f *fakeNet, queue int, index uint16, list ...usedElem) {
		q, _, _ := f.ring(queue)
		f.push(queue, list...)
		q.used = index
		f.push(queue)
	}
	frame := func(f *fakeNet, num uint16, list ...usedElem) {
		b, ok := f.wait(netReceive)
		if !ok {
			t.Fatal("closed")
		}
		b.mem.put16(headerBuffers, num)
		f.push(netReceive, append([]usedElem{{uint32(b.id), 60}}, list...)...)
	}
	for _, c := range []struct {
		name string
		do   func(f *fakeNet)
		want string
	}{
		{"an id that no ring has", func(f *fakeNet) { f.push(netReceive, usedElem{1 << 16, 60}) }, "queue 0: it returns buffer 65536 of 256"},
		{"an id just behind the ring", func(f *fakeNet) { f.push(netReceive, usedElem{netRing, 60}) }, "buffer 256 of 256"},
		{"an id twice", func(f *fakeNet) { frame(f, 2, usedElem{0, 60}) }, "buffer 0, which it does not have"},
		{"more than there is room for", func(f *fakeNet) { f.push(netReceive, usedElem{0, netBuffer + 1}) }, "wrote 2049 bytes to buffer 0, which has room for 2048"},
		{"no end of bytes", func(f *fakeNet) { f.push(netReceive, usedElem{0, 0xffffffff}) }, "wrote 4294967295 bytes"},
		{"an index that jumps", func(f *fakeNet) { write(f, netReceive, netRing+1) }, "from 0 to 257 while it has 256"},
		{"an index that goes back", func(f *fakeNet) { write(f, netReceive, 0xffff) }, "from 0 to 65535"},
		{"an index for what it does not have", func(f *fakeNet) { write(f, netTransmit, 1) }, "queue 1: its index goes from 0 to 1 while it has 0"},
		{"less than a header", func(f *fakeNet) { f.push(netReceive, usedElem{0, netHeader - 1}) }, "11 bytes, shorter than its header"},
		{"a frame in no buffers", func(f *fakeNet) { frame(f, 0) }, "in 0 of 256 buffers"},
		{"a frame in more buffers than there are", func(f *fakeNet) { frame(f, netRing+1) }, "in 257 of 256 buffers"},
		{"a frame in more buffers than returned", func(f *fakeNet) { frame(f, 3, usedElem{1, 10}) }, "in 3 buffers, of which it returned 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &fakeNet{newFake(Network, allNet, goodConfig), nil}
			n, err := NewNet(f.find(t))
			if err != nil {
				t.Fatal(err)
			}
			defer n.Close()
			frames, end := receive(n)
			c.do(f)
			send := func() error { return n.Send(&Frame{Parts: [][]byte{make([]byte, 60)}}) }
			if strings.HasPrefix(c.want, "queue 1") {
				err = send()
			}
			if ended := within(t, "breaking", end); err == nil {
				err = ended
			} else if ended != err {
				t.Errorf("receiving: %v", ended)
			}
			var broken *DeviceError
			if !errors.As(err, &broken) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "virtio-net at 0xfeb00e00") {
				t.Fatalf("got %v", err)
			}
			if len(frames) > 0 {
				t.Errorf("a frame of %d bytes was received", len((<-frames).frame))
			}
			for range 3 {
				if again := send(); again != err {
					t.Errorf("sending: %v", again)
				}
				if again := n.Receive(func(*Packet) { t.Error("a frame") }); again != err {
					t.Errorf("receiving: %v", again)
				}
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.status != statusFailed {
				t.Errorf("its status is %d", f.status)
			}
		})
	}
}

// What the device has used just before the driver asks for interrupts brings none.
func TestNothingIsMissedBeforeAnInterrupt(t *testing.T) {
	f, n := newFakeNet(t, allNet, nil)
	f.push(netReceive, usedElem{0, 60})
	if len(f.irq) > 0 {
		t.Fatal("the driver wants interrupts without waiting")
	}
	done := make(chan error)
	go func() { done <- n.in.ring.wait() }()
	if err := within(t, "waiting", done); err != nil {
		t.Error(err)
	}
}

// Indices are of 16 bits, and pass their end.
func TestIndicesWrap(t *testing.T) {
	f, n := newFakeNet(t, allNet&^netMergeable, nil)
	frames, _ := receive(n)
	go func() {
		for range 66000 {
			f.deliver(0, make([]byte, 20))
		}
	}()
	for i := range 66000 {
		within(t, "receiving", frames)
		if err := n.Send(&Frame{Parts: [][]byte{{0: byte(i), 19: 0}}}); err != nil {
			t.Fatal(err)
		}
		if got := within(t, "sending", f.sent); got[netHeader] != byte(i) {
			t.Fatalf("frame %d: got %d", i, got[netHeader])
		}
	}
}

// The table of descriptors lies where the device can write. The driver must not care.
func TestTheDriverNeverReadsItsDescriptors(t *testing.T) {
	f, n := newFakeNet(t, allNet, nil)
	frames, _ := receive(n)
	for i := range 600 {
		// What is lent already was read by this device, or is read again after it was lent anew.
		b, ok := f.wait(netReceive)
		if !ok {
			t.Fatal("closed")
		}
		q, _, _ := f.ring(netReceive)
		desc := f.m.at(q.addr[0]+uint64(b.id)*descSize, descSize)
		for j := range desc {
			desc[j] = 0xff
		}
		n := copy(b.mem, append(make([]byte, netHeader), pattern(uint64(i), 100)...))
		b.mem.put16(headerBuffers, 1)
		f.push(netReceive, usedElem{uint32(b.id), uint32(n)})
		if got := within(t, "receiving", frames); string(got.frame) != string(pattern(uint64(i), 100)) {
			t.Fatalf("frame %d: got %d bytes", i, len(got.frame))
		}
	}
}
