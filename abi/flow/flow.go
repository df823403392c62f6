// Package flow is the firewall's section of a program: ordered rules on
// connections. The first rule that matches wins; a flow that no rule matches
// gets the section's default, and no section at all denies everything.
//
// A section holds one rule list for each security level up to its own (equal
// lists once); a flow is allowed when every list allows it, so that a higher
// level can only remove access.
package flow

import (
	"errors"
	"fmt"
	"net/netip"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/wire"
)

// Name of the section.
const Name = abi.StageFirewall

// A Protocol is an IP protocol number; 0 in a rule matches any.
type Protocol uint8

const (
	AnyProtocol Protocol = 0
	ICMP        Protocol = 1
	TCP         Protocol = 6
	UDP         Protocol = 17
)

// A Flow is what the first packet or the accepted connection shows.
type Flow struct {
	Src      netip.Addr // may be IPv4-mapped; rules see it unmapped
	DstPort  uint16
	Protocol Protocol
}

// A Rule matches flows by source, protocol and destination port, inclusive.
type Rule struct {
	abi.Rule
	Verdict  abi.Verdict
	Protocol Protocol
	Src      netip.Prefix // 0.0.0.0/0 and ::/0 match one family each
	PortLo   uint16
	PortHi   uint16
	Audit    bool // record the connection even when it is allowed
}

// Matches reports whether the rule applies to f, whose source must be unmapped.
func (r *Rule) Matches(f Flow) bool {
	return (r.Protocol == AnyProtocol || r.Protocol == f.Protocol) &&
		r.PortLo <= f.DstPort && f.DstPort <= r.PortHi && r.Src.Contains(f.Src)
}

// A List is the rules of one or more levels.
type List struct {
	Level   string // the lowest level this list is for, for explanations
	Default abi.Verdict
	Rule    abi.Rule // named when the default decides
	Rules   []Rule
}

// A Section is the whole of it. The zero Section denies.
type Section struct{ Lists []List }

// Encode returns the section's bytes.
func (s *Section) Encode() []byte {
	var w wire.Writer
	w.U32(uint32(len(s.Lists)))
	for _, l := range s.Lists {
		w.String(l.Level)
		w.U8(uint8(l.Default))
		w.String(l.Rule.ID)
		w.String(l.Rule.Line)
		w.U32(uint32(len(l.Rules)))
		for _, r := range l.Rules {
			w.String(r.ID)
			w.String(r.Line)
			w.U8(uint8(r.Verdict))
			w.U8(uint8(r.Protocol))
			w.Blob(r.Src.Addr().AsSlice())
			w.U8(uint8(r.Src.Bits()))
			w.U16(r.PortLo)
			w.U16(r.PortHi)
			w.Bool(r.Audit)
		}
	}
	return w.Bytes()
}

// Decode reads a section. Nil or malformed input gives an error and a Section
// that denies.
func Decode(b []byte) (Section, error) {
	if len(b) == 0 {
		return Section{}, errors.New("flow: no section")
	}
	r := wire.NewReader(b)
	var s Section
	for range r.Count(17) {
		l := List{Level: r.String(), Default: verdict(r), Rule: abi.Rule{ID: r.String(), Line: r.String()}}
		for range r.Count(19) {
			l.Rules = append(l.Rules, rule(r))
		}
		s.Lists = append(s.Lists, l)
	}
	if err := r.Close(); err != nil {
		return Section{}, fmt.Errorf("flow: %w", err)
	}
	return s, nil
}

func verdict(r *wire.Reader) abi.Verdict {
	v := abi.Verdict(r.U8())
	if v > abi.Allow {
		r.Fail(fmt.Errorf("verdict %d is unknown", uint8(v)))
	}
	return v
}

func rule(r *wire.Reader) Rule {
	x := Rule{Rule: abi.Rule{ID: r.String(), Line: r.String()}, Verdict: verdict(r), Protocol: Protocol(r.U8())}
	addr, ok := netip.AddrFromSlice(r.Blob())
	bits := int(r.U8())
	x.Src = netip.PrefixFrom(addr, bits)
	if r.Err() == nil && (!ok || !x.Src.IsValid() || addr.Is4In6() || x.Src != x.Src.Masked()) {
		r.Fail(fmt.Errorf("rule %q: the source is not a prefix", x.ID))
	}
	x.PortLo, x.PortHi, x.Audit = r.U16(), r.U16(), r.Bool()
	return x
}
