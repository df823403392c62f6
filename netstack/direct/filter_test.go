package direct

import (
	"bytes"
	"net/netip"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/pep"
)

// A judge is a filter that does what a test says, and keeps what it was asked about.
type judge struct {
	mu      sync.Mutex
	in, out pep.Action
	asked   [][]byte // arrived
	left    [][]byte // about to leave
}

func (j *judge) In(p []byte) pep.Action {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.asked = append(j.asked, bytes.Clone(p))
	return j.in
}

func (j *judge) Out(p []byte) pep.Action {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.left = append(j.left, bytes.Clone(p))
	return j.out
}

func (j *judge) Own([]netip.Addr) {}

func (j *judge) set(in, out pep.Action) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.in, j.out, j.asked, j.left = in, out, nil, nil
}

func (j *judge) heard() (in, out [][]byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.asked, j.left
}

// The filter is asked about each packet of IP, either way, with all its headers; what
// it does not let pass gets nowhere.
func TestTheFilterIsAsked(t *testing.T) {
	onEach(t, func(t *testing.T, f families) {
		for _, client := range f.clients() {
			t.Run(client.String(), func(t *testing.T) {
				d, j := newDeck(), &judge{}
				n := f.up(t, d, j)
				if in, out := j.heard(); len(in) > 0 || f.six && (len(out) != 1 || out[0][0]>>4 != 6 || len(out[0]) != 72) || !f.six && len(out) > 0 {
					t.Errorf("it was asked about %x and %x, and not about the advertisement of IPv6 alone, where there is one", in, out)
				}
				if _, err := n.Listen(0, launch.Listener{Name: "api", Bind: 1024}); err != nil {
					t.Fatal(err)
				}
				mine, kind, at := family(client)
				syn := ipOf(client, mine, ofTCP, segment(40000, 1024, 2, 100, 0, ""))
				j.set(pep.Drop, pep.Pass)
				d.give(frameOf(ethernet(myAddress, kind, syn)))
				if in, out := j.heard(); len(in) != 1 || !bytes.Equal(in[0], syn) || len(out) > 0 {
					t.Errorf("dropped: it was asked about %x and %x", in, out)
				}
				j.set(pep.Pass, pep.Pass)
				d.give(frameOf(ethernet(myAddress, kind, ipOf(client, mine, ofUDP, datagram()))))
				b := d.next(t, kind) // nobody is there: an error, with the headers of what it is about
				if _, out := j.heard(); len(out) == 0 || !bytes.Equal(out[len(out)-1], b[14:]) {
					t.Errorf("it was asked about %x when %x was sent", out, b[14:])
				}
				j.set(pep.Pass, pep.Drop)
				d.give(frameOf(ethernet(myAddress, kind, syn)))
				for _, out := j.heard(); len(out) == 0; _, out = j.heard() {
					time.Sleep(time.Millisecond)
				}
				if _, out := j.heard(); out[0][at-14+13] != 0x12 || len(out[0]) < at-14+20 {
					t.Errorf("it was asked about %x", out)
				}
				alive(t, d)
			})
		}
		// ARP has no addresses that rules could name.
		d := newDeck()
		f.up(t, d, &judge{})
		alive(t, d)
	})
}

// A fickle packet is another each time that somebody looks: the device can change it.
type fickle struct {
	frameOf
	looked int
}

func (f *fickle) CopyTo(b []byte) int {
	n := copy(b, f.frameOf)
	if f.looked++; f.looked > 1 {
		b[n-1] ^= 1
	}
	return n
}

// What was judged is what the stack gets.
func TestFramesAreCopiedOnce(t *testing.T) {
	d, j := newDeck(), &judge{in: pep.Pass, out: pep.Pass}
	up(t, d, j)
	p := &fickle{frameOf: ethernet(myAddress, type4, ip4(client4, mine4.Addr(), ofICMP, echo(8)))}
	d.give(p)
	if b := d.next(t, type4); p.looked != 1 || !bytes.HasSuffix(b, []byte("hi")) {
		t.Errorf("copied %d times, and answered with %x", p.looked, b)
	}
}

// Who is refused hears that an administrator prohibits it, once for each packet, and
// nobody else does.
func TestRefusals(t *testing.T) {
	onEach(t, func(t *testing.T, f families) {
		d, j := newDeck(), &judge{}
		f.up(t, d, j)
		j.set(pep.Refuse, pep.Pass)
		for _, client := range f.clients() {
			mine, kind, at := family(client)
			syn := ipOf(client, mine, ofTCP, segment(40000, 1024, 2, 100, 0, string(make([]byte, 1400))))
			d.give(frameOf(ethernet(myAddress, kind, syn)))
			b := d.next(t, kind)
			want := map[uint16]string{type4: "\x03\x0d", type6: "\x01\x01"}[kind]
			if string(b[at:at+2]) != want || !sums(b[14:]) || string(b[:12]) != theirAddress+myAddress {
				t.Errorf("%v is answered with %x", client, b)
			}
			src, dst, size := b[26:30], b[30:34], 28
			if client.Is6() {
				src, dst, size = b[22:38], b[38:54], 1280-48
			}
			if !bytes.Equal(src, mine.AsSlice()) || !bytes.Equal(dst, client.AsSlice()) || !bytes.Equal(b[at+8:], syn[:size]) {
				t.Errorf("the answer to %v goes from %x to %x, and quotes %d bytes", client, src, dst, len(b)-at-8)
			}
		}
		group, all := "\x33\x33\x00\x00\x00\x01", netip.MustParseAddr("ff02::1")
		other4, other6 := netip.MustParseAddr("169.254.76.3"), netip.MustParseAddr("fd00::3")
		fragment := func(p []byte, at int, v byte) []byte {
			p[at] = v
			return p
		}
		seg := segment(1, 2, 2, 3, 0, "")
		for name, frame := range map[string][]byte{
			"an error":                   ethernet(myAddress, type4, ip4(client4, mine4.Addr(), ofICMP, echo(3))),
			"an error, IPv6":             ethernet(myAddress, type6, ip6(client6, mine6.Addr(), ofICMP6, 64, echo(1))),
			"an answer":                  ethernet(myAddress, type4, ip4(client4, mine4.Addr(), ofICMP, echo(0))),
			"nothing of ICMP":            ethernet(myAddress, type4, ip4(client4, mine4.Addr(), ofICMP, nil)),
			"nothing of ICMP, IPv6":      ethernet(myAddress, type6, ip6(client6, mine6.Addr(), ofICMP6, 64, nil)),
			"a group":                    ethernet(group, type6, ip6(client6, all, ofTCP, 64, seg)),
			"a frame for everybody":      ethernet(everybody, type4, ip4(client4, mine4.Addr(), ofTCP, seg)),
			"from a group":               ethernet(myAddress, type4, ip4(netip.MustParseAddr("224.0.0.1"), mine4.Addr(), ofTCP, seg)),
			"from a group, IPv6":         ethernet(myAddress, type6, ip6(all, mine6.Addr(), ofTCP, 64, seg)),
			"from nobody":                ethernet(myAddress, type4, ip4(netip.IPv4Unspecified(), mine4.Addr(), ofTCP, seg)),
			"from ourselves":             ethernet(myAddress, type6, ip6(mine6.Addr(), mine6.Addr(), ofTCP, 64, seg)),
			"for another":                ethernet(myAddress, type4, ip4(client4, other4, ofTCP, seg)),
			"for another, IPv6":          ethernet(myAddress, type6, ip6(client6, other6, ofTCP, 64, seg)),
			"a first fragment":           ethernet(myAddress, type4, fragment(ip4(client4, mine4.Addr(), ofTCP, seg), 6, 0x20)),
			"a later fragment":           ethernet(myAddress, type4, fragment(ip4(client4, mine4.Addr(), ofTCP, seg), 7, 1)),
			"a fragment, IPv6":           ethernet(myAddress, type6, ip6(client6, mine6.Addr(), 44, 64, seg)),
			"no header":                  ethernet(myAddress, type4, make([]byte, 19)),
			"no header, IPv6":            ethernet(myAddress, type6, make([]byte, 39)),
			"a frame from a group":       append([]byte(myAddress+"\x01LORIC\x08\x00"), ip4(client4, mine4.Addr(), ofTCP, seg)...),
			"another version, as IPv4":   ethernet(myAddress, type4, ip6(client6, mine6.Addr(), ofTCP, 64, seg)),
			"another version, as IPv6":   ethernet(myAddress, type6, append(ip4(client4, mine4.Addr(), ofTCP, seg), make([]byte, 40)...)),
			"for a frame's other device": ethernet("\x02\x09\x09\x09\x09\x09", type4, ip4(client4, mine4.Addr(), ofTCP, seg)),
		} {
			d.give(frameOf(frame))
			if len(d.sent) > 0 {
				t.Errorf("%s is answered with %x", name, <-d.sent)
			}
		}
	})
}

// A flood of what is refused is answered at most a thousand times a second.
func TestRefusalsAreBounded(t *testing.T) {
	var b bucket
	count := func(from, to time.Duration) (n int) {
		for now := from; now < to; now += 100 * time.Microsecond {
			if b.take(refusals, tcpip.MonotonicTime{}.Add(now)) {
				n++
			}
		}
		return n
	}
	if n := count(0, time.Second); n < refusals || n > 2*refusals {
		t.Errorf("%d in the first second", n)
	}
	if n := count(time.Second, 2*time.Second); n < refusals-1 || n > refusals+1 {
		t.Errorf("%d in a second of a flood", n)
	}
	if n := count(time.Hour, time.Hour+10*time.Millisecond); n != 100 {
		t.Errorf("%d of 100 after a rest", n)
	}
}

// A flood of those who ask for connections leaves room for the connections that there are.
func TestOpeningsAreBounded(t *testing.T) {
	for _, c := range []struct {
		name  string
		frame []byte
		free  bool
	}{
		{"SYN", ethernet(myAddress, type4, ip4(client4, mine4.Addr(), ofTCP, flagged(header.TCPFlagSyn))), false},
		{"SYN of IPv6", ethernet(myAddress, type6, ip6(client6, mine6.Addr(), ofTCP, 64, flagged(header.TCPFlagSyn))), false},
		{"SYN with ECN", ethernet(myAddress, type4, ip4(client4, mine4.Addr(), ofTCP, flagged(header.TCPFlagSyn|0xc0))), false},
		{"SYN-ACK", ethernet(myAddress, type4, ip4(client4, mine4.Addr(), ofTCP, flagged(header.TCPFlagSyn|header.TCPFlagAck))), true},
		{"data", ethernet(myAddress, type4, ip4(client4, mine4.Addr(), ofTCP, flagged(header.TCPFlagAck))), true},
		{"UDP", ethernet(myAddress, type4, ip4(client4, mine4.Addr(), ofUDP, make([]byte, 28))), true},
	} {
		e := &endpoint{clock: newClock()}
		passed := 0
		for range 2 * openings {
			if e.segment(c.frame) {
				passed++
			}
		}
		if c.free && passed != 2*openings || !c.free && (passed < openings || passed > openings+1) {
			t.Errorf("%s: %d of %d passed at once", c.name, passed, 2*openings)
		}
	}
}

func flagged(f header.TCPFlags) []byte {
	b := make([]byte, header.TCPMinimumSize)
	header.TCP(b).Encode(&header.TCPFields{SrcPort: 4000, DstPort: 80, DataOffset: header.TCPMinimumSize, Flags: f})
	return b
}
