package direct

import (
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/link"
)

const (
	backlog     = 256                   // connections that nobody has accepted; more are answered with cookies
	maxGreeting = 64                    // connections that have not said who the client is
	greetWithin = 10 * time.Second      // the tender says it at once
	shortPause  = 20 * time.Millisecond // before memory is looked at again
	keepIdle    = 2 * time.Minute
	keepEach    = 30 * time.Second
	keepCount   = 4
)

// A listener accepts what the tender forwards.
type listener struct {
	net  *Net
	name string
	addr *net.TCPAddr
	ep   tcpip.Endpoint

	mu      sync.Mutex // held by who accepts
	entry   waiter.Entry
	ready   chan struct{}
	greeted chan *conn // room for maxGreeting
	slots   chan struct{}

	once   sync.Once
	closed chan struct{}
}

// Listen accepts listener i of the launch.
func (n *Net) Listen(i int, l launch.Listener) (net.Listener, error) {
	if i < 0 || i >= launch.MaxListener {
		return nil, fmt.Errorf("listener %q: number %d", l.Name, i)
	}
	port := uint16(link.ForwardPort + i)
	ep, wq, err := n.bind(port)
	if err != nil {
		return nil, fmt.Errorf("listener %q, port %d of the link: %s", l.Name, port, err)
	}
	ln := &listener{net: n, name: l.Name, addr: &net.TCPAddr{IP: n.addr.AsSlice(), Port: int(port)}, ep: ep,
		greeted: make(chan *conn, maxGreeting), slots: make(chan struct{}, maxGreeting), closed: make(chan struct{})}
	ln.entry, ln.ready = waiter.NewChannelEntry(waiter.ReadableEvents)
	wq.EventRegister(&ln.entry)
	return ln, nil
}

// bind returns an endpoint that listens on a port.
func (n *Net) bind(port uint16) (tcpip.Endpoint, *waiter.Queue, tcpip.Error) {
	wq := &waiter.Queue{}
	ep, err := n.stack.NewEndpoint(tcp.ProtocolNumber, ipv4.ProtocolNumber, wq)
	if err != nil {
		return nil, nil, err
	}
	if err = ep.Bind(n.at(n.addr, port)); err == nil {
		err = ep.Listen(backlog)
	}
	if err != nil {
		ep.Close()
		return nil, nil, err
	}
	return ep, wq, nil
}

// Accept implements net.Listener. A connection is welcomed when it is returned, and
// not before: what a listener that is closed leaves behind was never the image's.
func (l *listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		c, err := l.next()
		if err != nil {
			return nil, err
		}
		if _, err := c.Write([]byte{link.Welcome}); err == nil {
			return c, nil
		}
		c.abort()
	}
}

// next returns a connection that has said who the client is.
func (l *listener) next() (*conn, error) {
	for {
		select {
		case <-l.closed:
			return nil, l.fail(net.ErrClosed)
		default:
		}
		wake, late := l.ready, (<-chan time.Time)(nil)
		if l.net.Short != nil && l.net.Short() {
			wake, late = nil, time.After(shortPause)
		} else if c, again, err := l.take(); c != nil || err != nil {
			return c, err
		} else if again {
			continue
		}
		select {
		case <-wake:
		case <-late:
		case c := <-l.greeted:
			<-l.slots
			if c != nil {
				return c, nil
			}
		case <-l.closed:
		case <-l.net.broken:
			return nil, l.fail(l.net.err)
		}
	}
}

// take takes a connection from the stack, and returns it where the client is known
// already: then nobody has to wait for it.
func (l *listener) take() (c *conn, again bool, err error) {
	select {
	case l.slots <- struct{}{}:
	default:
		return nil, false, nil
	}
	ep, wq, failed := l.ep.Accept(nil)
	if failed != nil {
		<-l.slots
		if _, none := failed.(*tcpip.ErrWouldBlock); none {
			return nil, false, nil
		}
		return nil, false, l.fail(l.net.because(translate(failed)))
	}
	c = newConn(l.net, ep, wq, l.addr, l.addr)
	c.keepAlive()
	b := make([]byte, link.PeerSize)
	n, _, _ := c.read(b)
	if n == len(b) && c.introduce(b) {
		<-l.slots
		return c, false, nil
	}
	go l.greet(c, b, n)
	return nil, true, nil
}

// greet waits for the rest of b, of which there are n bytes. It hands over nil where
// that came to nothing: there is a slot for another.
func (l *listener) greet(c *conn, b []byte, n int) {
	c.SetReadDeadline(time.Now().Add(greetWithin))
	_, err := io.ReadFull(c, b[n:])
	c.SetReadDeadline(time.Time{})
	if err != nil || !c.introduce(b) {
		c.abort()
		c = nil
	}
	l.greeted <- c
	select {
	case <-l.closed:
		l.leave()
	default:
	}
}

// introduce gives the connection the addresses that the tender says it has.
func (c *conn) introduce(b []byte) bool {
	p, err := link.DecodePeer(b)
	if err != nil {
		return false
	}
	c.remote, c.local = net.TCPAddrFromAddrPort(p.Client), net.TCPAddrFromAddrPort(p.Local)
	return true
}

// keepAlive finds out that the other end has forgotten the connection.
func (c *conn) keepAlive() {
	idle, each := tcpip.KeepaliveIdleOption(keepIdle), tcpip.KeepaliveIntervalOption(keepEach)
	c.ep.SetSockOpt(&idle)
	c.ep.SetSockOpt(&each)
	c.ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepCount)
	c.ep.SocketOptions().SetKeepAlive(true)
}

// leave resets what was never accepted.
func (l *listener) leave() {
	for {
		select {
		case c := <-l.greeted:
			<-l.slots
			if c != nil {
				c.abort()
			}
		default:
			return
		}
	}
}

// Close implements net.Listener. It resets what waits to be accepted, and leaves
// alone what has been.
func (l *listener) Close() error {
	err := l.fail(net.ErrClosed)
	l.once.Do(func() {
		err = nil
		close(l.closed)
		l.ep.Close()
		l.leave()
	})
	return err
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.addr }

func (l *listener) fail(err error) error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: fmt.Errorf("listener %q: %w", l.name, err)}
}
