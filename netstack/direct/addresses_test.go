package direct

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/pep"
)

// A teller is a filter that lets everything pass and keeps what it is told.
type teller struct {
	mu   sync.Mutex
	told [][]netip.Addr
}

func (*teller) In([]byte) pep.Action  { return pep.Pass }
func (*teller) Out([]byte) pep.Action { return pep.Pass }

func (f *teller) Own(list []netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = append(f.told, slices.Clone(list))
}

// knows reports whether the last list that was told has a.
func (f *teller) knows(a netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.told) > 0 && slices.Contains(f.told[len(f.told)-1], a)
}

// wait waits for what is to come true.
func wait(t testing.TB, what string, f func() bool) {
	t.Helper()
	for range 2000 {
		if f() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("never: " + what)
}

// look brings up a network that looks for addresses.
func look(t testing.TB, l launch.Link, lease func(*Lessee)) (*Net, *deck, *teller) {
	t.Helper()
	d, f := newDeck(), &teller{}
	options := families{six: l.SLAAC}.options()
	if lease != nil {
		options = append(options, Leasing(lease))
	}
	n := New(func(*launch.Params) (Device, error) { return d, nil }, options...)
	n.Packets(f)
	if err := n.Open(&launch.Params{Link: l, MemoryLimit: 16 << 20}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(d.end) })
	<-d.ready
	return n, d, f
}

var (
	router    = netip.MustParseAddr("fe80::1")
	allNodes  = netip.MustParseAddr("ff02::1")
	prefix7   = netip.MustParsePrefix("2001:db8:7::/64")
	generated = netip.MustParseAddr("2001:db8:7::1:2ff:fe03:405") // of myAddress
)

const toAllNodes = "\x33\x33\x00\x00\x00\x01"

// advertises is what a router says of a prefix that is valid for a time.
func advertises(p netip.Prefix, valid uint32) []byte {
	b := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}
	b = append(append(b, 1, 1), theirAddress...)
	b = append(b, 3, 4, byte(p.Bits()), 0xc0)
	b = binary.BigEndian.AppendUint32(b, valid)
	b = binary.BigEndian.AppendUint32(b, valid)
	b = append(b, 0, 0, 0, 0)
	b = append(b, p.Addr().AsSlice()...)
	return ethernet(toAllNodes, type6, ip6(router, allNodes, ofICMP6, 255, b))
}

// hears returns the next frame with a message of ICMPv6.
func hears(t testing.TB, d *deck, kind header.ICMPv6Type) []byte {
	t.Helper()
	for {
		select {
		case b := <-d.sent:
			if binary.BigEndian.Uint16(b[12:]) == type6 && b[20] == ofICMP6 && header.ICMPv6Type(b[54]) == kind {
				return b
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no message of kind %d", kind)
		}
	}
}

func TestRoutersGiveAddresses(t *testing.T) {
	t.Parallel()
	n, d, f := look(t, launch.Link{SLAAC: true}, nil)
	if b := hears(t, d, header.ICMPv6RouterSolicit); string(b[:6]) != "\x33\x33\x00\x00\x00\x02" || !sums(b[14:]) {
		t.Errorf("it asks routers with %x", b)
	}
	d.give(frameOf(advertises(prefix7, 4)))
	if err := n.Addressed(); err != nil {
		t.Fatal(err)
	}
	if !f.knows(generated) {
		t.Error("the filter does not know the address yet")
	}
	ln, err := n.Listen(0, launch.Listener{Name: "api", Bind: 1024})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for len(d.sent) > 0 {
		<-d.sent
	}
	d.give(frameOf(ethernet(myAddress, type6, ip6(client6, generated, ofTCP, 64, segment(40000, 1024, 2, 100, 0, "")))))
	if b := d.next(t, type6); string(b[:6]) != theirAddress || tcpAt(b) == 0 || netip.AddrFrom16([16]byte(b[38:54])) != client6 {
		t.Errorf("a client is answered with %x", b)
	}
	wait(t, "the end of the prefix", func() bool { return !f.knows(generated) })
	if _, own := n.card.find(generated); own {
		t.Error("the address is still the image's")
	}
}

// Before an address is the image's, everybody is asked whether it is somebody else's.
func TestAnAddressThatSomebodyHas(t *testing.T) {
	t.Parallel()
	n, d, f := look(t, launch.Link{SLAAC: true}, nil)
	hears(t, d, header.ICMPv6RouterSolicit)
	d.give(frameOf(advertises(prefix7, 1000)))
	for b := hears(t, d, header.ICMPv6NeighborSolicit); netip.AddrFrom16([16]byte(b[62:78])) != generated; b = hears(t, d, header.ICMPv6NeighborSolicit) {
	}
	advert := append([]byte{136, 0, 0, 0, 0x20, 0, 0, 0}, generated.AsSlice()...)
	advert = append(append(advert, 2, 1), "\x02\x09\x09\x09\x09\x09"...)
	d.give(frameOf(ethernet(toAllNodes, type6, ip6(generated, allNodes, ofICMP6, 255, advert))))
	wait(t, "that it is asked about no more", func() bool {
		return !n.card.six.Ours(tcpip.LinkAddress(toAllNodes), ip6(generated, allNodes, ofICMP6, 255, advert))
	})
	time.Sleep(1500 * time.Millisecond) // it would be the image's now
	if _, own := n.card.find(generated); own || f.knows(generated) {
		t.Error("it took the address all the same")
	}
}

// A message of a server in a frame.
func served(to string, dst netip.Addr, change func(p []byte)) []byte {
	udp := append([]byte{0, 67, 0, 68, 0, 12, 0, 0}, "lend"...)
	p := ip4(theirs4, dst, ofUDP, udp)
	if change != nil {
		change(p)
	}
	return ethernet(to, type4, p)
}

func TestMessagesOfServers(t *testing.T) {
	lessee := make(chan *Lessee, 1)
	n, d, _ := look(t, launch.Link{DHCP: true}, func(l *Lessee) { lessee <- l })
	d.unverified = true
	l := <-lessee
	d.give(frameOf(served(everybody, broadcast, nil)))
	if b := <-l.Heard(); string(b) != "lend" {
		t.Errorf("heard %q", b)
	}
	for name, f := range map[string][]byte{
		"for another":             served(everybody, client4, nil),
		"for another card":        served("\x02\x09\x09\x09\x09\x09", broadcast, nil),
		"from another port":       served(everybody, broadcast, func(p []byte) { p[21] = 66 }),
		"with a wrong header":     served(everybody, broadcast, func(p []byte) { p[10]++ }),
		"with a wrong checksum":   served(everybody, broadcast, func(p []byte) { p[26]++ }),
		"longer than its packet":  served(everybody, broadcast, func(p []byte) { p[25] = 200; p[26], p[27] = 0, 0 }),
		"shorter than its header": served(everybody, broadcast, func(p []byte) { p[25] = 7; p[26], p[27] = 0, 0 }),
		"cut short":               served(everybody, broadcast, nil)[:ethernetSize+27],
	} {
		before := n.card.dropped.Load()
		d.give(frameOf(f))
		if n.card.dropped.Load() != before+1 || len(l.Heard()) > 0 {
			t.Errorf("%s: it was heard", name)
		}
	}
	for range 2 * heardMost {
		d.give(frameOf(served(everybody, broadcast, nil)))
	}
	if len(l.Heard()) != heardMost {
		t.Errorf("%d messages wait", len(l.Heard()))
	}
}

func TestALeasedAddress(t *testing.T) {
	lessee := make(chan *Lessee, 1)
	n, d, f := look(t, launch.Link{DHCP: true}, func(l *Lessee) { lessee <- l })
	l := <-lessee
	if err := l.Ask(netip.Addr{}, netip.Addr{}, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	b := d.next(t, type4)
	if string(b[:6]) != everybody || !sums(b[14:]) || string(b[26:34]) != "\x00\x00\x00\x00\xff\xff\xff\xff" || string(b[34:38]) != "\x00\x44\x00\x43" || string(b[42:]) != "hello" {
		t.Errorf("it asks with %x", b)
	}
	d.give(frameOf(served(everybody, broadcast, nil)))
	for name, p := range map[string]netip.Prefix{"first": netip.MustParsePrefix("10.0.0.9/24"), "second": netip.MustParsePrefix("10.0.1.9/24")} {
		if err := l.Hold(p, p.Masked().Addr().Next()); err != nil {
			t.Fatal(err)
		}
		if a := header.ARP(d.next(t, typeARP)[14:]); string(a.ProtocolAddressSender()) != string(p.Addr().AsSlice()) {
			t.Errorf("%s: it announces %x", name, a)
		}
		if !f.knows(p.Addr()) || len(f.told[len(f.told)-1]) != 1 {
			t.Errorf("%s: the filter was told %v", name, f.told)
		}
		if err := l.Ask(p.Addr(), theirs4, []byte("more")); err != nil {
			t.Fatal(err)
		}
		if b := d.next(t, type4); string(b[:6]) != theirAddress || !sums(b[14:]) || string(b[26:30]) != string(p.Addr().AsSlice()) {
			t.Errorf("%s: it asks its server with %x", name, b)
		}
		// Clients that are elsewhere are answered by way of the router.
		d.give(frameOf(ethernet(myAddress, type4, ip4(client4, p.Addr(), ofICMP, echo(8)))))
		wait(t, "a question for the router", func() bool {
			d.mu.Lock()
			defer d.mu.Unlock()
			return slices.Contains(d.sought, p.Masked().Addr().Next().String())
		})
	}
	if err := n.Addressed(); err != nil {
		t.Error(err)
	}
	if err := l.Hold(netip.Prefix{}, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	if len(*n.card.own.Load()) != 0 || len(f.told[len(f.told)-1]) != 0 {
		t.Errorf("it still has %v, and the filter was told %v", *n.card.own.Load(), f.told)
	}
}

// Who is told that clients can reach the image can answer them: it has the ways by then.
func TestAnAddressWithoutAWayIsNotThereYet(t *testing.T) {
	lessee := make(chan *Lessee, 1)
	n, _, f := look(t, launch.Link{DHCP: true}, func(l *Lessee) { lessee <- l })
	l, p := <-lessee, netip.MustParsePrefix("10.0.0.9/24")
	held := make(chan error, 1)
	n.owned.setting.Lock()
	go func() { held <- l.Hold(p, p.Masked().Addr().Next()) }()
	wait(t, "the filter knows it", func() bool { return f.knows(p.Addr()) })
	n.owned.mu.Lock() // whoever told it is done
	select {
	case <-n.owned.any:
		t.Error("clients can reach it, and nothing says where they are")
	default:
	}
	n.owned.mu.Unlock()
	n.owned.setting.Unlock()
	if err := <-held; err != nil {
		t.Fatal(err)
	}
	if err := n.Addressed(); err != nil {
		t.Error(err)
	}
}

func TestNobodyCanAskForAnAddress(t *testing.T) {
	n := New(func(*launch.Params) (Device, error) { return newDeck(), nil })
	if err := n.Open(&launch.Params{Link: launch.Link{DHCP: true}}); err == nil {
		t.Error("a network without DHCP is to use it, and does not mind")
	}
}

// Whatever routers and servers say, the image goes on, and holds few messages, addresses
// and ways.
func FuzzAddresses(f *testing.F) {
	f.Add(append([]byte{0}, advertises(prefix7, 1000)[ethernetSize+header.IPv6MinimumSize:]...))
	f.Add(append([]byte{1}, served(everybody, broadcast, nil)[ethernetSize+header.IPv4MinimumSize:]...))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := theLink()
		l.SLAAC, l.DHCP = true, true
		n, d, _ := look(t, l, func(*Lessee) {})
		for i := 0; len(data) > 1; i++ {
			size := min(len(data)-1, 160)
			kind, body := data[0], slices.Clone(data[1:1+size])
			data = data[1+size:]
			switch kind % 3 {
			case 0:
				d.give(frameOf(ethernet(toAllNodes, type6, ip6(router, allNodes, ofICMP6, 255, body))))
			case 1:
				d.give(frameOf(ethernet(everybody, type4, ip4(theirs4, broadcast, ofUDP, body))))
			default:
				d.give(doubtful{frameOf(ethernet(myAddress, type4, body))})
			}
		}
		alive(t, d)
		const most = 10 // of each kind; and those of the launch, and the link's own
		n.owned.mu.Lock()
		defer n.owned.mu.Unlock()
		if l := &n.owned.learned; len(l.Addrs) > most+1 || len(l.OnLink) > most+1 || len(l.Ways) > most || len(n.card.leases.heard) > heardMost {
			t.Errorf("it holds %d addresses, %d prefixes, %d ways", len(l.Addrs), len(l.OnLink), len(l.Ways))
		}
	})
}
