package ip6

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// announcement returns a neighbour advertisement (RFC 4861) that says where a is, for
// everybody on the link.
func (p *protocol) announcement(a netip.Addr) (tcpip.LinkAddress, []byte) {
	everybody := header.IPv6AllNodesMulticastAddress
	options := header.NDPOptionsSerializer{header.NDPTargetLinkLayerAddressOption(p.local.Hardware())}
	size := header.ICMPv6NeighborAdvertMinimumSize + options.Length()
	b := make([]byte, header.IPv6MinimumSize+size)
	header.IPv6(b).Encode(&header.IPv6Fields{PayloadLength: uint16(size), TransportProtocol: header.ICMPv6ProtocolNumber,
		HopLimit: header.NDPHopLimit, SrcAddr: addr(a), DstAddr: everybody})
	m := header.ICMPv6(b[header.IPv6MinimumSize:])
	m.SetType(header.ICMPv6NeighborAdvert)
	na := header.NDPNeighborAdvert(m.MessageBody())
	na.SetTargetAddress(addr(a))
	na.SetOverrideFlag(true)
	na.Options().Serialize(options)
	m.SetChecksum(header.ICMPv6Checksum(header.ICMPv6ChecksumParams{Header: m, Src: addr(a), Dst: everybody}))
	return header.EthernetAddressFromMulticastIPv6Address(everybody), b
}

// refusal returns the packet that answers p, and quotes all of it that fits in the least
// MTU. An answer is not answered (RFC 4443, section 2.4).
func (p *protocol) refusal(b []byte) []byte {
	const least = 1280
	if len(b) < header.IPv6MinimumSize || b[0]>>4 != 6 || b[6] == uint8(header.IPv6FragmentExtHdrIdentifier) ||
		!p.local.Has(netip.AddrFrom16([16]byte(b[24:40]))) || !p.local.Client(netip.AddrFrom16([16]byte(b[8:24]))) {
		return nil
	}
	if b[6] == uint8(header.ICMPv6ProtocolNumber) && (len(b) == header.IPv6MinimumSize || header.ICMPv6Type(b[40]) != header.ICMPv6EchoRequest) {
		return nil
	}
	const headers = header.IPv6MinimumSize + header.ICMPv6DstUnreachableMinimumSize
	quote := b[:min(len(b), least-headers)]
	r := append(make([]byte, headers, headers+len(quote)), quote...)
	r[0] = 6 << 4
	binary.BigEndian.PutUint16(r[4:], uint16(len(r)-header.IPv6MinimumSize))
	r[6], r[7] = uint8(header.ICMPv6ProtocolNumber), 64
	copy(r[8:24], b[24:40])
	copy(r[24:40], b[8:24])
	m := header.ICMPv6(r[header.IPv6MinimumSize:])
	m.SetType(header.ICMPv6DstUnreachable)
	m.SetCode(header.ICMPv6Prohibited)
	sum := header.PseudoHeaderChecksum(header.ICMPv6ProtocolNumber, header.IPv6(r).SourceAddress(), header.IPv6(r).DestinationAddress(), uint16(len(m)))
	m.SetChecksum(^checksum.Checksum(m, sum))
	return r
}
