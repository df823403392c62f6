package direct

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"lorica.dev/lorica/abi/link"
)

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
		return e.ours6(to, mine, p)
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
		switch header.ICMPv4(body).Type() {
		case header.ICMPv4Echo, header.ICMPv4DstUnreachable, header.ICMPv4TimeExceeded:
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

func (e *endpoint) ours6(to tcpip.LinkAddress, mine bool, p []byte) bool {
	if len(p) < header.IPv6MinimumSize || p[0]>>4 != 6 {
		return false
	}
	src, dst := netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	body := p[header.IPv6MinimumSize:]
	next := tcpip.TransportProtocolNumber(p[6]) // no extension headers
	if next == header.ICMPv6ProtocolNumber && len(body) >= header.ICMPv6MinimumSize {
		switch header.ICMPv6(body).Type() {
		case header.ICMPv6NeighborSolicit, header.ICMPv6NeighborAdvert:
			return (mine || e.group(to, dst)) && p[7] == header.NDPHopLimit && e.neighbour(src)
		case header.ICMPv6RouterAdvert:
			return e.routers && (mine || e.group(to, dst)) && p[7] == header.NDPHopLimit && src.IsLinkLocalUnicast()
		}
	}
	if _, ok := e.find(dst); !ok || !mine || !e.client(src) || src.IsLoopback() {
		return false
	}
	switch next {
	case header.TCPProtocolNumber:
		return len(body) >= header.TCPMinimumSize
	case header.UDPProtocolNumber:
		return len(body) >= header.UDPMinimumSize
	case header.ICMPv6ProtocolNumber:
		if len(body) < header.ICMPv6MinimumSize {
			return false
		}
		switch header.ICMPv6(body).Type() {
		case header.ICMPv6EchoRequest, header.ICMPv6DstUnreachable, header.ICMPv6PacketTooBig, header.ICMPv6TimeExceeded, header.ICMPv6ParamProblem:
			return true
		}
	}
	return false
}

// neighbour reports whether a may be on the link.
func (e *endpoint) neighbour(a netip.Addr) bool {
	for _, p := range *e.own.Load() {
		if p.Addr().Is6() && p.Contains(a) && p.Addr() != a {
			return true
		}
	}
	for _, p := range e.asked() {
		if p.Contains(a) { // the address itself is where somebody else has it
			return true
		}
	}
	return a.IsUnspecified() || a.IsLinkLocalUnicast()
}

// asked returns the addresses that others are asked about.
func (e *endpoint) asked() []netip.Prefix {
	if list := e.tentative.Load(); list != nil {
		return *list
	}
	return nil
}

// group reports whether dst is a multicast group that the image is in: the one of all
// nodes, and those that its addresses are solicited in. Its frame must say so too.
func (e *endpoint) group(to tcpip.LinkAddress, dst netip.Addr) bool {
	if !dst.Is6() || !dst.IsMulticast() || to != header.EthernetAddressFromMulticastIPv6Address(tcpip.AddrFrom16(dst.As16())) {
		return false
	}
	in := tcpip.AddrFrom16(dst.As16())
	if in == header.IPv6AllNodesMulticastAddress {
		return true
	}
	for _, p := range slices.Concat(*e.own.Load(), e.asked()) {
		if p.Addr().Is6() && in == header.SolicitedNodeAddr(tcpip.AddrFrom16(p.Addr().As16())) {
			return true
		}
	}
	return false
}

// hardware packs a hardware address into a number.
func hardware(b []byte) uint64 {
	return uint64(binary.BigEndian.Uint16(b))<<32 | uint64(binary.BigEndian.Uint32(b[2:]))
}
