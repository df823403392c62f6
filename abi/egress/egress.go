// Package egress is what an image may connect to: the section of a program, and
// the messages in which an image asks its tender for connections. An image can
// make none by itself; the tender resolves, connects, and passes descriptors.
//
// The first rule that matches a target wins; what no rule matches is denied, and
// no section at all denies everything. A section holds one rule list for each
// security level up to its own (equal lists once); a target is allowed when every
// list allows it, so that a higher level can only remove access.
package egress

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/wire"
)

// Name of the section.
const Name = abi.StageEgress

// MaxOpen is how many connections an instance may have at once, those that are
// being made included; of those there are at most MaxPending.
const (
	MaxOpen    = 512
	MaxPending = 64
)

// A Target is what a connection is asked for: a name or an address, and a TCP
// port.
type Target struct {
	Name string     // lower case; empty where the image named an address
	Addr netip.Addr // what Name resolved to, or the address itself; invalid: not known
	Port uint16
}

func (t Target) String() string {
	host := t.Name
	switch {
	case host == "" && t.Addr.Is6():
		host = "[" + t.Addr.String() + "]"
	case host == "":
		host = t.Addr.String()
	}
	return fmt.Sprintf("%s:%d", host, t.Port)
}

// ParseTarget reads a host as images write it: an IP address, which may be
// IPv4-mapped but has no zone, or a name.
func ParseTarget(host string, port uint16) (Target, error) {
	if port == 0 {
		return Target{}, errors.New("egress: port 0")
	}
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return Target{}, errors.New("egress: an address with a zone")
		}
		return Target{Addr: a.Unmap(), Port: port}, nil
	}
	if !ValidName(host) {
		return Target{}, errors.New("egress: neither an address nor a lower-case name")
	}
	return Target{Name: host, Port: port}, nil
}

// ValidName reports whether s is a DNS name as rules write it: labels of lower-case
// letters, digits and hyphens (RFC 1123), at most 253 bytes, and no IPv4 address in
// any spelling that a resolver might take.
func ValidName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return false
			}
		}
		last = label
	}
	return last[0] < '0' || last[0] > '9' // "127.1", "0x7f.1"
}

// A Ports is an inclusive range.
type Ports struct{ Lo, Hi uint16 }

// A Rule matches targets by name or address, and by port.
type Rule struct {
	abi.Rule
	Verdict abi.Verdict
	CIDRs   []netip.Prefix
	Names   []string
	Ports   []Ports // any of them
}

// matches reports whether the rule is about t, which must be plain. A rule that
// denies networks is about names that resolve there; one that allows networks is
// not: whoever controls a name could otherwise point it at them.
func (r *Rule) matches(t Target) bool {
	if !slices.ContainsFunc(r.Ports, func(p Ports) bool { return p.Lo <= t.Port && t.Port <= p.Hi }) {
		return false
	}
	if t.Name != "" && slices.Contains(r.Names, t.Name) {
		return true
	}
	return (t.Name == "" || r.Verdict == abi.Deny) && t.Addr.IsValid() &&
		slices.ContainsFunc(r.CIDRs, func(p netip.Prefix) bool { return p.Contains(t.Addr) })
}

// A List is the rules of one or more levels.
type List struct {
	Level string   // the lowest level this list is for, for explanations
	Rule  abi.Rule // named where no rule matches
	Rules []Rule
}

// A Section is the whole of it. The zero Section denies.
type Section struct{ Lists []List }

// A Result is what a section decides about a target.
type Result struct {
	Verdict abi.Verdict
	Rule    abi.Rule // of the list that denies, else of the last list
	Reason  string   // of a denial that no rule explains
}

// Decide is the meaning of a section. A name may be asked about before it is
// resolved; every address of it is then asked about as well.
func (s *Section) Decide(t Target) Result {
	t.Addr = t.Addr.Unmap()
	res := s.first(t)
	switch {
	case res.Verdict != abi.Allow || !t.Addr.IsValid():
	case t.Addr.Zone() != "" || t.Addr.IsUnspecified() || t.Addr.IsMulticast():
		// The unspecified address reaches this very machine.
		res.Verdict, res.Reason = abi.Deny, "nobody can be connected to at "+t.Addr.String()
	case t.Name != "" && (t.Addr.IsLoopback() || t.Addr.IsLinkLocalUnicast()):
		if d := s.first(Target{Addr: t.Addr, Port: t.Port}); d.Verdict != abi.Allow {
			res = Result{Rule: d.Rule, Reason: "the name resolves to " + t.Addr.String() + ", which no rule allows as an address"}
		}
	}
	return res
}

func (s *Section) first(t Target) Result {
	var res Result
	for i := range s.Lists {
		l := &s.Lists[i]
		res = Result{Rule: l.Rule}
		for j := range l.Rules {
			if r := &l.Rules[j]; r.matches(t) {
				res = Result{Verdict: r.Verdict, Rule: r.Rule}
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
		w.String(l.Rule.ID)
		w.String(l.Rule.Line)
		w.U32(uint32(len(l.Rules)))
		for _, r := range l.Rules {
			w.String(r.ID)
			w.String(r.Line)
			w.U8(uint8(r.Verdict))
			w.U32(uint32(len(r.CIDRs)))
			for _, p := range r.CIDRs {
				w.Blob(p.Addr().AsSlice())
				w.U8(uint8(p.Bits()))
			}
			w.Strings(r.Names)
			w.U32(uint32(len(r.Ports)))
			for _, p := range r.Ports {
				w.U16(p.Lo)
				w.U16(p.Hi)
			}
		}
	}
	return w.Bytes()
}

// Decode reads a section. Nil or malformed input gives an error and a Section
// that denies.
func Decode(b []byte) (Section, error) {
	if len(b) == 0 {
		return Section{}, errors.New("egress: no section")
	}
	r := wire.NewReader(b)
	var s Section
	for range r.Count(16) {
		l := List{Level: r.String(), Rule: abi.Rule{ID: r.String(), Line: r.String()}}
		for range r.Count(21) {
			l.Rules = append(l.Rules, rule(r))
		}
		s.Lists = append(s.Lists, l)
	}
	if err := r.Close(); err != nil {
		return Section{}, fmt.Errorf("egress: %w", err)
	}
	return s, nil
}

func rule(r *wire.Reader) Rule {
	x := Rule{Rule: abi.Rule{ID: r.String(), Line: r.String()}, Verdict: abi.Verdict(r.U8())}
	if x.Verdict > abi.Allow {
		r.Fail(fmt.Errorf("rule %q: verdict %d is unknown", x.ID, uint8(x.Verdict)))
	}
	for range r.Count(9) {
		addr, ok := netip.AddrFromSlice(r.Blob())
		p := netip.PrefixFrom(addr, int(r.U8()))
		if r.Err() == nil && (!ok || !p.IsValid() || addr.Is4In6() || p != p.Masked()) {
			r.Fail(fmt.Errorf("rule %q: not a prefix", x.ID))
		}
		x.CIDRs = append(x.CIDRs, p)
	}
	x.Names = r.Strings()
	for _, n := range x.Names {
		if r.Err() == nil && !ValidName(n) {
			r.Fail(fmt.Errorf("rule %q: not a name", x.ID))
		}
	}
	for range r.Count(4) {
		p := Ports{r.U16(), r.U16()}
		if r.Err() == nil && (p.Lo == 0 || p.Lo > p.Hi) {
			r.Fail(fmt.Errorf("rule %q: ports %d to %d", x.ID, p.Lo, p.Hi))
		}
		x.Ports = append(x.Ports, p)
	}
	if r.Err() == nil && (len(x.CIDRs)+len(x.Names) == 0 || len(x.Ports) == 0) {
		r.Fail(fmt.Errorf("rule %q: it is about nothing", x.ID))
	}
	return x
}
