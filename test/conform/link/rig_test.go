package link

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/netstack/direct"
	"lorica.dev/lorica/tender/forward"
	"lorica.dev/lorica/tender/usernet"
	"lorica.dev/lorica/virtio"
)

// An image and its tender meet on a link of their own. Here they do without a machine
// between them: a cable takes the place of QEMU and of the card that it shows.

const (
	listeners = 2
	mtu       = usernet.MTU
)

// faults are what a cable does to one frame in so many; 0: to none.
type faults struct{ lose, repeat, swap int }

// A cable joins the tender's socket to the device of an image.
type cable struct {
	sock    net.Conn
	mtu     int
	faults  faults
	ways    [2]way // to the tender, to the image
	read    *bufio.Reader
	take    func(direct.Packet)           // of the image
	deaf    atomic.Bool                   // neither end hears the other
	stalled atomic.Pointer[chan struct{}] // the device takes nothing until it is closed
}

type frame []byte

func (f frame) Len() int            { return len(f) }
func (f frame) CopyTo(b []byte) int { return copy(b, f) }
func (c *cable) Traits() direct.Traits {
	return direct.Traits{MAC: [6]byte{2, 1, 2, 3, 4, 5}, MTU: c.mtu}
}

// A way is one direction of a cable.
type way struct {
	mu     sync.Mutex
	dice   *rand.Rand
	held   []byte // a frame that the next one overtakes, if that comes soon
	frames atomic.Int64
}

// pass calls put with what arrives, in the order in which it does, in place of f.
func (w *way) pass(f faults, b []byte, put func([]byte)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frames.Add(1)
	roll := func(n int) bool { return n > 0 && w.dice.IntN(n) == 0 }
	switch {
	case roll(f.lose):
	case roll(f.repeat):
		put(b)
		put(b)
	case roll(f.swap) && w.held == nil:
		w.held = b
		time.AfterFunc(time.Millisecond, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.release(put)
		})
		return
	default:
		put(b)
	}
	w.release(put)
}

func (w *way) release(put func([]byte)) {
	if w.held != nil {
		put(w.held)
		w.held = nil
	}
}

// Send implements direct.Device.
func (c *cable) Send(v *virtio.Frame) error {
	f := make([]byte, 4)
	for _, p := range v.Parts {
		f = append(f, p...)
	}
	if c.deaf.Load() {
		return nil
	}
	binary.BigEndian.PutUint32(f, uint32(len(f)-4))
	c.ways[0].pass(c.faults, f, func(f []byte) { c.sock.Write(f) }) // a frame that goes later can tell nobody
	return nil
}

// Receive implements direct.Device.
func (c *cable) Receive(take func(direct.Packet)) error {
	c.ways[1].mu.Lock()
	c.take = take
	c.ways[1].mu.Unlock()
	for {
		if s := c.stalled.Load(); s != nil {
			<-*s
		}
		var n [4]byte
		if _, err := io.ReadFull(c.read, n[:]); err != nil {
			return err
		}
		f := make([]byte, binary.BigEndian.Uint32(n[:]))
		if _, err := io.ReadFull(c.read, f); err != nil {
			return err
		}
		if c.deaf.Load() {
			continue
		}
		c.ways[1].pass(c.faults, f, func(f []byte) { take(frame(f)) })
	}
}

// toImage injects a frame.
func (c *cable) toImage(f []byte) {
	c.ways[1].mu.Lock()
	defer c.ways[1].mu.Unlock()
	c.take(frame(f))
}

// toTender injects a frame.
func (c *cable) toTender(f []byte) {
	c.ways[0].mu.Lock()
	defer c.ways[0].mu.Unlock()
	c.sock.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(f))), f...))
}

func socketpair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "link")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return ends[0], ends[1]
}

// A rig is an image's network and its tender's.
type rig struct {
	image  *direct.Net
	tender *usernet.Link
	fwd    *forward.Forwarder
	cable  *cable
	ports  [listeners]net.Listener // of the image
	addrs  [listeners]string       // where clients connect to

	serving sync.WaitGroup // until listeners are closed, and all connections of theirs
}

var (
	guest  = netip.MustParsePrefix("10.127.0.2/30")
	tender = netip.MustParseAddr("10.127.0.1")
)

func newRig(t testing.TB, f faults, mtu int) *rig {
	t.Helper()
	near, far := socketpair(t)
	r := &rig{image: direct.New(), cable: &cable{sock: far, mtu: mtu, faults: f, read: bufio.NewReaderSize(far, 1<<20)}}
	for i := range r.cable.ways {
		r.cable.ways[i].dice = rand.New(rand.NewPCG(1, uint64(i)))
	}
	var err error
	if r.tender, err = usernet.New(near, guest, tender, mtu); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.tender.Close() })
	p := &launch.Params{Link: launch.Link{Addr: guest, Host: tender}, MemoryLimit: 64 << 20}
	if err := r.image.Attach(r.cable, p); err != nil {
		t.Fatal(err)
	}
	r.fwd = forward.New(r.tender, 1<<15, t.Logf)
	t.Cleanup(func() { r.fwd.Close() })
	for i := range r.ports {
		if r.ports[i], err = r.image.Listen(i, launch.Listener{Name: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		r.addrs[i] = ln.Addr().String()
		r.fwd.Serve(i, ln)
	}
	return r
}

// serve has the image handle every connection to listener i.
func (r *rig) serve(i int, handle func(net.Conn)) {
	r.serving.Go(func() {
		for {
			c, err := r.ports[i].Accept()
			if err != nil {
				return
			}
			r.serving.Go(func() { handle(c) })
		}
	})
}

type halfCloser interface {
	net.Conn
	CloseWrite() error
}
