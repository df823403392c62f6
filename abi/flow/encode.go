package flow

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/wire"
)

// Sizes of the fixed records.
const (
	nameSize  = 12
	ruleSize  = 48
	splitSize = 16
	entrySize = 4
	nodeSize  = 8
	treeSize  = 16
)

// Flags of a rule.
const (
	flagAllow = 1 << iota
	flagAudit
	flagV6
	flagsEnd
)

// A number is an address as one: of IPv4 its low 32 bits.
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

// below returns 1 where n is less than m, and 0.
func (n number) below(m number) uint64 {
	_, borrow := bits.Sub64(n.lo, m.lo, 0)
	_, borrow = bits.Sub64(n.hi, m.hi, borrow)
	return borrow
}

// An encoder gathers what the parts of a section refer to.
type encoder struct {
	names                                     map[abi.Rule]uint32
	splitAt                                   map[number]uint32
	name, text, rules, splits, entries, nodes wire.Writer
}

// Encode returns the section's bytes.
func (s *Section) Encode() []byte {
	e := encoder{names: map[abi.Rule]uint32{}, splitAt: map[number]uint32{}}
	var lists wire.Writer
	lists.U32(uint32(len(s.Lists)))
	first := 0
	for i := range s.Lists {
		l := &s.Lists[i]
		lists.String(l.Level)
		lists.U8(uint8(l.Default))
		lists.U32(e.naming(l.Rule))
		lists.U32(uint32(len(l.Rules)))
		lists.U32(uint32(len(l.Trees)))
		for j := range l.Rules {
			e.rule(&l.Rules[j])
		}
		for j := range l.Trees {
			e.tree(&lists, &l.Trees[j], uint32(first))
		}
		first += len(l.Rules)
	}
	var w wire.Writer
	for _, part := range []struct {
		b    []byte
		size int
	}{{e.name.Bytes(), nameSize}, {e.text.Bytes(), 1}, {e.rules.Bytes(), ruleSize}, {e.splits.Bytes(), splitSize},
		{e.entries.Bytes(), entrySize}, {e.nodes.Bytes(), nodeSize}} {
		w.U32(uint32(len(part.b) / part.size))
		w.Fixed(part.b)
	}
	w.Fixed(lists.Bytes())
	return w.Bytes()
}

// naming returns the name of a rule.
func (e *encoder) naming(r abi.Rule) uint32 {
	n, ok := e.names[r]
	if !ok {
		n = uint32(len(e.names))
		e.names[r] = n
		e.name.U32(uint32(e.text.Len()))
		e.name.U32(uint32(len(r.ID)))
		e.name.U32(uint32(len(r.Line)))
		e.text.Fixed([]byte(r.ID))
		e.text.Fixed([]byte(r.Line))
	}
	return n
}

func (e *encoder) number(w *wire.Writer, n number) {
	w.U64(n.hi)
	w.U64(n.lo)
}

func (e *encoder) rule(r *Rule) {
	w := &e.rules
	var to number
	bits := max(r.Dst.Bits(), 0)
	if bits > 0 {
		to = numberOf(r.Dst.Addr())
		if r.Dst.Addr().Is4() != r.Src.Addr().Is4() {
			bits = 255 // which Open refuses
		}
	}
	e.number(w, numberOf(r.Src.Addr()))
	e.number(w, to)
	for _, port := range []uint16{r.FromLo, r.FromHi, r.PortLo, r.PortHi} {
		w.U16(port)
	}
	w.U8(uint8(r.Src.Bits()))
	w.U8(uint8(bits))
	w.U8(uint8(r.Protocol))
	flags := flag(r.Verdict == abi.Allow, flagAllow) | flag(r.Audit, flagAudit) | flag(!r.Src.Addr().Is4(), flagV6) |
		flag(r.Verdict > abi.Allow, flagsEnd) // which Open refuses
	w.U8(flags)
	w.U32(e.naming(r.Rule))
}

func flag(set bool, f uint8) uint8 {
	if set {
		return f
	}
	return 0
}

// tree adds a tree of the list whose first rule is the one with that number.
func (e *encoder) tree(w *wire.Writer, t *Tree, first uint32) {
	root := uint32(e.nodes.Len() / nodeSize)
	w.U32(root)
	w.U32(uint32(len(t.Nodes)))
	family := uint8(4)
	if t.V6 {
		family = 6
	}
	for _, v := range []uint8{family, t.Src[0], t.Src[1], t.Dst[0], t.Dst[1], uint8(t.From), 0, 0} {
		w.U8(v)
	}
	rules := t.Rules
	for _, n := range t.Nodes {
		field, value, link := n.Field, n.Value, n.Child+root
		switch {
		case n.Field == FieldNone && n.Child == 1 && len(rules) > 0: // is the value
			value, link, rules = first+rules[0], 1, rules[1:]
		case n.Field == FieldNone:
			value, link = uint32(e.entries.Len()/entrySize), n.Child
			own := rules[:min(int(n.Child), len(rules))]
			e.entry(own, first)
			rules = rules[len(own):]
		case n.Bits > 0:
			field, value = tabled, uint32(n.Field)|uint32(n.Shift)<<3|uint32(n.Bits)<<10
		case n.Field <= FieldDst:
			value = e.split(numberOf(n.Addr), t.V6)
		}
		e.nodes.U32(value)
		e.nodes.U32(uint32(field) | link<<3)
	}
	e.entry(rules, first) // of no leaf, which Open refuses
}

func (e *encoder) entry(rules []uint32, first uint32) {
	for _, r := range rules {
		e.entries.U32(first + r)
	}
}

// split returns what a node has of an address: it, or where it is.
func (e *encoder) split(n number, v6 bool) uint32 {
	if !v6 {
		return uint32(n.lo)
	}
	at, ok := e.splitAt[n]
	if !ok {
		at = uint32(len(e.splitAt))
		e.splitAt[n] = at
		e.number(&e.splits, n)
	}
	return at
}
