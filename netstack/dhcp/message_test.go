package dhcp

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
)

var mac = [6]byte{2, 1, 2, 3, 4, 5}

// answerOf returns a message of a server; fields that are nil are left out.
func answerOf(k kind, id uint32, yours string, options map[byte][]byte) []byte {
	b := make([]byte, atOptions)
	b[0], b[1], b[2] = toClient, ethernet, 6
	binary.BigEndian.PutUint32(b[atID:], id)
	if yours != "" {
		copy(b[atYours:], netip.MustParseAddr(yours).AsSlice())
	}
	copy(b[atHardware:], mac[:])
	copy(b[atMagic:], magic)
	b = append(b, optionKind, 1, byte(k))
	all := map[byte][]byte{optionServer: {10, 0, 0, 1}, optionMask: {255, 255, 255, 0}, optionRouter: {10, 0, 0, 1}, optionLease: {0, 0, 14, 16}}
	for code, v := range options {
		all[code] = v
	}
	codes := []byte{}
	for code := range all {
		codes = append(codes, code)
	}
	slices.Sort(codes)
	for _, code := range codes {
		if v := all[code]; v != nil {
			b = append(append(b, code, byte(len(v))), v...)
		}
	}
	return append(b, optionEnd)
}

func TestAnswers(t *testing.T) {
	a, err := decode(answerOf(ack, 7, "10.0.0.9", map[byte][]byte{optionRenew: {0, 0, 1, 0}, optionRebind: {0, 0, 2, 0}, 12: []byte("name"), optionPad: nil}), mac)
	want := answer{kind: ack, id: 7, yours: netip.MustParseAddr("10.0.0.9"), server: netip.MustParseAddr("10.0.0.1"), bits: 24,
		router: netip.MustParseAddr("10.0.0.1"), lease: 3600, renew: 256, rebind: 512}
	if err != nil || *a != want {
		t.Errorf("got %+v, %v", a, err)
	}
	for name, options := range map[string]map[byte][]byte{
		"elsewhere": {optionRouter: {10, 0, 1, 1}}, "us": {optionRouter: {10, 0, 0, 9}}, "nobody": {optionRouter: nil}, "nothing": {optionRouter: {0, 0, 0, 0}},
	} {
		if a, err := decode(answerOf(offer, 7, "10.0.0.9", options), mac); err != nil || a.router.IsValid() {
			t.Errorf("a router that is %s: %+v, %v", name, a, err)
		}
	}
	if a, err := decode(answerOf(nak, 7, "", map[byte][]byte{optionMask: nil, optionLease: nil}), mac); err != nil || a.kind != nak {
		t.Errorf("a refusal: %+v, %v", a, err)
	}
	// What has no room among the options is where a file and a name would be.
	b := answerOf(ack, 7, "10.0.0.9", map[byte][]byte{optionMask: nil, optionLease: nil, optionOverload: {3}})
	copy(b[atFile:], []byte{optionMask, 4, 255, 255, 0, 0, optionEnd})
	copy(b[atName:], []byte{optionLease, 4, 0, 0, 2, 0, optionEnd})
	if a, err := decode(b, mac); err != nil || a.bits != 16 || a.lease != 512 {
		t.Errorf("overloaded: %+v, %v", a, err)
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	with := func(b []byte, at int, v byte) []byte {
		b[at] = v
		return b
	}
	good := func() []byte { return answerOf(ack, 7, "10.0.0.9", nil) }
	option := func(code byte, v ...byte) []byte { return answerOf(ack, 7, "10.0.0.9", map[byte][]byte{code: v}) }
	for name, b := range map[string][]byte{
		"nothing":                  {},
		"without options":          good()[:atOptions],
		"half a header":            good()[:100],
		"cut short":                good()[:len(good())-3],
		"of a client":              with(good(), 0, toServer),
		"for another card":         with(good(), atHardware+5, 9),
		"of another kind of card":  with(good(), 1, 6),
		"without the magic":        with(good(), atMagic, 1),
		"too long":                 append(good(), make([]byte, mostMessage)...),
		"of no kind":               answerOf(4, 7, "10.0.0.9", nil),
		"of no server":             option(optionServer, 0, 0, 0, 0),
		"of every server":          option(optionServer, 255, 255, 255, 255),
		"of a server that is us":   answerOf(ack, 7, "10.0.0.1", nil),
		"of a short server":        option(optionServer, 10, 0, 0),
		"of a short mask":          option(optionMask, 255),
		"of a mask with holes":     option(optionMask, 255, 0, 255, 0),
		"of a mask of everybody":   option(optionMask, 0, 0, 0, 0),
		"of a mask of one":         option(optionMask, 255, 255, 255, 255),
		"of a moment":              option(optionLease, 0, 0, 0, 1),
		"of no time":               answerOf(ack, 7, "10.0.0.9", map[byte][]byte{optionLease: nil}),
		"of no address":            answerOf(ack, 7, "0.0.0.0", nil),
		"of a loopback address":    answerOf(ack, 7, "127.0.0.1", nil),
		"of a group":               answerOf(ack, 7, "224.0.0.5", nil),
		"of an address of nobody":  answerOf(ack, 7, "10.0.0.0", nil),
		"of an address of all":     answerOf(ack, 7, "10.0.0.255", nil),
		"of a kind with two bytes": append(good()[:len(good())-1], optionKind, 2, 1, 1),
	} {
		if a, err := decode(b, mac); err == nil {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// A server reads what this client writes: its own reader is the mirror of that.
func TestQuestions(t *testing.T) {
	q := question{kind: request, id: 1 << 30, mac: mac, requested: netip.MustParseAddr("10.0.0.9"), server: netip.MustParseAddr("10.0.0.1")}
	b := q.encode()
	if len(b) < leastMessage || b[0] != toServer || b[atFlags] != 0x80 || b[atCurrent] != 0 {
		t.Errorf("asks with %x", b)
	}
	b[0] = toClient
	var a answer
	if _, err := a.options(b[atOptions:]); err != nil || a.kind != request || a.server != q.server {
		t.Errorf("asks for %+v, %v", a, err)
	}
	q = question{kind: request, mac: mac, current: netip.MustParseAddr("10.0.0.9")}
	if b = q.encode(); b[atFlags] != 0 || netip.AddrFrom4([4]byte(b[atCurrent:])) != q.current {
		t.Errorf("asks for more time with %x", b)
	}
}

// Whatever servers say, what comes of it is an address of one host on a network of
// several, for a minute at the least.
func FuzzDecode(f *testing.F) {
	f.Add(answerOf(ack, 7, "10.0.0.9", nil))
	f.Add(answerOf(offer, 7, "192.168.255.254", map[byte][]byte{optionMask: {255, 255, 255, 252}, optionRouter: {192, 168, 255, 253, 1, 2, 3, 4}}))
	f.Add(answerOf(nak, 7, "", nil))
	f.Add(answerOf(ack, 7, "10.0.0.9", map[byte][]byte{optionOverload: {3}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decode(b, mac)
		if err != nil {
			return
		}
		if !host(a.server) {
			t.Errorf("accepted a server at %v", a.server)
		}
		if a.kind == nak {
			return
		}
		p := a.prefix()
		if !host(a.yours) || p.Masked().Addr() == a.yours || a.lease < leastLease || p.Bits() < leastBits || p.Bits() > mostBits ||
			a.router.IsValid() && (!p.Contains(a.router) || a.router == a.yours) {
			t.Errorf("accepted %+v", a)
		}
		l := lease{answer: *a}
		if t1, t2 := l.times(); t1 > t2 || t2 >= a.lease || t1 == 0 {
			t.Errorf("asks again after %d and %d of %d seconds", t1, t2, a.lease)
		}
	})
}
