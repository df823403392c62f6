// Package control is the channel between a tender and its image: frames over a
// byte stream (a socketpair; later a virtio serial port).
//
// The tender sends Launch first. The image answers Hello, seals itself and sends
// Ready. From then on the tender sends Prepare, Commit, Abort, Drain, Query and
// Ack; the image sends Prepared, Committed, Released, Records, Stats, Log, Fired
// and Drained. Either side treats a frame that it does not expect, or a malformed
// one, as the end of the relation: the tender kills the image, the image exits.
package control

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A Kind names a message. Kinds from the tender are below 64.
type Kind uint8

const (
	KindLaunch Kind = 1 + iota
	KindPrepare
	KindCommit
	KindAbort
	KindDrain
	KindQuery
	KindAck
	KindClock
)

const (
	KindHello Kind = 64 + iota
	KindReady
	KindPrepared
	KindCommitted
	KindReleased
	KindRecords
	KindStats
	KindLog
	KindDrained
	KindFired
)

// Bounds of a frame's payload, in bytes, by who sends it.
const (
	MaxFromTender = 4 << 20 // secrets travel here
	MaxFromImage  = 64 << 10
)

const headerSize = 8

// A FrameError says what is wrong with a frame.
type FrameError struct{ Reason string }

func (e *FrameError) Error() string { return "control: " + e.Reason }

// A Frame is one message: its kind and its encoded content.
type Frame struct {
	Kind    Kind
	Payload []byte
}

// WriteFrame writes one frame with a single Write, so that frames of concurrent
// writers that hold a lock around it never interleave.
func WriteFrame(w io.Writer, f Frame) error {
	b := make([]byte, headerSize, headerSize+len(f.Payload))
	binary.LittleEndian.PutUint32(b, uint32(len(f.Payload)))
	b[4] = uint8(f.Kind)
	_, err := w.Write(append(b, f.Payload...))
	return err
}

// ReadFrame reads one frame of at most limit bytes of payload. It returns io.EOF
// only between frames; memory is taken as the payload arrives, so that a length
// alone costs a peer nothing.
func ReadFrame(r io.Reader, limit int) (Frame, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		if err == io.ErrUnexpectedEOF {
			return Frame{}, &FrameError{"a frame ended in its header"}
		}
		return Frame{}, err
	}
	n := binary.LittleEndian.Uint32(h[:])
	if int64(n) > int64(limit) {
		return Frame{}, &FrameError{fmt.Sprintf("frame of %d bytes; the limit is %d", n, limit)}
	}
	if h[5]|h[6]|h[7] != 0 {
		return Frame{}, &FrameError{"reserved bytes are not zero"}
	}
	payload := make([]byte, 0, min(int(n), 4096))
	for len(payload) < int(n) {
		step := min(int(n)-len(payload), 64<<10)
		payload = append(payload, make([]byte, step)...)
		if _, err := io.ReadFull(r, payload[len(payload)-step:]); err != nil {
			return Frame{}, &FrameError{"a frame ended in its payload"}
		}
	}
	return Frame{Kind: Kind(h[4]), Payload: payload}, nil
}
