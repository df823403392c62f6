package policy

import (
	"net/netip"
	"slices"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
)

// maxLinted bounds the rules that are compared, each with all before it.
const maxLinted = 2000

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
	forbids := func(r CedarRule) bool { return r.forbids() }
	if s.auth != nil && s.Default.Authorization == abi.Allow && !slices.ContainsFunc(s.auth.Rules, forbids) {
		p.warn(s.src, s.Authorization.Pos, "write default: {authorization: Deny}, or a forbid", "no policy forbids anything, and default.authorization is Allow: whom no permit names may do everything as well")
	}
	if f := s.RequestFilter; f != nil && !secured(s.SecurityPolicy) && (f.HandshakeTimeout > 0 || f.MaxStreams > 0) {
		p.warn(s.src, f.Pos, "add tls, or remove them", "requestFilter: handshakeTimeout and maxStreams are about TLS and HTTP/2, which there is not without TLS")
	}
	if s.Network == nil {
		return
	}
	rules := s.Network.Ingress
	for i := range rules[:min(len(rules), maxLinted)] {
		for j := range i {
			if covers(s.SecurityPolicy, &rules[j], &rules[i]) {
				p.warn(s.src, rules[i].Pos, "remove it, or move it up", "rule %q can never decide: %q (line %d) matches everything that it matches", rules[i].Name, rules[j].Name, rules[j].Pos.Line)
				break
			}
		}
	}
}

func covers(p *api.SecurityPolicy, a, b *api.IngressRule) bool {
	for level := range p.Levels.Names {
		if applies(p, b, level) && !applies(p, a, level) {
			return false
		}
	}
	if !slices.Contains(a.From, api.AnyEndpoint) {
		if slices.Contains(b.From, api.AnyEndpoint) {
			return false
		}
		wide := sources(p, a)
		for _, x := range sources(p, b) {
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

func sources(p *api.SecurityPolicy, r *api.IngressRule) []netip.Prefix {
	var out []netip.Prefix
	for _, e := range p.Endpoints {
		if slices.Contains(r.From, e.Name) {
			out = append(out, e.CIDRs...)
		}
	}
	return out
}
