package boot

import (
	"encoding/binary"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A ring is where a device answers for the buffers that it has to write to: its half of
// a virtqueue, in the memory of a machine.
type ring struct {
	used  []byte
	count int
}

// findRing finds the virtqueue with so many buffers of a size, one behind the other.
func findRing(t *testing.T, ram []byte, count, each int) ring {
	t.Helper()
	const page, descriptor, writes = 4096, 16, 2
	is := func(table []byte) bool {
		first := binary.LittleEndian.Uint64(table)
		for i := range count {
			d := table[i*descriptor:]
			if first == 0 || binary.LittleEndian.Uint64(d) != first+uint64(i*each) || binary.LittleEndian.Uint32(d[8:]) != uint32(each) || binary.LittleEndian.Uint32(d[12:]) != writes {
				return false
			}
		}
		return true
	}
	for at := 0; at+2*page <= len(ram); at += page {
		if is(ram[at:]) {
			available := at + count*descriptor
			return ring{ram[(available+4+2*count+3)&^3:], count}
		}
	}
	t.Fatalf("no ring has %d buffers of %d bytes", count, each)
	return ring{}
}

// lie overwrites what the device says: of every buffer the word at an offset, or, where
// that is negative, how many it has used.
func (r ring) lie(offset int, v uint32) {
	const head, element = 4, 8
	if offset < 0 {
		binary.LittleEndian.PutUint16(r.used[2:], uint16(v))
		return
	}
	for i := range r.count {
		binary.LittleEndian.PutUint32(r.used[head+i*element+offset:], v)
	}
}

// A device that lies ends its machine, with a line that says what it did and a code, and
// nothing else happens. Who lies here is the test, in the memory of the machine, until
// it is heard.
func TestDevicesThatLie(t *testing.T) {
	const card, port = "virtio-net", "virtio-console"
	for _, c := range []struct {
		name, device string
		count, each  int // of the ring
		offset       int
		lie          uint32
		want         string
	}{
		{"a card of its index", card, 256, 2048, -1, 0x8000, "its index goes from"},
		{"a card of a buffer", card, 256, 2048, 0, 256, "it returns buffer 256 of 256"},
		{"a card of a length", card, 256, 2048, 4, 1 << 31, "it says that it wrote 2147483648 bytes"},
		{"a card of a frame that is none", card, 256, 2048, 4, 11, "a frame of 11 bytes, shorter than its header"},
		{"a port of its index", port, 16, 4096, -1, 0x8000, "its index goes from"},
		{"a port of a length", port, 16, 4096, 4, 4097, "it says that it wrote 4097 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, netdev := newLink(t)
			m := start(t, netdev, "")
			f, err := os.OpenFile(m.memory, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			ram, err := unix.Mmap(int(f.Fd()), 0, 24<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Munmap(ram)
			r := findRing(t, ram, c.count, c.each)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				m.end()
			}()
			go io.Copy(io.Discard, m.console)
			go io.Copy(io.Discard, struct{ io.Reader }{l})
			// QEMU says the truth about each frame, and each byte: the lie has to come between
			// that and the driver.
			late := time.After(patience)
			for i := 0; ; i++ {
				select {
				case <-ended:
				case <-late:
					t.Fatal("the machine goes on")
				default:
					if i%1000 == 0 {
						l.send(frameTo(i, 60))
						m.console.Write([]byte("x"))
					}
					r.lie(c.offset, c.lie)
					continue
				}
				break
			}
			if said, code := m.end(); code != 1 || strings.Count(said, "FAILED") != 1 || !strings.Contains(said, c.device+" at 0x") || !strings.Contains(said, c.want) {
				t.Errorf("it ends with code %d, and says %q", code, said)
			}
		})
	}
}
