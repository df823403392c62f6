package unikernel

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/pep"
)

// A server accepts connections, asks the gates about them, and hands them to
// the front that has the limits in force.
type server struct {
	out    *outbox
	memory int64 // the limit that large heads share a part of
	ports  []port
	app    http.Handler
	turns  chan struct{} // of handshakes

	generation atomic.Pointer[generation]
	requests   atomic.Uint64
	allowed    atomic.Uint64
	denied     atomic.Uint64
	refused    atomic.Uint64

	mu       sync.Mutex
	room     sync.Cond // waits for MaxConnections
	conns    map[*conn]struct{}
	front    *front              // takes new connections
	fronts   map[*front]struct{} // all that are not shut down
	tunnels  map[*tunnel]struct{}
	draining bool
	ending   bool // the grace of a drain is over: no new tunnels
}

func newServer(out *outbox) *server {
	s := &server{out: out, memory: debug.SetMemoryLimit(-1), conns: make(map[*conn]struct{}), fronts: make(map[*front]struct{}),
		tunnels: make(map[*tunnel]struct{}), turns: handshakeTurns()}
	s.room.L = &s.mu
	return s
}

func (s *server) current() *generation { return s.generation.Load() }

// pin returns the generation in force, pinned.
func (s *server) pin() *generation {
	for {
		if g := s.current(); g.pin() {
			return g
		}
	}
}

// install puts g in force and returns the generation before it, whose pin the
// caller takes over.
func (s *server) install(g *generation) *generation {
	old := s.generation.Swap(g)
	for _, x := range g.gates {
		if p, ok := x.state.(pep.PacketState); ok {
			p.Enforce()
		}
	}
	if g.egress != nil {
		g.egress.Enforce()
	}
	for _, k := range g.sinks {
		k.Enforce()
	}
	s.closeTunnels()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.room.Broadcast()
	if old := s.front; old != nil && old.limits != g.limits && !s.draining {
		old.closing.Store(true) // from now on, not from when retire runs
		go s.retire(old, retireGrace, old.limits.WriteTimeout)
		s.front = s.newFront(g.limits, g.tls != nil)
	}
	return old
}

// start accepts on every port. fail is told what ends the service.
func (s *server) start(fail func(error)) {
	s.mu.Lock()
	s.front = s.newFront(s.current().limits, s.current().tls != nil)
	s.mu.Unlock()
	for _, p := range s.ports {
		go func() {
			if err := s.accept(p); err != nil {
				fail(err)
			}
		}()
	}
}

func (s *server) accept(p port) error {
	var pause time.Duration
	for {
		c, err := p.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil && transient(err):
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			time.Sleep(pause)
			continue
		case err != nil:
			return fmt.Errorf("port %d: %w", p.number, err)
		}
		pause = 0
		if err := s.welcome(c, p.number); err != nil {
			return err
		}
	}
}

// transient reports an error of accept that says nothing about the listener: it
// passes when others let go of what they hold, or concerns only the connection
// that was about to be accepted. See accept(2), "Error handling".
func transient(err error) bool {
	for _, e := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ECONNABORTED, syscall.EPERM, syscall.EPROTO, syscall.ENETDOWN,
		syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EHOSTUNREACH,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// welcome judges a connection and serves it, or closes it unread.
func (s *server) welcome(nc net.Conn, number uint16) error {
	c := &conn{raw: nc, server: s, gone: make(chan struct{}), flow: flow.Flow{DstPort: number, Protocol: flow.TCP}}
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		c.flow.Src, c.flow.SrcPort = a.AddrPort().Addr(), a.AddrPort().Port()
		if a, ok := nc.LocalAddr().(*net.TCPAddr); ok {
			c.flow.Dst = a.AddrPort().Addr()
		}
		c.flow = c.flow.Plain()
	}
	g := s.pin()
	d := g.admit(c.flow)
	c.admitted.Store(g.serial)
	d, err := s.note(g, c, d)
	secured := g.tls != nil
	g.unpin()
	if d.Verdict != abi.Allow || err != nil {
		nc.Close()
		return err
	}
	s.register(c)
	if secured {
		c.hello = &hello{Conn: nc}
		go s.secure(c)
		return nil
	}
	c.Conn = nc
	s.hand(c)
	return nil
}

// hand gives c to the front that has the limits in force.
func (s *server) hand(c *conn) {
	s.mu.Lock()
	f := s.front
	s.mu.Unlock()
	for !f.deliver(c) {
		s.mu.Lock()
		next := s.front
		s.mu.Unlock()
		if next == f {
			c.Close()
			return
		}
		f = next
	}
}

// note records a decision on a connection, where it is to be recorded, and returns what
// is decided then.
func (s *server) note(g *generation, c *conn, d pep.Decision) (pep.Decision, error) {
	if d.Verdict != abi.Allow {
		s.refused.Add(1)
	} else if !d.Record {
		return d, nil
	}
	filed, err := s.tell(g, c.flow, d, 1)
	if d.Verdict == abi.Allow && filed.Verdict != abi.Allow {
		s.refused.Add(1)
	}
	return filed, err
}

// tell makes a record of a decision about a flow, which stands for n alike, and tells
// observers. It returns what is decided once there is a record, or no place for it.
func (s *server) tell(g *generation, f flow.Flow, d pep.Decision, n uint64) (pep.Decision, error) {
	x := &pep.Exchange{ID: newID(), Flow: f, Now: time.Now()}
	filed, err := g.file(x, d, false)
	if err == nil {
		err = s.observe(g, x, d, n)
	}
	return filed, err
}

// register waits until one more connection may be open.
func (s *server) register(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.conns) >= s.places(s.current()) && !s.draining {
		s.room.Wait()
	}
	s.conns[c] = struct{}{}
}

// securedMemory is what a secured connection holds between requests, when its
// client has sent records and frames as large as they may be (measured).
const securedMemory = 64 << 10

// places is how many connections may be open: with TLS no more than fit half of
// the memory.
func (s *server) places(g *generation) int {
	n := int64(g.limits.MaxConnections)
	if g.tls != nil {
		n = min(n, max(s.memory/2/securedMemory, 1))
	}
	return int(n)
}

func (s *server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.room.Broadcast()
}

// rejudge asks the gates in force about every open connection and closes those
// that they refuse now. Whoever is not yet among them is asked about with its
// first request.
func (s *server) rejudge() error {
	g := s.pin()
	defer g.unpin()
	for _, c := range s.open() {
		if _, err := s.remains(g, c, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

// remains reports whether g would let c in, and closes it if not. It asks only
// when another generation did last, or when the client's certificate has expired. A
// connection that is not secured yet is asked about again once it is.
func (s *server) remains(g *generation, c *conn, now time.Time) (bool, error) {
	if c.admitted.Load() == g.serial && !c.expired(now) {
		return true, nil
	}
	secured := g.tls == nil || c.secure.Load() != nil
	d := g.admit(c.flow)
	if d.Verdict == abi.Allow && secured {
		if r := g.remain(c.peer(), now); r.Verdict != abi.Allow {
			d = r
		}
	}
	if d.Verdict == abi.Allow {
		if d.Would != nil && secured {
			// Where the record has no place, it is asked again.
			if filed, err := s.note(g, c, d); err != nil || filed.Verdict != abi.Allow {
				return false, err
			}
		}
		if secured {
			c.admitted.Store(g.serial)
		}
		return true, nil
	}
	c.cut()
	if c.refused.Swap(true) {
		return false, nil
	}
	_, err := s.note(g, c, d)
	return false, err
}

func (s *server) open() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.conns))
}

// drain stops accepting, answers with Connection: close for grace, then waits
// for open requests up to limit. The order loses no request: what waits in the
// backlog belongs to the successor, and a client that is told to close does not
// send another request into a closing connection. Where the listeners are the image's
// own they have no successor, and whoever is still on the way to them is served for the
// grace as well.
func (s *server) drain(grace, limit time.Duration, own bool) {
	s.mu.Lock()
	s.draining = true
	fronts := slices.Collect(maps.Keys(s.fronts))
	s.room.Broadcast()
	s.mu.Unlock()
	if !own {
		s.stopAccepting()
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		time.Sleep(grace)
		s.mu.Lock()
		s.ending = true
		s.mu.Unlock()
		s.stopAccepting()
		s.closeTunnels()
	})
	for _, f := range fronts {
		wg.Go(func() { s.retire(f, grace, limit) })
	}
	wg.Wait()
	for _, c := range s.open() {
		c.cut()
	}
}

func (s *server) stopAccepting() {
	for _, p := range s.ports {
		p.Close()
	}
}

func (s *server) counters() control.Stats {
	s.mu.Lock()
	open := len(s.conns)
	s.mu.Unlock()
	return control.Stats{Requests: s.requests.Load(), Allowed: s.allowed.Load(), Denied: s.denied.Load(),
		Refused: s.refused.Load(), Connections: uint64(open)}
}
