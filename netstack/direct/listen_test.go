package direct

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/link"
)

// Clients are who their packets say, on both families.
func TestClientsKeepTheirAddresses(t *testing.T) {
	onEach(t, func(t *testing.T, f families) {
		d := newDeck()
		n := f.up(t, d, nil)
		ln, err := n.Listen(0, launch.Listener{Name: "api", Port: 80, Bind: 1024})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ client, remote, local string }{
			{"192.0.2.7", "192.0.2.7:40000", "169.254.76.2:1024"},
			{"127.0.0.9", "127.0.0.9:40000", "169.254.76.2:1024"},
			{"169.254.76.1", "169.254.76.1:40000", "169.254.76.2:1024"},
			{"2001:db8::7", "[2001:db8::7]:40000", "[fd00::2]:1024"},
			{link.Loopback6.String(), "[::1]:40000", "[fd00::2]:1024"},
		} {
			client := netip.MustParseAddr(c.client)
			if client.Is6() && !f.six {
				continue
			}
			connect(t, d, client)
			got, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if got.RemoteAddr().String() != c.remote || got.LocalAddr().String() != c.local {
				t.Errorf("%s: from %v to %v", c.client, got.RemoteAddr(), got.LocalAddr())
			}
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		// Everybody else is behind the tender, and loopback is where its packets came from.
		slices.Sort(d.sought)
		want := []string{"169.254.76.1", "fd00::1"}[:len(f.clients())]
		if got := slices.Compact(d.sought); !slices.Equal(got, want) {
			t.Errorf("it looked for %v", got)
		}
	})
}

// Who is not accepted in time is remembered by a cookie: a flood of those that never
// come back keeps nobody out, and holds no more than the backlog.
func TestAFloodKeepsNobodyOut(t *testing.T) {
	onEach(t, func(t *testing.T, f families) {
		for _, known := range f.clients() {
			to, kind, at := family(known)
			t.Run(to.String(), func(t *testing.T) {
				d := newDeck()
				n := f.up(t, d, nil)
				ln, err := n.Listen(0, launch.Listener{Name: "api", Bind: 1024})
				if err != nil {
					t.Fatal(err)
				}
				for i := range 4 * backlog {
					client := netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)})
					if to.Is6() {
						client = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0xff, 14: byte(i >> 8), 15: byte(i)})
					}
					d.give(frameOf(ethernet(myAddress, kind, ipOf(client, to, ofTCP, segment(40000, 1024, 2, 100, 0, "")))))
					b := d.next(t, kind) // SYN+ACK, from the backlog or with a cookie
					if tcpAt(b) != at || b[at+13] != 0x12 {
						t.Fatalf("SYN %d is answered with %x", i, b)
					}
				}
				if got := len(n.stack.RegisteredEndpoints()); got > backlog+2 {
					t.Errorf("%d connections are held", got)
				}
				connect(t, d, known)
				c, err := ln.Accept()
				if err != nil || c.RemoteAddr().String() != netip.AddrPortFrom(known, 40000).String() {
					t.Errorf("accepted %v, %v", c, err)
				}
			})
		}
	})
}

// While memory is short nobody is accepted; then everybody is who waits.
func TestShortMemory(t *testing.T) {
	onEach(t, func(t *testing.T, f families) {
		d := newDeck()
		n := f.up(t, d, nil)
		var short atomic.Bool
		short.Store(true)
		n.Short = short.Load
		ln, err := n.Listen(0, launch.Listener{Name: "api", Bind: 1024})
		if err != nil {
			t.Fatal(err)
		}
		accepted := make(chan error)
		go func() {
			_, err := ln.Accept()
			accepted <- err
		}()
		connect(t, d, client4)
		select {
		case err := <-accepted:
			t.Errorf("accepted, %v", err)
		case <-time.After(5 * shortPause):
		}
		short.Store(false)
		if err := <-accepted; err != nil {
			t.Error(err)
		}
	})
}

// A port that nobody listens on is closed, and not silent.
func TestClosedPorts(t *testing.T) {
	onEach(t, func(t *testing.T, f families) {
		d := newDeck()
		f.up(t, d, nil)
		for _, client := range f.clients() {
			mine, kind, at := family(client)
			d.give(frameOf(ethernet(myAddress, kind, ipOf(client, mine, ofTCP, segment(40000, 1025, 2, 100, 0, "")))))
			if b := d.next(t, kind); tcpAt(b) != at || b[at+13]&4 == 0 || binary.BigEndian.Uint32(b[at+8:]) != 101 {
				t.Errorf("%v is answered with %x", client, b)
			}
			d.give(frameOf(ethernet(myAddress, kind, ipOf(client, mine, ofUDP, datagram()))))
			want := map[uint16]string{type4: "\x03\x03", type6: "\x01\x04"}[kind]
			if b := d.next(t, kind); string(b[at:at+2]) != want || !sums(b[14:]) {
				t.Errorf("UDP of %v is answered with %x", client, b)
			}
		}
	})
}

// Who has waited for the image may be in its device before it asks for its listeners, and
// is not refused for that.
func TestClientsThatHaveWaited(t *testing.T) {
	onEach(t, func(t *testing.T, f families) {
		d := newDeck()
		p := &launch.Params{Link: f.link(), MemoryLimit: 16 << 20, Listeners: []launch.Listener{{Name: "api", Port: 80, Bind: 1024}}}
		n := New(func(*launch.Params) (Device, error) { return d, nil }, f.options()...)
		if err := n.Open(p); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { close(d.end) })
		<-d.ready
		d.give(frameOf(ethernet(myAddress, type4, ipOf(client4, mine4.Addr(), ofTCP, segment(40000, 1024, 2, 100, 0, "")))))
		b := d.next(t, type4)
		if at := tcpAt(b); at == 0 || b[at+13] != 0x12 {
			t.Fatalf("it is answered with %x", b)
		}
		ln, err := n.Listen(0, p.Listeners[0])
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		d.give(frameOf(ethernet(myAddress, type4, ipOf(client4, mine4.Addr(), ofTCP, segment(40000, 1024, 0x10, 101, d.heard+1, "")))))
		if c, err := ln.Accept(); err != nil || c.RemoteAddr().String() != "192.0.2.7:40000" {
			t.Errorf("%v, %v", c, err)
		}
	})
}

// Listeners that are closed let go of their port; two do not share one.
func TestPortsOfListeners(t *testing.T) {
	onEach(t, func(t *testing.T, f families) {
		n := f.up(t, newDeck(), nil)
		open := func() error {
			ln, err := n.Listen(0, launch.Listener{Name: "api", Bind: 1024})
			if err == nil {
				t.Cleanup(func() { ln.Close() })
			}
			return err
		}
		ln, err := n.Listen(0, launch.Listener{Name: "web", Bind: 1024})
		if err != nil {
			t.Fatal(err)
		}
		if err := open(); err == nil || err.Error() != `listener "api", port 1024 of the link: port is in use` {
			t.Errorf("a second listener: %v", err)
		}
		if err := ln.Close(); err != nil {
			t.Fatal(err)
		}
		if err := open(); err != nil {
			t.Error(err)
		}
	})
}

// What a filter has to know of the network follows from the launch.
func TestPlace(t *testing.T) {
	p := &launch.Params{Link: theLink(), Listeners: []launch.Listener{{Name: "a", Port: 80, Bind: 80}, {Name: "b", Port: 80, Bind: 1024}}}
	got := New(nil).Place(p)
	if want := "{[169.254.76.2 fd00::2] [169.254.76.1 fd00::1] map[80:80 1024:80] [] false false false}"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}
	shared := *p
	shared.Dials, shared.Link.Shared = true, true
	if at := New(nil).Place(&shared); !at.Shared || len(at.Outward) > 0 {
		t.Errorf("where others are on the link: %v", at)
	}
	p.Dials, p.Link.SLAAC, p.Link.DHCP = true, true, true
	if want := "[169.254.76.1:1023]"; fmt.Sprint(New(nil).Place(p).Outward) != want || !New(nil).Place(p).SLAAC || !New(nil).Place(p).DHCP {
		t.Errorf("got %v", New(nil).Place(p))
	}
}

// Where others are on the link nobody comes from loopback, not even past a filter that is
// not there.
func TestNobodyOnASharedLinkIsLoopback(t *testing.T) {
	for _, shared := range []bool{false, true} {
		own := []netip.Prefix{mine4, mine6}
		e := newEndpoint(newDeck(), own, nil, newClock(), nil)
		e.shared = shared
		for _, a := range []string{"127.0.0.1", "fd6c:6f72:6963:61::1"} {
			if e.client(netip.MustParseAddr(a)) == shared {
				t.Errorf("%s is a client: %t, with others on the link: %t", a, !shared, shared)
			}
		}
		if !e.client(client4) || !e.client(client6) {
			t.Errorf("others are no clients, with others on the link: %t", shared)
		}
	}
}
