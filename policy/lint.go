package policy

import (
	"net/netip"
	"slices"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
)

// maxLinted bounds how many pairs of rules are compared.
const maxLinted = 5_000_000

// unreachable warns about ports of a workload that no network rule opens.
func (p *parsing) unreachable(w *workload, s *securityPolicy) {
	if s.Network == nil || s.Default.Network == abi.Allow {
		return
	}
	for _, l := range w.Listen {
		if !slices.ContainsFunc(s.Network.Ingress, func(r api.IngressRule) bool {
			return r.Action == abi.Allow && portMatches(&r, api.Packet{Protocol: "TCP", Port: l.Port})
		}) {
			p.warn(w.src, l.Pos, "add a rule that allows it", "no network rule of policy %s allows connections to port %d", s.Metadata.Name, l.Port)
		}
	}
}

// lint warns about what is valid and without effect: permits where the default
// allows, limits of TLS without TLS, a network rule that one earlier rule covers
// at every level where it exists.
func (p *parsing) lint(s *securityPolicy) {
	forbids := func(r CedarRule) bool { return r.Forbids() }
	if s.auth != nil && s.Default.Authorization == abi.Allow && !slices.ContainsFunc(s.auth.Rules, forbids) {
		p.warn(s.src, s.Authorization.Pos, "write default: {authorization: Deny}, or a forbid", "no policy forbids anything, and default.authorization is Allow: whom no permit names may do everything as well")
	}
	if f := s.RequestFilter; f != nil && !secured(s.SecurityPolicy) && (f.HandshakeTimeout > 0 || f.MaxStreams > 0) {
		p.warn(s.src, f.Pos, "add tls, or remove them", "requestFilter: handshakeTimeout and maxStreams are about TLS and HTTP/2, which there is not without TLS")
	}
	if s.Network == nil {
		return
	}
	p.shadowed(s)
}

// shadowed warns about network rules that can never decide. What covers a rule is about
// every source, or about a network around the first of its own.
func (p *parsing) shadowed(s *securityPolicy) {
	rules := s.Network.Ingress
	endpoints := make(map[string][]netip.Prefix)
	for _, e := range s.Endpoints {
		endpoints[e.Name] = append(endpoints[e.Name], e.CIDRs...)
	}
	var everyone []int
	around := make(map[netip.Prefix][]int) // rules by their networks
	from := make([][]netip.Prefix, len(rules))
	pairs := 0
	for i := range rules {
		anyone := slices.Contains(rules[i].From, api.AnyEndpoint)
		if !anyone {
			for _, name := range rules[i].From {
				from[i] = append(from[i], endpoints[name]...)
			}
		}
		lists := [][]int{everyone}
		if len(from[i]) > 0 {
			for x := from[i][0]; ; {
				lists = append(lists, around[x])
				if x.Bits() == 0 {
					break
				}
				x, _ = x.Addr().Prefix(x.Bits() - 1)
			}
		}
		first := i
		for _, list := range lists {
			for _, j := range list {
				if pairs++; j < first && covers(s.SecurityPolicy, &rules[j], &rules[i], from[j], from[i]) {
					first = j
					break
				}
			}
		}
		if first < i {
			p.warn(s.src, rules[i].Pos, "remove it, or move it up", "rule %q can never decide: %q (line %d) matches everything that it matches", rules[i].Name, rules[first].Name, rules[first].Pos.Line)
		}
		if pairs > maxLinted {
			return
		}
		if anyone {
			everyone = append(everyone, i)
		}
		for _, x := range from[i] {
			if list := around[x]; len(list) == 0 || list[len(list)-1] != i {
				around[x] = append(list, i)
			}
		}
	}
}

func covers(p *api.SecurityPolicy, a, b *api.IngressRule, wide, narrow []netip.Prefix) bool {
	for level := range p.Levels.Names {
		if Applies(p, b, level) && !Applies(p, a, level) {
			return false
		}
	}
	if !slices.Contains(a.From, api.AnyEndpoint) {
		if slices.Contains(b.From, api.AnyEndpoint) {
			return false
		}
		for _, x := range narrow {
			if !slices.ContainsFunc(wide, func(w netip.Prefix) bool { return w.Bits() <= x.Bits() && w.Contains(x.Addr()) }) {
				return false
			}
		}
	}
	if len(a.Ports) == 0 {
		return true
	}
	if len(b.Ports) == 0 {
		return false
	}
	for _, x := range b.Ports {
		if !slices.ContainsFunc(a.Ports, func(w api.Port) bool {
			return (w.Protocol == "any" || w.Protocol == x.Protocol) && w.Lo <= x.Lo && x.Hi <= w.Hi
		}) {
			return false
		}
	}
	return true
}
