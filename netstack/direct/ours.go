package direct

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lorica.dev/lorica/abi/link"
)

// leastPath is the least MTU that a router on the way may tell of: the stack would believe
// any, and send every byte of a connection in a packet of its own. Linux takes a lesser one
// for as much, and lets routers divide its packets from then on. Here who tells of one is
// not heard, and over a path that is really so narrow no whole segment comes through.
const leastPath = 552

// ours reports whether a frame is one that this image has any use for, so that little
// of the stack can be reached at all: ARP between us and a neighbour, or a whole packet of
// IP, without options, for an address of ours.
func (e *endpoint) ours(frame []byte) bool {
	to, p := header.Ethernet(frame).DestinationAddress(), frame[ethernetSize:]
	mine := to == e.LinkAddress()
	switch header.Ethernet(frame).Type() {
	case header.ARPProtocolNumber:
		a := header.ARP(p)
		if !mine && to != header.EthernetBroadcastAddress || !a.IsValid() {
			return false
		}
		own, ok := e.find(netip.AddrFrom4([4]byte(a.ProtocolAddressTarget())))
		sender := netip.AddrFrom4([4]byte(a.ProtocolAddressSender()))
		return ok && own.Contains(sender) && own.Addr() != sender
	case header.IPv4ProtocolNumber:
		return mine && e.ours4(frame, p)
	case header.IPv6ProtocolNumber:
		return e.six.Ours(to, p)
	}
	return false
}

// find returns the address of the image that a is.
func (e *endpoint) find(a netip.Addr) (netip.Prefix, bool) {
	for _, p := range *e.own.Load() {
		if p.Addr() == a {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

func (e *endpoint) ours4(frame, p []byte) bool {
	const df, whole = 0x4000, 0x45 // version 4, a header of 20 bytes
	if len(p) < header.IPv4MinimumSize || p[0] != whole || binary.BigEndian.Uint16(p[6:])&^df != 0 {
		return false
	}
	src := netip.AddrFrom4([4]byte(p[12:16]))
	if _, ok := e.find(netip.AddrFrom4([4]byte(p[16:20]))); !ok || !e.client(src) {
		return false
	}
	if src.IsLoopback() {
		e.near.Store(hardware(frame[6:]))
	}
	body := p[header.IPv4MinimumSize:]
	switch header.IPv4(p).TransportProtocol() {
	case header.TCPProtocolNumber:
		return len(body) >= header.TCPMinimumSize
	case header.UDPProtocolNumber:
		return len(body) >= header.UDPMinimumSize
	case header.ICMPv4ProtocolNumber:
		if len(body) < header.ICMPv4MinimumSize {
			return false
		}
		switch m := header.ICMPv4(body); m.Type() {
		case header.ICMPv4DstUnreachable:
			return m.Code() != header.ICMPv4FragmentationNeeded || m.MTU() >= leastPath
		case header.ICMPv4Echo, header.ICMPv4TimeExceeded:
			return true
		}
	}
	return false
}

// client reports whether a may be the source of what somebody sends to us.
func (e *endpoint) client(a netip.Addr) bool {
	_, own := e.find(a)
	if e.shared && (a.IsLoopback() || a == link.Loopback6) { // of this machine, and here are others
		return false
	}
	return !own && !a.IsUnspecified() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// hardware packs a hardware address into a number.
func hardware(b []byte) uint64 {
	return uint64(binary.BigEndian.Uint16(b))<<32 | uint64(binary.BigEndian.Uint32(b[2:]))
}
