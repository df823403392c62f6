package policy

import (
	"slices"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
)

// unreachable warns about ports of a workload that no network rule opens.
func (p *parsing) unreachable(w *workload, s *securityPolicy) {
	if s.Network == nil || s.Default.Network == abi.Allow {
		return
	}
	for _, l := range w.Listen {
		if !slices.ContainsFunc(s.Network.Ingress, func(r api.IngressRule) bool {
			return r.Action == abi.Allow && !Tries(s.SecurityPolicy, r.DryRun) && portMatches(&r, api.Packet{Protocol: "TCP", Port: l.Port})
		}) {
			p.warn(w.src, l.Pos, "add a rule that allows it", "no network rule of policy %s allows connections to port %d", s.Metadata.Name, l.Port)
		}
	}
}

// lint warns about what is valid and without effect and can be seen at a glance: permits
// where the default allows, limits of TLS without TLS. Package lint looks closer.
func (p *parsing) lint(s *securityPolicy) {
	p.checkDryRun(s)
	forbids := func(r CedarRule) bool { return r.Forbids() }
	if s.auth != nil && s.Default.Authorization == abi.Allow && !slices.ContainsFunc(s.auth.Rules, forbids) {
		p.warn(s.src, s.Authorization.Pos, "write default: {authorization: Deny}, or a forbid", "no policy forbids anything, and default.authorization is Allow: whom no permit names may do everything as well")
	}
	if f := s.RequestFilter; f != nil && !secured(s.SecurityPolicy) && (f.HandshakeTimeout > 0 || f.MaxStreams > 0) {
		p.warn(s.src, f.Pos, "add tls, or remove them", "requestFilter: handshakeTimeout and maxStreams are about TLS and HTTP/2, which there is not without TLS")
	}
}
