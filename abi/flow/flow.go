// Package flow is the firewall's section of a program: ordered rules on
// connections. The first rule that matches wins; a flow that no rule matches
// gets the section's default, and no section at all denies everything.
//
// A section holds one rule list for each security level up to its own (equal
// lists once); a flow is allowed when every list allows it, so that a higher
// level can only remove access.
//
// The bytes of a section are read in place. They may hold a decision forest for each
// list, made when the program was compiled, which finds the first rule that matches
// without asking each; docs/program-format.md says what makes it right.
package flow

import (
	"net/netip"
	"strconv"

	"lorica.dev/lorica/abi"
)

// Name of the section.
const Name = abi.StageFirewall

// A Protocol is an IP protocol number; 0 in a rule matches any. Rules on ICMP are about
// both families; its flows have ports 0.
type Protocol uint8

const (
	AnyProtocol Protocol = 0
	ICMP        Protocol = 1
	TCP         Protocol = 6
	UDP         Protocol = 17
	ICMPv6      Protocol = 58 // in flows; rules see ICMP
)

// Text is a protocol as policies write it; empty for any.
func (p Protocol) Text() string {
	switch p {
	case AnyProtocol:
		return ""
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case ICMP, ICMPv6:
		return "ICMP"
	}
	return strconv.Itoa(int(p))
}

// A Flow is what the first packet or the accepted connection shows.
type Flow struct {
	Src      netip.Addr // may be IPv4-mapped or carry a zone; rules see neither
	Dst      netip.Addr // the same; where it is not valid, only rules on every destination match
	SrcPort  uint16
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

// A Rule matches flows by source, destination, ports, inclusive, and protocol.
type Rule struct {
	abi.Rule
	Verdict  abi.Verdict
	Protocol Protocol
	Src      netip.Prefix // 0.0.0.0/0 and ::/0 match one family each
	Dst      netip.Prefix // of the family of Src; the zero Prefix, or one of length 0: every destination
	FromLo   uint16       // source ports
	FromHi   uint16
	PortLo   uint16 // destination ports
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
	f.Dst = f.Dst.Unmap().WithZone("")
	return f
}

// Matches reports whether the rule applies to f, which must be plain.
func (r *Rule) Matches(f Flow) bool {
	return (r.Protocol == AnyProtocol || r.Protocol == f.Protocol) &&
		r.PortLo <= f.DstPort && f.DstPort <= r.PortHi && r.FromLo <= f.SrcPort && f.SrcPort <= r.FromHi &&
		r.Src.Contains(f.Src) && (r.Anywhere() || r.Dst.Contains(f.Dst))
}

// Anywhere reports whether the rule is about every destination.
func (r *Rule) Anywhere() bool { return r.Dst.Bits() <= 0 }

// A List is the rules of one or more levels.
type List struct {
	Level   string // the lowest level this list is for, for explanations
	Default abi.Verdict
	Rule    abi.Rule // named when the default decides
	Rules   []Rule
	Trees   []Tree // that find the rules; none: each is asked
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
