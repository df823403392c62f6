package diff

import (
	"net/netip"
	"slices"
	"strings"

	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/policy"
)

// maxTargets bounds how many kinds of connections are looked at.
const maxTargets = 1_000_000

// connections compares what an image may connect to: a target of each kind that the rules
// of both policies tell apart.
func (x *comparing) connections() {
	var kinds targets
	for _, d := range x.sides {
		kinds.of(d)
	}
	kinds.finish()
	levels := x.shared()
	if n := len(levels) * len(kinds.ports) * len(kinds.addrs) * len(kinds.names); n > maxTargets {
		x.unknown("connections", "the egress rules tell more than %d kinds of connections apart", maxTargets)
		return
	}
	start := [2]int{len(x.Allowed), len(x.Denied)}
	for _, level := range levels {
		var lists [2]*egress.Section
		for s, d := range x.sides {
			lists[s] = policy.EgressSection(d.Policy, slices.Index(d.Policy.Levels.Names, level))
		}
		for _, name := range kinds.names {
			for _, addr := range kinds.addrs {
				for _, port := range kinds.ports {
					t := egress.Target{Name: name, Addr: addr, Port: port}
					a, b := lists[0].Decide(t), lists[1].Decide(t)
					if a.Verdict == b.Verdict {
						continue
					}
					words := t.String()
					if name != "" {
						words += ", which is " + addr.String()
					}
					x.found(Change{Kind: Connection, Old: side(a.Verdict, a.Rule), New: side(b.Verdict, b.Rule), Levels: []string{level}, Witness: words})
				}
			}
		}
	}
	for i, list := range [][]Change{x.Allowed, x.Denied} {
		for j := start[i]; j < len(list); j++ {
			list[j].Levels = x.levels(list[j].Levels)
		}
	}
}

// targets are one port, address and name of each kind that egress rules tell apart.
type targets struct {
	ports []uint16
	addrs []netip.Addr
	names []string // "": an address alone
}

func (t *targets) of(d *policy.Deployment) {
	last := len(d.Policy.Levels.Names) - 1
	for _, l := range policy.EgressSection(d.Policy, last).Lists {
		for _, r := range l.Rules {
			for _, p := range r.Ports {
				t.ports = append(t.ports, p.Lo)
				if p.Hi < 65535 {
					t.ports = append(t.ports, p.Hi+1)
				}
			}
			for _, p := range r.CIDRs {
				t.cut(p)
			}
			t.names = append(t.names, r.Names...)
		}
	}
}

// cut adds where a network begins and where it has ended.
func (t *targets) cut(p netip.Prefix) {
	t.addrs = append(t.addrs, p.Masked().Addr())
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	end, _ := netip.AddrFromSlice(b)
	if next := end.Next(); next.IsValid() {
		t.addrs = append(t.addrs, next)
	}
}

// finish adds what no rule mentions, and the networks that names may never resolve to.
func (t *targets) finish() {
	t.ports = append(t.ports, 1)
	// Of the unspecified address alone nothing is connected to; the next stands for its kind.
	for _, s := range []string{"0.0.0.0/32", "::/128", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "::1/128", "::ffff:0:0/96", "fe80::/10", "ff00::/8"} {
		t.cut(netip.MustParsePrefix(s))
	}
	other := "other.example"
	for slices.Contains(t.names, other) {
		other = "an-" + other
	}
	t.names = append(t.names, "", other)
	slices.Sort(t.ports)
	slices.SortFunc(t.addrs, netip.Addr.Compare)
	slices.SortFunc(t.names, strings.Compare)
	t.ports, t.addrs, t.names = slices.Compact(t.ports), slices.Compact(t.addrs), slices.Compact(t.names)
	t.addrs = slices.DeleteFunc(t.addrs, func(a netip.Addr) bool { return a.Is4In6() })
}
