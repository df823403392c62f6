package usernet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"lorica.dev/lorica/abi/link"
)

// Whoever comes again from a port is refused as long as the image still works on the
// reset of the connection before.
const (
	resetWithin = 50 * time.Millisecond
	resetEach   = 10 * time.Millisecond
)

// Dial connects to a port of the image from the address and the port of a client.
func (n *Net) Dial(ctx context.Context, client netip.AddrPort, port uint16) (net.Conn, error) {
	c, err := n.dial(ctx, client, port)
	for end := time.Now().Add(resetWithin); errors.Is(err, syscall.ECONNREFUSED) && time.Now().Before(end); {
		time.Sleep(resetEach)
		c, err = n.dial(ctx, client, port)
	}
	if err != nil {
		return nil, fmt.Errorf("link: from %v to port %d of the image: %w", client, port, err)
	}
	return c, nil
}

func (n *Net) dial(ctx context.Context, client netip.AddrPort, port uint16) (*conn, error) {
	from, to, err := n.ends(client)
	if err != nil {
		return nil, err
	}
	f := flow{netip.AddrPortFrom(from, client.Port()), port}
	h, err := n.flows.take(ctx, n.wire.alive, f)
	if err != nil {
		return nil, err
	}
	wq := &waiter.Queue{}
	ep, failed := n.stack.NewEndpoint(tcp.ProtocolNumber, protocolOf(from), wq)
	if failed != nil {
		n.flows.give(f, h)
		return nil, translate(failed)
	}
	c := newConn(n, ep, wq, func() { n.flows.leave(h) }, func() { n.flows.give(f, h) })
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	ep.SocketOptions().SetReuseAddress(true) // a client may talk to several ports from one of its own
	if failed = ep.Bind(tcpip.FullAddress{NIC: nic, Addr: address(from), Port: client.Port()}); failed == nil {
		failed = ep.Connect(tcpip.FullAddress{NIC: nic, Addr: address(to), Port: port})
	}
	if _, started := failed.(*tcpip.ErrConnectStarted); started {
		err = nil
		select {
		case <-ready:
			failed = ep.LastError()
		case <-h.refused:
			failed, err = nil, syscall.EHOSTUNREACH
		case <-ctx.Done():
			failed, err = nil, context.Cause(ctx)
		case <-n.wire.alive.Done():
			failed, err = nil, net.ErrClosed
		}
	}
	if failed != nil {
		err = translate(failed)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// ends returns the addresses of a connection of a client, at both ends.
func (n *Net) ends(client netip.AddrPort) (from, to netip.Addr, err error) {
	from = client.Addr().Unmap().WithZone("")
	switch from {
	case link.Loopback6: // who has it elsewhere would be taken for this machine
		return from, to, fmt.Errorf("%v stands for %v of this machine", from, netip.IPv6Loopback())
	case netip.IPv6Loopback():
		from = link.Loopback6
	}
	if !from.IsValid() || from.IsUnspecified() || from.IsMulticast() || client.Port() == 0 {
		return from, to, fmt.Errorf("%v is no client", client)
	}
	for _, p := range n.link.Addrs {
		if p.Contains(from) {
			return from, to, fmt.Errorf("%v is an address of the link itself", from)
		}
		if p.Addr().Is4() == from.Is4() {
			to = p.Addr()
		}
	}
	if !to.IsValid() {
		return from, to, fmt.Errorf("a client at %v: the image has IPv4 alone", from)
	}
	return from, to, nil
}

// translate says what callers of package net compare with.
func translate(err tcpip.Error) error {
	switch err.(type) {
	case *tcpip.ErrConnectionRefused:
		return syscall.ECONNREFUSED
	case *tcpip.ErrConnectionReset:
		return syscall.ECONNRESET
	case *tcpip.ErrTimeout:
		return syscall.ETIMEDOUT
	case *tcpip.ErrPortInUse, *tcpip.ErrBadLocalAddress, *tcpip.ErrDuplicateAddress:
		return syscall.EADDRINUSE
	}
	return errors.New(err.String())
}

// A flow is what tells a connection to the image from others.
type flow struct {
	client netip.AddrPort
	port   uint16
}

// A held flow is in use.
type held struct {
	once    sync.Once
	refused chan struct{} // closed when the image says that it is prohibited
	gone    chan struct{} // closed when it can be used again
	ending  bool          // this end has closed it
}

// flows are those in use. A client may come again from the port of a connection that
// has just ended: where the end has not reached the image yet, that is waited for.
type flows struct {
	mu  sync.Mutex
	all map[flow]*held
}

func (l *flows) take(ctx, alive context.Context, f flow) (*held, error) {
	for {
		h, before, err := l.try(f)
		if h != nil || err != nil {
			return h, err
		}
		select {
		case <-before.gone:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-alive.Done():
			return nil, net.ErrClosed
		}
	}
}

func (l *flows) try(f flow) (h, before *held, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch before = l.all[f]; {
	case before != nil && before.ending:
		return nil, before, nil
	case before != nil:
		return nil, nil, syscall.EADDRINUSE
	case len(l.all) >= maxDialed:
		return nil, nil, errors.New("too many connections")
	}
	h = &held{refused: make(chan struct{}), gone: make(chan struct{})}
	l.all[f] = h
	return h, nil, nil
}

func (l *flows) leave(h *held) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h.ending = true
}

func (l *flows) give(f flow, h *held) {
	l.mu.Lock()
	delete(l.all, f)
	l.mu.Unlock()
	close(h.gone)
}

// refuse ends the attempt to connect as f, if there is one.
func (l *flows) refuse(f flow) {
	l.mu.Lock()
	h := l.all[f]
	l.mu.Unlock()
	if h != nil {
		h.once.Do(func() { close(h.refused) })
	}
}
