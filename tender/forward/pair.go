package forward

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/tender/relay"
)

// A pair is two connections that are passed on to each other. What one side does, the
// other sees: the end of its bytes, or a reset.
type pair struct {
	ctx    context.Context // is over when the pair is
	cancel context.CancelFunc
	target egress.Target // of one that the image asked for

	told chan struct{} // closed when a has everything that b had to say, or never will

	mu    sync.Mutex
	a, b  net.Conn // b is nil until it is joined
	ended bool
}

func newPair(a net.Conn) *pair {
	p := &pair{a: a, told: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// join makes b the other side. It is closed where the pair has ended already.
func (p *pair) join(b net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if b == nil {
		return !p.ended
	}
	if p.ended {
		linger(b)
		b.Close()
		return false
	}
	p.b = b
	return true
}

// splice passes bytes both ways until both sides have ended.
func (p *pair) splice(buffers *relay.Pool) {
	var wg sync.WaitGroup
	wg.Go(func() {
		p.over(p.b, buffers.Move(p.b, p.a))
	})
	p.over(p.a, buffers.Move(p.a, p.b))
	close(p.told)
	wg.Wait()
	p.close(false)
}

// over ends one direction, at its receiver; an error ends both.
func (p *pair) over(to net.Conn, err error) {
	if err == nil {
		if w, ok := to.(interface{ CloseWrite() error }); ok {
			err = w.CloseWrite()
		}
		if errors.Is(err, syscall.ENOTCONN) {
			err = nil
		}
	}
	if err != nil {
		p.reset()
	}
}

// reset ends both sides at once: each sees that something has failed.
func (p *pair) reset() { p.close(true) }

func (p *pair) close(failed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	p.ended = true
	p.cancel()
	for _, c := range []net.Conn{p.a, p.b} {
		if c == nil {
			continue
		}
		if failed {
			linger(c)
		}
		c.Close()
	}
}

// linger has Close reset the connection.
func linger(c net.Conn) {
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		l.SetLinger(0)
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	p := t.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap().WithZone(""), p.Port())
}

// pairs are those that are open.
type pairs struct {
	mu     sync.Mutex
	all    map[*pair]struct{}
	closed bool
}

func newPairs() pairs { return pairs{all: make(map[*pair]struct{})} }

func (l *pairs) add(p *pair) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.all[p] = struct{}{}
	return true
}

// end forgets p, which is closed.
func (l *pairs) end(p *pair) {
	p.reset()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, p)
}

func (l *pairs) list() []*pair {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.all))
}

// close ends all of them, and refuses more.
func (l *pairs) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	for _, p := range l.list() {
		select {
		case <-p.told: // and not reset: that could take back what is on its way
			p.close(false)
		default:
			p.reset()
		}
	}
}
