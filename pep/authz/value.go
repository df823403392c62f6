package authz

import (
	"bytes"
	"net/netip"
)

// A kind is the Cedar type of a value. The zero kind is the value of an
// attribute that is absent.
type kind uint8

const (
	absent kind = iota
	boolean
	long
	text
	entity
	ip
	decimal
	set
)

// A value is a Cedar value. It owns nothing: bytes alias the sealed program or
// the facts of the request, and the elements of a set lie in the evaluation's
// arena.
type value struct {
	k kind
	n int64  // boolean, long, decimal; entity: its index; ip: prefix length; set: first element
	c int    // set: number of elements
	s []byte // text; ip: 4 or 16 bytes
}

// What stands in the place of an entity's index.
const (
	otherPrincipal int64 = -1 // a principal that no policy names
	noParent       int64 = -2 // equal to no entity
)

func truth(b bool) value {
	if b {
		return value{k: boolean, n: 1}
	}
	return value{k: boolean}
}

func (v value) prefix() netip.Prefix {
	a, _ := netip.AddrFromSlice(v.s)
	return netip.PrefixFrom(a, int(v.n))
}

// equal is Cedar's ==: values of different types are different, never an error.
func (e *evaluation) equal(a, b value) bool {
	if a.k != b.k {
		return false
	}
	switch a.k {
	case text:
		return bytes.Equal(a.s, b.s)
	case ip:
		return a.n == b.n && bytes.Equal(a.s, b.s)
	case set:
		return e.within(a, b) && e.within(b, a)
	}
	return a.n == b.n
}

func (e *evaluation) elements(s value) []value { return e.arena[s.n : s.n+int64(s.c)] }

func (e *evaluation) contains(s, x value) bool {
	for _, y := range e.elements(s) {
		if e.equal(x, y) {
			return true
		}
	}
	return false
}

// within reports whether every element of a is in b.
func (e *evaluation) within(a, b value) bool {
	for _, x := range e.elements(a) {
		if !e.contains(b, x) {
			return false
		}
	}
	return true
}

// Predicates on addresses follow Cedar: an IPv4-mapped address is an IPv6
// address, and a range is a loopback or multicast one only as a whole.

func isLoopback(p netip.Prefix) bool {
	return !p.Addr().Is4In6() && p.Masked().Addr().IsLoopback()
}

func isMulticast(p netip.Prefix) bool {
	least := 8
	if p.Addr().Is4() {
		least = 4
	}
	return !p.Addr().Is4In6() && p.Addr().IsMulticast() && p.Bits() >= least
}

func inRange(p, of netip.Prefix) bool { return of.Contains(p.Addr()) && of.Bits() <= p.Bits() }

// like matches s against a pattern in which "*" stands for any bytes and "\"
// makes the next byte stand for itself. It keeps one point to return to, the
// last star, which suffices because an earlier star can match no less.
func like(s, pattern []byte) bool {
	i, j := 0, 0
	star, from := -1, 0
	for i < len(s) {
		if j < len(pattern) && pattern[j] == '*' {
			j++
			star, from = j, i
			continue
		}
		if c, n := literal(pattern[j:]); n > 0 && c == s[i] {
			i, j = i+1, j+n
			continue
		}
		if star < 0 {
			return false
		}
		from++
		i, j = from, star
	}
	for j < len(pattern) && pattern[j] == '*' {
		j++
	}
	return j == len(pattern)
}

// literal returns the byte that p starts with, and its length in p.
func literal(p []byte) (byte, int) {
	switch {
	case len(p) == 0:
		return 0, 0
	case p[0] == '\\' && len(p) > 1:
		return p[1], 2
	}
	return p[0], 1
}
