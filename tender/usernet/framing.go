package usernet

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	readAhead  = 256 << 10
	sockBuffer = 4 << 20
)

// A framing is how frames lie on a socket. One reads, and one writes.
type framing interface {
	// next returns the next frame, or nil where what came cannot be one.
	next() (*buffer.View, error)
	// pass writes the frames of packets, at most maxBatch of them.
	pass([]*stack.PacketBuffer) error
}

// A stream is a socket of QEMU's: each frame has its length before it, four bytes,
// big-endian.
type stream struct {
	in     *bufio.Reader
	out    net.Conn
	most   int // bytes of a frame
	heads  [maxBatch][4]byte
	pieces net.Buffers
}

func streamOf(c net.Conn, packet int) framing {
	return &stream{in: bufio.NewReaderSize(c, readAhead), out: c, most: ethernetSize + packet}
}

func (s *stream) next() (*buffer.View, error) {
	var head [4]byte
	if _, err := io.ReadFull(s.in, head[:]); err != nil {
		return nil, err
	}
	size := int64(binary.BigEndian.Uint32(head[:]))
	if size < ethernetSize || size > int64(s.most) {
		_, err := io.CopyN(io.Discard, s.in, size)
		return nil, err
	}
	v := buffer.NewViewSize(int(size))
	if _, err := io.ReadFull(s.in, v.AsSlice()); err != nil {
		v.Release()
		return nil, err
	}
	return v, nil
}

func (s *stream) pass(pkts []*stack.PacketBuffer) error {
	s.pieces = s.pieces[:0]
	for i, pkt := range pkts {
		binary.BigEndian.PutUint32(s.heads[i][:], uint32(pkt.Size()))
		s.pieces = append(append(s.pieces, s.heads[i][:]), pkt.AsSlices()...)
	}
	all := s.pieces
	_, err := all.WriteTo(s.out)
	return err
}

// headSize is that of a virtio_net_hdr.
const headSize = 10

// headVerified says of a packet that it needs no checksum (VIRTIO_NET_HDR_F_DATA_VALID).
const headVerified = 2

// Messages are frames behind a virtio_net_hdr, each in a message. What an image says
// there, of checksums that it has not made and of segments that it has not cut, asks
// for nothing: this end takes them as they are.
type messages struct {
	sock   net.Conn
	frame  []byte // room for more than the longest, so that what is too long shows
	head   [headSize]byte
	pieces net.Buffers
}

func messagesOf(c net.Conn, packet int) framing {
	return &messages{sock: c, frame: make([]byte, headSize+ethernetSize+packet+1), head: [headSize]byte{headVerified}}
}

func (m *messages) next() (*buffer.View, error) {
	n, err := m.sock.Read(m.frame)
	if err != nil || n < headSize+ethernetSize || n == len(m.frame) {
		return nil, err
	}
	return buffer.NewViewWithData(m.frame[headSize:n]), nil
}

func (m *messages) pass(pkts []*stack.PacketBuffer) error {
	for _, pkt := range pkts {
		m.pieces = append(append(m.pieces[:0], m.head[:]), pkt.AsSlices()...)
		all := m.pieces
		if _, err := all.WriteTo(m.sock); err != nil {
			return err
		}
	}
	return nil
}
