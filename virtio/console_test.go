package virtio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// twoPorts is the configuration of a console: no size, two ports.
var twoPorts = []byte{0, 0, 0, 0, 2, 0, 0, 0}

// newFakeConsole returns a console and what is behind it. The device takes from the
// driver when out is read, and no sooner.
func newFakeConsole(t *testing.T) (f *fakeDevice, c *Console, out chan []byte) {
	t.Helper()
	f = newFake(Port, ^uint64(0), twoPorts)
	go func() {
		f.hear(0, portDeviceReady)
		f.tell(consolePort, portAdd, 0)
		f.hear(consolePort, portReady)
		f.tell(consolePort, 4, 1)         // a console
		f.tell(consolePort, 7, 1, "name") // of this name
		for range 2 * consoleRing {       // sizes: more than the driver can hear at a time
			f.tell(0, 5, 0, "\x50\x00\x18\x00")
		}
		f.hear(consolePort, portOpen)
		f.tell(consolePort, portOpen, 1)
	}()
	c, err := NewConsole(f.find(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	out = make(chan []byte)
	go func() {
		for {
			b, ok := f.wait(consoleTransmit)
			if !ok {
				return
			}
			select {
			case out <- bytes.Clone(b.mem):
			case <-f.closed:
				return
			}
			f.push(consoleTransmit, usedElem{uint32(b.id), 0})
		}
	}()
	return f, c, out
}

// tell sends the driver a message about a port.
func (d *fakeDevice) tell(port uint32, event, value uint16, more ...string) {
	b, ok := d.wait(consoleControlIn)
	if !ok {
		return
	}
	m := binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint32(nil, port), event), value)
	n := copy(b.mem, append(m, strings.Join(more, "")...))
	d.push(consoleControlIn, usedElem{uint32(b.id), uint32(n)})
}

// hear takes one message from the driver, which must be this one, with the value 1.
func (d *fakeDevice) hear(port uint32, event uint16) {
	b, ok := d.wait(consoleControlOut)
	if !ok {
		return
	}
	want := []byte{byte(port), 0, 0, 0, byte(event), 0, 1, 0}
	if !bytes.Equal(b.mem, want) {
		panic(fmt.Sprintf("the driver says %x, not %x", b.mem, want))
	}
	d.push(consoleControlOut, usedElem{uint32(b.id), 0})
}

// deliver writes bytes to the driver in pieces of different lengths, as it has room.
func deliver(f *fakeDevice, data []byte) {
	for size := 0; len(data) > 0; size = (size*5 + 1) % (consoleBuffer + 1) {
		b, ok := f.wait(consoleReceive)
		if !ok {
			return
		}
		n := copy(b.mem[:size], data)
		data = data[n:]
		f.push(consoleReceive, usedElem{uint32(b.id), uint32(n)})
	}
}

func TestBytesSurviveTheConsole(t *testing.T) {
	f, c, out := newFakeConsole(t)
	want := pattern(1, 4<<20)
	go deliver(f, want)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(io.MultiReader(io.LimitReader(c, 1), io.LimitReader(c, 9999), c), got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("not what was sent: %v", err)
	}

	done := make(chan error, 1)
	go func() {
		n, err := c.Write(want)
		if err == nil && n != len(want) {
			err = io.ErrShortWrite
		}
		done <- err
	}()
	got = got[:0]
	for len(got) < len(want) {
		got = append(got, within(t, "writing", out)...)
	}
	if !bytes.Equal(got, want) {
		t.Error("not what was written")
	}
	if err := within(t, "writing", done); err != nil {
		t.Error(err)
	}
}

// What has been written is not lost where the machine ends at once.
func TestWriteReturnsWhenTheDeviceHasEverything(t *testing.T) {
	f, c, out := newFakeConsole(t)
	f.mu.Lock()
	before := f.queues[consoleTransmit].used
	f.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := c.Write(make([]byte, 3*consoleChunk)); err != nil {
			t.Error(err)
		}
		q, _, used := f.ring(consoleTransmit)
		if got := uint16(used.load(0)>>16) - before; got != 3 || q.num == 0 {
			t.Errorf("it returned when the device had used %d buffers of 3", got)
		}
	}()
	for range 3 {
		within(t, "writing", out)
	}
	within(t, "writing", done)
}

func TestWritersDoNotMix(t *testing.T) {
	_, c, out := newFakeConsole(t)
	const writers, each, size = 4, 3, 100_000
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for range each {
				if _, err := c.Write(bytes.Repeat([]byte{byte(w)}, size)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	var got []byte
	for len(got) < writers*each*size {
		got = append(got, within(t, "writing", out)...)
	}
	all.Wait()
	for i := 0; i < len(got); i += size {
		if !bytes.Equal(got[i:i+size], bytes.Repeat(got[i:i+1], size)) {
			t.Fatalf("another writer comes within the %d bytes from %d", size, i)
		}
	}
}

func TestClosingTheConsoleEndsItsUsers(t *testing.T) {
	_, c, out := newFakeConsole(t)
	ends := make(chan error, 2)
	go func() {
		_, err := c.Read(make([]byte, 1))
		ends <- err
	}()
	go func() {
		_, err := c.Write(make([]byte, 1<<20)) // more than fits
		ends <- err
	}()
	within(t, "writing", out)
	if err := errors.Join(c.Close(), c.Close()); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := within(t, "closing", ends); err != os.ErrClosed {
			t.Errorf("got %v", err)
		}
	}
	if n, err := c.Read(nil); n != 0 || err != os.ErrClosed {
		t.Errorf("got %d, %v", n, err)
	}
	if n, err := c.Write([]byte("x")); n != 0 || err != os.ErrClosed {
		t.Errorf("got %d, %v", n, err)
	}
}

// What the host sent before it left is not lost.
func TestTheHostHangsUp(t *testing.T) {
	for name, leave := range map[string]func(f *fakeDevice){
		"it closes the port":    func(f *fakeDevice) { f.tell(consolePort, portOpen, 0) },
		"it takes it away":      func(f *fakeDevice) { f.tell(consolePort, portRemove, 1) },
		"somebody waits for it": func(f *fakeDevice) { time.Sleep(20 * time.Millisecond); f.tell(consolePort, portOpen, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			f, c, _ := newFakeConsole(t)
			want := pattern(1, 3*consoleBuffer)
			deliver(f, want)
			go leave(f)
			got := make(chan []byte)
			go func() {
				b, err := io.ReadAll(c) // an end that is no io.EOF is an error
				if err != nil {
					t.Error(err)
				}
				got <- b
			}()
			if b := within(t, "reading", got); !bytes.Equal(b, want) {
				t.Errorf("got %d bytes of %d", len(b), len(want))
			}
			if _, err := c.Write([]byte("x")); err != io.EOF {
				t.Errorf("writing: %v", err)
			}
			if f.status != 0 {
				t.Errorf("its status is %d", f.status)
			}
		})
	}
}

// Who has looked for what the host sends just before it sent its last word and left looks
// again.
func TestTheLastWordIsRead(t *testing.T) {
	f, c, _ := newFakeConsole(t)
	b, _ := f.wait(consoleReceive)
	c.hungUp.Store(true)
	c.in.ring.signal()
	if err := c.fetch(false); err != nil {
		t.Fatal(err)
	}
	b.mem[0] = 'x'
	f.push(consoleReceive, usedElem{uint32(b.id), 1})
	if got, err := io.ReadAll(c); err != nil || string(got) != "x" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestConsolesWithoutAPortAreRefused(t *testing.T) {
	for _, c := range []struct {
		name    string
		offered uint64
		config  []byte
		do      func(f *fakeDevice)
		want    string
	}{
		{"without flow control", 0, twoPorts, nil, "-device virtserialport,nr=1"},
		{"one port", ^uint64(0), []byte{0, 0, 0, 0, 1, 0, 0, 0}, nil, "-device virtserialport,nr=1"},
		{"another port", ^uint64(0), twoPorts, func(f *fakeDevice) { f.tell(0, portAdd, 1) }, "about port 0; there is only port 1"},
		{"a port without bounds", ^uint64(0), twoPorts, func(f *fakeDevice) { f.tell(1<<31, portOpen, 1) }, "about port 2147483648"},
		{"half a message", ^uint64(0), twoPorts, func(f *fakeDevice) { f.push(consoleControlIn, usedElem{0, controlSize - 1}) }, "a message of 7 bytes"},
		{"more than a message", ^uint64(0), twoPorts, func(f *fakeDevice) { f.push(consoleControlIn, usedElem{0, controlBuffer + 1}) }, "wrote 257 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(Port, c.offered, c.config)
			if c.do != nil {
				go func() {
					f.hear(0, portDeviceReady)
					c.do(f)
				}()
			}
			var refused *DeviceError
			if _, err := NewConsole(f.find(t)); !errors.As(err, &refused) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
			if f.status != statusFailed {
				t.Errorf("its status is %d", f.status)
			}
		})
	}
}

func TestNobodyOpensThePort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(Port, ^uint64(0), twoPorts)
		if _, err := NewConsole(f.find(t)); err == nil || !strings.Contains(err.Error(), "nobody has opened its port 1 on the host in 30s") {
			t.Errorf("got %v", err)
		}
		if f.status != statusFailed {
			t.Errorf("its status is %d", f.status)
		}
	})
}

func TestAConsoleThatBreaksTheRules(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(f *fakeDevice)
		want string
	}{
		{"more than there is room for", func(f *fakeDevice) { f.push(consoleReceive, usedElem{0, consoleBuffer + 1}) }, "wrote 4097 bytes"},
		{"an id that no ring has", func(f *fakeDevice) { f.push(consoleReceive, usedElem{consoleRing, 1}) }, "buffer 16 of 16"},
		{"an index that jumps", func(f *fakeDevice) {
			q, _, _ := f.ring(consoleReceive)
			q.used = consoleRing + 1
			f.push(consoleReceive)
		}, "from 0 to 17"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, con, _ := newFakeConsole(t)
			c.do(f)
			var err error
			for err == nil {
				_, err = con.Read(make([]byte, 1))
			}
			var broken *DeviceError
			if !errors.As(err, &broken) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
			if _, again := con.Write([]byte("x")); again != err {
				t.Errorf("writing: %v", again)
			}
		})
	}
}
