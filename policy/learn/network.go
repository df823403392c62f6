package learn

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
)

// A Generalised is what a rule allows beyond what was seen, and from what that was taken.
type Generalised struct {
	Rule     string `json:"rule"`
	What     string `json:"what"`
	Records  int    `json:"records"`
	Distinct int    `json:"distinct"`
	To       string `json:"to"`
}

// An ingress is a network rule of the proposal.
type ingress struct {
	api.IngressRule
	parent  int
	kept    bool // a rule of the present policy, as it is
	sources []netip.Prefix
	packets []*packet
	general []Generalised
}

// anywhere is every address.
var anywhere = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

// maxPortSets is how many rules one becomes because sources ask for different ports.
const maxPortSets = 4

// network returns the rules for the connections that were seen: each present rule that
// allowed some, narrowed, where it stands; those that deny, or are tried; and at the end what no rule
// allowed. Whatever is allowed at a level was allowed there by the same rule, so that what
// is narrowed allows nothing that the present policy denies.
func (l *Learner) network() []*ingress {
	of := make(map[int][]*packet)
	for _, p := range inOrder(l.packets) {
		for _, i := range p.parents {
			of[i] = append(of[i], p)
		}
	}
	var out []*ingress
	if n := l.doc.Policy.Network; n != nil && !l.o.Fresh {
		for _, r := range n.Ingress {
			i := slices.IndexFunc(l.d.Policy.Network.Ingress, func(o api.IngressRule) bool { return o.Name == r.Name })
			if i < 0 || r.Action == abi.Deny { // what is tried decides nothing
				out = append(out, &ingress{IngressRule: r, parent: i, kept: true})
				continue
			}
			r.DryRun = false
			out = append(out, l.narrowed(of[i], i, r, l.bounds(&r))...)
		}
	}
	byLevel := make(map[string][]*packet)
	for _, p := range of[-1] {
		byLevel[p.level] = append(byLevel[p.level], p)
	}
	names := l.d.Policy.Levels.Names
	for at, level := range names {
		r := api.IngressRule{Name: "learnt", Action: abi.Allow, MaxLevel: level}
		if at == len(names)-1 {
			r.MaxLevel = ""
		}
		out = append(out, l.narrowed(byLevel[level], -1, r, anywhere)...)
	}
	return out
}

// bounds are the sources that a rule is about.
func (l *Learner) bounds(r *api.IngressRule) []netip.Prefix {
	if slices.Contains(r.From, api.AnyEndpoint) {
		return anywhere
	}
	var out []netip.Prefix
	for _, e := range l.d.Policy.Endpoints {
		if slices.Contains(r.From, e.Name) {
			out = append(out, e.CIDRs...)
		}
	}
	return out
}

// narrowed are rules for the packets: one for the sources that asked for the same ports.
func (l *Learner) narrowed(packets []*packet, parent int, r api.IngressRule, bounds []netip.Prefix) []*ingress {
	ports := make(map[netip.Addr][]api.Port)
	foreign := false // protocols that no rule can name
	for _, p := range packets {
		foreign = foreign || p.Protocol != "TCP" && p.Protocol != "UDP" && p.Protocol != api.ICMP
		x := api.Port{Protocol: p.Protocol, Lo: p.Port, Hi: p.Port}
		if p.Protocol == api.ICMP {
			x.Lo, x.Hi = 0, 65535
		}
		ports[p.From] = append(ports[p.From], x)
	}
	set := func(from netip.Addr) string { return portsText(spans(ports[from])) }
	by := make(map[string][]*packet)
	var order []string
	for _, p := range packets {
		key := set(p.From)
		if by[key] == nil {
			order = append(order, key)
		}
		by[key] = append(by[key], p)
	}
	var general []Generalised
	if (len(order) > maxPortSets && !l.o.Exact || foreign) && len(order) > 0 {
		if len(order) > 1 {
			general = append(general, Generalised{"", "which source asked for which port", count(packets), len(order), "each of the ports from each of the sources"})
		}
		by, order = map[string][]*packet{"": packets}, []string{""}
	}
	var out []*ingress
	for _, key := range order {
		x := &ingress{IngressRule: r, parent: parent, packets: by[key], general: slices.Clone(general)}
		var list []api.Port
		seen := make(map[netip.Addr]bool)
		var addrs []netip.Prefix
		for _, p := range x.packets {
			list = append(list, ports[p.From]...)
			if !seen[p.From] {
				seen[p.From] = true
				addrs = append(addrs, netip.PrefixFrom(p.From, p.From.BitLen()))
			}
		}
		if foreign {
			x.general = append(x.general, Generalised{"", "ports", count(x.packets), len(spans(list)), "those of the rule: no rule can name some of the protocols"})
		} else {
			x.Ports = spans(list)
		}
		most := l.o.Prefixes
		if l.o.Exact {
			most = 0
		}
		x.sources = covering(addrs, most, bounds)
		if exact := covering(addrs, 0, bounds); !slices.Equal(exact, x.sources) {
			x.general = append(x.general, Generalised{"", "sources", count(x.packets), len(addrs), prefixesText(x.sources)})
		}
		out = append(out, x)
	}
	return out
}

// spans are ports in order, neighbours taken together.
func spans(list []api.Port) []api.Port {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b api.Port) int {
		if c := strings.Compare(a.Protocol, b.Protocol); c != 0 {
			return c
		}
		return int(a.Lo) - int(b.Lo)
	})
	var out []api.Port
	for _, p := range list {
		if n := len(out); n > 0 && out[n-1].Protocol == p.Protocol && int(p.Lo) <= int(out[n-1].Hi)+1 {
			out[n-1].Hi = max(out[n-1].Hi, p.Hi)
			continue
		}
		out = append(out, p)
	}
	return out
}

func portsText(list []api.Port) string {
	var out []string
	for _, p := range list {
		s := "{protocol: " + p.Protocol
		switch {
		case p.Lo == 0 && p.Hi == 65535:
		case p.Lo == p.Hi:
			s += fmt.Sprintf(", port: %d", p.Lo)
		default:
			s += fmt.Sprintf(", portRange: \"%d-%d\"", p.Lo, p.Hi)
		}
		out = append(out, s+"}")
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// prefixesText is a list of prefixes as a document has it.
func prefixesText(list []netip.Prefix) string {
	var out []string
	for _, p := range list {
		s := p.String()
		if p.Addr().Is6() {
			s = `"` + s + `"`
		}
		out = append(out, s)
	}
	return "[" + strings.Join(out, ", ") + "]"
}

func count[T interface{ times() int }](list []T) int {
	n := 0
	for _, x := range list {
		n += x.times()
	}
	return n
}

func (s *seen) times() int { return s.count }
