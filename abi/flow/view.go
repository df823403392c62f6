package flow

import (
	"encoding/binary"
	"math"
	"math/bits"
	"net/netip"

	"lorica.dev/lorica/abi"
)

// A View is a section that was checked once and is read in place: what decides stays in
// the sealed memory that the section lies in, and only the text of names is copied. Rules
// are numbered through all lists. It is safe for concurrent use; its methods take numbers
// that come from it.
type View struct {
	Lists []Table

	text                                 string
	names, rules, splits, entries, nodes []byte
}

// A Table is a list of a View.
type Table struct {
	Level   string
	Default abi.Verdict
	Rule    abi.Rule // named when the default decides
	First   int      // its first rule
	Rules   int      // how many it has

	trees []root
}

// A root is what a walk has to know of a tree.
type root struct {
	node         uint32
	v6, directed bool // it is about flows of IPv6, of a known destination
}

// None is no rule.
const None = math.MaxInt

// A Point is a flow as a View asks about it.
type Point struct {
	v6       bool
	directed bool      // the destination is known, and of the family of the source
	addrs    [2]number // source and destination
	values   [8]uint32 // by field; addresses of IPv4 too
}

// At returns the point of f, which must be plain and have a source.
func At(f Flow) Point {
	p := Point{v6: f.Src.Is6(), addrs: [2]number{numberOf(f.Src)}}
	if p.directed = f.Dst.IsValid() && f.Dst.Is6() == p.v6; p.directed {
		p.addrs[1] = numberOf(f.Dst)
	}
	p.values = [8]uint32{FieldSrc: uint32(p.addrs[0].lo), FieldDst: uint32(p.addrs[1].lo), FieldFrom: uint32(f.SrcPort), FieldPort: uint32(f.DstPort), FieldProtocol: uint32(f.Protocol)}
	return p
}

// Match returns the first rule of a list that matches, or None. It does not allocate.
func (v *View) Match(l *Table, p *Point) int {
	if len(l.trees) == 0 {
		for r := l.First; r < l.First+l.Rules; r++ {
			if v.matches(r, p) {
				return r
			}
		}
		return None
	}
	// All trees are walked together, step by step: what the next step of one needs comes
	// from memory while the others take theirs.
	var walks [MaxTrees]uint64
	n := 0
	for i := range l.trees {
		if t := &l.trees[i]; t.v6 == p.v6 && (p.directed || !t.directed) {
			walks[n] = v.node(t.node)
			n++
		}
	}
	for going := true; going; {
		going = false
		for i, n := range walks[:n] {
			if Field(n>>32&7) != FieldNone {
				walks[i], going = v.node(v.next(n, p)), true
			}
		}
	}
	best := None
	for _, n := range walks[:n] {
		best = min(best, v.leaf(n, p, best))
	}
	return best
}

func (v *View) node(i uint32) uint64 { return binary.LittleEndian.Uint64(v.nodes[nodeSize*int(i):]) }

// next returns the child of a node that the point goes to. Trees of rules on every
// destination part nothing by it.
func (v *View) next(n uint64, p *Point) uint32 {
	value, field := uint32(n), Field(n>>32&7)
	var child uint64 // without a branch: nobody could foretell it
	switch {
	case field == tabled:
		field = Field(value & 7)
		if shift := value >> 3 & 127; p.v6 && field <= FieldDst {
			child = p.addrs[field-1].from(shift)
		} else {
			child = uint64(p.values[field] >> shift)
		}
		child &= 1<<(value>>10) - 1
	case p.v6 && field <= FieldDst:
		child = v.split(value).below(p.addrs[field-1])
	default:
		_, child = bits.Sub64(uint64(value), uint64(p.values[field]), 0)
	}
	return uint32(n>>35) + uint32(child)
}

// from returns the last 64 bits of a number without as many at its end.
func (n number) from(shift uint32) uint64 {
	if shift >= 64 {
		return n.hi >> (shift - 64)
	}
	return n.lo>>shift | n.hi<<(64-shift)
}

// leaf returns the first rule of a leaf that matches and is earlier than best, or None.
func (v *View) leaf(n uint64, p *Point, best int) int {
	if n>>35 == 1 {
		if r := int(uint32(n)); r < best && v.matches(r, p) {
			return r
		}
		return None
	}
	for at, end := uint32(n), uint32(n)+uint32(n>>35); at < end; at++ {
		r := int(binary.LittleEndian.Uint32(v.entries[entrySize*int(at):]))
		if r >= best {
			break
		}
		if v.matches(r, p) {
			return r
		}
	}
	return None
}

func (v *View) split(i uint32) number { return numberAt(v.splits[splitSize*int(i):]) }

func numberAt(b []byte) number {
	return number{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])}
}

// Places in the record of a rule.
const (
	atDst      = 16
	atFrom     = 32
	atPort     = 36
	atSrcBits  = 40
	atDstBits  = 41
	atProtocol = 42
	atFlags    = 43
	atName     = 44
)

func (v *View) record(r int) *[ruleSize]byte { return (*[ruleSize]byte)(v.rules[ruleSize*r:]) }

// matches is Rule.Matches.
func (v *View) matches(r int, p *Point) bool {
	b := v.record(r)
	if proto := b[atProtocol]; proto != uint8(AnyProtocol) && uint32(proto) != p.values[FieldProtocol] || (b[atFlags]&flagV6 != 0) != p.v6 {
		return false
	}
	port, from := p.values[FieldPort], p.values[FieldFrom]
	if port < uint32(binary.LittleEndian.Uint16(b[atPort:])) || port > uint32(binary.LittleEndian.Uint16(b[atPort+2:])) ||
		from < uint32(binary.LittleEndian.Uint16(b[atFrom:])) || from > uint32(binary.LittleEndian.Uint16(b[atFrom+2:])) {
		return false
	}
	src, dst := int(b[atSrcBits]), int(b[atDstBits])
	if dst > 0 && !p.directed {
		return false
	}
	if !p.v6 {
		return (binary.LittleEndian.Uint64(b[8:])^p.addrs[0].lo)>>(32-src) == 0 && (binary.LittleEndian.Uint64(b[atDst+8:])^p.addrs[1].lo)>>(32-dst) == 0
	}
	return numberAt(b[:]).shares(p.addrs[0], src) && numberAt(b[atDst:]).shares(p.addrs[1], dst)
}

// shares reports whether the first bits of addresses of IPv6 are the same.
func (n number) shares(m number, length int) bool {
	if length <= 64 {
		return (n.hi^m.hi)>>(64-length) == 0
	}
	return n.hi == m.hi && (n.lo^m.lo)>>(128-length) == 0
}

// Verdict returns what a rule says, and whether it asks for a record.
func (v *View) Verdict(r int) (verdict abi.Verdict, audit bool) {
	flags := v.record(r)[atFlags]
	return abi.Verdict(flags & flagAllow), flags&flagAudit != 0
}

// Name returns the name and the place of a rule, without allocating.
func (v *View) Name(r int) abi.Rule {
	return v.name(binary.LittleEndian.Uint32(v.record(r)[atName:]))
}

func (v *View) name(i uint32) abi.Rule {
	b := v.names[nameSize*int(i):]
	at, id, line := int(binary.LittleEndian.Uint32(b)), int(binary.LittleEndian.Uint32(b[4:])), int(binary.LittleEndian.Uint32(b[8:]))
	return abi.Rule{ID: v.text[at : at+id], Line: v.text[at+id : at+id+line]}
}

// rule returns a rule as the definition has it.
func (v *View) rule(r int) Rule {
	b := v.record(r)
	v6 := b[atFlags]&flagV6 != 0
	x := Rule{Rule: v.Name(r), Protocol: Protocol(b[atProtocol]), Src: netip.PrefixFrom(numberAt(b[:]).addr(v6), int(b[atSrcBits])),
		FromLo: binary.LittleEndian.Uint16(b[atFrom:]), FromHi: binary.LittleEndian.Uint16(b[atFrom+2:]),
		PortLo: binary.LittleEndian.Uint16(b[atPort:]), PortHi: binary.LittleEndian.Uint16(b[atPort+2:])}
	x.Verdict, x.Audit = v.Verdict(r)
	if n := int(b[atDstBits]); n > 0 {
		x.Dst = netip.PrefixFrom(numberAt(b[atDst:]).addr(v6), n)
	}
	return x
}

// Decode reads the rules of a section, without what finds them. Nil or malformed input
// gives an error and a Section that denies.
func Decode(b []byte) (Section, error) {
	v, err := Open(b)
	if err != nil {
		return Section{}, err
	}
	var s Section
	for i := range v.Lists {
		t := &v.Lists[i]
		l := List{Level: t.Level, Default: t.Default, Rule: t.Rule}
		for r := t.First; r < t.First+t.Rules; r++ {
			l.Rules = append(l.Rules, v.rule(r))
		}
		s.Lists = append(s.Lists, l)
	}
	return s, nil
}
