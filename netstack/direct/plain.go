package direct

import (
	"fmt"
	"net"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A plain listener accepts what connects to a port, and is told by nobody who that is.
type plain struct {
	net   *Net
	addr  *net.TCPAddr
	ep    tcpip.Endpoint
	ready chan struct{}

	once   sync.Once
	closed chan struct{}
}

// Plain accepts connections to a port as they are, without a tender: for benchmarks,
// which compare this stack with others.
func (n *Net) Plain(port uint16) (net.Listener, error) {
	ep, wq, err := n.bind(port)
	if err != nil {
		return nil, fmt.Errorf("port %d of the link: %s", port, err)
	}
	l := &plain{net: n, addr: &net.TCPAddr{IP: n.addr.AsSlice(), Port: int(port)}, ep: ep, closed: make(chan struct{})}
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	l.ready = ready
	wq.EventRegister(&entry)
	return l, nil
}

// Accept implements net.Listener.
func (l *plain) Accept() (net.Conn, error) {
	for {
		var from tcpip.FullAddress
		ep, wq, err := l.ep.Accept(&from)
		if err == nil {
			c := newConn(l.net, ep, wq, l.addr, &net.TCPAddr{IP: from.Addr.AsSlice(), Port: int(from.Port)})
			c.keepAlive()
			return c, nil
		}
		if _, none := err.(*tcpip.ErrWouldBlock); !none {
			return nil, l.fail(translate(err))
		}
		select {
		case <-l.ready:
		case <-l.closed:
			return nil, l.fail(net.ErrClosed)
		case <-l.net.broken:
			return nil, l.fail(l.net.err)
		}
	}
}

// Close implements net.Listener.
func (l *plain) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.ep.Close()
	})
	return nil
}

// Addr implements net.Listener.
func (l *plain) Addr() net.Addr { return l.addr }

func (l *plain) fail(err error) error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: l.addr, Err: err}
}
