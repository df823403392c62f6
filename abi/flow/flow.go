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

// A Protocol is an IP protocol number; 0 in a rule matches any. Rules on ICMP are about
// both families; its flows have port 0.
type Protocol uint8

const (
	AnyProtocol Protocol = 0
	ICMP        Protocol = 1
	TCP         Protocol = 6
	UDP         Protocol = 17
	ICMPv6      Protocol = 58 // in flows; rules see ICMP
)

// A Flow is what the first packet or the accepted connection shows.
type Flow struct {
	Src      netip.Addr // may be IPv4-mapped or carry a zone; rules see neither
	DstPort  uint16
	Protocol Protocol
}

// Source is what shares one limit: an IPv4 address or an IPv6 /64, the least that
// one site is given (RFC 6177). It is the zero Prefix where there is no address.
func (f Flow) Source() netip.Prefix {
	a := f.Src.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
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

// Plain returns f as rules see it. Without this, ::ffff:10.0.0.1 would dodge a rule on
// 10.0.0.0/8, fe80::1%eth0 one on fe80::/10, and all of ICMPv6 one on ICMP.
func (f Flow) Plain() Flow {
	if f.Protocol == ICMPv6 {
		f.Protocol = ICMP
	}
	f.Src = f.Src.Unmap().WithZone("")
	return f
}

// Matches reports whether the rule applies to f, which must be plain.
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

// A Result is what a section decides about a flow.
type Result struct {
	Verdict abi.Verdict
	Rule    abi.Rule // of the list that denies, else of the last list
	Level   string   // of that list
	Audit   bool     // a rule that matched asks for a record
}

// Decide is the meaning of a section, rule by rule. Whatever is faster must
// give the same results.
func (s *Section) Decide(f Flow) Result {
	f = f.Plain()
	if !f.Src.IsValid() {
		return Result{}
	}
	var res Result
	for i := range s.Lists {
		l := &s.Lists[i]
		res.Verdict, res.Rule, res.Level = l.Default, l.Rule, l.Level
		for j := range l.Rules {
			if r := &l.Rules[j]; r.Matches(f) {
				res.Verdict, res.Rule = r.Verdict, r.Rule
				res.Audit = res.Audit || r.Audit
				break
			}
		}
		if res.Verdict != abi.Allow {
			break
		}
	}
	return res
}

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
	if x.PortLo > x.PortHi {
		r.Fail(fmt.Errorf("rule %q: ports %d to %d", x.ID, x.PortLo, x.PortHi))
	}
	return x
}
