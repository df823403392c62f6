// Package link is how a microVM and its tender meet on the network between them,
// on which there is nobody else.
//
// Clients connect to the tender. It connects to the image, once for each, says who
// the client is (a Peer), and passes bytes both ways from then on. The image answers
// with one byte, Welcome, when it has accepted: a tender that drains knows by it
// that no connection of its own is still on its way.
//
// The other way, an image connects to the tender at DialPort and sends one
// egress.Dial; it is answered egress.Opened, and from then on the stream is the
// connection that it asked for, or egress.Refused, and the stream ends.
package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"lorica.dev/lorica/abi/egress"
)

// TCP ports. Listener i of the launch parameters is ForwardPort+i of the image.
const (
	DialPort    = 1023 // of the tender
	ForwardPort = 1024
)

// Welcome is what an image says to a connection that it has accepted.
const Welcome = 1

// PeerSize is the size of an encoded Peer, in bytes.
const PeerSize = 40

const magic = 0x314b4e4c // "LNK1"

// A Peer is who connected to the tender, and where. Addresses have no zone, and
// IPv4 addresses are not mapped into IPv6.
type Peer struct{ Client, Local netip.AddrPort }

// Encode returns the first bytes of a connection to an image.
func (p Peer) Encode() []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, PeerSize), magic)
	for _, a := range []netip.AddrPort{p.Client, p.Local} {
		ip := a.Addr().As16()
		b = binary.LittleEndian.AppendUint16(append(b, ip[:]...), a.Port())
	}
	return b
}

// DecodePeer reads what Encode wrote.
func DecodePeer(b []byte) (Peer, error) {
	if len(b) != PeerSize || binary.LittleEndian.Uint32(b) != magic {
		return Peer{}, errors.New("link: a connection that does not begin with its peer")
	}
	read := func(b []byte) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)).Unmap(), binary.LittleEndian.Uint16(b[16:]))
	}
	return Peer{read(b[4:]), read(b[22:])}, nil
}

// WriteMessage writes a message of package egress with its length before it.
func WriteMessage(w io.Writer, m []byte) error {
	if len(m) > egress.MaxMessage {
		return fmt.Errorf("link: a message of %d bytes", len(m))
	}
	_, err := w.Write(append(binary.LittleEndian.AppendUint16(nil, uint16(len(m))), m...))
	return err
}

// ReadMessage reads one message of package egress and nothing behind it.
func ReadMessage(r io.Reader) ([]byte, error) {
	var n [2]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	size := int(binary.LittleEndian.Uint16(n[:]))
	if size > egress.MaxMessage {
		return nil, fmt.Errorf("link: a message of %d bytes", size)
	}
	m := make([]byte, size)
	if _, err := io.ReadFull(r, m); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return m, nil
}
