// Package ip6 is IPv6 in the network of an image: gVisor's protocol, which packets of it
// reach that, neighbours, and what routers say of addresses. An image without this package
// drops IPv6 unread; see package direct.
package ip6

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"

	"lorica.dev/lorica/netstack/direct"
)

// New returns the module.
func New() direct.Option { return direct.Speaking(open) }

// A protocol is IPv6 of one network.
type protocol struct {
	local   *direct.Local
	routers bool // may say what addresses there are

	mu        sync.Mutex                     // held by who changes tentative
	tentative atomic.Pointer[[]netip.Prefix] // addresses that the image has if nobody else does; may be nil
}

func open(l *direct.Local, slaac bool) direct.Six {
	p := &protocol{local: l, routers: slaac}
	return direct.Six{
		Network: ipv6.NewProtocolWithOptions(p.options()), Transport: icmp.NewProtocol6,
		Ours: p.ours, Refusal: p.refusal, Announcement: p.announcement,
	}
}

// ours reports whether a packet is one between us and a neighbour, or a whole one, without
// extension headers, for an address of ours.
func (p *protocol) ours(to tcpip.LinkAddress, b []byte) bool {
	if len(b) < header.IPv6MinimumSize || b[0]>>4 != 6 {
		return false
	}
	mine := to == p.local.Hardware()
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	body := b[header.IPv6MinimumSize:]
	next := tcpip.TransportProtocolNumber(b[6])
	if next == header.ICMPv6ProtocolNumber && len(body) >= header.ICMPv6MinimumSize {
		switch header.ICMPv6(body).Type() {
		case header.ICMPv6NeighborSolicit, header.ICMPv6NeighborAdvert:
			return (mine || p.group(to, dst)) && b[7] == header.NDPHopLimit && p.neighbour(src)
		case header.ICMPv6RouterAdvert:
			return p.routers && (mine || p.group(to, dst)) && b[7] == header.NDPHopLimit && src.IsLinkLocalUnicast()
		}
	}
	if !mine || !p.local.Has(dst) || !p.local.Client(src) || src.IsLoopback() {
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
		switch m := header.ICMPv6(body); m.Type() {
		case header.ICMPv6PacketTooBig: // every link has the least MTU (RFC 8201, section 4)
			return m.MTU() >= header.IPv6MinimumMTU
		case header.ICMPv6EchoRequest, header.ICMPv6DstUnreachable, header.ICMPv6TimeExceeded, header.ICMPv6ParamProblem:
			return true
		}
	}
	return false
}

// neighbour reports whether a may be on the link.
func (p *protocol) neighbour(a netip.Addr) bool {
	for _, own := range p.local.Own() {
		if own.Addr().Is6() && own.Contains(a) && own.Addr() != a {
			return true
		}
	}
	for _, asked := range p.asked() {
		if asked.Contains(a) { // the address itself is where somebody else has it
			return true
		}
	}
	return a.IsUnspecified() || a.IsLinkLocalUnicast()
}

// asked returns the addresses that others are asked about.
func (p *protocol) asked() []netip.Prefix {
	if list := p.tentative.Load(); list != nil {
		return *list
	}
	return nil
}

// group reports whether dst is a multicast group that the image is in: the one of all
// nodes, and those that its addresses are solicited in. Its frame must say so too.
func (p *protocol) group(to tcpip.LinkAddress, dst netip.Addr) bool {
	if !dst.Is6() || !dst.IsMulticast() || to != header.EthernetAddressFromMulticastIPv6Address(addr(dst)) {
		return false
	}
	in := addr(dst)
	if in == header.IPv6AllNodesMulticastAddress {
		return true
	}
	solicited := func(a netip.Prefix) bool { return a.Addr().Is6() && in == header.SolicitedNodeAddr(addr(a.Addr())) }
	return slices.ContainsFunc(p.local.Own(), solicited) || slices.ContainsFunc(p.asked(), solicited)
}

// addr is a as the stack writes it.
func addr(a netip.Addr) tcpip.Address { return tcpip.AddrFrom16(a.As16()) }
