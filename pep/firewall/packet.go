package firewall

import (
	"encoding/binary"

	"lorica.dev/lorica/abi/flow"
)

// A key names a flow, whichever family it is of, as packets that arrive have it: src
// is the other side. IPv4 addresses are mapped into IPv6; packets of IPv6 from such ones
// are refused. The ports of an echo are its identifier and 0.
type key struct {
	src, dst     [16]byte
	sport, dport uint16
	protocol     uint32 // flow.TCP, flow.UDP or flow.ICMP, in both families; as wide as is left: a key has no padding
}

// reversed is the key of what k answers.
func (k *key) reversed() key {
	r := key{k.dst, k.src, k.dport, k.sport, k.protocol}
	if k.protocol == uint32(flow.ICMP) {
		r.sport, r.dport = k.sport, k.dport
	}
	return r
}

// A packet is what the firewall reads of one.
type packet struct {
	key
	kind    kind
	v6      bool
	hops    uint8
	message uint8 // the type of an ICMP message
	flags   uint8 // of TCP, with seq and ack
	seq     uint32
	ack     uint32
	payload int // bytes of TCP
	about   key // of the packet that an ICMP error is about, as that one has it
}

// A kind is a form of packet that is known. The zero kind is none.
type kind uint8

const (
	segment     kind = iota + 1 // TCP
	datagram                    // UDP
	echoRequest                 // ICMP of both families
	echoReply
	icmpError // with the head of another packet
	neighbour // neighbour discovery (RFC 4861)
)

// Flags of TCP.
const (
	fin = 1 << iota
	syn
	rst
	_
	ack
	urg
)

// Types of neighbour discovery.
const (
	routerSolicitation = 133 + iota
	routerAdvertisement
	neighbourSolicitation
	neighbourAdvertisement
)

// maxExtensions bounds the extension headers of a packet; nobody needs two.
const maxExtensions = 4

// A head is an IP header with what extends it, read.
type head struct {
	v6       bool
	hops     uint8
	protocol uint8
	body     []byte // what follows
	size     int    // of what follows, where packets may be cut short
}

// read reads a packet and reports whether it is whole and of a known kind. What lies
// behind it, by its own length, is not looked at. One that is cut has at least all its
// headers.
func (p *packet) read(b []byte, cut bool) bool {
	h, ok := p.key.readHead(b, cut)
	if !ok {
		return false
	}
	p.v6, p.hops = h.v6, h.hops
	switch {
	case h.protocol == uint8(flow.TCP):
		return p.readSegment(h)
	case h.protocol == uint8(flow.UDP):
		p.kind = datagram
		return p.key.readPorts(h) && int(binary.BigEndian.Uint16(h.body[4:])) == h.size
	case h.protocol == uint8(flow.ICMP) && !h.v6 || h.protocol == uint8(flow.ICMPv6) && h.v6:
		return p.readMessage(h)
	}
	return false
}

// readHead reads the addresses of a packet, and returns the rest of its head.
func (k *key) readHead(b []byte, cut bool) (h head, ok bool) {
	if len(b) == 0 {
		return h, false
	}
	if b[0]>>4 == 6 {
		return k.readHead6(b, cut)
	}
	const size, dontFragment = 20, 0x4000
	if len(b) < size || b[0] != 0x40|size/4 { // no options
		return h, false
	}
	total := int(binary.BigEndian.Uint16(b[2:]))
	if total < size || total > len(b) && !cut || binary.BigEndian.Uint16(b[6:])&^dontFragment != 0 {
		return h, false
	}
	k.src, k.dst = mapped(b[12:16]), mapped(b[16:20])
	return head{hops: b[8], protocol: b[9], body: b[size:min(total, len(b))], size: total - size}, true
}

func (k *key) readHead6(b []byte, cut bool) (h head, ok bool) {
	const size, hopByHop, destination = 40, 0, 60
	if len(b) < size {
		return h, false
	}
	total := size + int(binary.BigEndian.Uint16(b[4:]))
	k.src, k.dst = [16]byte(b[8:24]), [16]byte(b[24:40])
	if total > len(b) && !cut || [12]byte(k.src[:]) == prefix4 {
		return h, false
	}
	h = head{v6: true, hops: b[7], protocol: b[6], body: b[size:min(total, len(b))], size: total - size}
	for n := 0; h.protocol == hopByHop || h.protocol == destination; n++ {
		if n == maxExtensions || n > 0 && h.protocol == hopByHop || len(h.body) < 8 {
			return h, false
		}
		length := 8 + 8*int(h.body[1])
		if length > len(h.body) || !passable(h.body[2:length]) {
			return h, false
		}
		h.protocol, h.body, h.size = h.body[0], h.body[length:], h.size-length
	}
	return h, true
}

// passable walks the options of an extension header. What a host that does not know an
// option would have to refuse is refused here (RFC 8200, section 4.2).
func passable(options []byte) bool {
	for len(options) > 0 {
		if options[0] == 0 { // one byte of padding
			options = options[1:]
			continue
		}
		if len(options) < 2 || options[0]>>6 != 0 || 2+int(options[1]) > len(options) {
			return false
		}
		options = options[2+int(options[1]):]
	}
	return true
}

// readPorts reads the ports of TCP or UDP, and what it is of the two.
func (k *key) readPorts(h head) bool {
	if len(h.body) < 8 {
		return false
	}
	k.sport, k.dport, k.protocol = binary.BigEndian.Uint16(h.body), binary.BigEndian.Uint16(h.body[2:]), uint32(h.protocol)
	return k.sport != 0 && k.dport != 0
}

func (p *packet) readSegment(h head) bool {
	const size = 20
	if len(h.body) < size || !p.key.readPorts(h) {
		return false
	}
	p.kind, p.flags = segment, h.body[13]
	p.seq, p.ack = binary.BigEndian.Uint32(h.body[4:]), binary.BigEndian.Uint32(h.body[8:])
	offset := 4 * int(h.body[12]>>4)
	p.payload = h.size - offset
	if offset < size || offset > len(h.body) {
		return false
	}
	switch p.flags & (fin | syn | rst | ack | urg) {
	case syn, syn | urg, syn | ack, rst, rst | ack, ack, ack | urg, fin | ack, fin | ack | urg:
		return true
	}
	return false
}

// readMessage reads ICMP of either family.
func (p *packet) readMessage(h head) bool {
	if len(h.body) < 8 {
		return false
	}
	p.protocol, p.message = uint32(flow.ICMP), h.body[0]
	code, ndp := h.body[1], 0
	type message struct {
		v6 bool
		is uint8
	}
	switch (message{h.v6, p.message}) {
	case message{false, 8}, message{true, 128}:
		p.kind = echoRequest
	case message{false, 0}, message{true, 129}:
		p.kind = echoReply
	case message{false, 3}, message{false, 11}, message{false, 12}, // unreachable, time exceeded, a parameter
		message{true, 1}, message{true, 2}, message{true, 3}, message{true, 4}: // the same, and too big
		p.kind = icmpError
		return p.about.readAbout(h.body[8:], h.v6)
	case message{true, routerSolicitation}:
		ndp = 8
	case message{true, routerAdvertisement}:
		ndp = 16
	case message{true, neighbourSolicitation}, message{true, neighbourAdvertisement}:
		ndp = 24
	default:
		return false
	}
	if ndp > 0 {
		p.kind = neighbour
		return code == 0 && p.hops == 255 && ndp <= len(h.body) && h.size == len(h.body) && whole(h.body[ndp:])
	}
	p.sport = binary.BigEndian.Uint16(h.body[4:]) // the identifier
	return code == 0
}

// whole reports whether options of neighbour discovery are.
func whole(options []byte) bool {
	for len(options) > 0 {
		if len(options) < 8 || options[1] == 0 || 8*int(options[1]) > len(options) {
			return false
		}
		options = options[8*int(options[1]):]
	}
	return true
}

// readAbout reads what an ICMP error is about: a packet of the same family, cut short
// behind the first bytes of what its head carries.
func (k *key) readAbout(b []byte, v6 bool) bool {
	h, ok := k.readHead(b, true)
	switch {
	case !ok || h.v6 != v6:
		return false
	case h.protocol == uint8(flow.TCP), h.protocol == uint8(flow.UDP):
		return k.readPorts(h)
	case len(h.body) < 8:
		return false
	case h.protocol == uint8(flow.ICMP) && !v6 && (h.body[0] == 8 || h.body[0] == 0),
		h.protocol == uint8(flow.ICMPv6) && v6 && (h.body[0] == 128 || h.body[0] == 129):
		k.sport, k.protocol = binary.BigEndian.Uint16(h.body[4:]), uint32(flow.ICMP)
		return true
	}
	return false
}

// prefix4 is that of IPv4 addresses in IPv6.
var prefix4 = [12]byte{10: 0xff, 11: 0xff}

func mapped(b []byte) (a [16]byte) {
	copy(a[:], prefix4[:])
	copy(a[12:], b)
	return a
}
