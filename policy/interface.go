package policy

import (
	"net/netip"
	"regexp"
	"slices"

	"go.yaml.in/yaml/v3"

	"lorica.dev/lorica/api"
)

// interfaceForm is what the name of a device can be, and a path of it.
var interfaceForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$`)

// link reads which network an image has: a word, or fields where it is on an interface.
func (d *decoder) link(w *api.Workload) func(*yaml.Node) {
	return func(n *yaml.Node) {
		w.NetworkPos = d.pos(n)
		if n.Kind != yaml.MappingNode {
			d.choice(&w.Network, "spec.network", api.Networks())(n)
			return
		}
		before := d.count()
		i := &api.Interface{}
		var named, addressed, routed *yaml.Node
		d.object(n, "spec.network",
			field{name: "mode", must: true, read: d.choice(&w.Network, "spec.network.mode", api.Networks())},
			field{name: "interface", read: func(n *yaml.Node) {
				named = n
				d.form(&i.Name, "spec.network.interface", interfaceForm, "the name of a TAP device: letters, digits, '.', '_' and '-', at most 15")(n)
			}},
			field{name: "addresses", read: func(n *yaml.Node) {
				addressed = n
				d.list("spec.network.addresses", func(n *yaml.Node) { d.interfaceAddress(i, n) })(n)
			}},
			field{name: "gateway", read: func(n *yaml.Node) {
				routed = n
				d.gateways(i, n)
			}})
		for _, x := range []struct {
			name string
			n    *yaml.Node
		}{{"addresses", addressed}, {"gateway", routed}} {
			if x.n != nil && named == nil {
				d.fail(x.n, "add interface: NAME, or remove it", "spec.network.%s without an interface: on a link to its tender an image has the addresses that it is given", x.name)
			}
		}
		if named == nil {
			return
		}
		if w.Network == api.NetSocket {
			d.fail(named, "write mode: direct, or remove interface", "spec.network.interface is not for sockets of the host")
		}
		if addressed == nil {
			i.DHCP, i.SLAAC = true, true
		} else if len(addressed.Content) == 0 && addressed.Kind == yaml.SequenceNode {
			d.fail(addressed, "write [dhcp, slaac], or an address with its network", "spec.network.addresses is empty: nobody could reach the workload")
		}
		if d.count() == before {
			w.Interface = i
		}
	}
}

// interfaceAddress reads one way to an address.
func (d *decoder) interfaceAddress(i *api.Interface, n *yaml.Node) {
	const p = "spec.network.addresses"
	if d.drawn(n, sketch{"type": "string", "pattern": "^(" + api.AddressDHCP + "|" + api.AddressSLAAC + "|.+/[0-9]+)$"}) {
		return
	}
	var s string
	if d.str(&s, p)(n); s == "" && n.Tag != "!!str" {
		return
	}
	for _, word := range []struct {
		name string
		is   *bool
	}{{api.AddressDHCP, &i.DHCP}, {api.AddressSLAAC, &i.SLAAC}} {
		if s == word.name {
			if *word.is {
				d.fail(n, "remove one", "%s has %s twice", p, s)
			}
			*word.is = true
			return
		}
	}
	a, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		d.fail(n, "write dhcp, slaac, or an address with its network such as 192.0.2.10/24", "%s: %q is unknown", p, clip(s))
	case a.Addr().Is4In6():
		d.fail(n, "write the IPv4 address", "%s: %s is IPv4 in disguise", p, s)
	case !a.Addr().IsGlobalUnicast() || a.Bits() == 0 || !a.IsSingleIP() && a == a.Masked():
		d.fail(n, "write the address of the image with the length of its network's prefix, such as 192.0.2.10/24", "%s: %s is no address that one image can have", p, s)
	case slices.ContainsFunc(i.Static, func(b netip.Prefix) bool { return a.Addr().Is4() == b.Addr().Is4() }):
		d.fail(n, "keep one of IPv4 and one of IPv6", "%s: %s is the second address of its family", p, s)
	default:
		i.Static = append(i.Static, a)
	}
}

// gateways reads one router, or a list with one for each family.
func (d *decoder) gateways(i *api.Interface, n *yaml.Node) {
	d.each(n, "spec.network.gateway", func(n *yaml.Node) {
		var a netip.Addr
		if d.address(&a, "spec.network.gateway")(n); !a.IsValid() {
			return
		}
		if slices.ContainsFunc(i.Gateways, func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			d.fail(n, "keep one of IPv4 and one of IPv6", "spec.network.gateway: %s is the second of its family", a)
		}
		i.Gateways = append(i.Gateways, a)
	})
}

// checkInterface holds that an image on an interface can be what else is asked of it.
func (p *parsing) checkInterface(w *workload) {
	i := w.Interface
	if i == nil {
		return
	}
	for _, g := range i.Gateways {
		if !slices.ContainsFunc(i.Static, func(s netip.Prefix) bool { return s.Contains(g) && s.Addr() != g }) {
			w.failAt(w.NetworkPos, "write one in the network of a static address; dhcp and slaac say theirs", "spec.network.gateway: %s is not in the network of an address that is written", g)
		}
	}
	if w.App.Proxy != nil {
		w.failAt(w.NetworkPos, "write network: direct without an interface, or socket", "a proxy cannot be on an interface: its tender, which makes its connections, is not on that network")
	}
}

// listenAt gives listeners the address that nothing is written for: of this machine
// alone, or all that an image on an interface has, which nobody can choose among.
func (d *decoder) listenAt(w *api.Workload) {
	for i := range w.Listen {
		l := &w.Listen[i]
		switch {
		case w.Interface != nil && l.Address.IsValid():
			d.failAt(l.Pos, "remove address", "spec.listen.address is not for an image on an interface: it listens at every address that it has there")
		case l.Address.IsValid():
		case w.Interface != nil:
			l.Address = netip.IPv4Unspecified()
		default:
			l.Address = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
	}
}
