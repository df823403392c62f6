package unikernel

import (
	"bufio"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/unikernel/http1"
)

// upgrades reports whether x may change its connection to another protocol: only
// as its route says, and only on HTTP/1.1.
func upgrades(x *pep.Exchange) bool {
	r := x.Request
	return x.Route != nil && x.Route.Upgrade != "" && r.ProtoMajor == 1 && r.ProtoMinor == 1 &&
		strings.EqualFold(r.Header.Get("Upgrade"), x.Route.Upgrade)
}

// expiry is when a tunnel of x ends: with its credential, and with the certificate
// of its client. Zero: never.
func expiry(x *pep.Exchange) time.Time {
	if p := x.Peer; p != nil && (x.Expires.IsZero() || p.NotAfter.Before(x.Expires)) {
		return p.NotAfter
	}
	return x.Expires
}

// An upgradable is a response whose connection the application may take over.
type upgradable struct {
	*response
	to      *http1.Response
	conn    *conn
	expires time.Time // see expiry
	serial  uint64    // of the generation that let the request pass
}

var errTunnel = errors.New("the program has changed, the credential has expired, or the image is ending")

// Hijack implements http.Hijacker. What the client sent after its request is read
// first from the connection, too, not only from the buffer.
func (u *upgradable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	u.stamp()
	u.Header().Del("Connection") // the upgrade has its own
	nc, early, err := u.to.Hijack()
	if err != nil {
		return nil, nil, err
	}
	u.wrote = true
	t := &tunnel{Conn: nc, server: u.conn.server, early: early, idle: u.front.limits.IdleTimeout}
	if !t.server.enter(t, u.serial) || !u.expires.IsZero() && !u.expires.After(time.Now()) {
		t.Close()
		return nil, nil, errTunnel
	}
	if !u.expires.IsZero() {
		t.expiry.Store(time.AfterFunc(time.Until(u.expires), func() { t.Close() }))
	}
	t.moved()
	return t, bufio.NewReadWriter(bufio.NewReader(t), bufio.NewWriter(t)), nil
}

// A tunnel is a connection that speaks another protocol, of which nothing is
// judged. It is closed with the program that let it through, with the credential or
// the client's certificate, and when nothing moves in either direction for a while.
type tunnel struct {
	net.Conn // a *conn, which stays counted until it is closed
	server   *server
	idle     time.Duration
	expiry   atomic.Pointer[time.Timer]
	once     sync.Once

	mu    sync.Mutex
	early []byte // what the client sent after its request
}

func (t *tunnel) Read(p []byte) (int, error) {
	if n := t.before(p); n > 0 {
		return n, nil
	}
	n, err := t.Conn.Read(p)
	if n > 0 {
		t.moved()
	}
	return n, err
}

func (t *tunnel) before(p []byte) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := copy(p, t.early)
	t.early = t.early[n:]
	return n
}

func (t *tunnel) Write(p []byte) (int, error) {
	n, err := t.Conn.Write(p)
	if n > 0 {
		t.moved()
	}
	return n, err
}

// moved begins the wait for the next byte, in either direction.
func (t *tunnel) moved() { t.Conn.SetDeadline(time.Now().Add(t.idle)) }

// SetDeadline and its like change nothing: the limits are the policy's.
func (t *tunnel) SetDeadline(time.Time) error      { return nil }
func (t *tunnel) SetReadDeadline(time.Time) error  { return nil }
func (t *tunnel) SetWriteDeadline(time.Time) error { return nil }

func (t *tunnel) Close() error {
	err := net.ErrClosed
	t.once.Do(func() {
		t.server.leave(t)
		if timer := t.expiry.Load(); timer != nil {
			timer.Stop()
		}
		err = t.Conn.Close()
	})
	return err
}

// enter registers a tunnel that the generation of the given serial let through; false
// where another is in force by now.
func (s *server) enter(t *tunnel, serial uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending || s.current().serial != serial {
		return false
	}
	s.tunnels[t] = struct{}{}
	return true
}

func (s *server) leave(t *tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tunnels, t)
}

// closeTunnels ends every tunnel: whoever comes again is decided about again.
func (s *server) closeTunnels() {
	s.mu.Lock()
	list := slices.Collect(maps.Keys(s.tunnels))
	s.mu.Unlock()
	for _, t := range list {
		t.Close()
	}
}
