// Package direct is the network of an image that has one of its own: a TCP stack
// over a network device, with nobody but the tender at the other end. Package
// abi/link has what the two say to each other.
package direct

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"lorica.dev/lorica/abi/launch"
)

const nic = 1

// What is closed is kept for a moment only: nothing is old on a link without
// routers, and memory is short.
const (
	timeWait = 250 * time.Millisecond
	finWait  = 10 * time.Second
)

// A Net is the network of an image.
type Net struct {
	// Short reports whether memory is too short for another connection, which then waits
	// to be accepted. Open asks the kernel where it is nil.
	Short func() bool

	stack      *stack.Stack
	card       *endpoint
	addr, host tcpip.Address
	memory     memory
	clock      *clock
	start      time.Time // deadlines are counted from here

	once   sync.Once
	broken chan struct{} // closed when the device broke, for err
	err    error
}

// New returns a network that has no device yet.
func New() *Net { return &Net{broken: make(chan struct{}), clock: newClock(), start: time.Now()} }

// Attach brings the network up over d.
func (n *Net) Attach(d Device, p *launch.Params) error {
	addr, host := p.Link.Addr.Addr(), p.Link.Host
	if !addr.Is4() || !host.Is4() || !p.Link.Addr.Contains(host) || addr == host {
		return fmt.Errorf("network: %v and %v are not two IPv4 addresses of one link", p.Link.Addr, host)
	}
	if mtu := d.Traits().MTU; mtu < header.IPv4MinimumMTU || mtu > maxPacket {
		return fmt.Errorf("network: the device has an MTU of %d bytes", mtu)
	}
	log.SetTarget(silent{})
	n.addr, n.host = tcpip.AddrFrom4(addr.As4()), tcpip.AddrFrom4(host.As4())
	n.memory.limit(p.MemoryLimit)
	n.stack = stack.New(stack.Options{
		Clock:              n.clock,
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, icmp.NewProtocol4},
	})
	if err := n.tune(); err != nil {
		return fmt.Errorf("network: %s", err)
	}
	n.card = newEndpoint(d, addr, host, n.clock, n.fail)
	if err := n.stack.CreateNIC(nic, n.card); err != nil {
		return fmt.Errorf("network: %s", err)
	}
	own := tcpip.AddressWithPrefix{Address: n.addr, PrefixLen: p.Link.Addr.Bits()}
	if err := n.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: own}, stack.AddressProperties{}); err != nil {
		return fmt.Errorf("network: %v: %s", addr, err)
	}
	n.stack.SetRouteTable([]tcpip.Route{{Destination: own.Subnet(), NIC: nic}})
	return n.announce(d.Traits().MAC)
}

// silent takes what the stack has to say: warnings of packets, which nobody here could
// do anything about.
type silent struct{}

func (silent) Emit(int, log.Level, time.Time, string, ...any) {}

// tune sets what differs from a machine with many neighbours and much memory.
func (n *Net) tune() tcpip.Error {
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: leastBuffer, Max: maxBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: leastBuffer, Max: maxBuffer}
	// A machine is not heard of for a while where its host is busy: that is no loss.
	// Nothing gets lost here but by the bounds of the tender. To look for losses by time
	// (RACK) would take a better clock than this stack's, and find none.
	rto, sack, recovery := tcpip.TCPMinRTOOption(time.Second), tcpip.TCPSACKEnabled(true), tcpip.TCPRecovery(0)
	wait, linger := tcpip.TCPTimeWaitTimeoutOption(timeWait), tcpip.TCPLingerTimeoutOption(finWait)
	for _, o := range []tcpip.SettableTransportProtocolOption{&receive, &send, &rto, &sack, &recovery, &wait, &linger} {
		if err := n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return err
		}
	}
	return nil
}

// announce tells the tender which hardware address is ours: whoever had the
// address before had another.
func (n *Net) announce(mac [6]byte) error {
	b := make([]byte, header.ARPSize)
	a := header.ARP(b)
	a.SetIPv4OverEthernet()
	a.SetOp(header.ARPRequest)
	copy(a.HardwareAddressSender(), mac[:])
	copy(a.ProtocolAddressSender(), n.addr.AsSlice())
	copy(a.ProtocolAddressTarget(), n.addr.AsSlice())
	if err := n.stack.WritePacketToRemote(nic, header.EthernetBroadcastAddress, arp.ProtocolNumber, buffer.MakeWithData(b)); err != nil {
		return fmt.Errorf("network: ARP: %s", err)
	}
	return nil
}

// Settle returns when the tender has everything that connections which are closed by now
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
			return fmt.Errorf("network: the tender has not taken the end of %d connections: %w", left, context.Cause(ctx))
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

func (n *Net) at(a tcpip.Address, port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: a, Port: port}
}
