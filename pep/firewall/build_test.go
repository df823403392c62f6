package firewall_test

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/firewall"
)

// Packets, without checksums: those are the stack's.

const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
	urg
	ece
	cwr
)

var be = binary.BigEndian

// ip makes a packet of the family of its addresses.
func ip(src, dst netip.Addr, protocol uint8, body []byte) []byte {
	if src.Is4() {
		b := append([]byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0}, append(src.AsSlice(), dst.AsSlice()...)...)
		be.PutUint16(b[2:], uint16(20+len(body)))
		return append(b, body...)
	}
	b := append([]byte{0x60, 0, 0, 0, 0, 0, protocol, 64}, append(src.AsSlice(), dst.AsSlice()...)...)
	be.PutUint16(b[4:], uint16(len(body)))
	return append(b, body...)
}

func tcpBody(sport, dport uint16, flags uint8, seq, number uint32, payload int) []byte {
	b := make([]byte, 20+payload)
	be.PutUint16(b, sport)
	be.PutUint16(b[2:], dport)
	be.PutUint32(b[4:], seq)
	be.PutUint32(b[8:], number)
	b[12], b[13] = 5<<4, flags
	return b
}

func udpBody(sport, dport uint16, payload int) []byte {
	b := make([]byte, 8+payload)
	be.PutUint16(b, sport)
	be.PutUint16(b[2:], dport)
	be.PutUint16(b[4:], uint16(len(b)))
	return b
}

// icmp makes a message: kind and code, a word, and what follows.
func icmp(kind, code uint8, word uint16, rest []byte) []byte {
	b := []byte{kind, code, 0, 0, 0, 0, 0, 0}
	be.PutUint16(b[4:], word)
	return append(b, rest...)
}

var (
	own4, own6   = netip.MustParseAddr("169.254.76.2"), netip.MustParseAddr("fd6c:6f72:6963:62::2")
	host4, host6 = netip.MustParseAddr("169.254.76.1"), netip.MustParseAddr("fd6c:6f72:6963:62::1")
)

// place is the link of an image that serves 8443 at a port of its own, and dials.
func place() pep.PacketPlace {
	return pep.PacketPlace{Own: []netip.Addr{own4, own6}, Hosts: []netip.Addr{host4, host6}, Ports: map[uint16]uint16{1443: 8443, 80: 80},
		Outward: []netip.AddrPort{netip.AddrPortFrom(host4, 1023)}}
}

// A rig is a firewall with packets.
type rig struct {
	t      testing.TB
	module *firewall.Module
	filter pep.PacketFilter
	age    func(time.Duration) // nothing else does
}

func newRig(t testing.TB, p pep.PacketPlace, s *flow.Section) *rig {
	t.Helper()
	r := &rig{t: t, module: firewall.New()}
	r.filter = r.module.Packets(p)
	r.age = firewall.Stop(r.filter)
	if s != nil {
		r.enforce(s)
	}
	return r
}

func (r *rig) enforce(s *flow.Section) {
	r.t.Helper()
	st, err := r.module.Prepare(&pep.Input{Section: s.Encode()})
	if err != nil {
		r.t.Fatal(err)
	}
	st.(pep.PacketState).Enforce()
}

// letting allows the sources that are named, and denies the rest by a rule.
func letting(sources ...string) *flow.Section {
	l := flow.List{Rule: abi.Rule{ID: abi.RuleNetwork}}
	for _, s := range sources {
		l.Rules = append(l.Rules, flow.Rule{Rule: abi.Rule{ID: "let " + s}, Verdict: abi.Allow, Src: netip.MustParsePrefix(s), FromHi: 65535, PortHi: 65535})
	}
	return &flow.Section{Lists: []flow.List{l}}
}

// A peer is a client, or a service that the image connects to.
type peer struct {
	addr         netip.Addr
	port, served uint16
}

func client(addr string, port, served uint16) peer {
	return peer{netip.MustParseAddr(addr), port, served}
}

func (c peer) own() netip.Addr {
	if c.addr.Is4() {
		return own4
	}
	return own6
}

func (c peer) in(flags uint8, seq, number uint32, payload int) []byte {
	return ip(c.addr, c.own(), 6, tcpBody(c.port, c.served, flags, seq, number, payload))
}

func (c peer) out(flags uint8, seq, number uint32, payload int) []byte {
	return ip(c.own(), c.addr, 6, tcpBody(c.served, c.port, flags, seq, number, payload))
}

func (r *rig) arrives(want pep.Action, packets ...[]byte) {
	r.t.Helper()
	for i, b := range packets {
		before := slices.Clone(b)
		if got := r.filter.In(b); got != want {
			r.t.Errorf("packet %d arrives: %s, and not %s", i, says(got), says(want))
		}
		if !slices.Equal(b, before) {
			r.t.Errorf("packet %d was changed", i)
		}
	}
}

func (r *rig) leaves(want pep.Action, packets ...[]byte) {
	r.t.Helper()
	for i, b := range packets {
		if got := r.filter.Out(b); got != want {
			r.t.Errorf("packet %d leaves: %s, and not %s", i, says(got), says(want))
		}
	}
}

func says(a pep.Action) string { return [...]string{"drop", "pass", "refuse"}[a] }

// connect makes a connection that is established.
func (r *rig) connect(c peer) {
	r.t.Helper()
	r.arrives(pep.Pass, c.in(syn, 100, 0, 0))
	r.leaves(pep.Pass, c.out(syn|ack, 900, 101, 0))
	r.arrives(pep.Pass, c.in(ack, 101, 901, 0))
}
