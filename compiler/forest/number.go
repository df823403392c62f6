package forest

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"net/netip"

	"lorica.dev/lorica/abi/flow"
)

// A number is a value of a field, whichever it is.
type number struct{ hi, lo uint64 }

func numberOf(a netip.Addr) number {
	if a.Is4() {
		b := a.As4()
		return number{0, uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return number{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (n number) addr(v6 bool) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], n.hi)
	binary.BigEndian.PutUint64(b[8:], n.lo)
	if !v6 {
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return netip.AddrFrom16(b)
}

func (n number) compare(m number) int {
	return cmp.Or(cmp.Compare(n.hi, m.hi), cmp.Compare(n.lo, m.lo))
}

func (n number) next() number {
	lo, carry := bits.Add64(n.lo, 1, 0)
	return number{n.hi + carry, lo}
}

func (n number) before() number {
	lo, borrow := bits.Sub64(n.lo, 1, 0)
	return number{n.hi - borrow, lo}
}

// length is how many bits the number takes.
func (n number) length() int {
	if n.hi > 0 {
		return 64 + bits.Len64(n.hi)
	}
	return bits.Len64(n.lo)
}

func (n number) right(by int) number {
	if by >= 64 {
		return number{0, n.hi >> (by - 64)}
	}
	return number{n.hi >> by, n.lo>>by | n.hi<<(64-by)}
}

func (n number) left(by int) number {
	if by >= 64 {
		return number{n.lo << (by - 64), 0}
	}
	return number{n.hi<<by | n.lo>>(64-by), n.lo << by}
}

func (n number) or(m number) number { return number{n.hi | m.hi, n.lo | m.lo} }

// ones is the greatest number of so many bits.
func ones(length int) number {
	return number{^uint64(0), ^uint64(0)}.right(128 - length)
}

// width is how many bits a field has.
func width(f flow.Field, v6 bool) int {
	switch {
	case f == flow.FieldProtocol:
		return 8
	case f > flow.FieldDst:
		return 16
	case v6:
		return 128
	}
	return 32
}

// values returns the first and the last value of a field that a rule is about, of those
// up to a last.
func values(r *flow.Rule, f flow.Field, last number) (lo, hi number) {
	p := r.Src
	switch f {
	case flow.FieldFrom:
		return number{lo: uint64(r.FromLo)}, number{lo: uint64(r.FromHi)}
	case flow.FieldPort:
		return number{lo: uint64(r.PortLo)}, number{lo: uint64(r.PortHi)}
	case flow.FieldProtocol:
		if r.Protocol == flow.AnyProtocol {
			return number{}, last
		}
		return number{lo: uint64(r.Protocol)}, number{lo: uint64(r.Protocol)}
	case flow.FieldDst:
		if p = r.Dst; r.Anywhere() {
			return number{}, last
		}
	}
	lo = numberOf(p.Addr())
	return lo, lo.or(last.right(p.Bits()))
}
