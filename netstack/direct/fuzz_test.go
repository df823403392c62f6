package direct

import (
	"bytes"
	"encoding/binary"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/pep"
)

// sentence makes frames of what is left of data: its first byte says how much of the
// next frame is put right, its second how long it is.
func (d *deck) sentence(data []byte) (frame, rest []byte) {
	kind, size := data[0], min(int(data[1]), len(data)-2)
	body, rest := append([]byte(nil), data[2:2+size]...), data[2+size:]
	src, to := theirs4, myAddress
	if kind&32 != 0 {
		src = theirs6
	}
	mine, ethertype, _ := family(src)
	switch kind % 5 {
	case 0:
		return body, rest
	case 1:
		return ethernet(myAddress, typeARP, body), rest
	case 2:
		protocol := byte(ofICMP)
		if src.Is6() {
			protocol = ofICMP6
			if len(body) > 0 && body[0] >= 133 {
				return ethernet(to, type6, ip6(src, mine, protocol, 255, body)), rest
			}
		}
		return ethernet(to, ethertype, ipOf(src, mine, protocol, body)), rest
	}
	// A segment for the listener, that agrees with what was heard.
	if len(body) < 20 {
		body = append(body, make([]byte, 20-len(body))...)
	}
	binary.BigEndian.PutUint16(body[2:], 1024)
	if kind%5 == 4 {
		d.mu.Lock()
		binary.BigEndian.PutUint32(body[8:], d.heard+1+uint32(body[11]))
		d.mu.Unlock()
		binary.BigEndian.PutUint16(body, 40000)
		body[12] = max(body[12], 5<<4)
	}
	b := ipOf(src, mine, ofTCP, body)
	switch {
	case kind&64 != 0 && src.Is4():
		b[1], b[8] = kind, kind // of the header of IP
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], ^checksum.Checksum(b[:20], 0))
	case kind&64 != 0:
		b[1], b[7] = kind, kind
	}
	return ethernet(to, ethertype, b), rest
}

// Whatever arrives, and is refused or not, the image goes on, sends nothing but to
// hardware addresses that it was told, and holds few connections.
func FuzzFrames(f *testing.F) {
	seg := func(kind, flags byte, seq uint32, payload string) string {
		b := make([]byte, 20)
		binary.BigEndian.PutUint32(b[4:], seq)
		b[12], b[13], b[14] = 5<<4, flags, 255
		return string([]byte{kind, byte(20 + len(payload))}) + string(b) + payload
	}
	for _, kind := range []byte{4, 44} {
		f.Add([]byte(seg(kind, 2, 100, "") + seg(kind, 16, 101, "hello") + seg(kind, 17, 106, "")))
		f.Add([]byte(seg(kind, 2, 100, "") + seg(kind, 16, 101, "") + seg(kind, 4, 101, "")))
	}
	f.Add([]byte{1, 28, 0, 1, 8, 0, 6, 4, 0, 2})
	f.Add([]byte{2, 10, 8, 0, 0, 0, 1, 2, 3, 4, 5, 6})
	f.Add([]byte{32, 10, 128, 0, 0, 0, 1, 2, 3, 4, 5, 6})
	f.Add([]byte(seg(4+160, 2, 100, "") + seg(44, 2, 100, "") + seg(4, 2, 100, ""))) // with IPv4 alone
	f.Add([]byte(seg(20, 2, 100, "") + seg(60, 2, 100, "refused")))
	f.Add(append([]byte{32, 32, 135, 0, 0, 0, 0, 0, 0, 0}, append(mine6.Addr().AsSlice(), 1, 1, 2, 'L', 'O', 'R', 'I', 'C')...))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, j := newDeck(), &judge{out: pep.Pass}
		n := families{six: len(data) == 0 || data[0]&128 == 0}.up(t, d, j)
		ln, err := n.Listen(0, launch.Listener{Name: "api", Bind: 1024})
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		alive(t, d)
		for len(data) > 2 {
			j.set(pep.Pass, pep.Pass)
			if data[0]&16 != 0 {
				j.set(pep.Refuse, pep.Pass)
			}
			var frame []byte
			frame, data = d.sentence(data)
			d.give(frameOf(frame))
			for len(d.sent) > 0 {
				if b := <-d.sent; string(b[:6]) != theirAddress && !bytes.Contains(frame, b[:6]) || len(b) > 1514 {
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
