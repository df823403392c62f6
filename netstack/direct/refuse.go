package direct

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// refusals is how many packets are refused in a second at most; more are dropped.
const refusals = 1000

// refuse tells the sender of a packet that an administrator prohibits it. It does not
// where the answer could go to others, or answer an answer (RFC 1122, section 3.2.2, and
// RFC 4443, section 2.4).
func (e *endpoint) refuse(frame []byte) {
	var reply []byte
	switch eth := header.Ethernet(frame); {
	case eth.DestinationAddress() != e.LinkAddress() || frame[6]&1 != 0:
	case eth.Type() == header.IPv4ProtocolNumber:
		reply = e.refuse4(frame[ethernetSize:])
	default:
		reply = e.six.Refusal(frame[ethernetSize:])
	}
	if reply == nil || !e.refusals.take(refusals, e.clock.NowMonotonic()) {
		return
	}
	eth := make([]byte, ethernetSize)
	copy(eth, frame[6:12])
	copy(eth[6:], e.traits.MAC[:])
	copy(eth[12:], frame[12:14])
	if err := e.device.Send(&Frame{Parts: [][]byte{eth, reply}}); err != nil {
		e.failed(err)
	}
}

// refuse4 returns the packet that answers p: its header and as much behind it as
// tells its connection.
func (e *endpoint) refuse4(p []byte) []byte {
	const quoted = 8
	if len(p) < header.IPv4MinimumSize || p[0] != 0x45 || binary.BigEndian.Uint16(p[6:])&0x3fff != 0 || !e.answers(p[12:16], p[16:20]) {
		return nil
	}
	if p[9] == uint8(header.ICMPv4ProtocolNumber) && (len(p) == header.IPv4MinimumSize || header.ICMPv4Type(p[20]) != header.ICMPv4Echo) {
		return nil
	}
	quote := p[:min(len(p), header.IPv4MinimumSize+quoted)]
	b := make([]byte, header.IPv4MinimumSize+header.ICMPv4MinimumSize, header.IPv4MinimumSize+header.ICMPv4MinimumSize+len(quote))
	b = append(b, quote...)
	ip, icmp := header.IPv4(b), header.ICMPv4(b[header.IPv4MinimumSize:])
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(b)), TTL: 64, Protocol: uint8(header.ICMPv4ProtocolNumber)})
	copy(b[12:16], p[16:20])
	copy(b[16:20], p[12:16])
	ip.SetChecksum(^ip.CalculateChecksum())
	icmp.SetType(header.ICMPv4DstUnreachable)
	icmp.SetCode(header.ICMPv4AdminProhibited)
	icmp.SetChecksum(header.ICMPv4Checksum(icmp, 0))
	return b
}

// answers reports whether a packet between two addresses may be answered.
func (e *endpoint) answers(src, dst []byte) bool {
	from, _ := netip.AddrFromSlice(src)
	to, _ := netip.AddrFromSlice(dst)
	_, own := e.find(to)
	return own && e.client(from)
}
