package direct

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"lorica.dev/lorica/abi/launch"
)

// addressWithin is how long an image that was launched without an address looks for one.
const addressWithin = 60 * time.Second

// linkLocal is where the addresses are that IPv6 has on every link.
var linkLocal = netip.MustParsePrefix("fe80::/10")

// owned is which addresses the image has, and the ways that follow from them. Those that
// it was launched with stay; the others are leased (DHCP), or made of what routers
// announce (SLAAC), and go with their time.
type owned struct {
	mu      sync.Mutex
	fixed   []netip.Prefix
	hosts   []netip.Addr // one for each of fixed
	leased  netip.Prefix
	router  netip.Addr // of leased
	learned Learned
	setting sync.Mutex    // held by who sets ways
	changed chan struct{} // has room for one: ways are to be set
	any     chan struct{} // closed when there is an address that clients can reach, and ways back
}

// change changes what the image owns, and tells everybody.
func (n *Net) change(f func(*owned)) {
	o := &n.owned
	o.mu.Lock()
	defer o.mu.Unlock()
	f(o)
	list := append(slices.Clone(o.fixed), o.learned.Addrs...)
	if o.leased.IsValid() {
		list = append(list, o.leased)
	}
	n.card.own.Store(&list)
	addrs := make([]netip.Addr, len(list))
	for i, p := range list {
		addrs[i] = p.Addr()
	}
	if n.filter != nil {
		n.filter.Own(addrs)
	}
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

// routes returns the ways to everybody, by what the image owns, and whether clients can
// reach any of that.
func (o *owned) routes() (list []tcpip.Route, reachable bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	add := func(to netip.Prefix, by netip.Addr) {
		r := tcpip.Route{Destination: tcpip.AddressWithPrefix{Address: addr(to.Addr()), PrefixLen: to.Bits()}.Subnet(), NIC: nic}
		if by.IsValid() {
			r.Gateway = addr(by)
		}
		list = append(list, r)
	}
	for i, p := range o.fixed {
		add(p, netip.Addr{})
		if o.hosts[i].IsValid() {
			add(all(p.Addr()), o.hosts[i])
		}
	}
	if o.leased.IsValid() {
		add(o.leased, netip.Addr{})
		if o.router.IsValid() {
			add(all(o.leased.Addr()), o.router)
		}
	}
	for _, p := range o.learned.OnLink {
		add(p, netip.Addr{})
	}
	slices.SortStableFunc(o.learned.Ways, func(a, b Way) int {
		return cmp.Or(cmp.Compare(b.To.Bits(), a.To.Bits()), cmp.Compare(a.Dislikes, b.Dislikes))
	})
	for _, w := range o.learned.Ways {
		add(w.To, w.By)
	}
	far := func(p netip.Prefix) bool { return !p.Addr().IsLinkLocalUnicast() }
	return list, len(o.fixed) > 0 || o.leased.IsValid() || slices.ContainsFunc(o.learned.Addrs, far)
}

// all is all addresses of the family of a.
func all(a netip.Addr) netip.Prefix {
	if a.Is6() {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// reroute keeps the ways of the stack as they are to be, until the device breaks.
// Whoever learns of a change may not call the stack.
func (n *Net) reroute() {
	for {
		select {
		case <-n.owned.changed:
			n.setRoutes()
		case <-n.broken:
			return
		}
	}
}

// setRoutes comes last of what an address takes: its filter lets clients through by then.
func (n *Net) setRoutes() {
	o := &n.owned
	o.setting.Lock()
	defer o.setting.Unlock()
	list, reachable := o.routes()
	n.stack.SetRouteTable(list)
	if reachable {
		select {
		case <-o.any:
		default:
			close(o.any)
		}
	}
}

// address gives the stack the addresses that the image was launched with.
func (n *Net) address(l launch.Link) error {
	for _, a := range l.Addrs {
		if err := n.add(a); err != nil {
			return err
		}
	}
	if l.SLAAC {
		n.change(func(o *owned) { o.learned.OnLink = append(o.learned.OnLink, linkLocal) })
	}
	n.change(func(o *owned) { o.fixed, o.hosts = slices.Clone(l.Addrs), slices.Clone(l.Hosts) })
	n.setRoutes()
	go n.reroute()
	return nil
}

func (n *Net) add(a netip.Prefix) error {
	own := tcpip.AddressWithPrefix{Address: addr(a.Addr()), PrefixLen: a.Bits()}
	if err := n.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{Protocol: protocolOf(a.Addr()), AddressWithPrefix: own}, stack.AddressProperties{}); err != nil {
		return fmt.Errorf("network: %v: %s", a, err)
	}
	return nil
}

// Addresses returns what the image owns now, with their networks.
func (n *Net) Addresses() (list []string) {
	for _, p := range *n.card.own.Load() {
		list = append(list, p.String())
	}
	return list
}

// Addressed returns when clients can reach the image at an address.
func (n *Net) Addressed() error {
	late := time.NewTimer(addressWithin)
	defer late.Stop()
	select {
	case <-n.owned.any:
		return nil
	case <-n.broken:
		return n.err
	case <-late.C:
		return errors.New("network: nobody has given this image an address in a minute: it asks as it was launched to, by DHCP or SLAAC; is there a server on its network?")
	}
}
