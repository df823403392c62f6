package boot

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/tender/process"
	"lorica.dev/lorica/tender/usernet"
	"lorica.dev/lorica/tender/way"
)

// A junction is a link that others than the tender send frames through. On either side
// each frame has its length before it, as QEMU wants it.
type junction struct {
	mu    sync.Mutex // held by who sends a whole number of frames
	guest net.Conn
}

func (j *junction) send(frames []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, err := j.guest.Write(frames)
	return err
}

// relay passes on what the tender sends.
func (j *junction) relay(tender io.Reader) {
	for in := bufio.NewReader(tender); ; {
		head, err := in.Peek(4)
		if err != nil {
			return
		}
		frame := make([]byte, 4+binary.BigEndian.Uint32(head))
		if _, err := io.ReadFull(in, frame); err != nil || j.send(frame) != nil {
			return
		}
	}
}

// rubbish appends a frame that nobody needs: a SYN of a forged address to a port that is
// open or not, a segment of no connection, a question, or what no header is in.
func rubbish(b []byte, dice *rand.Rand) []byte {
	const ethernet, ip, tcp = 14, 20, 20
	size, protocol, flags, port := ethernet+ip+tcp, byte(6), byte(2), stackWords
	kind := dice.IntN(8)
	switch kind {
	case 0, 1, 2: // SYN
	case 3:
		port = 9
	case 4:
		flags = byte(dice.Uint32())
	case 5:
		protocol = 1
	case 6:
		size = 1 + dice.IntN(3000) // after an empty one QEMU takes none
	case 7:
		size = 14 + dice.IntN(usernet.MTU)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	start := len(b)
	b = append(b, noisy(int(dice.Uint32()), size)...)
	f := b[start:]
	copy(f, "\x02\x4c\x00\x00\x00\x02\x02LORIC\x08\x00\x45")
	if kind < 6 {
		p := f[ethernet:]
		binary.BigEndian.PutUint16(p[2:], ip+tcp)
		p[6], p[7], p[8], p[9], p[12] = 0, 0, 64, protocol, 10
		copy(p[16:], "\xa9\xfe\x4c\x02")
		t := p[ip:]
		binary.BigEndian.PutUint16(t[2:], uint16(port))
		t[12], t[13] = 5<<4, flags
		if protocol == 1 {
			t[0], t[1] = 8, 0
		}
	}
	return b
}

// A microVM of 24 MB that is flooded serves the connections that it has, and everybody
// when the flood is over. What floods it waits for it as everybody does.
func TestAFloodOfFrames(t *testing.T) {
	tender, err := usernet.Open(way.Spec{MTU: usernet.MTU})
	if err != nil {
		t.Fatal(err)
	}
	defer tender.Close()
	end, err := net.FileConn(tender.File())
	if err != nil {
		t.Fatal(err)
	}
	tender.File().Close()
	defer end.Close()
	guest, card, err := process.Pair(unix.SOCK_STREAM, "the machine's card")
	if err != nil {
		t.Fatal(err)
	}
	defer guest.Close()
	j := &junction{guest: guest}
	go j.relay(end)
	go io.Copy(end, guest)
	startStack(t, "socket", usernet.MTU, card)
	card.Close()
	if err := guest.SetDeadline(time.Now().Add(patience)); err != nil { // also of who floods
		t.Fatal(err)
	}

	fwd, addrs := forwarded(t, tender)
	defer fwd.Close()
	var talks []net.Conn
	for range 8 {
		c, err := net.Dial("tcp", addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		talks = append(talks, c)
	}

	const enough = 1 << 14
	var frames atomic.Int64
	var stop atomic.Bool
	flood, flooded := make(chan error, 1), make(chan struct{})
	go func() {
		dice := rand.New(rand.NewPCG(1, 2))
		var b []byte
		for !stop.Load() || frames.Load() < enough {
			b = b[:0]
			for range 16 {
				b = rubbish(b, dice)
			}
			if err := j.send(b); err != nil {
				flood <- err
				return
			}
			if frames.Add(16) == enough/4 {
				close(flooded)
			}
		}
		flood <- nil
	}()
	select {
	case <-flooded:
	case err := <-flood:
		t.Fatal(err)
	case <-time.After(patience):
		t.Fatalf("it has taken %d frames and takes no more", frames.Load())
	}
	began := time.Now()
	var clients sync.WaitGroup
	for _, c := range talks {
		clients.Go(func() {
			if err := talk(c, 40<<10); err != nil {
				t.Error(err)
			}
		})
	}
	clients.Wait()
	t.Logf("%d clients were heard out in %v, and the machine took %d frames meanwhile", len(talks), time.Since(began).Round(time.Millisecond), frames.Load()-enough/4)
	stop.Store(true)
	if err := <-flood; err != nil {
		t.Fatal(err)
	}
	client := http.Client{Timeout: patience}
	r, err := client.Get("http://" + addrs[1] + "/memory")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	said, err := io.ReadAll(r.Body)
	var free, all int
	if _, failed := fmt.Sscanf(string(said), "%d KiB of %d", &free, &all); failed != nil || err != nil || free < all/6 {
		t.Errorf("after %d frames: %s, %v", frames.Load(), said, err)
	}
	t.Logf("after %d frames %s", frames.Load(), said)
}
