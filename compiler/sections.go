package compiler

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/policy"
)

func filterSection(p *api.SecurityPolicy) *route.Section {
	f := p.RequestFilter.WithDefaults()
	s := &route.Section{
		Line: written(p.RoutesPos, p.Metadata.Pos).Short(),
		Limits: route.Limits{
			MaxHeaderBytes: f.MaxHeaderBytes, MaxBodyBytes: f.MaxBodyBytes, MaxPathBytes: f.MaxPathBytes, MaxConnections: f.MaxConnections,
			MaxHeaders: f.MaxHeaders, MaxStreams: f.MaxStreams, HandshakeTimeout: f.HandshakeTimeout, HeaderTimeout: f.HeaderTimeout, BodyTimeout: f.BodyTimeout, WriteTimeout: f.WriteTimeout, IdleTimeout: f.IdleTimeout,
			RejectEncodedSlash: f.RejectEncodedSlash,
		},
		Types: f.ContentTypes,
		Open:  len(p.Routes) == 0 && p.Authorization == nil,
	}
	for _, r := range p.Routes {
		s.Routes = append(s.Routes, route.Route{Name: r.Name, Group: r.Group, Line: r.Pos.Short(), Method: r.Method, Pattern: r.Path, Upgrade: r.Upgrade})
	}
	return s
}

func auditSection(d *policy.Deployment) *audit.Section {
	a := d.Policy.Audit
	if a == nil {
		return &audit.Section{AllowedPerMillion: audit.Million}
	}
	share := max(0, min(1, a.SampleAllowed))
	s := &audit.Section{AllowedPerMillion: uint32(math.Ceil(share * audit.Million))}
	for _, r := range a.Redact {
		s.Redact = append(s.Redact, r.Field)
		if d.Authorization == nil {
			continue
		}
		for _, x := range d.Authorization.Attributes {
			if field := audit.FieldAttribute + x.Name; repeats(d, r.Field, x.Source) && !slices.Contains(s.Redact, field) {
				s.Redact = append(s.Redact, field)
			}
		}
	}
	return s
}

// repeats reports whether an attribute says what a redacted field says.
func repeats(d *policy.Deployment, field string, s authz.Source) bool {
	switch s.Kind {
	case authz.SourceRoute, authz.SourceQuery:
		return field == audit.FieldPath
	case authz.SourcePeer:
		return field == audit.FieldSource
	case authz.SourceSPIFFE, authz.SourceDNS, authz.SourceSubject:
		return field == audit.FieldPrincipal
	case authz.SourceClaim, authz.SourceClaimHas:
		if field == audit.FieldGroups {
			return s.Arg == d.Authorization.GroupClaim
		}
		return field == audit.FieldPrincipal && slices.ContainsFunc(d.Policy.Authentication.JWT, func(j api.JWT) bool {
			return s.Arg == "/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(j.Principal)
		})
	}
	return false
}

// requirements returns the capabilities that the deployment asks for in the image of the
// i-th level.
func requirements(d *policy.Deployment, nets *netting, i int) []catalog.Requirement {
	w, p := d.Workload, d.Policy
	list := []catalog.Requirement{{Any: catalog.Clause{"image/" + w.Target}, Why: "the workload runs on the " + w.Target + " target", Pos: written(w.TargetPos, w.Metadata.Pos)}}
	if len(w.Listen) > 0 {
		list = append(list, catalog.Requirement{Any: catalog.Clause{"net"}, Why: fmt.Sprintf("the workload listens on port %d", w.Listen[0].Port), Pos: w.Listen[0].Pos})
		list = append(list, kindOfNetwork(w)...)
		list = append(list, ofIPv6(d, nets, i)...)
		list = append(list, leased(w)...)
	}
	if guarded(p) {
		r := catalog.Requirement{Any: catalog.Clause{"firewall"}, Why: "connections are denied unless a network rule allows them", Pos: written(p.Default.Pos, p.Metadata.Pos)}
		if p.Network != nil {
			r.Why, r.Pos = "network rules judge connections", p.Network.Pos
		}
		list = append(list, r)
	}
	if secured(p) {
		list = append(list, catalog.Requirement{Any: catalog.Clause{"tls/server"}, Why: "connections are secured with TLS, mode " + p.TLS.Mode.String(), Pos: p.TLS.Pos})
	}
	if o, t := policy.Obligations(p, modules(p, i)), p.Levels.Triggers; len(o) > 0 {
		list = append(list, catalog.Requirement{Any: catalog.Clause{"obligations"}, Why: "something follows when a source is denied too often", Pos: o[0].Pos})
	} else if len(t) > 0 {
		list = append(list, catalog.Requirement{Any: catalog.Clause{"obligations"}, Why: "denials raise the security level", Pos: t[0].Pos})
	}
	filter := catalog.Requirement{Any: catalog.Clause{"filter"}, Why: "every request has one canonical path and bounds", Pos: p.Metadata.Pos}
	if len(p.Routes) > 0 {
		filter.Why, filter.Pos = "only the routes that are written exist", p.RoutesPos
	} else if p.RequestFilter != nil {
		filter.Pos = p.RequestFilter.Pos
	}
	list = append(list, filter)
	list = append(list, authentication(p.Authentication)...)
	for _, k := range []limitKind{sourceLimits, principalLimits} {
		if first, ok := limited(p, i, k); ok {
			list = append(list, catalog.Requirement{Any: catalog.Clause{k.capability}, Why: k.why, Pos: first.Pos})
		}
	}
	if d.Authorization != nil {
		list = append(list, catalog.Requirement{Any: catalog.Clause{"authz/cedar"}, Why: "authorization decides with Cedar", Pos: p.Authorization.Pos})
	}
	record := catalog.Requirement{Any: catalog.Clause{"audit"}, Why: "denials are always recorded", Pos: p.Metadata.Pos}
	if p.Audit != nil {
		record.Why, record.Pos = "decisions are recorded", p.Audit.Pos
	}
	list = append(append(list, record), kept(p)...)
	if w.App.Proxy != nil {
		r := catalog.Requirement{Any: catalog.Clause{"egress"}, Why: "the upstream is connected to where egress rules allow it", Pos: w.App.Proxy.Pos}
		if p.Network != nil && len(p.Network.Egress) > 0 {
			r.Pos = p.Network.Egress[0].Pos
		}
		list = append(list, r)
	}
	switch a := w.App; {
	case a.Static != nil:
		list = append(list, catalog.Requirement{Any: catalog.Clause{"app/files"}, Why: "the application is a folder of files", Pos: a.Static.Pos})
		switch a.Static.Compression {
		case api.CompressionRequired:
			list = append(list, catalog.Requirement{Any: catalog.Clause{"app/files/compressed"}, Why: "files are served compressed, too", Pos: a.Static.Pos})
		case api.CompressionNone:
			list = append(list, catalog.Requirement{Any: catalog.Clause{"app/files/plain"}, Why: "files are served as they are", Pos: a.Static.Pos})
		}
	case a.Handler != nil:
		list = append(list, catalog.Requirement{Any: catalog.Clause{"app/handler"}, Why: "the application is a Go handler", Pos: a.Handler.Pos})
	case a.Proxy != nil:
		list = append(list, catalog.Requirement{Any: catalog.Clause{"app/proxy"}, Why: "requests are forwarded to an upstream", Pos: a.Proxy.Pos})
	}
	return append(list, demanded(p)...)
}

// kindOfNetwork returns what a process asks for; a microVM has no choice.
func kindOfNetwork(w *api.Workload) []catalog.Requirement {
	r := catalog.Requirement{Pos: written(w.NetworkPos, w.Listen[0].Pos)}
	switch {
	case w.Target == api.TargetMicroVM:
		return nil
	case w.OwnStack():
		r.Any, r.Why = catalog.Clause{"net/direct"}, "the network is direct: packets reach the image itself"
	default:
		r.Any, r.Why = catalog.Clause{"net/socket"}, "the network is sockets that are handed in"
	}
	return []catalog.Requirement{r}
}

// ofIPv6 returns what an image asks for that clients of IPv6 come to. Its connections out
// are the tender's, of whatever family.
func ofIPv6(d *policy.Deployment, nets *netting, i int) []catalog.Requirement {
	w := d.Workload
	need := func(pos api.Pos, format string, args ...any) []catalog.Requirement {
		return []catalog.Requirement{{Any: catalog.Clause{"net/ipv6"}, Why: fmt.Sprintf(format, args...), Pos: pos}}
	}
	if on := w.Interface; on != nil {
		if at := slices.IndexFunc(on.Static, func(p netip.Prefix) bool { return p.Addr().Is6() }); at >= 0 {
			return need(w.NetworkPos, "the image has the IPv6 address %v on %s", on.Static[at].Addr(), on.Name)
		}
		if on.SLAAC {
			return need(w.NetworkPos, "routers give the image IPv6 addresses on %s", on.Name)
		}
		return nil
	}
	for _, l := range w.Listen {
		if l.Address.Is6() && !l.Address.IsUnspecified() {
			return need(l.Pos, "the workload listens at the IPv6 address %v", l.Address)
		}
		if l.Address.IsUnspecified() && nets.admitsIPv6(modules(d.Policy, i)) {
			return need(l.Pos, "the workload listens at all addresses, of IPv6 too, and clients of IPv6 may come")
		}
	}
	return nil
}

// leased returns what an image asks for that asks for an address.
func leased(w *api.Workload) []catalog.Requirement {
	if w.Interface == nil || !w.Interface.DHCP {
		return nil
	}
	return []catalog.Requirement{{Any: catalog.Clause{"net/dhcp"}, Why: "the image asks for an IPv4 address on " + w.Interface.Name, Pos: w.NetworkPos}}
}

// place says where a network rule is enforced.
func place(w *api.Workload, r api.IngressRule) string {
	switch {
	case w.OwnStack():
		return WherePacket
	case len(r.Ports) > 0 && !slices.ContainsFunc(r.Ports, ofTCP):
		return WhereNowhere
	}
	return WhereAccept
}

// enforced lists every rule of the i-th level and where it is enforced.
func enforced(d *policy.Deployment, n *netting, i int) []Enforced {
	p := d.Policy
	var list []Enforced
	put := func(tried bool, stage, where string, rules ...abi.Rule) {
		for _, r := range rules {
			list = append(list, Enforced{r, stage, where, tried || p.DryRun && stage != abi.StageTLS && stage != abi.StageEgress})
		}
	}
	add := func(stage, where string, rules ...abi.Rule) { put(false, stage, where, rules...) }
	if guarded(p) {
		for _, r := range n.rules[i] {
			put(r.DryRun, abi.StageFirewall, place(d.Workload, r), abi.Rule{ID: r.Name, Line: r.Pos.Short()})
		}
		add(abi.StageFirewall, place(d.Workload, api.IngressRule{}), policy.NetworkDefault(p))
	}
	if secured(p) {
		add(abi.StageTLS, WhereHandshake, tlsSection(p.TLS).Rule)
	}
	for _, t := range obligationSection(p, i, false).Triggers {
		list = append(list, Enforced{t.Rule, abi.StageObligations, WhereRequest, false})
	}
	for _, tried := range []bool{false, true} {
		for _, o := range obligationSection(p, i, tried).Obligations {
			if o.Block > 0 {
				put(tried, abi.StageObligations, WhereAccept, o.Rule)
			}
			put(tried, abi.StageObligations, WhereRequest, o.Rule)
		}
	}
	if len(p.Routes) > 0 {
		line := p.RoutesPos.Short()
		add(abi.StageFilter, WhereRequest, abi.Rule{ID: abi.RuleRoute, Line: line}, abi.Rule{ID: abi.RuleMethod, Line: line})
	}
	add(abi.StageSourceLimit, WhereRequest, limitRules(p, i, sourceLimits, false)...)
	put(true, abi.StageSourceLimit, WhereRequest, limitRules(p, i, sourceLimits, true)...)
	for _, m := range policy.Methods(p.Authentication) {
		add(abi.StageAuthn, WhereRequest, m.Rule())
	}
	if p.Authentication != nil {
		add(abi.StageAuthn, WhereRequest, policy.AuthenticationDefault(p.Authentication))
	}
	add(abi.StagePrincipalLimit, WhereRequest, limitRules(p, i, principalLimits, false)...)
	put(true, abi.StagePrincipalLimit, WhereRequest, limitRules(p, i, principalLimits, true)...)
	if d.Authorization != nil {
		for _, r := range d.Authorization.Rules {
			put(r.DryRun, abi.StageAuthz, WhereRequest, abi.Rule{ID: r.ID, Line: r.Pos.Short()})
		}
		add(abi.StageAuthz, WhereRequest, policy.AuthorizationDefault(p))
	}
	if connects(d) {
		for _, r := range outlets(p, i) {
			add(abi.StageEgress, WhereTender, r.Rule)
		}
	}
	return list
}
