package packets

import "encoding/binary"

func segment(sport, dport uint16, flags uint8, seq, ack uint32, payload int) []byte {
	b := make([]byte, 20+payload)
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint32(b[4:], seq)
	binary.BigEndian.PutUint32(b[8:], ack)
	b[12], b[13], b[14] = 5<<4, flags, 0x40
	return b
}

func datagram(sport, dport uint16, payload int) []byte {
	b := make([]byte, 8+payload)
	binary.BigEndian.PutUint16(b, sport)
	binary.BigEndian.PutUint16(b[2:], dport)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	return b
}

// message is of ICMP, with an identifier.
func message(kind uint8, id uint16, payload int) []byte {
	b := make([]byte, 8+payload)
	b[0] = kind
	binary.BigEndian.PutUint16(b[4:], id)
	return b
}

// bytes returns the packet with its checksums.
func (h *header) bytes() []byte {
	body := append([]byte(nil), h.body...)
	h.check(body)
	if h.src.Is4() {
		b := append([]byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, h.protocol, 0, 0}, append(h.src.AsSlice(), h.dst.AsSlice()...)...)
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(body)))
		checkHeader(b)
		return append(b, body...)
	}
	next := h.protocol
	for i := len(h.extensions) - 1; i >= 0; i-- {
		e := h.extensions[i]
		body = append(append([]byte{next, uint8((2+len(e.data))/8 - 1)}, e.data...), body...)
		next = e.kind
	}
	b := append([]byte{0x60, 0, 0, 0, 0, 0, next, 64}, append(h.src.AsSlice(), h.dst.AsSlice()...)...)
	binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
	return append(b, body...)
}

// check puts the checksum into what the packet carries.
func (h *header) check(body []byte) {
	at := map[uint8]int{tcp: 16, udp: 6, icmp: 2, icmp6: 2}[h.protocol]
	if at == 0 || len(body) < at+2 {
		return
	}
	var pseudo []byte
	if h.protocol != icmp {
		pseudo = append(append(pseudo, h.src.AsSlice()...), h.dst.AsSlice()...)
		pseudo = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(pseudo, uint32(len(body))), uint32(h.protocol))
	}
	binary.BigEndian.PutUint16(body[at:], 0)
	sum := checksum(append(pseudo, body...))
	if sum == 0 && h.protocol == udp {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(body[at:], sum)
}

// checkHeader puts the checksum into a header of IPv4.
func checkHeader(b []byte) {
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], checksum(b[:4*int(b[0]&15)]))
}

func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) > 0 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
