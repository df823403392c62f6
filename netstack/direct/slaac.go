package direct

import (
	"net/netip"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

var linkLocal = netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80})

// ipv6Options has the stack heed routers where the launch says so, and nowhere else. Its
// addresses follow from the prefixes that they announce and from the hardware address:
// a service is to be found again, and has no privacy to lose.
func (n *Net) ipv6Options(slaac bool) ipv6.Options {
	if !slaac {
		return ipv6.Options{}
	}
	n.card.routers = true
	return ipv6.Options{
		NDPConfigs: ipv6.NDPConfigurations{
			MaxRtrSolicitations: 3, RtrSolicitationInterval: 4 * time.Second,
			HandleRAs: ipv6.HandlingRAsAlwaysEnabled, DiscoverDefaultRouters: true, DiscoverMoreSpecificRoutes: true,
			DiscoverOnLinkPrefixes: true, AutoGenGlobalAddresses: true,
		},
		AutoGenLinkLocal: true,
		NDPDisp:          heard{n},
		DADConfigs:       stack.DefaultDADConfigurations(),
	}
}

// heard takes what the stack learns of routers. An address is the image's when nobody
// else has claimed it in a second.
type heard struct{ n *Net }

// OnAutoGenAddress implements ipv6.NDPDispatcher.
func (h heard) OnAutoGenAddress(_ tcpip.NICID, a tcpip.AddressWithPrefix) stack.AddressDispatcher {
	h.n.tentative(func(list []netip.Prefix) []netip.Prefix { return append(list, prefix(a)) })
	return nil
}

// OnDuplicateAddressDetectionResult implements ipv6.NDPDispatcher.
func (h heard) OnDuplicateAddressDetectionResult(_ tcpip.NICID, a tcpip.Address, result stack.DADResult) {
	var found []netip.Prefix
	h.n.tentative(func(list []netip.Prefix) (rest []netip.Prefix) {
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
		h.n.change(func(o *owned) { o.auto = append(o.auto, found...) })
	}
}

// OnAutoGenAddressInvalidated implements ipv6.NDPDispatcher.
func (h heard) OnAutoGenAddressInvalidated(_ tcpip.NICID, a tcpip.AddressWithPrefix) {
	is := func(p netip.Prefix) bool { return p == prefix(a) }
	h.n.tentative(func(list []netip.Prefix) []netip.Prefix { return slices.DeleteFunc(list, is) })
	h.n.change(func(o *owned) { o.auto = slices.DeleteFunc(o.auto, is) })
}

// OnOnLinkPrefixDiscovered implements ipv6.NDPDispatcher.
func (h heard) OnOnLinkPrefixDiscovered(_ tcpip.NICID, s tcpip.Subnet) {
	h.n.change(func(o *owned) { o.onLink = append(o.onLink, subnet(s)) })
}

// OnOnLinkPrefixInvalidated implements ipv6.NDPDispatcher.
func (h heard) OnOnLinkPrefixInvalidated(_ tcpip.NICID, s tcpip.Subnet) {
	is := func(p netip.Prefix) bool { return p == subnet(s) }
	h.n.change(func(o *owned) { o.onLink = slices.DeleteFunc(o.onLink, is) })
}

// OnOffLinkRouteUpdated implements ipv6.NDPDispatcher.
func (h heard) OnOffLinkRouteUpdated(_ tcpip.NICID, to tcpip.Subnet, router tcpip.Address, preference header.NDPRoutePreference) {
	w := newWay6(to, router)
	switch preference {
	case header.HighRoutePreference:
		w.dislikes = -1
	case header.LowRoutePreference:
		w.dislikes = 1
	}
	h.n.change(func(o *owned) { o.ways = append(slices.DeleteFunc(o.ways, w.same), w) })
}

// OnOffLinkRouteInvalidated implements ipv6.NDPDispatcher.
func (h heard) OnOffLinkRouteInvalidated(_ tcpip.NICID, to tcpip.Subnet, router tcpip.Address) {
	h.n.change(func(o *owned) { o.ways = slices.DeleteFunc(o.ways, newWay6(to, router).same) })
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

// tentative changes which addresses others are asked about.
func (n *Net) tentative(f func([]netip.Prefix) []netip.Prefix) {
	n.owned.mu.Lock()
	defer n.owned.mu.Unlock()
	var list []netip.Prefix
	if was := n.card.tentative.Load(); was != nil {
		list = slices.Clone(*was)
	}
	list = f(list)
	n.card.tentative.Store(&list)
}

func newWay6(to tcpip.Subnet, router tcpip.Address) way6 {
	by, _ := netip.AddrFromSlice(router.AsSlice())
	return way6{to: subnet(to), by: by}
}

func (w way6) same(other way6) bool { return w.to == other.to && w.by == other.by }

func prefix(a tcpip.AddressWithPrefix) netip.Prefix {
	ip, _ := netip.AddrFromSlice(a.Address.AsSlice())
	return netip.PrefixFrom(ip, a.PrefixLen)
}

func subnet(s tcpip.Subnet) netip.Prefix {
	return prefix(tcpip.AddressWithPrefix{Address: s.ID(), PrefixLen: s.Prefix()})
}
