package virtio

import "encoding/binary"

// A Packet is a frame that was received. It lies where the device can still change it,
// so it has to be copied, once, before anything in it is looked at.
type Packet struct {
	parts    []memory
	size     int
	verified bool
}

// Len returns the size of the frame. It may be shorter than an Ethernet header.
func (p *Packet) Len() int { return p.size }

// ChecksumVerified reports whether the device answers for the checksum of transport:
// it has verified it, or the frame comes from the host itself and never had one.
func (p *Packet) ChecksumVerified() bool { return p.verified }

// CopyTo copies the frame to b, and returns how many bytes that are.
func (p *Packet) CopyTo(b []byte) int {
	n := 0
	for _, part := range p.parts {
		n += copy(b[n:], part)
	}
	return n
}

// Receive calls f with each frame, one after the other, until the device fails or is
// closed; f must not keep it. Others get to run between frames, however many there are.
// Only one Receive may run at a time.
func (n *Net) Receive(f func(p *Packet)) error {
	if !n.receive.TryLock() {
		return n.d.refuse("two at a time receive from it")
	}
	defer n.receive.Unlock()
	p := Packet{parts: make([]memory, 0, n.in.ring.size())}
	ids := make([]uint16, 0, n.in.ring.size())
	for {
		var err error
		if ids, err = n.gather(&p, ids[:0]); err != nil {
			return err
		}
		if p.size <= MaxFrame {
			f(&p)
		}
		for _, id := range ids {
			n.in.put(id)
		}
	}
}

// gather waits for a frame and its buffers. The device returns all buffers of a frame
// at once (section 5.1.6.4): one that announces more than it has returned is broken.
func (n *Net) gather(p *Packet, ids []uint16) ([]uint16, error) {
	id, b, err := n.in.next()
	if err != nil {
		return nil, err
	}
	if len(b) < netHeader {
		return nil, n.in.ring.fail("a frame of %d bytes, shorter than its header", len(b))
	}
	var h [netHeader]byte
	copy(h[:], b)
	p.parts, p.size = append(p.parts[:0], b[netHeader:]), len(b)-netHeader
	p.verified = n.d.has(netGuestCsum) && h[headerFlags]&(flagNeedsCsum|flagDataValid) != 0
	ids = append(ids, id)
	if !n.d.has(netMergeable) {
		return ids, nil
	}
	count := int(binary.LittleEndian.Uint16(h[headerBuffers:]))
	if count == 0 || count > n.in.ring.size() {
		return nil, n.in.ring.fail("a frame in %d of %d buffers", count, n.in.ring.size())
	}
	for len(ids) < count {
		id, b, ok, err := n.in.take()
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, n.in.ring.fail("a frame in %d buffers, of which it returned %d", count, len(ids))
		}
		p.parts, p.size = append(p.parts, b), p.size+len(b)
		ids = append(ids, id)
	}
	return ids, nil
}
