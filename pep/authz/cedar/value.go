package cedar

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"lorica.dev/lorica/abi/authz"
)

// A kind is the Cedar type of a value. The zero kind is that of one that is absent.
type kind uint8

const (
	absent kind = iota
	boolean
	long
	decimal
	datetime
	duration
	text
	entity
	ip
	set
	record
)

// kinds of constants.
var kinds = [...]kind{
	authz.ValueBool: boolean, authz.ValueLong: long, authz.ValueDecimal: decimal, authz.ValueDatetime: datetime, authz.ValueDuration: duration,
	authz.ValueString: text, authz.ValueEntity: entity, authz.ValueIP: ip, authz.ValueSet: set, authz.ValueRecord: record,
}

// A Value is a Cedar value. It points to nothing, so that it is cheap to copy: texts of a
// request, and what sets and records hold, lie in the evaluation or the program. The zero
// Value is absent.
type Value struct {
	k     kind
	fixed bool   // set and record: in the program; ip: of four bytes
	c     uint32 // set and record: how many elements or members; ip: prefix length
	n     int64  // boolean and numbers; text: its index, or -1 minus that among those of the request; entity: the same; ip: its last half; set and record: the first element
	upper uint64 // ip: the first half of 16 bytes
}

// Bool, Long, Decimal (in ten-thousandths), Datetime (in milliseconds since 1970),
// Duration (in milliseconds) return values.
func Bool(b bool) Value {
	if b {
		return Value{k: boolean, n: 1}
	}
	return Value{k: boolean}
}
func Long(n int64) Value     { return Value{k: long, n: n} }
func Decimal(n int64) Value  { return Value{k: decimal, n: n} }
func Datetime(n int64) Value { return Value{k: datetime, n: n} }
func Duration(n int64) Value { return Value{k: duration, n: n} }

// IP returns the value of an address, of 4 or 16 bytes, and the length of a prefix.
func IP(addr []byte, bits int) Value {
	if len(addr) == 4 {
		return Value{k: ip, fixed: true, c: uint32(bits), n: int64(binary.BigEndian.Uint32(addr))}
	}
	return Value{k: ip, c: uint32(bits), upper: binary.BigEndian.Uint64(addr), n: int64(binary.BigEndian.Uint64(addr[8:]))}
}

func (v *Value) prefix() netip.Prefix {
	var b [16]byte
	binary.BigEndian.PutUint64(b[8:], uint64(v.n))
	if v.fixed {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte(b[12:])), int(v.c))
	}
	binary.BigEndian.PutUint64(b[:], v.upper)
	return netip.PrefixFrom(netip.AddrFrom16(b), int(v.c))
}

// AppendKey appends to b what no two different scalars, but for texts and entities, have in
// common.
func (v Value) AppendKey(b []byte) []byte {
	b = append(b, byte(v.k))
	b = binary.LittleEndian.AppendUint64(b, uint64(v.n))
	if v.k != ip {
		return b
	}
	if v.fixed {
		return append(b, 4, byte(v.c))
	}
	return binary.LittleEndian.AppendUint64(append(b, 6, byte(v.c)), v.upper)
}

// A passage is a text of the request. Its index in the program is looked up where somebody
// asks for it: most texts nobody compares with anything.
type passage struct {
	text  []byte
	asked bool
	index uint32 // where asked: a string of the program, or None
}

// Text returns the value of b, which must stay as it is until the next Start.
func (e *Evaluation) Text(b []byte) Value {
	e.texts = append(e.texts, passage{text: b})
	return Value{k: text, n: -int64(len(e.texts))}
}

// index returns the string of the program that a text is, or None.
func (e *Evaluation) index(v *Value) uint32 {
	if v.n >= 0 {
		return uint32(v.n)
	}
	p := &e.texts[-1-v.n]
	if !p.asked {
		p.index, p.asked = e.view.Intern(p.text), true
	}
	return p.index
}

// bytes returns those of a text.
func (e *Evaluation) bytes(v *Value) []byte {
	if v.n >= 0 {
		return e.view.String(uint32(v.n))
	}
	return e.texts[-1-v.n].text
}

// constant returns constant i of the program.
func (e *Evaluation) constant(i uint32) Value {
	x := e.view.Value(i)
	switch x.Kind {
	case authz.ValueString, authz.ValueEntity, authz.ValueBool:
		return Value{k: kinds[x.Kind], n: int64(x.A)}
	case authz.ValueIP:
		return IP(e.view.String(x.A), int(x.B))
	case authz.ValueSet, authz.ValueRecord:
		return Value{k: kinds[x.Kind], fixed: true, n: int64(x.A), c: x.B}
	}
	return Value{k: kinds[x.Kind], n: x.Number()}
}

// element returns element i of a set.
func (e *Evaluation) element(s *Value, i uint32) Value {
	if s.fixed {
		return e.constant(e.view.List(uint32(s.n) + i))
	}
	return e.arena[s.n+int64(i)]
}

// member returns member i of a record.
func (e *Evaluation) member(r *Value, i uint32) (name, v Value) {
	if r.fixed {
		at := uint32(r.n) + 2*i
		return Value{k: text, n: int64(e.view.List(at))}, e.constant(e.view.List(at + 1))
	}
	return e.arena[r.n+2*int64(i)], e.arena[r.n+2*int64(i)+1]
}

// lookup returns the member of a record with a name, a text; an absent one where there is
// none.
func (e *Evaluation) lookup(r, name *Value) Value {
	if r.fixed {
		key := e.index(name)
		for i := range r.c {
			if at := uint32(r.n) + 2*i; e.view.List(at) == key {
				return e.constant(e.view.List(at + 1))
			}
		}
		return Value{}
	}
	for list := e.arena[r.n:][:2*r.c]; len(list) > 0; list = list[2:] {
		if e.equal(&list[0], name) {
			return list[1]
		}
	}
	return Value{}
}

// equal is Cedar's ==: values of different types are different, never an error.
func (e *Evaluation) equal(a, b *Value) bool {
	if a.k != b.k {
		return false
	}
	switch a.k {
	case text:
		x, y := e.index(a), e.index(b)
		return x == y && (x != authz.None || bytes.Equal(e.bytes(a), e.bytes(b)))
	case entity:
		return a.n == b.n || a.n < 0 && b.n < 0 && e.strangers[-1-a.n].same(&e.strangers[-1-b.n])
	case ip:
		return *a == *b
	case set: // no element is twice in one
		return a.c == b.c && e.within(a, b)
	case record:
		if a.c != b.c {
			return false
		}
		for i := range a.c {
			name, x := e.member(a, i)
			if y := e.lookup(b, &name); !e.equal(&x, &y) {
				return false
			}
		}
		return true
	}
	return a.n == b.n
}

func (e *Evaluation) contains(s, x *Value) bool {
	if s.fixed && x.k < ip {
		return e.finds(s, x)
	}
	for i := range s.c {
		if y := e.element(s, i); e.equal(x, &y) {
			return true
		}
	}
	return false
}

// finds looks for a scalar among the elements of a constant, which are in order.
func (e *Evaluation) finds(s, x *Value) bool {
	n := x.n
	if x.k == text {
		n = int64(e.index(x))
	}
	list := e.view.Listed(authz.Span{First: uint32(s.n), Count: s.c})
	for list.Len() > 8 {
		mid := list.Len() / 2
		if y := e.view.Value(list.At(mid)); kinds[y.Kind] < x.k || kinds[y.Kind] == x.k && uint64(y.Number()) <= uint64(n) {
			list = list[4*mid:]
		} else {
			list = list[:4*mid]
		}
	}
	for i := range list.Len() {
		if y := e.view.Value(list.At(i)); kinds[y.Kind] == x.k && y.Number() == n {
			return true
		}
	}
	return false
}

// within reports whether every element of a is in b.
func (e *Evaluation) within(a, b *Value) bool {
	for i := range a.c {
		if x := e.element(a, i); !e.contains(b, &x) {
			return false
		}
	}
	return true
}

// collect makes a set of the values from arena element first on: each once.
func (e *Evaluation) collect(first int) Value {
	v := Value{k: set, n: int64(first)}
	for i := first; i < len(e.arena); i++ {
		if x := e.arena[i]; !e.contains(&v, &x) {
			e.arena[first+int(v.c)] = x
			v.c++
		}
	}
	e.arena = e.arena[:first+int(v.c)]
	return v
}

// A stranger is an entity that the program does not name: it is in nothing, and has
// nothing.
type stranger struct {
	of       uint32 // its type: a string, or None
	kind, id string
}

func (s *stranger) same(t *stranger) bool { return s.id == t.id && s.kind == t.kind }

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
