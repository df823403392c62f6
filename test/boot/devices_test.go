package boot

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Nobody reads what comes back until nothing more fits anywhere: the guest has to wait,
// and to lose nothing.
func TestTheConsole(t *testing.T) {
	l, netdev := newLink(t)
	defer l.Close()
	m := start(t, netdev, "")
	want := noisy(1, 12<<20)
	var written atomic.Int64
	failed := make(chan error, 1)
	go func() {
		for rest := want; len(rest) > 0; {
			n, err := m.console.Write(rest[:min(len(rest), 64<<10)])
			if err != nil {
				failed <- err
				return
			}
			rest = rest[n:]
			written.Add(int64(n))
		}
		failed <- nil
	}()
	stalls(func() int { return int(written.Load()) }, len(want))
	t.Logf("%d of %d bytes were taken before any was read", written.Load(), len(want))
	got := make([]byte, len(want))
	began := time.Now()
	if n, err := io.ReadFull(m.console, got); err != nil {
		t.Fatalf("after %d bytes: %v", n, err)
	}
	t.Logf("the rest and all back in %v", time.Since(began).Round(time.Millisecond))
	if !bytes.Equal(got, want) {
		t.Error("not what was written")
	}
	if err := <-failed; err != nil {
		t.Error(err)
	}
}

// frameTo is a frame for the guest, of one kind, with a number.
func frameTo(number, size int) []byte {
	b := append(make([]byte, 0, size), guestMAC...)
	b = append(b, 2, 0, 0, 0, 0, 1, 0x88, 0xb5) // from nobody, an experiment
	b = binary.BigEndian.AppendUint32(b, uint32(number))
	return append(b, noisy(number, size-len(b))...)
}

// isBack reports whether the guest answered a frame with this.
func isBack(got, sent []byte) bool {
	return len(got) == len(sent) && bytes.Equal(got[:6], sent[6:12]) && bytes.Equal(got[6:12], guestMAC) && bytes.Equal(got[12:], sent[12:])
}

func TestTheNetwork(t *testing.T) {
	for _, c := range []struct {
		name, card, said string
		sizes            []int // of frames
	}{
		{"as it is", "", "MTU 1500", []int{60, 1514}},
		{"large packets", ",host_mtu=65000", "MTU 65000", []int{60, 2030, 9000, 65014}},
		{"buffers that do not merge", ",mrg_rxbuf=off", "MTU 1500", []int{60, 1514}},
		{"a small queue", ",rx_queue_size=256,tx_queue_size=256,event_idx=off", "MTU 1500", []int{1514}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, netdev := newLink(t)
			m := start(t, netdev, c.card)
			if !strings.Contains(m.said, c.said) {
				t.Errorf("want %q", c.said)
			}
			for _, size := range c.sizes {
				// More than all rings and sockets hold, and nobody reads until they are full.
				count := 1000
				if size > 9000 {
					count = 200
				}
				var sent atomic.Int64
				failed := make(chan error, 1)
				go func() {
					for i := range count {
						if err := l.send(frameTo(i, size)); err != nil {
							failed <- err
							return
						}
						sent.Add(1)
					}
					failed <- nil
				}()
				stalls(func() int { return int(sent.Load()) }, count)
				before := sent.Load()
				began := time.Now()
				b := make([]byte, 1<<17)
				for i := range count {
					n, err := l.Read(b)
					if err != nil {
						t.Fatalf("frame %d of %d bytes: %v", i, size, err)
					}
					if !isBack(b[:n], frameTo(i, size)) {
						t.Fatalf("frame %d of %d bytes: got %d others", i, size, n)
					}
				}
				t.Logf("%d frames of %d bytes: %d were taken before any was read, the rest and all back in %v", count, size, before, time.Since(began).Round(time.Millisecond))
				if err := <-failed; err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
