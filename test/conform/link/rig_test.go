package link

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/netstack/direct"
	"lorica.dev/lorica/netstack/ip6"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/firewall"
	"lorica.dev/lorica/tender/forward"
	"lorica.dev/lorica/tender/usernet"
	"lorica.dev/lorica/tender/way"
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
	raw     bool // messages behind a virtio_net_hdr, and no stream of QEMU's
	mtu     int
	faults  faults
	ways    [2]direction // to the tender, to the image
	read    *bufio.Reader
	take    func(direct.Packet)           // of the image
	deaf    atomic.Bool                   // neither end hears the other
	stalled atomic.Pointer[chan struct{}] // the device takes nothing until it is closed
}

type frame []byte

func (f frame) Len() int               { return len(f) }
func (f frame) CopyTo(b []byte) int    { return copy(b, f) }
func (f frame) ChecksumVerified() bool { return true }
func (c *cable) Traits() direct.Traits {
	return direct.Traits{MAC: imageAddress, MTU: c.mtu, Checksums: c.raw, Segments: c.raw}
}

// A direction is one of the two ways of a cable.
type direction struct {
	mu     sync.Mutex
	dice   *rand.Rand
	held   []byte // a frame that the next one overtakes, if that comes soon
	frames atomic.Int64
}

// pass calls put with what arrives, in the order in which it does, in place of f.
func (w *direction) pass(f faults, b []byte, put func([]byte)) {
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

func (w *direction) release(put func([]byte)) {
	if w.held != nil {
		put(w.held)
		w.held = nil
	}
}

// Send implements direct.Device.
func (c *cable) Send(v *direct.Frame) error {
	if c.deaf.Load() {
		return nil
	}
	var f []byte
	for _, p := range v.Parts {
		f = append(f, p...)
	}
	c.ways[0].pass(c.faults, f, c.put)
	return nil
}

// put passes a frame to the tender; one that goes later than its sender waits can tell
// nobody what becomes of it.
func (c *cable) put(f []byte) {
	head := binary.BigEndian.AppendUint32(nil, uint32(len(f)))
	if c.raw {
		head = make([]byte, 10)
	}
	c.sock.Write(append(head, f...))
}

// next returns the next frame of the tender.
func (c *cable) next() ([]byte, error) {
	if c.raw {
		f := make([]byte, 1<<17)
		n, err := c.sock.Read(f)
		return f[min(n, 10):n], err
	}
	var n [4]byte
	if _, err := io.ReadFull(c.read, n[:]); err != nil {
		return nil, err
	}
	f := make([]byte, binary.BigEndian.Uint32(n[:]))
	_, err := io.ReadFull(c.read, f)
	return f, err
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
		f, err := c.next()
		if err != nil {
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
	c.put(f)
}

// A rig is an image's network and its tender's.
type rig struct {
	image  *direct.Net
	tender *usernet.Net
	fwd    *forward.Forwarder
	cable  *cable
	ports  [listeners]net.Listener // of the image
	addrs  [listeners]string       // where clients connect to

	firewall *firewall.Module
	filter   pep.PacketFilter
	denies   bool // by rules of the test

	serving  sync.WaitGroup // until listeners are closed, and all connections of theirs
	made     atomic.Int64   // connections to the image
	accepted atomic.Int64   // of them, by serve
}

// Dial implements forward.Link, and counts.
func (r *rig) Dial(ctx context.Context, client netip.AddrPort, port uint16) (net.Conn, error) {
	c, err := r.tender.Dial(ctx, client, port)
	if err == nil {
		r.made.Add(1)
	}
	return c, err
}

// Listen implements forward.Link.
func (r *rig) Listen() (net.Listener, error) { return r.tender.Listen() }

// port returns where listener i is in the image.
func port(i int) uint16 { return uint16(8000 + i) }

// newRig joins an image to a tender by a stream, as QEMU does.
func newRig(t testing.TB, f faults, mtu int) *rig { return join(t, f, mtu, false) }

func join(t testing.TB, f faults, mtu int, raw bool) *rig {
	t.Helper()
	return joinAs(t, f, way.Spec{MTU: mtu, Raw: raw})
}

// joinAs joins them by a link of IPv4 alone, or of both families.
func joinAs(t testing.TB, f faults, s way.Spec) *rig {
	t.Helper()
	tender, err := usernet.Open(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tender.Close() })
	far, err := net.FileConn(tender.File())
	if err != nil {
		t.Fatal(err)
	}
	tender.File().Close()
	t.Cleanup(func() { far.Close() })
	c := &cable{sock: far, raw: s.Raw, mtu: s.MTU, faults: f, read: bufio.NewReaderSize(far, 1<<20)}
	for i := range c.ways {
		c.ways[i].dice = rand.New(rand.NewPCG(1, uint64(i)))
	}
	var options []direct.Option
	if !s.IPv4 {
		options = append(options, ip6.New())
	}
	r := &rig{tender: tender, cable: c, image: direct.New(func(*launch.Params) (direct.Device, error) { return c, nil }, options...)}
	p := &launch.Params{Link: tender.Link(), MemoryLimit: 64 << 20}
	for i := range r.ports {
		p.Listeners = append(p.Listeners, launch.Listener{Name: fmt.Sprint(i), Port: port(i), Bind: port(i)})
	}
	p.Dials = true
	r.firewall = firewall.New()
	r.filter = r.firewall.Packets(r.image.Place(p))
	r.image.Packets(r.filter)
	r.enforce(t, flow.List{Default: abi.Allow})
	if err := r.image.Open(p); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A firewall that lets everything in drops nothing that either stack means.
		if n := r.filter.(pep.PacketReporter).Counters(); n.Denied+n.Malformed+n.FlowsDropped > 0 && !r.denies {
			t.Errorf("packets were dropped: %+v", n)
		}
	})
	r.fwd = forward.New(r, 1<<15, t.Logf)
	t.Cleanup(func() { r.fwd.Close() })
	for i := range r.ports {
		if r.ports[i], err = r.image.Listen(i, p.Listeners[i]); err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		r.addrs[i] = ln.Addr().String()
		r.fwd.Serve(port(i), ln)
	}
	return r
}

// enforce has the firewall of the image judge packets by rules.
func (r *rig) enforce(t testing.TB, rules flow.List) {
	t.Helper()
	r.denies = r.denies || rules.Default != abi.Allow
	st, err := r.firewall.Prepare(&pep.Input{Section: (&flow.Section{Lists: []flow.List{rules}}).Encode()})
	if err != nil {
		t.Fatal(err)
	}
	st.(pep.PacketState).Enforce()
}

// serve has the image handle every connection to listener i.
func (r *rig) serve(i int, handle func(net.Conn)) {
	r.serving.Go(func() {
		for {
			c, err := r.ports[i].Accept()
			if err != nil {
				return
			}
			r.accepted.Add(1)
			r.serving.Go(func() { handle(c) })
		}
	})
}

type halfCloser interface {
	net.Conn
	CloseWrite() error
}
