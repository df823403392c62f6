package direct

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/link"
)

const (
	backlog    = 256                   // connections that nobody has accepted; more are answered with cookies
	shortPause = 20 * time.Millisecond // before memory is looked at again
	keepIdle   = 2 * time.Minute
	keepEach   = 30 * time.Second
	keepCount  = 4
)

// A listener accepts what clients connect to, at all addresses of the image.
type listener struct {
	net  *Net
	name string
	addr *net.TCPAddr
	ep   tcpip.Endpoint

	mu    sync.Mutex // held by who accepts
	entry waiter.Entry
	ready chan struct{}

	once   sync.Once
	closed chan struct{}
}

// Listen accepts listener i of the launch.
func (n *Net) Listen(i int, l launch.Listener) (net.Listener, error) {
	if i < len(n.listeners) {
		return n.listeners[i], nil
	}
	return n.listen(l)
}

func (n *Net) listen(l launch.Listener) (net.Listener, error) {
	wq := &waiter.Queue{}
	ep, err := n.bind(l.Bind, wq)
	if err != nil {
		return nil, fmt.Errorf("listener %q, port %d of the link: %s", l.Name, l.Bind, err)
	}
	ln := &listener{net: n, name: l.Name, addr: &net.TCPAddr{IP: n.everywhere().AsSlice(), Port: int(l.Bind)}, ep: ep, closed: make(chan struct{})}
	ln.entry, ln.ready = waiter.NewChannelEntry(waiter.ReadableEvents)
	wq.EventRegister(&ln.entry)
	return ln, nil
}

// everywhere is all addresses of the image: of both families, if it has both.
func (n *Net) everywhere() netip.Addr {
	if n.card.six != nil {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// bind returns an endpoint that listens on a port, everywhere.
func (n *Net) bind(port uint16, wq *waiter.Queue) (tcpip.Endpoint, tcpip.Error) {
	ep, err := n.stack.NewEndpoint(tcp.ProtocolNumber, protocolOf(n.everywhere()), wq)
	if err != nil {
		return nil, err
	}
	ep.SocketOptions().SetV6Only(false)
	if err = ep.Bind(tcpip.FullAddress{NIC: nic, Port: port}); err == nil {
		err = ep.Listen(backlog)
	}
	if err != nil {
		ep.Close()
		return nil, err
	}
	return ep, nil
}

// Accept implements net.Listener. It waits while memory is short.
func (l *listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		select {
		case <-l.closed:
			return nil, l.fail(net.ErrClosed)
		default:
		}
		wake, late := l.ready, (<-chan time.Time)(nil)
		if l.net.Short != nil && l.net.Short() {
			wake, late = nil, time.After(shortPause)
		} else if c, err := l.take(); c != nil || err != nil {
			return c, err
		}
		select {
		case <-wake:
		case <-late:
		case <-l.closed:
		case <-l.net.broken:
			return nil, l.fail(l.net.err)
		}
	}
}

// take takes a connection from the stack; nil if there is none.
func (l *listener) take() (net.Conn, error) {
	var from tcpip.FullAddress
	ep, wq, failed := l.ep.Accept(&from)
	if failed != nil {
		if _, none := failed.(*tcpip.ErrWouldBlock); none {
			return nil, nil
		}
		return nil, l.fail(l.net.because(translate(failed)))
	}
	local := l.addr
	if a, failed := ep.GetLocalAddress(); failed == nil {
		local = tcpAddr(a)
	}
	c := newConn(l.net, ep, wq, local, tcpAddr(from))
	c.keepAlive()
	return c, nil
}

// tcpAddr is an address of the stack as others know it.
func tcpAddr(a tcpip.FullAddress) *net.TCPAddr {
	ip, _ := netip.AddrFromSlice(a.Addr.AsSlice())
	if ip = ip.Unmap(); ip == link.Loopback6 {
		ip = netip.IPv6Loopback()
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, a.Port))
}

// keepAlive finds out that the other end has forgotten the connection.
func (c *conn) keepAlive() {
	idle, each := tcpip.KeepaliveIdleOption(keepIdle), tcpip.KeepaliveIntervalOption(keepEach)
	c.ep.SetSockOpt(&idle)
	c.ep.SetSockOpt(&each)
	c.ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepCount)
	c.ep.SocketOptions().SetKeepAlive(true)
}

// Close implements net.Listener. It resets what waits to be accepted, and leaves
// alone what has been.
func (l *listener) Close() error {
	err := l.fail(net.ErrClosed)
	l.once.Do(func() {
		err = nil
		close(l.closed)
		l.ep.Close()
	})
	return err
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) fail(err error) error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: fmt.Errorf("listener %q: %w", l.name, err)}
}
