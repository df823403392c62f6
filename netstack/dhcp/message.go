package dhcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
)

// A kind is what a message says.
type kind uint8

const (
	discover kind = 1 // of clients: who has an address for me?
	offer    kind = 2
	request  kind = 3 // I take that one, or: I keep mine
	ack      kind = 5
	nak      kind = 6
)

// Options that are asked for and heeded (RFC 2132).
const (
	optionPad       = 0
	optionMask      = 1
	optionRouter    = 3
	optionRequested = 50
	optionLease     = 51
	optionOverload  = 52
	optionKind      = 53
	optionServer    = 54
	optionWanted    = 55
	optionMost      = 57
	optionRenew     = 58
	optionRebind    = 59
	optionClient    = 61
	optionEnd       = 255
)

// Where fields are, and how long (RFC 2131).
const (
	atID, atFlags           = 4, 10
	atCurrent, atYours      = 12, 16
	atHardware              = 28
	atName, atFile, atMagic = 44, 108, 236
	atOptions               = 240

	toServer, toClient = 1, 2
	ethernet           = 1
	broadcastFlag      = 0x8000
	leastMessage       = 300 // what some relays want (RFC 1542)
	mostMessage        = 1500
)

var magic = []byte{99, 130, 83, 99}

// An answer is a message of a server.
type answer struct {
	kind                 kind
	id                   uint32
	yours                netip.Addr
	server               netip.Addr
	bits                 int // of the mask
	router               netip.Addr
	lease, renew, rebind uint32 // seconds; 0 where it does not say
}

// A question is a message of this client.
type question struct {
	kind                       kind
	id                         uint32
	mac                        [6]byte
	current, requested, server netip.Addr
}

// encode returns the message. Who has no address yet asks for an answer to everybody.
func (q *question) encode() []byte {
	b := make([]byte, atOptions, leastMessage)
	b[0], b[1], b[2] = toServer, ethernet, 6
	binary.BigEndian.PutUint32(b[atID:], q.id)
	if q.current.IsValid() {
		copy(b[atCurrent:], q.current.AsSlice())
	} else {
		binary.BigEndian.PutUint16(b[atFlags:], broadcastFlag)
	}
	copy(b[atHardware:], q.mac[:])
	copy(b[atMagic:], magic)
	option := func(code byte, value ...byte) { b = append(append(b, code, byte(len(value))), value...) }
	option(optionKind, byte(q.kind))
	option(optionClient, append([]byte{ethernet}, q.mac[:]...)...)
	if q.requested.IsValid() {
		option(optionRequested, q.requested.AsSlice()...)
	}
	if q.server.IsValid() {
		option(optionServer, q.server.AsSlice()...)
	}
	option(optionWanted, optionMask, optionRouter, optionLease, optionRenew, optionRebind)
	option(optionMost, mostMessage>>8, mostMessage&0xff)
	b = append(b, optionEnd)
	return append(b, make([]byte, max(0, leastMessage-len(b)))...)
}

// decode reads a message to the client with a hardware address. What an image can make
// no use of is an error.
func decode(b []byte, mac [6]byte) (*answer, error) {
	switch {
	case len(b) < atOptions || len(b) > mostMessage:
		return nil, fmt.Errorf("%d bytes", len(b))
	case b[0] != toClient || b[1] != ethernet || b[2] != 6 || !bytes.Equal(b[atHardware:atHardware+6], mac[:]):
		return nil, errors.New("it is for somebody else")
	case !bytes.Equal(b[atMagic:atOptions], magic):
		return nil, errors.New("no options")
	}
	a := &answer{id: binary.BigEndian.Uint32(b[atID:]), yours: netip.AddrFrom4([4]byte(b[atYours:]))}
	overload, err := a.options(b[atOptions:])
	if err == nil && overload&1 != 0 {
		_, err = a.options(b[atFile:atMagic])
	}
	if err == nil && overload&2 != 0 {
		_, err = a.options(b[atName:atFile])
	}
	if err != nil {
		return nil, err
	}
	return a, a.check()
}

// options reads options, of which the first of each kind counts.
func (a *answer) options(b []byte) (overload byte, err error) {
	for len(b) > 0 && b[0] != optionEnd {
		if b[0] == optionPad {
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return 0, fmt.Errorf("option %d is cut short", b[0])
		}
		code, v := b[0], b[2:2+b[1]]
		b = b[2+len(v):]
		switch code {
		case optionKind, optionOverload:
			if len(v) != 1 {
				return 0, fmt.Errorf("option %d has %d bytes", code, len(v))
			}
		case optionMask, optionServer, optionLease, optionRenew, optionRebind:
			if len(v) != 4 {
				return 0, fmt.Errorf("option %d has %d bytes", code, len(v))
			}
		case optionRouter: // one after the other, the best first
			if len(v) < 4 {
				return 0, fmt.Errorf("option %d has %d bytes", code, len(v))
			}
		default:
			continue
		}
		switch code {
		case optionKind:
			first(&a.kind, kind(v[0]))
		case optionOverload:
			overload = v[0]
		case optionMask:
			mask := binary.BigEndian.Uint32(v)
			if first(&a.bits, bits.LeadingZeros32(^mask)); mask != ^uint32(0)<<(32-a.bits) {
				return 0, fmt.Errorf("%v is no mask", v)
			}
		case optionServer:
			first(&a.server, netip.AddrFrom4([4]byte(v)))
		case optionRouter:
			first(&a.router, netip.AddrFrom4([4]byte(v)))
		case optionLease:
			first(&a.lease, binary.BigEndian.Uint32(v))
		case optionRenew:
			first(&a.renew, binary.BigEndian.Uint32(v))
		case optionRebind:
			first(&a.rebind, binary.BigEndian.Uint32(v))
		}
	}
	return overload, nil
}

// first sets what was not set.
func first[T comparable](to *T, v T) {
	var zero T
	if *to == zero {
		*to = v
	}
}

// Prefixes of a host among others.
const leastBits, mostBits = 8, 30

func (a *answer) check() error {
	switch {
	case a.kind != offer && a.kind != ack && a.kind != nak:
		return fmt.Errorf("a message of kind %d", a.kind)
	case !host(a.server):
		return fmt.Errorf("a server at %v", a.server)
	case a.kind == nak:
		return nil
	case a.bits < leastBits || a.bits > mostBits:
		return fmt.Errorf("a mask of %d bits", a.bits)
	case a.lease < leastLease:
		return fmt.Errorf("a lease of %d seconds", a.lease)
	}
	p := a.prefix()
	if !host(a.yours) || a.yours == p.Masked().Addr() || a.yours == last(p) || a.yours == a.server {
		return fmt.Errorf("%v is no address of a host", p)
	}
	if !p.Contains(a.router) || !host(a.router) || a.router == a.yours {
		a.router = netip.Addr{} // there are networks without
	}
	return nil
}

func (a *answer) prefix() netip.Prefix { return netip.PrefixFrom(a.yours, a.bits) }

// host reports whether a can be the address of one host.
func host(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && a.As4()[0] != 0 && a.As4()[0] < 224
}

// last returns the address of all hosts of p.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	n := binary.BigEndian.Uint32(b[:]) | ^uint32(0)>>p.Bits()
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}
