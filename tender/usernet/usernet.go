// Package usernet is the host's end of the network between a tender and its microVM,
// where the host gives the tender no device for it: a TCP stack of the tender's own, on
// a socket that QEMU passes frames through.
//
// The guest is hostile. What it sends can neither block the tender, nor make it hold
// more memory than the bounds here allow.
package usernet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"lorica.dev/lorica/abi/link"
	"lorica.dev/lorica/tender/relay"
)

// MTU is what suits the link. With longer packets, the buffers of a small guest would
// hold too few of them; with shorter ones, every byte costs more; and with a byte
// more, each would take 32 KiB of memory.
const MTU = 16<<10 - ethernetSize

const (
	nic = 1

	timeWait    = 250 * time.Millisecond // nothing is old on a link without routers
	finWait     = 10 * time.Second
	closeWithin = 5 * time.Second        // the guest confirms the end of a connection, or it is reset
	lastWords   = 300 * time.Millisecond // for frames on their way through the stack when the guest has ended
	keepIdle    = time.Minute
	keepEach    = 15 * time.Second
	keepCount   = 4

	backlog     = 128  // connections of the guest that nobody has accepted
	maxAccepted = 1024 // connections of the guest, those that end included
	maxDialed   = 48 << 10

	// What the buffers of all connections hold, in bytes: the first get much, and when
	// there are many, new ones get little.
	buffers     = 64 << 20
	leastBuffer = 16 << 10
	mostBuffer  = 512 << 10
)

// A Link is the tender's end.
type Link struct {
	stack       *stack.Stack
	wire        *wire
	guest, host tcpip.Address
	dialed      chan struct{} // one for each connection to the guest, those that end included
	accepted    chan struct{}
	open        atomic.Int64
	patience    time.Duration // closeWithin
	buffers     relay.Pool

	once sync.Once
}

// New joins the link by sock, which it takes over: the stream socket whose other end is
// QEMU's. guest is the guest's address, and how long the prefix of the link is; host is
// the tender's address; mtu is what the guest's device says.
func New(sock net.Conn, guest netip.Prefix, host netip.Addr, mtu int) (*Link, error) {
	if !guest.Addr().Is4() || !host.Is4() || !guest.Contains(host) || guest.Addr() == host || mtu < leastMTU || mtu > mostMTU {
		return nil, fmt.Errorf("link: %v and %v with an MTU of %d bytes are not two IPv4 addresses of one link", guest, host, mtu)
	}
	l := &Link{guest: tcpip.AddrFrom4(guest.Addr().As4()), host: tcpip.AddrFrom4(host.As4()), dialed: make(chan struct{}, maxDialed),
		accepted: make(chan struct{}, maxAccepted), patience: closeWithin}
	log.SetTarget(silent{})
	l.wire = newWire(sock, guest.Addr(), host, mtu)
	context.AfterFunc(l.wire.alive, func() { time.AfterFunc(lastWords, l.bereave) })
	l.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	if err := l.configure(guest.Bits()); err != nil {
		l.Close()
		return nil, fmt.Errorf("link: %s", err)
	}
	return l, nil
}

// silent takes what the stack has to say: a guest decides how often.
type silent struct{}

func (silent) Emit(int, log.Level, time.Time, string, ...any) {}

func (l *Link) configure(bits int) tcpip.Error {
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: leastBuffer, Max: mostBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: leastBuffer, Max: mostBuffer}
	// A guest is not heard of for a while where the host is busy: that is no loss.
	// Nothing gets lost here but by our own bounds.
	rto, sack := tcpip.TCPMinRTOOption(time.Second), tcpip.TCPSACKEnabled(true)
	wait, linger := tcpip.TCPTimeWaitTimeoutOption(timeWait), tcpip.TCPLingerTimeoutOption(finWait)
	for _, o := range []tcpip.SettableTransportProtocolOption{&receive, &send, &rto, &sack, &wait, &linger} {
		if err := l.stack.SetTransportProtocolOption(tcp.ProtocolNumber, o); err != nil {
			return err
		}
	}
	if err := l.stack.SetPortRange(1024, 65535); err != nil {
		return err
	}
	if err := l.stack.CreateNIC(nic, l.wire); err != nil {
		return err
	}
	own := tcpip.AddressWithPrefix{Address: l.host, PrefixLen: bits}
	if err := l.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{Protocol: ipv4.ProtocolNumber, AddressWithPrefix: own}, stack.AddressProperties{}); err != nil {
		return err
	}
	l.stack.SetRouteTable([]tcpip.Route{{Destination: own.Subnet(), NIC: nic}})
	return nil
}

// bereave resets the connections that the guest has not ended itself, now that it has
// gone. What it had to say on the others can still be read.
func (l *Link) bereave() {
	for _, e := range l.stack.RegisteredEndpoints() {
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

// Dial connects to a port of the guest.
func (l *Link) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	c, err := l.dial(ctx, port)
	if err != nil {
		return nil, fmt.Errorf("link: port %d of the guest: %w", port, err)
	}
	return c, nil
}

func (l *Link) dial(ctx context.Context, port uint16) (*conn, error) {
	select {
	case l.dialed <- struct{}{}:
	default:
		return nil, errors.New("too many connections")
	}
	wq := &waiter.Queue{}
	ep, failed := l.stack.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, wq)
	if failed != nil {
		<-l.dialed
		return nil, errors.New(failed.String())
	}
	c := newConn(l, ep, wq, l.dialed)
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	failed = ep.Connect(tcpip.FullAddress{NIC: nic, Addr: l.guest, Port: port})
	if _, started := failed.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ready:
			failed = ep.LastError()
		case <-ctx.Done():
			c.Close()
			return nil, context.Cause(ctx)
		case <-l.wire.alive.Done():
			c.Close()
			return nil, net.ErrClosed
		}
	}
	if failed != nil {
		c.Close()
		return nil, errors.New(failed.String())
	}
	return c, nil
}

// Listen accepts what the guest connects to link.DialPort.
func (l *Link) Listen() (net.Listener, error) {
	wq := &waiter.Queue{}
	ep, err := l.stack.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, wq)
	if err == nil {
		if err = ep.Bind(tcpip.FullAddress{NIC: nic, Addr: l.host, Port: link.DialPort}); err == nil {
			err = ep.Listen(backlog)
		}
		if err != nil {
			ep.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("link: listen: %s", err)
	}
	ln := &listener{link: l, ep: ep, closed: make(chan struct{})}
	ln.entry, ln.ready = waiter.NewChannelEntry(waiter.ReadableEvents)
	wq.EventRegister(&ln.entry)
	return ln, nil
}

// Close ends all connections. It waits for nobody.
func (l *Link) Close() error {
	l.once.Do(func() {
		l.wire.shut()
		go l.stack.Destroy()
	})
	return nil
}

// A listener accepts connections of the guest.
type listener struct {
	link  *Link
	ep    tcpip.Endpoint
	mu    sync.Mutex // held by who accepts
	entry waiter.Entry
	ready chan struct{}

	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener. It waits while the guest has too many connections.
func (l *listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.link.accepted <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	case <-l.link.wire.alive.Done():
		return nil, net.ErrClosed
	}
	c, err := l.next()
	if err != nil {
		<-l.link.accepted
		return nil, err
	}
	return c, nil
}

func (l *listener) next() (*conn, error) {
	for {
		ep, wq, err := l.ep.Accept(nil)
		if err == nil {
			return newConn(l.link, ep, wq, l.link.accepted), nil
		}
		if _, again := err.(*tcpip.ErrWouldBlock); !again {
			return nil, net.ErrClosed
		}
		select {
		case <-l.ready:
		case <-l.closed:
			return nil, net.ErrClosed
		case <-l.link.wire.alive.Done():
			return nil, net.ErrClosed
		}
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.ep.Close()
	})
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr {
	return &net.TCPAddr{IP: l.link.host.AsSlice(), Port: link.DialPort}
}
