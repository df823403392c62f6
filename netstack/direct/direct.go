// Package direct is the network of an image that has one of its own: a TCP/IP stack
// over a device whose other end is the tender's. Packets of clients arrive as clients
// sent them, and a firewall may judge each before the stack sees it. Packages card and
// tap have the devices, package abi/link what is agreed with the tender. The stack is one
// of IPv4; package ip6 is what it lacks of IPv6, for an image that needs it.
package direct

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/link"
	"lorica.dev/lorica/pep"
)

const nic = 1

// What is closed is kept for a moment only: memory is short.
const (
	timeWait = 250 * time.Millisecond
	finWait  = 10 * time.Second
)

// A Net is the network of an image.
type Net struct {
	// Short reports whether memory is too short for another connection, which then waits
	// to be accepted. It never is where Short is nil.
	Short func() bool

	open   func(*launch.Params) (Device, error)
	lease  func(*Lessee)                  // nil where the image cannot ask for an address
	six    func(l *Local, slaac bool) Six // nil where there is IPv4 alone
	filter pep.PacketFilter
	stack  *stack.Stack
	card   *endpoint
	owned  owned
	hosts  []netip.Addr
	memory memory
	clock  *clock
	start  time.Time // deadlines are counted from here

	listeners []net.Listener // of the launch

	once   sync.Once
	broken chan struct{} // closed when the device broke, for err
	err    error
}

// An Option is a part that not every network has.
type Option func(*Net)

// New returns a network whose device open opens.
func New(open func(*launch.Params) (Device, error), options ...Option) *Net {
	n := &Net{open: open, broken: make(chan struct{}), clock: newClock(), start: time.Now()}
	n.owned.changed, n.owned.any = make(chan struct{}, 1), make(chan struct{})
	for _, o := range options {
		o(n)
	}
	return n
}

// Place implements unikernel.PacketNet.
func (n *Net) Place(p *launch.Params) pep.PacketPlace {
	place := pep.PacketPlace{Hosts: slices.Clone(p.Link.Hosts), Ports: make(map[uint16]uint16), SLAAC: p.Link.SLAAC, DHCP: p.Link.DHCP, Shared: p.Link.Shared}
	for _, a := range p.Link.Addrs {
		place.Own = append(place.Own, a.Addr())
	}
	for _, l := range p.Listeners {
		place.Ports[l.Bind] = l.Port
	}
	if p.Dials && len(p.Link.Hosts) > 0 && !p.Link.Shared {
		place.Outward = []netip.AddrPort{netip.AddrPortFrom(p.Link.Hosts[0], link.DialPort)}
	}
	return place
}

// Packets implements unikernel.PacketNet.
func (n *Net) Packets(f pep.PacketFilter) { n.filter = f }

// Open brings the network up.
func (n *Net) Open(p *launch.Params) error {
	if !p.Link.Present() {
		return errors.New("network: this image has a network of its own, and was launched without a link")
	}
	if p.Link.DHCP && n.lease == nil {
		return errors.New("network: this image was launched to ask for an address by DHCP, and has no module for it; rebuild the image")
	}
	if n.six == nil && (p.Link.SLAAC || slices.ContainsFunc(p.Link.Addrs, func(a netip.Prefix) bool { return a.Addr().Is6() })) {
		return errors.New("network: this image was launched to have an address of IPv6, and has no module for it; rebuild the image")
	}
	d, err := n.open(p)
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	if mtu := d.Traits().MTU; mtu < header.IPv6MinimumMTU || mtu > maxPacket {
		return fmt.Errorf("network: the device has an MTU of %d bytes", mtu)
	}
	log.SetTarget(silent{})
	if !p.Link.Shared {
		n.hosts = slices.Clone(p.Link.Hosts)
	}
	n.memory.limit(p.MemoryLimit)
	n.card = newEndpoint(d, slices.Clone(p.Link.Addrs), n.filter, n.clock, n.fail)
	n.card.shared = p.Link.Shared
	if !p.Link.Verified {
		n.card.windows = new(windows)
	}
	protocols := stack.Options{
		Clock:              n.clock,
		NetworkProtocols:   []stack.NetworkProtocolFactory{n.card.arp, ipv4.NewProtocolWithOptions(ipv4.Options{AllowExternalLoopbackTraffic: true})},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	}
	if n.six != nil {
		six := n.six(&Local{n}, p.Link.SLAAC)
		protocols.NetworkProtocols = append(protocols.NetworkProtocols, six.Network)
		protocols.TransportProtocols = append(protocols.TransportProtocols, six.Transport)
		n.card.six = &six
	}
	n.stack = stack.New(protocols)
	if err := n.tune(p.Link.Verified); err != nil {
		return fmt.Errorf("network: %s", err)
	}
	if err := n.stack.CreateNIC(nic, n.card); err != nil {
		return fmt.Errorf("network: %s", err)
	}
	if err := n.address(p.Link); err != nil {
		return err
	}
	if p.Link.DHCP {
		n.card.leases = newLessee(n)
	}
	// Clients may have waited for this life of the image: their first packets must not come
	// to ports that nobody listens on yet, or they are refused.
	for _, l := range p.Listeners {
		ln, err := n.listen(l)
		if err != nil {
			return err
		}
		n.listeners = append(n.listeners, ln)
	}
	n.card.start()
	if p.Link.DHCP {
		go n.lease(n.card.leases)
	}
	return n.announce()
}

// silent takes what the stack has to say: warnings of packets, which nobody here could
// do anything about.
type silent struct{}

func (silent) Emit(int, log.Level, time.Time, string, ...any) {}

// How long TCP waits for an answer. Where clients are elsewhere, segments get lost and
// overtake each other, and one that was lost time and again is sent soon nevertheless:
// after 100 seconds without an answer there is no client. Between an image and its tender
// nothing is lost: who is not heard of for a while there is busy.
const (
	leastRTO     = 200 * time.Millisecond
	mostRTO      = 10 * time.Second
	leastRTOBusy = time.Second
)

// tune sets what differs from a machine with much memory. The link is private where
// nobody else's packets come through it. Times do not tell of losses (RACK): the stack
// then stops its timer for a probe of the last segment, and counts what is on its way
// too low once some got lost; when it counts nothing, it does not start the timer again
// after the probe, and where the probe gets lost too, it stands still for good.
func (n *Net) tune(private bool) tcpip.Error {
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: leastBuffer, Max: maxBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: leastBuffer, Max: maxBuffer}
	sack, recovery := tcpip.TCPSACKEnabled(true), tcpip.TCPRecovery(0)
	least, most := tcpip.TCPMinRTOOption(leastRTO), tcpip.TCPMaxRTOOption(mostRTO)
	if private {
		least, most = tcpip.TCPMinRTOOption(leastRTOBusy), tcpip.TCPMaxRTOOption(tcp.MaxRTO)
	}
	wait, linger := tcpip.TCPTimeWaitTimeoutOption(timeWait), tcpip.TCPLingerTimeoutOption(finWait)
	for _, o := range []tcpip.SettableTransportProtocolOption{&receive, &send, &sack, &recovery, &least, &most, &wait, &linger} {
		if err := n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return err
		}
	}
	return nil
}

// Settle returns when clients have everything that connections which are closed by now
// had to say, or when ctx is over. Nobody sends it after the image has ended.
func (n *Net) Settle(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		left := 0
		for _, e := range n.stack.RegisteredEndpoints() {
			if ep, ok := e.(*tcp.Endpoint); ok && n.memory.left(ep) {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-n.broken:
			return n.err
		case <-ctx.Done():
			return fmt.Errorf("network: nobody has taken the end of %d connections: %w", left, context.Cause(ctx))
		}
	}
}

// fail ends everything: there is no network without its device.
func (n *Net) fail(err error) {
	n.once.Do(func() {
		if err == nil {
			err = errors.New("it has stopped")
		}
		n.err = fmt.Errorf("network device: %w", err)
		close(n.broken)
		n.memory.wake()
		go n.stack.Destroy() // which waits for who called
	})
}

// because returns err, or why the device broke, where that is behind it.
func (n *Net) because(err error) error {
	select {
	case <-n.broken:
		return n.err
	default:
		return err
	}
}
