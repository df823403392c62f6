package usernet

import (
	"fmt"
	"net"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"lorica.dev/lorica/abi/link"
)

// Listen accepts what the image connects to link.DialPort.
func (n *Net) Listen() (net.Listener, error) {
	host := n.link.Hosts[0]
	wq := &waiter.Queue{}
	ep, err := n.stack.NewEndpoint(tcp.ProtocolNumber, protocolOf(host), wq)
	if err == nil {
		if err = ep.Bind(tcpip.FullAddress{NIC: nic, Addr: address(host), Port: link.DialPort}); err == nil {
			err = ep.Listen(backlog)
		}
		if err != nil {
			ep.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("link: listen: %s", err)
	}
	ln := &listener{net: n, ep: ep, closed: make(chan struct{})}
	ln.entry, ln.ready = waiter.NewChannelEntry(waiter.ReadableEvents)
	wq.EventRegister(&ln.entry)
	return ln, nil
}

// A listener accepts connections of the image.
type listener struct {
	net   *Net
	ep    tcpip.Endpoint
	mu    sync.Mutex // held by who accepts
	entry waiter.Entry
	ready chan struct{}

	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener. It waits while the image has too many connections.
func (l *listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.net.accepted <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	case <-l.net.wire.alive.Done():
		return nil, net.ErrClosed
	}
	c, err := l.next()
	if err != nil {
		<-l.net.accepted
		return nil, err
	}
	return c, nil
}

func (l *listener) next() (*conn, error) {
	for {
		ep, wq, err := l.ep.Accept(nil)
		if err == nil {
			return newConn(l.net, ep, wq, func() {}, func() { <-l.net.accepted }), nil
		}
		if _, again := err.(*tcpip.ErrWouldBlock); !again {
			return nil, net.ErrClosed
		}
		select {
		case <-l.ready:
		case <-l.closed:
			return nil, net.ErrClosed
		case <-l.net.wire.alive.Done():
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
	return &net.TCPAddr{IP: l.net.link.Hosts[0].AsSlice(), Port: link.DialPort}
}
