package firewall_test

import (
	"net/netip"
	"slices"
	"testing"

	"lorica.dev/lorica/abi/link"
	"lorica.dev/lorica/pep"
)

func TestBeforeAProgramNothingPasses(t *testing.T) {
	r := newRig(t, place(), nil)
	c := client("10.0.0.1", 4000, 80)
	r.arrives(pep.Drop, c.in(syn, 1, 0, 0), ip(c.addr, own4, 1, icmp(8, 0, 1, nil)), nil)
	r.leaves(pep.Drop, client("169.254.76.1", 1023, 5000).out(syn, 1, 0, 0))
	r.enforce(letting("0.0.0.0/0"))
	r.arrives(pep.Pass, c.in(syn, 1, 0, 0))
}

// with changes a copy of a packet.
func with(b []byte, at int, v ...byte) []byte {
	b = slices.Clone(b)
	copy(b[at:], v)
	return b
}

// extended puts an extension header before the body of a packet of IPv6.
func extended(b []byte, kind uint8, options ...byte) []byte {
	h := append([]byte{b[6], uint8((2+len(options))/8 - 1)}, options...)
	x := slices.Insert(with(b, 6, kind), 40, h...)
	be.PutUint16(x[4:], uint16(len(x)-40))
	return x
}

func TestFormsOfPackets(t *testing.T) {
	c4, c6 := client("10.0.0.1", 4000, 80), client("2001:db8::1", 4000, 80)
	s4, s6 := c4.in(syn, 1, 0, 0), c6.in(syn, 1, 0, 0)
	u4, u6 := ip(c4.addr, own4, 17, udpBody(1, 2, 4)), ip(c6.addr, own6, 17, udpBody(1, 2, 4))
	e4, e6 := ip(c4.addr, own4, 1, icmp(8, 0, 7, nil)), ip(c6.addr, own6, 58, icmp(128, 0, 7, nil))
	pad := []byte{1, 4, 0, 0, 0, 0} // PadN
	for _, c := range []struct {
		name string
		b    []byte
		want pep.Action
	}{
		{"TCP over IPv4", s4, pep.Pass},
		{"TCP over IPv6", s6, pep.Pass},
		{"UDP over IPv4", u4, pep.Pass},
		{"UDP over IPv6", u6, pep.Pass},
		{"echo over IPv4", e4, pep.Pass},
		{"echo over IPv6", e6, pep.Pass},
		{"nothing", nil, pep.Drop},
		{"another version", with(s4, 0, 0x55), pep.Drop},
		{"half a header", s4[:19], pep.Drop},
		{"half a header of IPv6", s6[:39], pep.Drop},
		{"options", with(slices.Insert(slices.Clone(s4), 20, 1, 1, 1, 1), 0, 0x46, 0, 0, 44), pep.Drop},
		{"a header that is too short", with(s4, 0, 0x44), pep.Drop},
		{"a first fragment", with(s4, 6, 0x20), pep.Drop},
		{"a later fragment", with(s4, 6, 0, 1), pep.Drop},
		{"the reserved bit", with(s4, 6, 0x80), pep.Drop},
		{"without don't fragment", with(s4, 6, 0), pep.Pass},
		{"longer than it is", with(s4, 2, 0, 41), pep.Drop},
		{"shorter than its header", with(s4, 2, 0, 19), pep.Drop},
		{"longer than it is, IPv6", with(s6, 4, 0, 21), pep.Drop},
		{"padded by the link", append(slices.Clone(s4), 0, 0, 0, 0, 0, 0), pep.Pass},
		{"cut in TCP", with(s4, 2, 0, 39), pep.Drop},
		{"cut in UDP", with(u4[:27], 2, 0, 27), pep.Drop},
		{"a length of UDP beyond the packet", with(u4, 24, 0, 13), pep.Drop},
		{"a length of UDP within the packet", with(u4, 24, 0, 11), pep.Drop},
		{"an offset within the header", with(s4, 32, 4<<4), pep.Drop},
		{"an offset beyond the packet", with(s4, 32, 6<<4), pep.Drop},
		{"from port 0", with(s4, 20, 0, 0), pep.Drop},
		{"to port 0", with(s4, 22, 0, 0), pep.Drop},
		{"another protocol", with(s4, 9, 47), pep.Drop},
		{"ICMP of the other family", ip(c4.addr, own4, 58, icmp(128, 0, 7, nil)), pep.Drop},
		{"ICMP of the other family, IPv6", ip(c6.addr, own6, 1, icmp(8, 0, 7, nil)), pep.Drop},
		{"an echo with a code", ip(c4.addr, own4, 1, icmp(8, 1, 7, nil)), pep.Drop},
		{"an answer to no echo", ip(c4.addr, own4, 1, icmp(0, 0, 7, nil)), pep.Drop},
		{"a redirect", ip(c4.addr, own4, 1, icmp(5, 0, 7, s4)), pep.Drop},
		{"a timestamp", ip(c4.addr, own4, 1, icmp(13, 0, 7, make([]byte, 12))), pep.Drop},
		{"hop by hop", extended(s6, 0, pad...), pep.Pass},
		{"options for the destination", extended(s6, 60, pad...), pep.Pass},
		{"both", extended(extended(s6, 60, pad...), 0, pad...), pep.Pass},
		{"hop by hop in second place", extended(extended(s6, 0, pad...), 60, pad...), pep.Drop},
		{"four headers", extended(extended(extended(extended(s6, 60, pad...), 60, pad...), 60, pad...), 60, pad...), pep.Pass},
		{"five headers", extended(extended(extended(extended(extended(s6, 60, pad...), 60, pad...), 60, pad...), 60, pad...), 60, pad...), pep.Drop},
		{"single bytes of padding", extended(s6, 60, 0, 0, 0, 0, 0, 0), pep.Pass},
		{"an option to skip", extended(s6, 60, 5, 2, 0, 0, 0, 0), pep.Pass},
		{"an option to refuse", extended(s6, 60, 0xc2, 4, 0, 1, 0, 0), pep.Drop},
		{"an option beyond its header", extended(s6, 60, 1, 5, 0, 0, 0, 0), pep.Drop},
		{"a header beyond the packet", with(extended(s6, 60, pad...), 41, 9), pep.Drop},
		{"routing", extended(s6, 43, pad...), pep.Drop},
		{"a fragment of IPv6", extended(s6, 44, pad...), pep.Drop},
		{"authentication", extended(s6, 51, pad...), pep.Drop},
		{"encryption", extended(s6, 50, pad...), pep.Drop},
		{"no next header", with(s6, 6, 59), pep.Drop},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, place(), letting("0.0.0.0/0", "::/0"))
			r.arrives(c.want, c.b)
			n := r.filter.(pep.PacketReporter).Counters()
			if passed := c.want == pep.Pass; (n.In == 1) != passed || (n.Malformed == 1) == passed || n.Denied != 0 {
				t.Errorf("counted as %+v", n)
			}
		})
	}
}

// Netfilter knows the same combinations.
func TestFlagsOfTCP(t *testing.T) {
	may := map[uint8]bool{syn: true, syn | urg: true, syn | ack: true, rst: true, rst | ack: true, ack: true, ack | urg: true, fin | ack: true, fin | ack | urg: true}
	for flags := range 256 {
		r := newRig(t, place(), letting("0.0.0.0/0"))
		want := pep.Drop
		if may[uint8(flags)&^(psh|ece|cwr)] {
			want = pep.Pass
		}
		if got := r.filter.In(client("10.0.0.1", 4000, 80).in(uint8(flags), 1, 1, 0)); got != want {
			t.Errorf("flags %#02x: %s", flags, says(got))
		}
	}
}

func TestImpossibleAddresses(t *testing.T) {
	r := newRig(t, place(), letting("0.0.0.0/0", "::/0"))
	to := func(src, dst string) []byte {
		return ip(netip.MustParseAddr(src), netip.MustParseAddr(dst), 6, tcpBody(4000, 80, syn, 1, 0, 0))
	}
	for _, src := range []string{"10.0.0.1", "127.0.0.1", "127.255.255.255", "169.254.76.1", "240.0.0.1", "1.0.0.0"} {
		r.arrives(pep.Pass, to(src, own4.String()))
	}
	for _, src := range []string{"2001:db8::1", "fe80::1", host6.String(), link.Loopback6.String(), "64:ff9b::1"} {
		r.arrives(pep.Pass, to(src, own6.String()))
	}
	for _, src := range []string{"0.0.0.0", "0.0.0.1", "224.0.0.1", "239.255.255.255", "255.255.255.255", own4.String()} {
		r.arrives(pep.Drop, to(src, own4.String()))
	}
	for _, src := range []string{"::", "::1", "::10.0.0.1", "::ffff:10.0.0.1", "ff02::1", "ff0e::1", own6.String()} {
		r.arrives(pep.Drop, to(src, own6.String()))
	}
	for _, dst := range []string{"169.254.76.1", "169.254.76.3", "255.255.255.255", "224.0.0.1", "127.0.0.1", "0.0.0.0"} {
		r.arrives(pep.Drop, to("10.0.0.1", dst))
	}
	for _, dst := range []string{"fd6c:6f72:6963:62::1", "ff02::1", "ff02::1:ff00:2", "::1", "::", "::ffff:169.254.76.2"} {
		r.arrives(pep.Drop, to("2001:db8::1", dst))
	}
	r.filter.Own([]netip.Addr{netip.MustParseAddr("192.0.2.7")})
	r.arrives(pep.Pass, to("10.0.0.1", "192.0.2.7"))
	r.arrives(pep.Drop, to("10.0.0.1", own4.String()), to("192.0.2.7", "192.0.2.7"))
}

func TestLoopbackIsJudgedAsItself(t *testing.T) {
	r := newRig(t, place(), letting("::1/128", "127.0.0.0/8"))
	me := peer{link.Loopback6, 4000, 80}
	r.connect(me)
	r.leaves(pep.Pass, me.out(ack, 901, 101, 100))
	r.connect(client("127.0.0.9", 4000, 80))
	r.arrives(pep.Refuse, client("2001:db8::1", 4000, 80).in(syn, 1, 0, 0))
}

func ndp(src, dst string, kind uint8, body int, options ...byte) []byte {
	b := ip(netip.MustParseAddr(src), netip.MustParseAddr(dst), 58, append(icmp(kind, 0, 0, make([]byte, body-8)), options...))
	return with(b, 7, 255)
}

func TestNeighbourDiscovery(t *testing.T) {
	const us, them, group, all, routers, near = "fd6c:6f72:6963:62::2", "fd6c:6f72:6963:62::1", "ff02::1:ff00:2", "ff02::1", "ff02::2", "fe80::1"
	mac := []byte{1, 1, 2, 0, 0, 0, 0, 1}
	for _, c := range []struct {
		name             string
		b                []byte
		link, announcing pep.Action // without and with SLAAC
		out              bool
	}{
		{"a solicitation", ndp(them, group, 135, 24, mac...), pep.Pass, pep.Pass, false},
		{"a solicitation to the image alone", ndp(them, us, 135, 24), pep.Pass, pep.Pass, false},
		{"is it taken?", ndp("::", group, 135, 24), pep.Pass, pep.Pass, false},
		{"is it taken, to the image alone", ndp("::", us, 135, 24), pep.Drop, pep.Drop, false},
		{"of somebody else", ndp(them, "ff02::1:ff00:3", 135, 24), pep.Drop, pep.Drop, false},
		{"to all", ndp(them, all, 135, 24), pep.Drop, pep.Drop, false},
		{"from the image", ndp(us, group, 135, 24), pep.Drop, pep.Drop, false},
		{"from afar", with(ndp(them, group, 135, 24), 7, 254), pep.Drop, pep.Drop, false},
		{"with a code", with(ndp(them, group, 135, 24), 41, 1), pep.Drop, pep.Drop, false},
		{"cut", ndp(them, group, 135, 23), pep.Drop, pep.Drop, false},
		{"an option of no length", ndp(them, group, 135, 24, 1, 0, 0, 0, 0, 0, 0, 0), pep.Drop, pep.Drop, false},
		{"an option beyond the packet", ndp(them, group, 135, 24, 1, 2, 0, 0, 0, 0, 0, 0), pep.Drop, pep.Drop, false},
		{"half an option", ndp(them, group, 135, 24, 1, 1), pep.Drop, pep.Drop, false},
		{"an advertisement", ndp(them, us, 136, 24), pep.Pass, pep.Pass, false},
		{"an advertisement to all", ndp(them, all, 136, 24), pep.Pass, pep.Pass, false},
		{"an advertisement of nobody", ndp("::", all, 136, 24), pep.Drop, pep.Drop, false},
		{"a router", ndp(near, all, 134, 16), pep.Drop, pep.Pass, false},
		{"a router from afar", with(ndp(near, all, 134, 16), 7, 64), pep.Drop, pep.Drop, false},
		{"a router that is no neighbour", ndp(them, all, 134, 16), pep.Drop, pep.Drop, false},
		{"who asks for routers", ndp(near, routers, 133, 8), pep.Drop, pep.Drop, false},
		{"a redirect", ndp(near, us, 137, 40), pep.Drop, pep.Drop, false},
		{"our solicitation", ndp(us, "ff02::1:ff00:1", 135, 24, mac...), pep.Pass, pep.Pass, true},
		{"our solicitation again", ndp(us, them, 135, 24), pep.Pass, pep.Pass, true},
		{"is ours taken?", ndp("::", group, 135, 24), pep.Pass, pep.Pass, true},
		{"our solicitation to somebody afar", ndp(us, "2001:db8::1", 135, 24), pep.Drop, pep.Pass, true},
		{"our advertisement", ndp(us, them, 136, 24), pep.Pass, pep.Pass, true},
		{"an advertisement of somebody else", ndp(them, us, 136, 24), pep.Drop, pep.Drop, true},
		{"we ask for routers", ndp("::", routers, 133, 8), pep.Drop, pep.Pass, true},
		{"we are a router", ndp(us, all, 134, 16), pep.Drop, pep.Drop, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for slaac, want := range map[bool]pep.Action{false: c.link, true: c.announcing} {
				p := place()
				p.SLAAC = slaac
				// Rules do not matter here.
				r := newRig(t, p, letting("192.0.2.0/32"))
				if c.out {
					r.leaves(want, c.b)
				} else {
					r.arrives(want, c.b)
				}
			}
		})
	}
}

func TestDHCP(t *testing.T) {
	all, none := netip.MustParseAddr("255.255.255.255"), netip.IPv4Unspecified()
	for dhcp, want := range map[bool]pep.Action{false: pep.Drop, true: pep.Pass} {
		p := place()
		p.DHCP = dhcp
		r := newRig(t, p, letting("192.0.2.0/32"))
		r.leaves(want, ip(none, all, 17, udpBody(68, 67, 240)), ip(own4, host4, 17, udpBody(68, 67, 240)))
		r.arrives(want, ip(host4, all, 17, udpBody(67, 68, 240)), ip(host4, own4, 17, udpBody(67, 68, 240)))
		r.leaves(pep.Drop, ip(none, all, 17, udpBody(68, 69, 240)), ip(none, all, 17, udpBody(67, 67, 240)), ip(host4, all, 17, udpBody(68, 67, 240)))
		r.arrives(pep.Drop, ip(none, all, 17, udpBody(67, 68, 240)), ip(host4, all, 17, udpBody(67, 69, 240)), ip(host4, all, 17, udpBody(66, 68, 240)),
			ip(host4, netip.MustParseAddr("192.0.2.9"), 17, udpBody(67, 68, 240)))
	}
}

// Where others are on the link, nobody comes from this machine, whatever a packet says,
// and neighbours are answered wherever their addresses are from.
func TestASharedLink(t *testing.T) {
	answer := ip(own6, netip.MustParseAddr("2001:db8::9"), 58, icmp(136, 0, 0, make([]byte, 16)))
	answer[7] = 255
	be.PutUint16(answer[42:], 0)
	for shared, want := range map[bool]pep.Action{false: pep.Pass, true: pep.Drop} {
		p := place()
		p.Shared = shared
		r := newRig(t, p, letting("0.0.0.0/0", "::/0"))
		r.arrives(want, client("127.0.0.1", 4000, 80).in(syn, 1, 0, 0), client(link.Loopback6.String(), 4000, 80).in(syn, 1, 0, 0))
		r.arrives(pep.Pass, client("10.0.0.1", 4000, 80).in(syn, 1, 0, 0), client("2001:db8::1", 4000, 80).in(syn, 1, 0, 0))
		if shared {
			r.leaves(pep.Pass, answer)
		} else {
			r.leaves(pep.Drop, answer)
		}
	}
}
