package direct

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/abi/link"
)

// Connect asks the tender for a connection to a host, a name or an IP address. Its
// error is an egress.Refused where the tender refused, or the one of ctx.
func (n *Net) Connect(ctx context.Context, host string, port uint16) (net.Conn, error) {
	t, err := egress.ParseTarget(host, port)
	if err != nil {
		return nil, egress.Refused{Code: egress.Denied, Reason: err.Error()}
	}
	c, err := n.dial(ctx, t)
	if err != nil {
		return nil, err
	}
	// What ctx ends meanwhile ends by a deadline in the past.
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	err = ask(c, host, port)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.abort()
		return nil, err
	}
	return c, nil
}

// ask waits for the answer to a request; there is one on each connection.
func ask(c *conn, host string, port uint16) error {
	const id = 1
	if err := link.WriteMessage(c, egress.Dial{ID: id, Host: host, Port: port}.Encode()); err != nil {
		return fmt.Errorf("network: the tender does not listen: %w", err)
	}
	b, err := link.ReadMessage(c)
	if err != nil {
		return fmt.Errorf("network: the tender does not answer: %w", err)
	}
	m, err := egress.FromTender(b)
	if err != nil {
		return err
	}
	switch m := m.(type) {
	case egress.Opened:
		if m.ID == id {
			return nil
		}
	case egress.Refused:
		if m.ID == id {
			return m
		}
	}
	return errors.New("network: the tender answers another request")
}

// dial connects to the tender. The connection has no address to show where a name
// was asked for: the tender resolves it.
func (n *Net) dial(ctx context.Context, t egress.Target) (*conn, error) {
	wq := &waiter.Queue{}
	if len(n.hosts) == 0 {
		return nil, errors.New("network: the tender has no address here to ask for connections")
	}
	host := n.hosts[0]
	ep, failed := n.stack.NewEndpoint(tcp.ProtocolNumber, protocolOf(host), wq)
	if failed != nil {
		return nil, fmt.Errorf("network: %s", failed)
	}
	c := newConn(n, ep, wq, &net.TCPAddr{}, net.TCPAddrFromAddrPort(netip.AddrPortFrom(t.Addr, t.Port)))
	c.keepAlive()
	n.clock.move()
	failed = ep.Connect(at(host, link.DialPort))
	if _, started := failed.(*tcpip.ErrConnectStarted); started {
		select {
		case <-c.out.wake:
			failed = ep.LastError()
		case <-ctx.Done():
			c.Close()
			return nil, context.Cause(ctx)
		case <-n.broken:
			c.Close()
			return nil, n.err
		}
	}
	if failed != nil {
		c.Close()
		return nil, fmt.Errorf("network: the tender does not accept: %w", translate(failed))
	}
	return c, nil
}
