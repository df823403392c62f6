package packets

import (
	"bytes"
	"net/netip"
	"testing"
)

var target = Target{V4: netip.MustParseAddr("169.254.76.2"), V6: netip.MustParseAddr("fd00::2"), Ports: []uint16{80}}

// zero reports whether 16-bit words add up to all ones, as they do with their checksum.
func zero(parts ...[]byte) bool {
	sum := 0
	for _, b := range parts {
		for i, v := range b {
			sum += int(v) << (8 * (1 - i%2))
		}
	}
	return sum%0xffff == 0 && sum > 0
}

// What is to be let in is what a stack takes: it has its checksums.
func TestPacketsAreWhole(t *testing.T) {
	s := Rules(1, 100)
	again := Generate(7, 20_000, target, s)
	seen, spoilt := map[string]int{}, 0
	for i, p := range Generate(7, 20_000, target, s) {
		if !bytes.Equal(p.Bytes, again[i].Bytes) || p.Flow != again[i].Flow {
			t.Fatal("the same seed gives other packets")
		}
		if !p.Flow.Src.IsValid() {
			spoilt++
			continue
		}
		b, body, pseudo := p.Bytes, []byte(nil), []byte(nil)
		if p.Flow.Src.Is4() {
			b = b[:int(b[2])<<8|int(b[3])]
			if body = b[20:]; !zero(b[:20]) {
				t.Fatalf("the checksum of the header of %x", b)
			}
			pseudo = append(b[12:20:20], 0, b[9])
		} else {
			b = b[:40+int(b[4])<<8+int(b[5])]
			next := b[6]
			for body = b[40:]; next == 0 || next == 60; body = body[8:] {
				next = body[0]
			}
			pseudo = append(b[8:40:40], 0, next)
		}
		pseudo = append(pseudo, byte(len(body)>>8), byte(len(body)))
		if p.Form == "echo" && p.Flow.Src.Is4() {
			pseudo = nil
		}
		if !zero(pseudo, body) {
			t.Fatalf("the checksum of %s, %x", p.Form, b)
		}
		seen[p.Form]++
	}
	if seen["TCP"] < 5000 || seen["UDP"] < 2000 || seen["echo"] < 1000 || spoilt < 2000 || spoilt > 5000 {
		t.Errorf("%v and %d that are not to be let in", seen, spoilt)
	}
}
