package compiler

import (
	"fmt"
	"net/netip"
	"slices"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/compiler/forest"
	"lorica.dev/lorica/policy"
)

// guarded reports whether connections are judged at all.
func guarded(p *api.SecurityPolicy) bool {
	return p.Network != nil || p.Default.Network != abi.Allow
}

// A netting holds the network rules of every level.
type netting struct {
	lists  []flow.List // by level
	tried  []flow.List // the same with the rules that are tried
	rules  [][]api.IngressRule
	policy *api.SecurityPolicy
}

var everywhere = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}

func network(p *api.SecurityPolicy) (*netting, error) {
	n := &netting{policy: p}
	sources := map[string][]netip.Prefix{api.AnyEndpoint: everywhere}
	for _, e := range p.Endpoints {
		sources[e.Name] = e.CIDRs
	}
	tries := p.Network != nil && slices.ContainsFunc(p.Network.Ingress, func(r api.IngressRule) bool { return policy.Tries(p, r.DryRun) })
	for i, level := range p.Levels.Names {
		l := flow.List{Level: level, Default: p.Default.Network, Rule: policy.NetworkDefault(p)}
		all := l
		rules := n.at(i)
		for _, r := range rules {
			if len(r.From) == 0 {
				return nil, policy.Errors{{Pos: r.Pos, Message: fmt.Sprintf("rule %q has no source", r.Name), Fix: "write from: [any], or name endpoints"}}
			}
			for _, from := range r.From {
				cidrs, ok := sources[from]
				if !ok {
					return nil, policy.Errors{{Pos: r.Pos, Message: fmt.Sprintf("rule %q: there is no endpoint %q", r.Name, from), Fix: "name it under spec.endpoints"}}
				}
				for _, c := range cidrs {
					x := expand(r, c)
					if tries {
						all.Rules = append(all.Rules, x...)
					}
					if !policy.Tries(p, r.DryRun) {
						l.Rules = append(l.Rules, x...)
					}
				}
			}
		}
		n.lists = plant(n.lists, l)
		n.rules = append(n.rules, rules)
		if tries {
			n.tried = plant(n.tried, all)
		}
	}
	return n, nil
}

// plant adds a list with what finds its rules.
func plant(lists []flow.List, l flow.List) []flow.List {
	if at := slices.IndexFunc(lists, func(x flow.List) bool { return alike(&x, &l) }); at >= 0 {
		l.Trees = lists[at].Trees
	} else {
		forest.Plant(&l)
	}
	return append(lists, l)
}

// tries reports whether rules are tried at the i-th level, or at one below.
func (n *netting) tries(i int) bool {
	for at := range min(i+1, len(n.tried)) {
		if !alike(&n.lists[at], &n.tried[at]) {
			return true
		}
	}
	return false
}

// admitsIPv6 reports whether an image of the i-th level lets a client of IPv6 in at any
// level that it has, or tries rules that would. Of several rules that match it asks no
// more than whether there is one that allows.
func (n *netting) admitsIPv6(i int) bool {
	admits := func(l flow.List) bool {
		return l.Default == abi.Allow || slices.ContainsFunc(l.Rules, func(r flow.Rule) bool { return r.Verdict == abi.Allow && r.Src.Addr().Is6() })
	}
	if !guarded(n.policy) || n.policy.DryRun || slices.ContainsFunc(n.lists[:i+1], admits) {
		return true
	}
	return len(n.tried) > 0 && slices.ContainsFunc(n.tried[:i+1], admits)
}

// at returns the rules that exist at the i-th level, in file order.
func (n *netting) at(i int) []api.IngressRule {
	if n.policy.Network == nil {
		return nil
	}
	names := n.policy.Levels.Names
	var list []api.IngressRule
	for _, r := range n.policy.Network.Ingress {
		lo, hi := 0, len(names)-1
		if r.MinLevel != "" {
			lo = slices.Index(names, r.MinLevel)
		}
		if r.MaxLevel != "" {
			hi = slices.Index(names, r.MaxLevel)
		}
		if lo <= i && i <= hi {
			list = append(list, r)
		}
	}
	return list
}

// expand returns one flow rule for each port of r.
func expand(r api.IngressRule, src netip.Prefix) []flow.Rule {
	x := flow.Rule{Rule: abi.Rule{ID: r.Name, Line: r.Pos.Short()}, Verdict: r.Action, Src: src.Masked(), FromHi: 65535, PortHi: 65535, Audit: r.Audit}
	if len(r.Ports) == 0 {
		return []flow.Rule{x}
	}
	list := make([]flow.Rule, 0, len(r.Ports))
	for _, p := range r.Ports {
		x.Protocol, x.PortLo, x.PortHi = protocol(p.Protocol), p.Lo, p.Hi
		list = append(list, x)
	}
	return list
}

func protocol(name string) flow.Protocol {
	switch name {
	case "TCP":
		return flow.TCP
	case "UDP":
		return flow.UDP
	case api.ICMP:
		return flow.ICMP
	}
	return flow.AnyProtocol
}

// alike reports whether two lists differ in their levels at most.
func alike(a, b *flow.List) bool {
	return a.Default == b.Default && a.Rule == b.Rule && slices.Equal(a.Rules, b.Rules)
}

// section returns the lists of the levels up to the i-th, equal ones once, with or without
// the rules that are tried.
func (n *netting) section(i int, tried bool) *flow.Section {
	s := &flow.Section{}
	lists := n.lists
	if tried {
		lists = n.tried
	}
	for _, l := range lists[:i+1] {
		if !slices.ContainsFunc(s.Lists, func(x flow.List) bool { return alike(&x, &l) }) {
			s.Lists = append(s.Lists, l)
		}
	}
	return s
}

// ports returns the open ports with the rules of the i-th level that reach them.
func (n *netting) ports(w *api.Workload, i int) []Port {
	var list []Port
	for _, l := range w.Listen {
		p := Port{Name: l.Name, Address: l.Address, Port: l.Port,
			Default: Reach{Rule: policy.NetworkDefault(n.policy), Verdict: n.policy.Default.Network}}
		for _, r := range n.rules[i] {
			if reaches(r, l.Port) && !policy.Tries(n.policy, r.DryRun) {
				p.Rules = append(p.Rules, Reach{abi.Rule{ID: r.Name, Line: r.Pos.Short()}, r.Action, r.From})
			}
		}
		list = append(list, p)
	}
	return list
}

func reaches(r api.IngressRule, port uint16) bool {
	return len(r.Ports) == 0 || slices.ContainsFunc(r.Ports, func(p api.Port) bool {
		return ofTCP(p) && p.Lo <= port && port <= p.Hi
	})
}

func ofTCP(p api.Port) bool { return p.Protocol == "TCP" || p.Protocol == "any" }
