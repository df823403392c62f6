package firewall_test

import (
	"bytes"
	"net/netip"
	"testing"

	"lorica.dev/lorica/pep"
)

// FuzzPacket has a firewall judge bytes, either way, that belong to nothing it knows.
// What it lets in is looked at anew, at fixed places.
func FuzzPacket(f *testing.F) {
	c4, c6, denied := client("10.0.0.1", 4000, 80), client("2001:db8::1", 4000, 80), client("192.0.2.1", 4000, 80)
	s6 := c6.in(syn, 1, 0, 0)
	for _, b := range [][]byte{c4.in(syn, 1, 0, 0), s6, denied.in(syn, 1, 0, 9), denied.in(ack, 1, 0, 0), extended(extended(s6, 60, 1, 4, 0, 0, 0, 0), 0, 0, 0, 0, 0, 0, 0),
		ip(c4.addr, own4, 17, udpBody(1, 2, 3)), ip(c6.addr, own6, 58, icmp(128, 0, 5, nil)), ip(c4.addr, own4, 1, icmp(3, 4, 0, c4.out(ack, 1, 1, 0))),
		ndp("fd6c:6f72:6963:62::1", "ff02::1:ff00:2", 135, 24, 1, 1, 2, 0, 0, 0, 0, 1), client("169.254.76.1", 1023, 5000).out(syn, 1, 0, 0)} {
		f.Add(b)
	}
	allowed := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	section := letting("10.0.0.0/8", "2001:db8::/32")
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		fresh := func() pep.PacketFilter { return newRig(t, place(), section).filter }
		out := fresh().Out(b)
		r := fresh()
		verdict := r.In(b)
		if !bytes.Equal(b, before) {
			t.Error("the packet was changed")
		}
		if n := testing.AllocsPerRun(1, func() { r.In(b); r.Out(b) }); n > 0 {
			t.Errorf("%v allocations", n)
		}
		if r.In(b) != verdict {
			t.Error("the same again is judged otherwise")
		}
		n := r.(pep.PacketReporter).Counters()
		if (n.In > 0) != (verdict == pep.Pass) || n.In+n.Denied+n.Malformed < 3 || n.Flows > 1 {
			t.Errorf("counted are %+v", n)
		}
		if out == pep.Refuse {
			t.Error("it would be refused on its way out")
		}
		if verdict == pep.Drop && out == pep.Drop {
			return
		}
		// It is whole, and what lies behind it does not matter.
		var length int
		var src, dst netip.Addr
		if b[0]>>4 == 4 {
			length, src, dst = int(be.Uint16(b[2:])), netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
		} else {
			length, src, dst = 40+int(be.Uint16(b[4:])), netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
		}
		if out == pep.Pass {
			if src != own4 && src != own6 && !src.IsUnspecified() {
				t.Errorf("it leaves from %v", src)
			}
			return
		}
		if len(b) < length {
			t.Fatalf("%d bytes, and it says %d", len(b), length)
		}
		for _, x := range [][]byte{b[:length], append(b[:length:length], 0), append(b[:length:length], before...)} {
			if fresh().In(x) != verdict {
				t.Errorf("what lies behind it decides: %x", x)
			}
		}
		may := allowed[0].Contains(src) || allowed[1].Contains(src)
		us := dst == own4 || dst == own6
		switch {
		case verdict == pep.Refuse && (may || !us):
			t.Errorf("a packet from %v to %v is refused", src, dst)
		case verdict == pep.Pass && !(may && us) && !(b[0]>>4 == 6 && b[7] == 255):
			t.Errorf("a packet from %v to %v is let in", src, dst)
		}
	})
}
