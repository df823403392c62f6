package ip6

import (
	"net/netip"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"lorica.dev/lorica/netstack/direct"
)

// options has the stack heed routers where the launch says so, and nowhere else. Its
// addresses follow from the prefixes that they announce and from the hardware address:
// a service is to be found again, and has no privacy to lose.
func (p *protocol) options() ipv6.Options {
	if !p.routers {
		return ipv6.Options{}
	}
	return ipv6.Options{
		NDPConfigs: ipv6.NDPConfigurations{
			MaxRtrSolicitations: 3, RtrSolicitationInterval: 4 * time.Second,
			HandleRAs: ipv6.HandlingRAsAlwaysEnabled, DiscoverDefaultRouters: true, DiscoverMoreSpecificRoutes: true,
			DiscoverOnLinkPrefixes: true, AutoGenGlobalAddresses: true,
		},
		AutoGenLinkLocal: true,
		NDPDisp:          heard{p},
		DADConfigs:       stack.DefaultDADConfigurations(),
	}
}

// heard takes what the stack learns of routers. An address is the image's when nobody
// else has claimed it in a second.
type heard struct{ p *protocol }

// OnAutoGenAddress implements ipv6.NDPDispatcher.
func (h heard) OnAutoGenAddress(_ tcpip.NICID, a tcpip.AddressWithPrefix) stack.AddressDispatcher {
	h.p.ask(func(list []netip.Prefix) []netip.Prefix { return append(list, prefix(a)) })
	return nil
}

// OnDuplicateAddressDetectionResult implements ipv6.NDPDispatcher.
func (h heard) OnDuplicateAddressDetectionResult(_ tcpip.NICID, a tcpip.Address, result stack.DADResult) {
	var found []netip.Prefix
	h.p.ask(func(list []netip.Prefix) (rest []netip.Prefix) {
		for _, p := range list {
			if addr(p.Addr()) == a {
				found = append(found, p)
			} else {
				rest = append(rest, p)
			}
		}
		return rest
	})
	if _, free := result.(*stack.DADSucceeded); free {
		h.p.local.Learn(func(l *direct.Learned) { l.Addrs = append(l.Addrs, found...) })
	}
}

// OnAutoGenAddressInvalidated implements ipv6.NDPDispatcher.
func (h heard) OnAutoGenAddressInvalidated(_ tcpip.NICID, a tcpip.AddressWithPrefix) {
	is := func(p netip.Prefix) bool { return p == prefix(a) }
	h.p.ask(func(list []netip.Prefix) []netip.Prefix { return slices.DeleteFunc(list, is) })
	h.p.local.Learn(func(l *direct.Learned) { l.Addrs = slices.DeleteFunc(l.Addrs, is) })
}

// OnOnLinkPrefixDiscovered implements ipv6.NDPDispatcher.
func (h heard) OnOnLinkPrefixDiscovered(_ tcpip.NICID, s tcpip.Subnet) {
	h.p.local.Learn(func(l *direct.Learned) { l.OnLink = append(l.OnLink, subnet(s)) })
}

// OnOnLinkPrefixInvalidated implements ipv6.NDPDispatcher.
func (h heard) OnOnLinkPrefixInvalidated(_ tcpip.NICID, s tcpip.Subnet) {
	is := func(p netip.Prefix) bool { return p == subnet(s) }
	h.p.local.Learn(func(l *direct.Learned) { l.OnLink = slices.DeleteFunc(l.OnLink, is) })
}

// OnOffLinkRouteUpdated implements ipv6.NDPDispatcher.
func (h heard) OnOffLinkRouteUpdated(_ tcpip.NICID, to tcpip.Subnet, router tcpip.Address, preference header.NDPRoutePreference) {
	w := way(to, router)
	switch preference {
	case header.HighRoutePreference:
		w.Dislikes = -1
	case header.LowRoutePreference:
		w.Dislikes = 1
	}
	h.p.local.Learn(func(l *direct.Learned) { l.Ways = append(slices.DeleteFunc(l.Ways, same(w)), w) })
}

// OnOffLinkRouteInvalidated implements ipv6.NDPDispatcher.
func (h heard) OnOffLinkRouteInvalidated(_ tcpip.NICID, to tcpip.Subnet, router tcpip.Address) {
	h.p.local.Learn(func(l *direct.Learned) { l.Ways = slices.DeleteFunc(l.Ways, same(way(to, router))) })
}

// Nothing follows from the rest.

// OnAutoGenAddressDeprecated implements ipv6.NDPDispatcher.
func (heard) OnAutoGenAddressDeprecated(tcpip.NICID, tcpip.AddressWithPrefix) {}

// OnRecursiveDNSServerOption implements ipv6.NDPDispatcher.
func (heard) OnRecursiveDNSServerOption(tcpip.NICID, []tcpip.Address, time.Duration) {}

// OnDNSSearchListOption implements ipv6.NDPDispatcher.
func (heard) OnDNSSearchListOption(tcpip.NICID, []string, time.Duration) {}

// OnDHCPv6Configuration implements ipv6.NDPDispatcher.
func (heard) OnDHCPv6Configuration(tcpip.NICID, ipv6.DHCPv6ConfigurationFromNDPRA) {}

// ask changes which addresses others are asked about.
func (p *protocol) ask(f func([]netip.Prefix) []netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := f(slices.Clone(p.asked()))
	p.tentative.Store(&list)
}

func way(to tcpip.Subnet, router tcpip.Address) direct.Way {
	by, _ := netip.AddrFromSlice(router.AsSlice())
	return direct.Way{To: subnet(to), By: by}
}

// same returns what tells whether another way has the same ends as w.
func same(w direct.Way) func(direct.Way) bool {
	return func(other direct.Way) bool { return w.To == other.To && w.By == other.By }
}

func prefix(a tcpip.AddressWithPrefix) netip.Prefix {
	ip, _ := netip.AddrFromSlice(a.Address.AsSlice())
	return netip.PrefixFrom(ip, a.PrefixLen)
}

func subnet(s tcpip.Subnet) netip.Prefix {
	return prefix(tcpip.AddressWithPrefix{Address: s.ID(), PrefixLen: s.Prefix()})
}
