package direct

import (
	"encoding/binary"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/link"
)

// sentence makes frames of what is left of data: its first byte says how much of the
// next frame is put right, its second how long it is.
func (d *deck) sentence(data []byte) (frame, rest []byte) {
	kind, size := data[0], min(int(data[1]), len(data)-2)
	body, rest := append([]byte(nil), data[2:2+size]...), data[2+size:]
	switch kind % 5 {
	case 0:
		return body, rest
	case 1:
		return ethernet(myAddress, 0x0806, body), rest
	case 2:
		return ethernet(myAddress, 0x0800, ip(1, body)), rest
	}
	// A segment for the listener, that agrees with what was heard.
	if len(body) < 20 {
		body = append(body, make([]byte, 20-len(body))...)
	}
	binary.BigEndian.PutUint16(body[2:], link.ForwardPort)
	if kind%5 == 4 {
		d.mu.Lock()
		binary.BigEndian.PutUint32(body[8:], d.heard+1+uint32(body[11]))
		d.mu.Unlock()
		binary.BigEndian.PutUint16(body, 40000)
		body[12] = max(body[12], 5<<4)
	}
	b := ip(6, body)
	if kind&64 != 0 {
		b[1], b[8] = kind, kind // of the header of IP
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], ^checksum.Checksum(b[:20], 0))
	}
	return ethernet(myAddress, 0x0800, b), rest
}

// Whatever arrives, the image goes on, answers nobody but the tender, and holds few
// connections.
func FuzzFrames(f *testing.F) {
	seg := func(flags byte, seq uint32, payload string) string {
		b := make([]byte, 20)
		binary.BigEndian.PutUint32(b[4:], seq)
		b[12], b[13], b[14] = 5<<4, flags, 255
		return string([]byte{4, byte(20 + len(payload))}) + string(b) + payload
	}
	f.Add([]byte(seg(2, 100, "") + seg(16, 101, "hello") + seg(17, 106, "")))
	f.Add([]byte(seg(2, 100, "") + seg(16, 101, "") + seg(4, 101, "")))
	f.Add([]byte{1, 28, 0, 1, 8, 0, 6, 4, 0, 2})
	f.Add([]byte{2, 10, 8, 0, 0, 0, 1, 2, 3, 4, 5, 6})
	f.Fuzz(func(t *testing.T, data []byte) {
		d := newDeck()
		n := up(t, d)
		ln, err := n.Listen(0, launch.Listener{Name: "api"})
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		alive(t, d)
		for len(data) > 2 {
			var frame []byte
			frame, data = d.sentence(data)
			d.take(frameOf(frame))
			for len(d.sent) > 0 {
				if b := <-d.sent; string(b[:6]) != theirAddress || len(b) > 1514 {
					t.Errorf("it sends %x", b)
				}
			}
		}
		alive(t, d)
		if got := len(n.stack.RegisteredEndpoints()); got > backlog+2 {
			t.Errorf("%d connections", got)
		}
	})
}
