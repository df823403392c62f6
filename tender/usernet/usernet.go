// Package usernet is the host's end of the network between a tender and its image,
// where the host gives the tender no device for it: a TCP stack of the tender's own, on
// a socket that the image, or its QEMU, passes frames through.
//
// The image is hostile. What it sends can neither block the tender, nor make it hold
// more memory than the bounds here allow.
package usernet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/tender/process"
	"lorica.dev/lorica/tender/relay"
	"lorica.dev/lorica/tender/way"
)

// MTU is what suits the link. With longer packets, the buffers of a small image would
// hold too few of them; with shorter ones, every byte costs more; and with a byte
// more, each would take 32 KiB of memory.
const MTU = 16<<10 - ethernetSize

const (
	nic = 1

	timeWait    = time.Millisecond // nothing is old on a link without routers
	finWait     = 10 * time.Second
	closeWithin = 5 * time.Second        // the image confirms the end of a connection, or it is reset
	lastWords   = 300 * time.Millisecond // for frames on their way through the stack when the image has ended
	keepIdle    = time.Minute
	keepEach    = 15 * time.Second
	keepCount   = 4

	backlog     = 128  // connections of the image that nobody has accepted
	maxAccepted = 1024 // connections of the image, those that end included
	maxDialed   = 48 << 10

	// What the buffers of all connections hold, in bytes: the first get much, and when
	// there are many, new ones get little.
	buffers     = 64 << 20
	leastBuffer = 16 << 10
	mostBuffer  = 512 << 10
)

// between returns what is on the link. There is nobody else on it, so that every image
// can have the same addresses.
func between(s way.Spec) launch.Link {
	l := launch.Link{
		Addrs: []netip.Prefix{netip.MustParsePrefix("169.254.76.2/30"), netip.MustParsePrefix("fd6c:6f72:6963:62::2/126")},
		Hosts: []netip.Addr{netip.MustParseAddr("169.254.76.1"), netip.MustParseAddr("fd6c:6f72:6963:62::1")},
		MTU:   uint16(s.MTU), MAC: [6]byte{0x02, 'L', 0, 0, 0, 2}, Offload: s.Raw, Verified: true,
	}
	if s.IPv4 {
		l.Addrs, l.Hosts = l.Addrs[:1], l.Hosts[:1]
	}
	return l
}

// A Net is the tender's end.
type Net struct {
	link     launch.Link
	file     *os.File // the image's end
	stack    *stack.Stack
	wire     *wire
	flows    flows         // to the image
	accepted chan struct{} // one for each connection of the image, those that end included
	open     atomic.Int64
	patience time.Duration // closeWithin
	buffers  relay.Pool

	once sync.Once
}

// Open makes a link. What carries the frames to an image that is handed a descriptor is
// a socket that keeps messages apart, as launch.Link says; for QEMU it is a stream.
func Open(s way.Spec) (*Net, error) {
	kind, framing := unix.SOCK_STREAM, streamOf
	if s.Raw {
		kind, framing = unix.SOCK_SEQPACKET, messagesOf
	}
	sock, theirs, err := process.Pair(kind, "link: network of the image")
	if err != nil {
		return nil, err
	}
	sock.SetWriteBuffer(sockBuffer) // or what the host has as its most
	n, err := join(sock, framing, s)
	if err != nil {
		sock.Close()
		theirs.Close()
		return nil, err
	}
	n.file = theirs
	return n, nil
}

// join joins the link by sock, which it takes over.
func join(sock net.Conn, f func(net.Conn, int) framing, s way.Spec) (*Net, error) {
	if s.MTU < leastMTU || s.MTU > mostMTU {
		return nil, fmt.Errorf("link: an MTU of %d bytes", s.MTU)
	}
	n := &Net{link: between(s), accepted: make(chan struct{}, maxAccepted), patience: closeWithin}
	n.flows.all = make(map[flow]*held)
	log.SetTarget(silent{})
	longest := s.MTU
	if s.Raw { // it leaves it to us to cut what is longer, and we need not
		longest = mostPacket
	}
	n.wire = newWire(sock, f(sock, longest), &n.link, s.MTU, n.flows.refuse)
	context.AfterFunc(n.wire.alive, func() { time.AfterFunc(lastWords, n.bereave) })
	protocols := []stack.NetworkProtocolFactory{arp.NewProtocol,
		ipv4.NewProtocolWithOptions(ipv4.Options{AllowExternalLoopbackTraffic: true})} // clients of this machine
	if !s.IPv4 {
		protocols = append(protocols, ipv6.NewProtocol)
	}
	n.stack = stack.New(stack.Options{NetworkProtocols: protocols, TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol}})
	if err := n.configure(); err != nil {
		n.Close()
		return nil, fmt.Errorf("link: %s", err)
	}
	return n, nil
}

// silent takes what the stack has to say: an image decides how often.
type silent struct{}

func (silent) Emit(int, log.Level, time.Time, string, ...any) {}

func (n *Net) configure() tcpip.Error {
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: leastBuffer, Max: mostBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: leastBuffer, Max: mostBuffer}
	// An image is not heard of for a while where the host is busy: that is no loss.
	// Nothing gets lost here but by our own bounds.
	rto, sack := tcpip.TCPMinRTOOption(time.Second), tcpip.TCPSACKEnabled(true)
	wait, linger := tcpip.TCPTimeWaitTimeoutOption(timeWait), tcpip.TCPLingerTimeoutOption(finWait)
	for _, o := range []tcpip.SettableTransportProtocolOption{&receive, &send, &rto, &sack, &wait, &linger} {
		if err := n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return err
		}
	}
	if err := n.stack.CreateNIC(nic, n.wire); err != nil {
		return err
	}
	// Whoever is a client is at this end, with any address.
	if err := n.stack.SetSpoofing(nic, true); err != nil {
		return err
	}
	if err := n.stack.SetPromiscuousMode(nic, true); err != nil {
		return err
	}
	for i, p := range n.link.Addrs {
		own := tcpip.AddressWithPrefix{Address: address(n.link.Hosts[i]), PrefixLen: p.Bits()}
		if err := n.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{Protocol: protocolOf(n.link.Hosts[i]), AddressWithPrefix: own}, stack.AddressProperties{}); err != nil {
			return err
		}
		n.stack.AddRoute(tcpip.Route{Destination: own.Subnet(), NIC: nic})
	}
	return nil
}

func address(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

// Link is what the image has to know.
func (n *Net) Link() launch.Link { return n.link }

// File is the image's end; it stays with n.
func (n *Net) File() *os.File { return n.file }

// Done is closed when the other end of the link was.
func (n *Net) Done() <-chan struct{} { return n.wire.alive.Done() }

// bereave resets the connections that the image has not ended itself, now that it has
// gone. What it had to say on the others can still be read.
func (n *Net) bereave() {
	for _, e := range n.stack.RegisteredEndpoints() {
		ep, ok := e.(*tcp.Endpoint)
		if !ok {
			continue
		}
		switch ep.EndpointState() {
		case tcp.StateCloseWait, tcp.StateLastAck, tcp.StateClosing, tcp.StateTimeWait, tcp.StateListen:
		default:
			ep.Abort()
		}
	}
}

// Close ends all connections. It waits for nobody.
func (n *Net) Close() error {
	n.once.Do(func() {
		if n.file != nil {
			n.file.Close()
		}
		n.wire.shut()
		go n.stack.Destroy()
	})
	return nil
}
