package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/abi/link"
	"lorica.dev/lorica/tender/relay"
)

const askWithin = 10 * time.Second // from the connection of a image to its request

// A Connect makes a connection that the image asks for, or refuses. The target has the
// address that was connected to.
type Connect func(ctx context.Context, host string, port uint16) (*net.TCPConn, egress.Target, *egress.Refused)

// Dials are the connections that a image asks for.
type Dials struct {
	connect Connect
	ln      net.Listener
	slots   chan struct{} // egress.MaxOpen
	pending chan struct{} // egress.MaxPending

	pairs   pairs
	buffers relay.Pool
	mu      sync.Mutex
	allowed func(egress.Target) bool // by the last Recheck
}

// ServeDials answers what the image asks for, until Close. A message out of place costs
// the image the connection that it was sent on.
func ServeDials(l Link, connect Connect) (*Dials, error) {
	ln, err := l.Listen()
	if err != nil {
		return nil, err
	}
	d := &Dials{connect: connect, ln: ln, slots: make(chan struct{}, egress.MaxOpen), pending: make(chan struct{}, egress.MaxPending), pairs: newPairs()}
	go d.serve()
	return d, nil
}

func (d *Dials) serve() {
	for {
		c, err := d.ln.Accept()
		if err != nil {
			return
		}
		select {
		case d.slots <- struct{}{}:
			go func() {
				defer func() { <-d.slots }()
				d.handle(c)
			}()
		default:
			linger(c)
			c.Close()
		}
	}
}

// handle serves one connection of the image.
func (d *Dials) handle(c net.Conn) {
	p := newPair(c)
	if !d.pairs.add(p) {
		linger(c)
		c.Close()
		return
	}
	defer d.pairs.end(p)
	m, err := request(c)
	if err != nil {
		return
	}
	out, refused := d.dial(p, m)
	if refused != nil {
		refused.ID = m.ID
		if link.WriteMessage(c, refused.Encode()) == nil {
			p.close(false)
		}
		return
	}
	if !p.join(out) || link.WriteMessage(c, egress.Opened{ID: m.ID}.Encode()) != nil {
		return
	}
	p.splice(&d.buffers)
}

// request reads what the image asks for.
func request(c net.Conn) (m egress.Dial, err error) {
	c.SetReadDeadline(time.Now().Add(askWithin))
	defer c.SetReadDeadline(time.Time{})
	b, err := link.ReadMessage(c)
	if err != nil {
		return m, err
	}
	v, err := egress.FromImage(b)
	if err != nil {
		return m, err
	}
	m, ok := v.(egress.Dial)
	if !ok {
		return m, fmt.Errorf("link: a %T where a request is due", v)
	}
	return m, nil
}

func (d *Dials) dial(p *pair, m egress.Dial) (net.Conn, *egress.Refused) {
	select {
	case d.pending <- struct{}{}:
		defer func() { <-d.pending }()
	default:
		return nil, &egress.Refused{Code: egress.Busy, Reason: "too many connections"}
	}
	out, target, refused := d.connect(p.ctx, m.Host, m.Port)
	if refused != nil {
		return nil, refused
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.allowed != nil && !d.allowed(target) { // by rules that are newer than the connection
		out.SetLinger(0)
		out.Close()
		return nil, &egress.Refused{Code: egress.Denied, Reason: "the rules have changed"}
	}
	p.mu.Lock()
	p.target = target
	p.mu.Unlock()
	return out, nil
}

// Recheck ends the connections to targets that are not allowed any more, and returns how
// many those were. Connections that are being made are asked about when they are.
func (d *Dials) Recheck(allowed func(egress.Target) bool) int {
	d.mu.Lock()
	d.allowed = allowed
	d.mu.Unlock()
	ended := 0
	for _, p := range d.pairs.list() {
		p.mu.Lock()
		target, made := p.target, p.target.Port != 0
		p.mu.Unlock()
		if made && !allowed(target) {
			p.reset()
			ended++
		}
	}
	return ended
}

// Close ends every connection.
func (d *Dials) Close() error {
	err := d.ln.Close()
	d.pairs.close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
