// Package link is how an image with a network of its own and its tender meet on it.
//
// Clients' packets reach the image from the clients' own addresses: the kernel routes
// them there (network address translation of the destination alone), or the tender
// accepts connections and makes each once more, to the image, from the address and port
// that the client has. Loopback addresses of IPv6 leave no machine, not even to a
// neighbour that is only a program: in packets Loopback6 stands for ::1.
//
// The other way, an image connects to the tender at DialPort and sends one
// egress.Dial; it is answered egress.Opened, and from then on the stream is the
// connection that it asked for, or egress.Refused, and the stream ends.
package link

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"

	"lorica.dev/lorica/abi/egress"
)

// DialPort is the TCP port of the tender that images connect to.
const DialPort = 1023

// Loopback6 is what a packet says whose source is ::1 of the machine that the image
// runs on (RFC 4193; the bytes after the first spell the project's name).
var Loopback6 = netip.MustParseAddr("fd6c:6f72:6963:61::1")

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
