package compiler

import (
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
