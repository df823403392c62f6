package policy

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/api"
)

func (d *decoder) egress(n *yaml.Node) api.EgressRule {
	const p = "spec.network.egress."
	r := api.EgressRule{Pos: d.pos(n)}
	d.object(n, "spec.network.egress",
		field{name: "name", must: true, read: d.word(&r.Name, p+"name")},
		field{name: "action", must: true, read: d.verdict(&r.Action, p+"action")},
		field{name: "to", must: true, read: d.list(p+"to", func(n *yaml.Node) { r.To = append(r.To, d.destination(n)) })},
		field{name: "ports", read: d.list(p+"ports", func(n *yaml.Node) {
			x := d.port(n, p+"ports.")
			if v := value(n, "protocol"); x.Protocol != "" && x.Protocol != "TCP" {
				d.fail(v, "write TCP", "%sports.protocol: %s is not supported yet: images are given TCP connections", p, x.Protocol)
			}
			r.Ports = append(r.Ports, x)
		})},
		field{name: "enforcement", notYet: true},
		field{name: "minLevel", read: d.word(&r.MinLevel, p+"minLevel")},
		field{name: "maxLevel", read: d.word(&r.MaxLevel, p+"maxLevel")})
	for _, name := range []string{"to", "ports"} {
		if l := value(n, name); l.Kind == yaml.SequenceNode && len(l.Content) == 0 {
			fix := "write [{cidrs: [10.0.0.0/8]}] or [{names: [api.example.com]}]"
			if name == "ports" {
				fix = "name ports, or remove ports for every port"
			}
			d.fail(l, fix, "%s%s is empty: the rule would match nothing", p, name)
		}
	}
	return r
}

func (d *decoder) destination(n *yaml.Node) api.Destination {
	const p = "spec.network.egress.to"
	t := api.Destination{Pos: d.pos(n)}
	before := d.count()
	if n.Kind == yaml.ScalarNode {
		d.fail(n, "write {cidrs: [...]} or {names: [...]}", "%s must hold networks or names, not %s", p, kindOf(n))
		return t
	}
	d.object(n, p,
		field{name: "cidrs", read: d.list(p+".cidrs", func(n *yaml.Node) {
			if x, ok := d.prefix(n, p+".cidrs"); ok {
				t.CIDRs = append(t.CIDRs, x)
			}
		})},
		field{name: "names", read: d.list(p+".names", func(n *yaml.Node) {
			var s string
			if d.str(&s, p+".names")(n); n.Tag != "!!str" {
				return
			}
			if !egress.ValidName(s) {
				d.fail(n, nameFix(s), "%s.names: %q is not a lower-case DNS name", p, clip(s))
				return
			}
			t.Names = append(t.Names, s)
		})},
		field{name: "endpoints", notYet: true})
	if n.Kind != yaml.MappingNode {
		return t
	}
	if d.written(n, true, "cidrs", "names") != 1 && d.count() == before {
		d.fail(n, "write {cidrs: [...]} or {names: [...]}, one entry for each", "%s: an entry has exactly one of cidrs and names", p)
	}
	for _, name := range []string{"cidrs", "names"} {
		if l := value(n, name); l.Kind == yaml.SequenceNode && len(l.Content) == 0 {
			d.fail(l, "write what may be connected to", "%s.%s is empty: the entry would match nothing", p, name)
		}
	}
	return t
}

func nameFix(s string) string {
	low := strings.ToLower(strings.TrimSuffix(s, "."))
	switch {
	case strings.Contains(s, "*"):
		return "write each name: there are no wildcards"
	case egress.ValidName(low):
		return "write " + low
	case strings.ContainsAny(s, ":/"):
		return "write the name alone, without scheme, port or path; ports have their own field"
	}
	return "write a name such as api.example.com, or cidrs for addresses"
}

// EgressDefault is the rule that decides about connections that no rule matches.
func EgressDefault(p *api.SecurityPolicy) abi.Rule {
	at := p.Metadata.Pos
	if p.Network != nil {
		at = p.Network.Pos
	}
	return abi.Rule{ID: abi.RuleEgress, Line: at.Short()}
}

// EgressRules returns the rules that exist at the i-th level, in file order.
func EgressRules(p *api.SecurityPolicy, i int) []api.EgressRule {
	if p.Network == nil {
		return nil
	}
	var list []api.EgressRule
	for _, r := range p.Network.Egress {
		lo, hi := 0, len(p.Levels.Names)-1
		if r.MinLevel != "" {
			lo = slices.Index(p.Levels.Names, r.MinLevel)
		}
		if r.MaxLevel != "" {
			hi = slices.Index(p.Levels.Names, r.MaxLevel)
		}
		if lo <= i && i <= hi {
			list = append(list, r)
		}
	}
	return list
}

// EgressSection is what a workload may connect to at the i-th level: what the
// lists of all levels up to it allow, equal ones once.
func EgressSection(p *api.SecurityPolicy, i int) *egress.Section {
	s := &egress.Section{}
	var seen [][]byte
	for at, level := range p.Levels.Names[:i+1] {
		l := egress.List{Rule: EgressDefault(p)}
		for _, r := range EgressRules(p, at) {
			l.Rules = append(l.Rules, egressRule(r))
		}
		for _, c := range Collectors(p) {
			if r, ok := c.egressRule(); ok {
				l.Rules = append(l.Rules, r)
			}
		}
		b := (&egress.Section{Lists: []egress.List{l}}).Encode()
		if slices.ContainsFunc(seen, func(x []byte) bool { return bytes.Equal(x, b) }) {
			continue
		}
		seen = append(seen, b)
		l.Level = level
		s.Lists = append(s.Lists, l)
	}
	return s
}

func egressRule(r api.EgressRule) egress.Rule {
	x := egress.Rule{Rule: abi.Rule{ID: r.Name, Line: r.Pos.Short()}, Verdict: r.Action}
	for _, t := range r.To {
		x.CIDRs = append(x.CIDRs, t.CIDRs...)
		x.Names = append(x.Names, t.Names...)
	}
	for _, p := range r.Ports {
		x.Ports = append(x.Ports, egress.Ports{Lo: p.Lo, Hi: p.Hi})
	}
	if len(r.Ports) == 0 {
		x.Ports = []egress.Ports{{Lo: 1, Hi: 65535}}
	}
	return x
}

// checkEgress checks what one policy shows.
func (p *parsing) checkEgress(s *securityPolicy) {
	if s.Network == nil {
		return
	}
	for _, r := range s.Network.Egress {
		p.checkRuleLevels(s, r.Pos, r.Name, r.MinLevel, r.MaxLevel)
	}
}

// checkProxied checks that a proxy may connect to its upstream at the level that
// it starts with, and that only proxies have rules for connections.
func (p *parsing) checkProxied(w *workload, s *securityPolicy) {
	if w.App.Static != nil {
		for _, r := range s.Routes {
			if r.Upgrade != "" {
				s.failAt(r.Pos, "remove upgrade", "route %q: upgrade: %s has nobody to talk to: workload %s serves files", r.Name, r.Upgrade, w.Metadata.Name)
			}
		}
	}
	x := w.App.Proxy
	if x == nil || x.Host == "" || s.bad["spec.network"] || s.bad["spec.levels"] {
		return
	}
	known := func(l string) bool { return l == "" || slices.Contains(s.Levels.Names, l) }
	if s.Network != nil && slices.ContainsFunc(s.Network.Egress, func(r api.EgressRule) bool { return !known(r.MinLevel) || !known(r.MaxLevel) }) {
		return // reported; where the rule exists is not known
	}
	level := slices.Index(s.Levels.Names, s.Levels.Initial)
	t, err := egress.ParseTarget(x.Host, x.Port)
	if err != nil || level < 0 {
		return
	}
	res := EgressSection(s.SecurityPolicy, level).Decide(t)
	if res.Verdict == abi.Allow {
		return
	}
	at, fix, why := s.specPos, "add network: {egress: ["+allowing(t)+"]}", "no rule matches"
	if s.Network != nil {
		at, fix = s.Network.Pos, "add "+allowing(t)+" to network.egress"
		for _, r := range s.Network.Egress {
			if r.Name == res.Rule.ID {
				at, fix, why = r.Pos, "put "+allowing(t)+" before it", fmt.Sprintf("rule %q denies", r.Name)
			}
		}
	}
	s.failAt(at, fix, "workload %s cannot connect to its upstream %s (%s): %s it at level %s",
		w.Metadata.Name, t, x.Pos.Short(), why, s.Levels.Initial)
}

// allowing is a rule that allows t.
func allowing(t egress.Target) string {
	to := "names: [" + t.Name + "]"
	if t.Name == "" {
		to = fmt.Sprintf("cidrs: [\"%s/%d\"]", t.Addr, t.Addr.BitLen())
	}
	return fmt.Sprintf("{name: upstream, action: Allow, to: [{%s}], ports: [{protocol: TCP, port: %d}]}", to, t.Port)
}
