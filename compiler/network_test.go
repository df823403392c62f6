package compiler

import (
	"net/netip"
	"slices"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
)

// An image that has sockets judges connections, one that has a stack packets, and plan
// says which, and what there is nothing to see of.
func TestWhereNetworkRulesAreEnforced(t *testing.T) {
	for name, c := range map[string]struct {
		target, network string
		asks            string // beside "net"
		tcp, udp        string
	}{
		"process":              {api.TargetProcess, "", "net/socket", WhereAccept, WhereNowhere},
		"process with sockets": {api.TargetProcess, api.NetSocket, "net/socket", WhereAccept, WhereNowhere},
		"process with a stack": {api.TargetProcess, api.NetDirect, "net/direct", WherePacket, WherePacket},
		"microvm":              {api.TargetMicroVM, "", "", WherePacket, WherePacket},
		"microvm, routed":      {api.TargetMicroVM, api.NetDirect, "", WherePacket, WherePacket},
	} {
		d := accounts(t)
		d.Workload.Target, d.Workload.Network, d.Workload.NetworkPos = c.target, c.network, api.Pos{Line: 77}
		p := *d.Policy
		d.Policy = &p
		p.Network = &api.Network{Ingress: []api.IngressRule{
			{Name: "tcp", Action: abi.Allow, From: []string{api.AnyEndpoint}, Ports: []api.Port{{Protocol: "UDP", Lo: 53, Hi: 53}, {Protocol: "TCP", Lo: 443, Hi: 443}}},
			{Name: "all", Action: abi.Deny, From: []string{api.AnyEndpoint}},
			{Name: "udp", Action: abi.Deny, From: []string{api.AnyEndpoint}, Ports: []api.Port{{Protocol: "UDP", Hi: 65535}}},
		}}
		p.Obligations = []api.Obligation{{Name: "guessing", On: "any.deny", Count: 1, Block: 1}}
		l := &compile(t, d).Levels[0]
		where := map[string]string{}
		for _, e := range l.Enforced {
			if where[e.ID] == "" {
				where[e.ID] = e.Where
			}
		}
		for rule, want := range map[string]string{"tcp": c.tcp, "all": c.tcp, "udp": c.udp, abi.RuleNetwork: c.tcp, "guessing": WhereAccept} {
			if where[rule] != want {
				t.Errorf("%s: rule %s is enforced on %q, expected %q", name, rule, where[rule], want)
			}
		}
		for _, asked := range []string{"net", "net/socket", "net/direct"} {
			at := slices.IndexFunc(l.Requirements, func(r catalog.Requirement) bool { return slices.Contains(r.Any, asked) })
			switch {
			case (at >= 0) != (asked == "net" || asked == c.asks):
				t.Errorf("%s: asks for %s: %t", name, asked, at >= 0)
			case at >= 0 && asked == c.asks && l.Requirements[at].Pos.Line != 77:
				t.Errorf("%s: %s is asked for at line %d", name, asked, l.Requirements[at].Pos.Line)
			}
		}
	}
}

// Where nothing is written about the network, the ports say what it is for.
func TestWhatAsksForSocketsWhereNothingIsWritten(t *testing.T) {
	d := accounts(t)
	l := &compile(t, d).Levels[0]
	at := slices.IndexFunc(l.Requirements, func(r catalog.Requirement) bool { return slices.Contains(r.Any, "net/socket") })
	if at < 0 || l.Requirements[at].Pos != d.Workload.Listen[0].Pos {
		t.Errorf("%+v", l.Requirements)
	}
}

// Who asks a server for an address has the module for it, because of the line that says so.
func TestWhoAsksForAnAddress(t *testing.T) {
	for name, c := range map[string]struct {
		on   *api.Interface
		asks bool
	}{"a link": {nil, false}, "a server": {&api.Interface{Name: "tap7", DHCP: true}, true}, "routers": {&api.Interface{Name: "tap7", SLAAC: true}, false}} {
		for _, target := range api.Targets() {
			d := accounts(t)
			d.Workload.Target, d.Workload.Network, d.Workload.Interface, d.Workload.NetworkPos = target, api.NetDirect, c.on, api.Pos{Line: 77}
			l := &compile(t, d).Levels[0]
			at := slices.IndexFunc(l.Requirements, func(r catalog.Requirement) bool { return slices.Contains(r.Any, "net/dhcp") && r.Pos.Line == 77 })
			if (at >= 0) != c.asks {
				t.Errorf("%s, %s: %+v", name, target, l.Requirements)
			}
		}
	}
}

// IPv6 is in the image where its clients, or the addresses that it is to have, are of it,
// because of the line that says so; what its tender connects to is no reason.
func TestWhoNeedsIPv6(t *testing.T) {
	four, six := netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")
	static4, static6 := netip.MustParsePrefix("192.0.2.10/24"), netip.MustParsePrefix("2001:db8:7::10/64")
	rule := func(action abi.Verdict, from ...string) api.IngressRule {
		return api.IngressRule{Name: "r", Action: action, From: from}
	}
	const network, listen = 77, 88
	for name, c := range map[string]struct {
		address string // of a second listener; the first is at 127.0.0.1
		on      *api.Interface
		rules   []api.IngressRule // none: the policy says nothing
		change  func(*api.SecurityPolicy)
		because int // the line; 0: it needs none
	}{
		"loopback":                      {address: "127.0.0.2"},
		"a rule about IPv6 alone":       {address: "127.0.0.2", rules: []api.IngressRule{rule(abi.Allow, "six")}},
		"an address of IPv6":            {address: "::1", because: listen},
		"the same, and no IPv6 allowed": {address: "2001:db8::1", rules: []api.IngressRule{rule(abi.Allow, "four")}, because: listen},

		"everywhere, and nothing is allowed":   {address: "0.0.0.0", rules: []api.IngressRule{}},
		"everywhere, for IPv4":                 {address: "0.0.0.0", rules: []api.IngressRule{rule(abi.Allow, "four"), rule(abi.Deny, "six")}},
		"everywhere of IPv6, for IPv4":         {address: "::", rules: []api.IngressRule{rule(abi.Allow, "four")}},
		"everywhere, for some of IPv6":         {address: "0.0.0.0", rules: []api.IngressRule{rule(abi.Allow, "four", "six")}, because: listen},
		"everywhere, for everybody":            {address: "0.0.0.0", rules: []api.IngressRule{rule(abi.Allow, api.AnyEndpoint)}, because: listen},
		"everywhere, and all is allowed":       {address: "0.0.0.0", change: func(p *api.SecurityPolicy) { p.Default.Network = abi.Allow }, because: listen},
		"everywhere, for IPv4 but all allowed": {address: "0.0.0.0", rules: []api.IngressRule{rule(abi.Deny, "six")}, change: func(p *api.SecurityPolicy) { p.Default.Network = abi.Allow }, because: listen},
		"everywhere, and nothing is enforced":  {address: "0.0.0.0", rules: []api.IngressRule{rule(abi.Allow, "four")}, change: func(p *api.SecurityPolicy) { p.DryRun = true }, because: listen},
		"everywhere, and IPv6 is tried": {address: "0.0.0.0", rules: []api.IngressRule{rule(abi.Allow, "six")},
			change: func(p *api.SecurityPolicy) { p.Network.Ingress[0].DryRun = true }, because: listen},
		"everywhere, for IPv6 at a higher level": {address: "0.0.0.0", rules: []api.IngressRule{rule(abi.Allow, "six")}, change: func(p *api.SecurityPolicy) {
			p.Levels.Names, p.Network.Ingress[0].MinLevel = []string{"normal", "high"}, "high"
		}, because: listen},
		"the same, with a pool": {address: "0.0.0.0", rules: []api.IngressRule{rule(abi.Allow, "six")}, change: func(p *api.SecurityPolicy) {
			p.Levels.Names, p.Levels.Pool, p.Network.Ingress[0].MinLevel = []string{"normal", "high"}, "any", "high"
		}},

		"an interface with a server":        {on: &api.Interface{Name: "tap7", DHCP: true}, address: "0.0.0.0", rules: []api.IngressRule{rule(abi.Allow, api.AnyEndpoint)}},
		"an interface with routers":         {on: &api.Interface{Name: "tap7", DHCP: true, SLAAC: true}, address: "0.0.0.0", because: network},
		"an interface with an address":      {on: &api.Interface{Name: "tap7", Static: []netip.Prefix{static4}}, address: "0.0.0.0"},
		"an interface with one of IPv6 too": {on: &api.Interface{Name: "tap7", Static: []netip.Prefix{static4, static6}}, address: "0.0.0.0", because: network},
	} {
		t.Run(name, func(t *testing.T) {
			for _, target := range api.Targets() {
				d := accounts(t)
				w, p := d.Workload, *d.Policy
				d.Policy = &p
				w.Target, w.Network, w.Interface, w.NetworkPos = target, api.NetDirect, c.on, api.Pos{Line: network}
				w.Listen = append(w.Listen[:1:1], api.Listen{Name: "more", Address: netip.MustParseAddr(c.address), Port: 99, Pos: api.Pos{Line: listen}})
				p.Endpoints = []api.Endpoint{{Name: "four", CIDRs: []netip.Prefix{four}}, {Name: "six", CIDRs: []netip.Prefix{six}}}
				p.Default.Network, p.Network, p.Levels = abi.Deny, nil, api.Levels{Names: []string{"normal"}, Initial: "normal"}
				if c.rules != nil {
					p.Network = &api.Network{Ingress: slices.Clone(c.rules)}
				}
				if c.change != nil {
					c.change(&p)
				}
				l := &compile(t, d).Levels[0]
				at := slices.IndexFunc(l.Requirements, func(r catalog.Requirement) bool { return slices.Contains(r.Any, "net/ipv6") })
				if at < 0 && c.because != 0 || at >= 0 && l.Requirements[at].Pos.Line != c.because {
					t.Errorf("%s: it asks for %+v", target, l.Requirements)
				}
			}
		})
	}
	d := accounts(t)
	d.Workload.Network, d.Workload.App = api.NetDirect, api.App{Proxy: &api.ProxyApp{Host: "2001:db8::9", Port: 80, MaxConnections: 1}}
	if slices.ContainsFunc(compile(t, d).Levels[0].Requirements, func(r catalog.Requirement) bool { return slices.Contains(r.Any, "net/ipv6") }) {
		t.Error("an upstream of IPv6 asks for it")
	}
}
