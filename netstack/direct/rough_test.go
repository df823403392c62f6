package direct

import (
	"bytes"
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// weather is what becomes of packets on a link: how large a part of them.
type weather struct {
	lose, repeat, spoil float64
	late                float64       // come lateBy later, behind others
	burst               int           // how many in a row get lost, within lateBy; 0 is 1
	delay               time.Duration // of all
	after               int           // packets that nothing happens to, before the others
}

const lateBy = 2 * time.Millisecond

// A rough link joins an image, whose device it is, to a peer.
type rough struct {
	mtu     int
	private bool // the image is told that nothing gets lost
	in, out *way // seen from the image
	ended   chan struct{}
	room    chan struct{} // one for each frame that the image may send; nil has room for all
	broke   chan struct{} // closed when the device has no use any more
}

// A way is one direction of a link. What becomes of its n-th packet follows from the
// seed. ARP, which has no checksum, is left alone.
type way struct {
	weather weather
	deliver func([]byte)
	lose    func(frame []byte) bool // loses others as well; may be nil

	mu    sync.Mutex
	dice  *rand.Rand
	n     int
	gone  int // packets that still get lost of a burst, until over
	over  time.Time
	queue flight
	wake  chan struct{}
	count fates
	full  int // segments of the last that offer no room
}

// A flight is the frames that are on their way.
type flight []arrival

type arrival struct {
	due   time.Time
	n     int
	frame []byte
}

func (f flight) Len() int      { return len(f) }
func (f flight) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f *flight) Push(x any)   { *f = append(*f, x.(arrival)) }

func (f flight) Less(i, j int) bool {
	return f[i].due.Before(f[j].due) || f[i].due.Equal(f[j].due) && f[i].n < f[j].n
}

func (f *flight) Pop() any {
	last := (*f)[len(*f)-1]
	*f = (*f)[:len(*f)-1]
	return last
}

func newRough(t testing.TB, in, out weather, seed uint64, mtu int) *rough {
	r := &rough{mtu: mtu, ended: make(chan struct{}), broke: make(chan struct{})}
	for i, w := range []weather{in, out} {
		*[]**way{&r.in, &r.out}[i] = &way{weather: w, dice: rand.New(rand.NewPCG(seed, uint64(i))), wake: make(chan struct{}, 1)}
	}
	t.Cleanup(func() { close(r.ended) })
	return r
}

// fates are how many frames there were of each.
type fates struct{ lost, repeated, late, spoilt int }

// sent returns how many frames there were, and what became of them.
func (w *way) sent() (int, fates) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n, w.count
}

// shut reports whether the sender has said again and again, and last, that it has no room.
func (w *way) shut() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.full >= 5
}

// send decides what becomes of a frame. It rolls as many dice for each.
func (w *way) send(frame []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n++
	if tcpAt(frame) > 0 {
		if _, t, ok := parseTCP(frame[ethernetSize:]); ok && t.WindowSize() == 0 {
			w.full++
		} else {
			w.full = 0
		}
	}
	lose, repeat, late, spoil, bit := w.dice.Float64(), w.dice.Float64(), w.dice.Float64(), w.dice.Float64(), int(w.dice.Uint32())
	if binary.BigEndian.Uint16(frame[12:]) == typeARP || w.n <= w.weather.after {
		w.put(frame, 0)
		return
	}
	if w.gone > 0 && time.Now().After(w.over) {
		w.gone = 0
	}
	if lose < w.weather.lose && w.gone == 0 {
		w.gone, w.over = max(w.weather.burst, 1), time.Now().Add(lateBy)
	}
	if w.gone > 0 || w.lose != nil && w.lose(frame) {
		w.gone = max(w.gone-1, 0)
		w.count.lost++
		return
	}
	if spoil < w.weather.spoil {
		w.count.spoilt++
		frame = bytes.Clone(frame)
		frame[ethernetSize+bit/8%(len(frame)-ethernetSize)] ^= 1 << (bit % 8)
	}
	wait := w.weather.delay
	if late < w.weather.late {
		w.count.late++
		wait += lateBy
	}
	w.put(frame, wait)
	if repeat < w.weather.repeat {
		w.count.repeated++
		w.put(frame, wait)
	}
}

func (w *way) put(frame []byte, wait time.Duration) {
	heap.Push(&w.queue, arrival{time.Now().Add(wait), w.n, frame})
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run delivers what is due until end is closed.
func (w *way) run(end <-chan struct{}) {
	for {
		var now []arrival
		var next <-chan time.Time
		w.mu.Lock()
		for len(w.queue) > 0 && next == nil {
			if wait := time.Until(w.queue[0].due); wait > 0 {
				next = time.After(wait)
			} else {
				now = append(now, heap.Pop(&w.queue).(arrival))
			}
		}
		w.mu.Unlock()
		for _, a := range now {
			w.deliver(a.frame)
		}
		if len(now) > 0 {
			continue
		}
		select {
		case <-w.wake:
		case <-next:
		case <-end:
			return
		}
	}
}

// Traits implements Device.
func (r *rough) Traits() Traits { return Traits{MAC: [6]byte([]byte(myAddress)), MTU: r.mtu} }

// Send implements Device.
func (r *rough) Send(f *Frame) error {
	if r.room != nil {
		select {
		case <-r.room:
		case <-r.broke:
			return errors.New("it broke")
		}
	}
	r.out.send(bytes.Join(f.Parts, nil))
	return nil
}

// Receive implements Device.
func (r *rough) Receive(take func(Packet)) error {
	r.in.deliver = func(b []byte) { take(doubtful{frameOf(b)}) }
	r.in.run(r.ended)
	return errors.New("the test is over")
}

// join joins the other end to a stack. It has what the image's has against windows that
// were overtaken: it is the same stack.
func (r *rough) join(ep *channel.Endpoint) {
	known := new(windows)
	r.out.deliver = func(b []byte) {
		b = bytes.Clone(b)
		if tcpAt(b) > 0 {
			if from, t, ok := parseTCP(b[ethernetSize:]); ok {
				known.settle(from, t)
			}
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(b)})
		ep.InjectInbound(0, pkt)
		pkt.DecRef()
	}
	go r.out.run(r.ended)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-r.ended
		cancel()
	}()
	go func() {
		for pkt := ep.ReadContext(ctx); pkt != nil; pkt = ep.ReadContext(ctx) {
			v := pkt.ToView()
			r.in.send(bytes.Clone(v.AsSlice()))
			v.Release()
			pkt.DecRef()
		}
	}()
}
