package egress

import (
	"errors"
	"fmt"

	"lorica.dev/lorica/abi/wire"
)

// MaxMessage bounds a message, in bytes. Each is one packet of the dial socket.
const MaxMessage = 512

// maxReason bounds the words of a Refused.
const maxReason = 256

// Kinds of messages: those of images, those of tenders.
const (
	kindDial    = 1
	kindClose   = 2
	kindOpened  = 65
	kindRefused = 66
)

// A Dial asks for a connection. The image chooses the ID, which names no other
// connection that is open or asked for.
type Dial struct {
	ID   uint64
	Host string
	Port uint16
}

// A Close says that the image is done with a connection. The tender has a
// duplicate, which would otherwise keep it open.
type Close struct{ ID uint64 }

// An Opened answers a Dial; its packet carries the descriptor.
type Opened struct{ ID uint64 }

// A Refused answers a Dial that came to nothing.
type Refused struct {
	ID     uint64
	Code   Code
	Reason string // in words, for the log
}

// Error makes a Refused what dialing returns.
func (m Refused) Error() string { return "egress: " + m.Reason }

// A Code says why there is no connection. The zero Code is Denied.
type Code uint8

const (
	Denied      Code = iota // by a rule
	Unresolved              // the name has no address
	Unreachable             // nobody accepts there
	Late                    // not connected in time
	Busy                    // too many connections
)

func (m Dial) Encode() []byte {
	var w wire.Writer
	w.U8(kindDial)
	w.U64(m.ID)
	w.String(m.Host)
	w.U16(m.Port)
	return w.Bytes()
}

func (m Close) Encode() []byte  { return id(kindClose, m.ID) }
func (m Opened) Encode() []byte { return id(kindOpened, m.ID) }

// Encode cuts a reason that is too long.
func (m Refused) Encode() []byte {
	var w wire.Writer
	w.U8(kindRefused)
	w.U64(m.ID)
	w.U8(uint8(m.Code))
	w.String(m.Reason[:min(len(m.Reason), maxReason)])
	return w.Bytes()
}

func id(kind uint8, id uint64) []byte {
	var w wire.Writer
	w.U8(kind)
	w.U64(id)
	return w.Bytes()
}

// FromImage reads a message of an image: a Dial or a Close.
func FromImage(b []byte) (any, error) {
	return decode(b, func(kind uint8, r *wire.Reader) any {
		switch kind {
		case kindDial:
			m := Dial{r.U64(), r.String(), r.U16()}
			if len(m.Host) > 253 {
				r.Fail(errors.New("a host of more than 253 bytes"))
			}
			return m
		case kindClose:
			return Close{r.U64()}
		}
		return nil
	})
}

// FromTender reads a message of a tender: an Opened or a Refused.
func FromTender(b []byte) (any, error) {
	return decode(b, func(kind uint8, r *wire.Reader) any {
		switch kind {
		case kindOpened:
			return Opened{r.U64()}
		case kindRefused:
			m := Refused{r.U64(), Code(r.U8()), r.String()}
			if m.Code > Busy || len(m.Reason) > maxReason {
				r.Fail(errors.New("a refusal of an unknown kind"))
			}
			return m
		}
		return nil
	})
}

func decode(b []byte, read func(kind uint8, r *wire.Reader) any) (any, error) {
	if len(b) > MaxMessage {
		return nil, fmt.Errorf("egress: a message of %d bytes; the limit is %d", len(b), MaxMessage)
	}
	r := wire.NewReader(b)
	kind := r.U8()
	m := read(kind, r)
	if m == nil {
		r.Fail(fmt.Errorf("a message of kind %d", kind))
	}
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("egress: %w", err)
	}
	return m, nil
}
