package direct

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	ether "gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"lorica.dev/lorica/abi/launch"
)

const bindPort = 80

// patience is how long transfers may take. They take a hundredth.
const patience = 100 * time.Second

// A peer is a host on a rough link, with clients of the image.
type peer struct {
	stack *stack.Stack
	six   bool
}

// newPeer has a receive buffer of a size for each connection; 0 is what is usual.
func newPeer(t testing.TB, r *rough, six bool, buffer int) *peer {
	t.Helper()
	ep := channel.New(4096, uint32(r.mtu)+ethernetSize, theirAddress)
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	sack, recovery := tcpip.TCPSACKEnabled(true), tcpip.TCPRecovery(0) // see tune
	most := tcpip.TCPMaxRTOOption(mostRTO)
	options := []tcpip.SettableTransportProtocolOption{&sack, &recovery, &most}
	if buffer > 0 {
		options = append(options, &tcpip.TCPReceiveBufferSizeRangeOption{Min: 1, Default: buffer, Max: buffer})
	}
	for _, o := range options {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.CreateNIC(nic, ether.New(ep)); err != nil {
		t.Fatal(err)
	}
	for i, a := range []netip.Addr{theirs4, theirs6} {
		own := tcpip.AddressWithPrefix{Address: addr(a), PrefixLen: []netip.Prefix{mine4, mine6}[i].Bits()}
		if err := s.AddProtocolAddress(nic, tcpip.ProtocolAddress{Protocol: protocolOf(a), AddressWithPrefix: own}, stack.AddressProperties{}); err != nil {
			t.Fatal(err)
		}
		s.AddRoute(tcpip.Route{Destination: own.Subnet(), NIC: nic})
	}
	r.join(ep)
	t.Cleanup(s.Destroy)
	return &peer{s, six}
}

func (p *peer) dial(ctx context.Context) (net.Conn, error) {
	to := mine4.Addr()
	if p.six {
		to = mine6.Addr()
	}
	return gonet.DialContextTCP(ctx, p.stack, at(to, bindPort), protocolOf(to))
}

// join connects a peer to the image, and returns both ends.
func (p *peer) join(t testing.TB, ln net.Listener) (client, image net.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, err := p.dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if image, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return client, image
}

// meet brings up an image and a peer at the ends of r. The image's memory decides about
// its buffers.
func meet(t testing.TB, r *rough, six bool, buffer int, memory uint64) (*Net, net.Listener, *peer) {
	t.Helper()
	n := New(func(*launch.Params) (Device, error) { return r, nil }, IPv6)
	l := theLink()
	l.Verified = r.private
	if err := n.Open(&launch.Params{Link: l, MemoryLimit: memory}); err != nil {
		t.Fatal(err)
	}
	p := newPeer(t, r, six, buffer)
	ln, err := n.Listen(0, launch.Listener{Name: "api", Bind: bindPort})
	if err != nil {
		t.Fatal(err)
	}
	return n, ln, p
}

// parameter returns a number that the environment may say, for longer runs and others.
func parameter(t testing.TB, name string, usual int) int {
	v, set := os.LookupEnv(name)
	if !set {
		return usual
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		t.Fatalf("%s is %q", name, v)
	}
	return n
}

// content is bytes that follow from a seed.
func content(size int, seed uint64) []byte {
	b := make([]byte, size)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	rand.NewChaCha8(key).Read(b)
	return b
}

// carry has one end write b, and the other, which is there later, read it; with pauses
// if it is slow.
func carry(from net.Conn, to func() (net.Conn, error), b []byte, slow bool) error {
	failed := make(chan error, 1)
	go func() {
		_, err := from.Write(b)
		failed <- err
	}()
	other, err := to()
	if err != nil {
		return err
	}
	got := make([]byte, 0, len(b))
	piece := make([]byte, 3000)
	for i := 0; len(got) < len(b); i++ {
		if slow && i%7 == 3 {
			time.Sleep(3 * time.Millisecond)
		}
		n, err := other.Read(piece[:min(len(piece), len(b)-len(got))])
		if got = append(got, piece[:n]...); err == io.EOF {
			break
		} else if err != nil {
			return fmt.Errorf("%d of %d bytes arrived: %w", len(got), len(b), err)
		}
	}
	if err := <-failed; err != nil {
		return err
	}
	if !bytes.Equal(got, b) {
		return fmt.Errorf("%d bytes of %d arrived, and they are others", len(got), len(b))
	}
	return nil
}

// end closes a client first, and sees that the image sees it, and the other way round.
func end(client, image net.Conn) error {
	client.Close()
	if n, err := image.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return fmt.Errorf("the image reads %d bytes behind the end, %v", n, err)
	}
	return image.Close()
}

// exchange is one connection: a request and an answer of a size, one after the other.
func exchange(ctx context.Context, p *peer, ln net.Listener, size int, slow bool) error {
	client, err := p.dial(ctx)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	late, _ := ctx.Deadline()
	client.SetDeadline(late)
	var image net.Conn
	accept := func() (_ net.Conn, err error) {
		if image, err = ln.Accept(); err == nil {
			image.SetDeadline(late)
		}
		return image, err
	}
	if err := carry(client, accept, content(size, uint64(size)), slow); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	if err := carry(image, func() (net.Conn, error) { return client, nil }, content(size, uint64(size)+1), slow); err != nil {
		return fmt.Errorf("down: %w", err)
	}
	return end(client, image)
}

// Whatever happens on the link, every byte arrives as it was sent, and soon.
func TestTransfersSurviveTheLink(t *testing.T) {
	const usual = 2 << 20
	seed, factor := uint64(parameter(t, "LORICA_FAULTS_SEED", 1)), parameter(t, "LORICA_FAULTS_FACTOR", 1)
	for _, c := range []struct {
		name        string
		weather     weather
		size        int // of each transfer
		connections int
		mtu         int
		buffer      int    // of the peer
		memory      uint64 // of the image
		slow        bool
		patience    time.Duration // where much waits for timers
	}{
		{name: "fair weather"},
		{name: "loss of 1 %", weather: weather{lose: .01}},
		{name: "loss of 1 % far away", weather: weather{lose: .01, delay: 10 * time.Millisecond}, size: usual / 4},
		{name: "loss of 5 %", weather: weather{lose: .05}, size: usual / 4},
		{name: "loss of 20 %", weather: weather{lose: .2, after: 8}, size: usual / 128, patience: 3 * patience},
		{name: "loss in bursts", weather: weather{lose: .01, burst: 3}, size: usual / 2},
		{name: "overtaking", weather: weather{late: .1}},
		{name: "overtaking far away", weather: weather{late: .1, delay: 10 * time.Millisecond}, size: usual / 4},
		{name: "repetition", weather: weather{repeat: .1}},
		{name: "corruption", weather: weather{spoil: .02}},
		{name: "a storm", weather: weather{lose: .02, repeat: .02, late: .05, spoil: .01}},
		{name: "packets of the least size", weather: weather{lose: .01}, mtu: 1280},
		{name: "large packets", weather: weather{lose: .01}, mtu: 9000},
		{name: "small buffers", weather: weather{lose: .01, late: .05}, buffer: 8 << 10, memory: 1 << 20, size: usual / 16, slow: true},
		{name: "buffers of less than a packet", weather: weather{late: .05}, buffer: 700, memory: 1 << 20, size: usual / 512, slow: true},
		{name: "a hundred at once", weather: weather{lose: .01, late: .02, repeat: .01, spoil: .01}, size: usual / 64, connections: 100},
	} {
		for _, six := range []bool{false, true} {
			t.Run(c.name+" "+map[bool]string{false: "IPv4", true: "IPv6"}[six], func(t *testing.T) {
				t.Parallel()
				size, mtu, memory := c.size, c.mtu, c.memory
				if size == 0 {
					size = usual
				}
				if mtu == 0 {
					mtu = 1500
				}
				if memory == 0 {
					memory = 256 << 20
				}
				most := c.patience
				if most == 0 {
					most = patience
				}
				start := time.Now()
				// The peer is gVisor too, and with buffers of less than a packet can forget to say
				// that it has room again where its reader comes late. The image asks it for ever, as
				// it should; the test asks another peer.
				const peers = 10
				for try := 1; ; try++ {
					r := newRough(t, c.weather, c.weather, seed+uint64(try-1)<<32, mtu)
					n, ln, p := meet(t, r, six, c.buffer, memory)
					ctx, cancel := context.WithTimeout(context.Background(), most*time.Duration(factor))
					if c.buffer > 0 && c.buffer < mtu {
						ctx, cancel = context.WithTimeout(ctx, patience/peers)
					}
					defer cancel()
					failures := make(chan error, max(c.connections, 1))
					for range cap(failures) {
						go func() { failures <- exchange(ctx, p, ln, size*factor, c.slow) }()
					}
					var failed error
					for range cap(failures) {
						failed = errors.Join(failed, <-failures)
					}
					s := n.stack.Stats().TCP
					in, ofIn := r.in.sent()
					out, ofOut := r.out.sent()
					t.Logf("%v; %d packets in: %+v; %d out: %+v; %d sent again, %d times after a timeout", time.Since(start).Round(time.Millisecond),
						in, ofIn, out, ofOut, s.Retransmits.Value(), s.Timeouts.Value())
					if failed == nil {
						return
					}
					if c.buffer == 0 || c.buffer >= mtu || try == peers || !r.in.shut() {
						t.Fatal(failed)
					}
					t.Logf("the peer has no more room, it says, since it was full once: %v", failed)
				}
			})
		}
	}
}

// first returns what loses the first n segments that are like it.
func first(n int, like func(header.TCP) bool) func([]byte) bool {
	return func(frame []byte) bool {
		at := tcpAt(frame)
		if at == 0 || n == 0 || !like(frame[at:]) {
			return false
		}
		n--
		return true
	}
}

// Of each connection a segment gets lost that there is one of.
func TestHandshakesAndEndsGetLost(t *testing.T) {
	has := func(flags, not header.TCPFlags) func(header.TCP) bool {
		return func(s header.TCP) bool { return s.Flags().Contains(flags) && !s.Flags().Intersects(not) }
	}
	const syn, fin, ack = header.TCPFlagSyn, header.TCPFlagFin, header.TCPFlagAck
	for name, c := range map[string]struct{ in, out func([]byte) bool }{
		"SYN":                     {in: first(1, has(syn, ack))},
		"SYN-ACK":                 {out: first(1, has(syn|ack, 0))},
		"ACK":                     {in: first(1, has(ack, syn))},
		"all three":               {in: first(2, has(0, 0)), out: first(1, has(0, 0))},
		"FIN of the client":       {in: first(1, has(fin, 0))},
		"FIN of the image":        {out: first(1, has(fin, 0))},
		"both FINs":               {in: first(1, has(fin, 0)), out: first(1, has(fin, 0))},
		"what confirms both FINs": {in: first(2, has(fin, 0)), out: first(2, has(fin, 0))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRough(t, weather{}, weather{}, 1, 1500)
			r.in.lose, r.out.lose = c.in, c.out
			n, ln, p := meet(t, r, name == "SYN", 0, 16<<20)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := exchange(ctx, p, ln, 5000, false); err != nil {
				t.Fatal(err)
			}
			if err := n.Settle(ctx); err != nil {
				t.Error(err)
			}
			_, in := r.in.sent()
			if _, out := r.out.sent(); in.lost+out.lost == 0 {
				t.Error("nothing got lost")
			}
		})
	}
}

// A client that reads nothing for a while says when it does again; where that gets lost,
// the image asks.
func TestWindowsThatOpenUnheard(t *testing.T) {
	for _, six := range []bool{false, true} {
		r := newRough(t, weather{}, weather{}, 1, 1500)
		var shut, deaf, asked atomic.Bool
		r.in.lose = func(frame []byte) bool {
			at := tcpAt(frame)
			if at > 0 && header.TCP(frame[at:]).WindowSize() == 0 {
				shut.Store(true)
			}
			return at > 0 && shut.Load() && deaf.Load()
		}
		r.out.lose = func(frame []byte) bool {
			if shut.Load() && tcpAt(frame) > 0 {
				asked.Store(true)
				deaf.Store(false)
			}
			return false
		}
		_, ln, p := meet(t, r, six, 8<<10, 16<<20)
		client, image := p.join(t, ln)
		image.SetDeadline(time.Now().Add(patience))
		client.SetDeadline(time.Now().Add(patience))
		reads := func() (net.Conn, error) {
			for !shut.Load() {
				time.Sleep(time.Millisecond)
			}
			deaf.Store(true)
			return client, nil
		}
		if err := carry(image, reads, content(64<<10, 1), false); err != nil {
			t.Error(err)
		}
		if !asked.Load() || deaf.Load() {
			t.Error("the image did not ask")
		}
	}
}

// Of two segments that say the same but for the window, the first comes last: what the
// image sends again must fit in what the second said.
func TestAWindowThatWasOvertaken(t *testing.T) {
	d := newDeck()
	n := up(t, d, nil)
	ln, err := n.Listen(0, launch.Listener{Name: "api", Bind: 1024})
	if err != nil {
		t.Fatal(err)
	}
	seq := connect(t, d, client4)
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	acks := func(window uint16) {
		b := segment(40000, 1024, 16, 101, seq, "")
		binary.BigEndian.PutUint16(b[14:], window)
		d.give(frameOf(ethernet(myAddress, type4, ip4(client4, mine4.Addr(), ofTCP, b))))
	}
	acks(2000)
	if _, err := c.Write(make([]byte, 500)); err != nil {
		t.Fatal(err)
	}
	sends := func() bool {
		for deadline := time.After(time.Minute); ; {
			select {
			case b := <-d.sent:
				if at := tcpAt(b); at > 0 && len(b)-at >= 500 {
					return binary.BigEndian.Uint32(b[at+4:]) == seq
				}
			case <-deadline:
				return false
			}
		}
	}
	if !sends() {
		t.Fatal("it does not send")
	}
	acks(100)
	if !sends() {
		t.Error("it does not send again")
	}
}

// Some segments get lost, and then the last one, also where it is sent again: it is sent
// until it is confirmed.
func TestTheLastSegmentGetsLostTwice(t *testing.T) {
	d := newDeck()
	n := up(t, d, nil)
	ln, err := n.Listen(0, launch.Listener{Name: "api", Bind: 1024})
	if err != nil {
		t.Fatal(err)
	}
	const size, count = 1000, 11 // one more than are sent at once
	// Segments of 1036 bytes, with room for options, and selective acknowledgments.
	first := connectWith(t, d, client4, "\x02\x04\x04\x0c\x04\x02\x01\x01")
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(make([]byte, count*size)); err != nil {
		t.Fatal(err)
	}
	losses := [count]int{0: 1, 1: 1, 2: 1, count - 1: 2}
	var has [count]bool
	for next := 0; next < count; {
		b := d.next(t, type4)
		at := tcpAt(b)
		if at == 0 {
			continue
		}
		s := header.TCP(b[at:])
		i, rest := int(s.SequenceNumber()-first)/size, int(s.SequenceNumber()-first)%size
		if len(s.Payload()) != size || rest != 0 || i >= count {
			t.Fatalf("a segment is %d bytes at %d", len(s.Payload()), s.SequenceNumber()-first)
		}
		if losses[i] > 0 {
			losses[i]--
			continue
		}
		has[i] = true
		for next < count && has[next] {
			next++
		}
		ack := segment(40000, 1024, 16, 101, first+uint32(next*size), "")
		if i > next {
			begin, end := i, i+1
			for has[begin-1] {
				begin--
			}
			for end < count && has[end] {
				end++
			}
			block := binary.BigEndian.AppendUint32([]byte{1, 1, 5, 10}, first+uint32(begin*size))
			ack = withOptions(ack, string(binary.BigEndian.AppendUint32(block, first+uint32(end*size))))
		}
		d.give(frameOf(ethernet(myAddress, type4, ip4(client4, mine4.Addr(), ofTCP, ack))))
	}
}

// A device that takes nothing for a while holds up who sends, and loses nothing. Where it
// breaks meanwhile, nobody waits any longer.
func TestADeviceThatTakesNothing(t *testing.T) {
	for _, breaks := range []bool{false, true} {
		r := newRough(t, weather{}, weather{}, 1, 1500)
		r.room = make(chan struct{}, 20)
		for range cap(r.room) {
			r.room <- struct{}{}
		}
		var next, holes uint32 // the sequence number that comes next
		begun := false
		r.out.lose = func(frame []byte) bool { // holds r.out.mu
			if at := tcpAt(frame); at > 0 {
				s := header.TCP(frame[at:])
				seq := s.SequenceNumber()
				end := seq + uint32(len(s.Payload())+bits.OnesCount8(uint8(s.Flags()&(header.TCPFlagSyn|header.TCPFlagFin))))
				switch {
				case begun && int32(seq-next) > 0:
					holes++
				case !begun || int32(end-next) > 0:
					begun, next = true, end
				}
			}
			return false
		}
		_, ln, p := meet(t, r, false, 0, 16<<20)
		client, image := p.join(t, ln)
		client.SetDeadline(time.Now().Add(patience))
		arrived := make(chan error, 1)
		go func() {
			arrived <- carry(image, func() (net.Conn, error) { return client, nil }, content(1<<20, 1), false)
		}()
		for len(r.room) > 0 {
			time.Sleep(time.Millisecond)
		}
		select {
		case err := <-arrived:
			t.Fatalf("more was sent than there is room for: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
		if breaks {
			ends := make(chan error)
			go func() {
				_, err := ln.Accept()
				ends <- err
			}()
			go func() {
				_, err := image.Read(make([]byte, 1))
				ends <- err
			}()
			go func() {
				_, err := image.Write(make([]byte, 1)) // behind another
				ends <- err
			}()
			close(r.broke)
			for range 3 {
				if err := <-ends; err == nil || !strings.Contains(err.Error(), "it broke") {
					t.Errorf("one hears %v", err)
				}
			}
			continue
		}
		close(r.room)
		if err := <-arrived; err != nil {
			t.Error(err)
		}
		r.out.mu.Lock()
		if holes > 0 {
			t.Errorf("something was left out %d times", holes)
		}
		r.out.mu.Unlock()
	}
}

// What it costs to be ready for losses where there are none.
func BenchmarkDownload(b *testing.B) {
	for _, private := range []bool{true, false} {
		b.Run(map[bool]string{true: "private", false: "open"}[private], func(b *testing.B) {
			r := newRough(b, weather{}, weather{}, 1, 1500)
			r.private = private
			_, ln, p := meet(b, r, false, 0, 256<<20)
			client, err := p.dial(context.Background())
			if err != nil {
				b.Fatal(err)
			}
			image, err := ln.Accept()
			if err != nil {
				b.Fatal(err)
			}
			piece := content(64<<10, 1)
			b.SetBytes(int64(len(piece)))
			b.ResetTimer()
			go func() {
				for range b.N {
					image.Write(piece)
				}
			}()
			if _, err := io.CopyN(io.Discard, client, int64(b.N*len(piece))); err != nil {
				b.Fatal(err)
			}
		})
	}
}
