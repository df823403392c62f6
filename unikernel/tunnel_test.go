package unikernel

import (
	"bufio"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/abi/transport/certtest"
	"lorica.dev/lorica/pep"
)

const getChat = "GET /app/chat HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

func tunnelProgram(revision uint64, l route.Limits) *program.Program {
	p := testProgram(revision, l)
	routes := route.Section{Limits: l, Routes: []route.Route{{Name: "chat", Method: "GET", Pattern: "/app/chat", Upgrade: "websocket"}}}
	p.Sections[1].Data = routes.Encode()
	return p
}

// parrot takes every connection over and says back what comes.
func parrot(t *testing.T) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer c.Close()
		h := w.Header()
		h.Set("Connection", "Upgrade")
		h.Set("Upgrade", "websocket")
		io.WriteString(buf, "HTTP/1.1 101 Switching Protocols\r\n")
		h.Write(buf)
		io.WriteString(buf, "\r\n")
		buf.Flush()
		if c.SetDeadline(time.Now().Add(time.Hour)) != nil {
			t.Error("the application is told of deadlines")
		}
		io.Copy(c, c)
	})
}

func tunnelRig(t *testing.T, l route.Limits, guards ...pep.Guard) *rig {
	r := newRig(t, testLimits(), parrot(t), guards...).run()
	r.swap(1, 1, tunnelProgram(2, l))
	if f, ok := r.next().(control.Released); !ok {
		t.Fatalf("%+v", f)
	}
	return r
}

// tunnelled opens a tunnel; the first words go out with the request.
func (r *rig) tunnelled() (net.Conn, *bufio.Reader) {
	r.t.Helper()
	c := r.dial()
	io.WriteString(c, getChat+"early\n")
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != 101 || len(resp.Header.Get(pep.HeaderDecision)) != 32 {
		r.t.Fatalf("%+v, %v", resp, err)
	}
	r.hears(in, "early\n")
	return c, in
}

func (r *rig) hears(in *bufio.Reader, want string) {
	r.t.Helper()
	if line, err := in.ReadString('\n'); err != nil || line != want {
		r.t.Fatalf("%q, %v", line, err)
	}
}

func closes(t *testing.T, in *bufio.Reader) {
	t.Helper()
	var timeout net.Error
	if b, err := in.ReadByte(); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("the tunnel lives: %q, %v", b, err)
	}
}

// ends waits until a tunnel that is never idle is closed.
func ends(t *testing.T, c net.Conn, in *bufio.Reader) {
	t.Helper()
	go func() {
		for {
			if _, err := io.WriteString(c, "x\n"); err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	var timeout net.Error
	if _, err := io.Copy(io.Discard, in); errors.As(err, &timeout) && timeout.Timeout() {
		t.Error("the tunnel lives")
	}
}

func TestATunnelIsClosedWithItsProgram(t *testing.T) {
	r := tunnelRig(t, testLimits())
	c, in := r.tunnelled()
	io.WriteString(c, "hello\n")
	r.hears(in, "hello\n")
	if n := r.life.server.counters().Connections; n != 1 {
		t.Errorf("%d connections are counted", n)
	}
	r.swap(2, 2, tunnelProgram(3, testLimits()))
	ends(t, c, in)
	eventually(t, "the tunnel is forgotten", func() bool { return r.life.server.counters().Connections == 0 })
	c, in = r.tunnelled()
	io.WriteString(c, "again\n")
	r.hears(in, "again\n")
}

// A tunnel that the old program let through does not begin under the new one.
func TestNoTunnelOfAnOldProgram(t *testing.T) {
	var r *rig
	swapped := false
	r = tunnelRig(t, testLimits(), guardFunc(func(*pep.Exchange) pep.Decision {
		if swapped {
			return pep.Decision{Verdict: abi.Allow}
		}
		swapped = true
		g, err := r.life.take(control.Prepare{Slot: 2, Length: r.put(2, tunnelProgram(3, testLimits()))}, from(3))
		if err != nil {
			t.Error(err)
		} else {
			r.life.server.install(g)
		}
		return pep.Decision{Verdict: abi.Allow}
	}))
	c := r.dial()
	io.WriteString(c, getChat)
	if resp, _, err := answer(c); err == nil && resp.StatusCode == 101 {
		t.Error("it was opened")
	}
	r.tunnelled()
}

func TestATunnelEndsWithItsCredential(t *testing.T) {
	left := 300 * time.Millisecond
	r := tunnelRig(t, testLimits(), guardFunc(func(x *pep.Exchange) pep.Decision {
		x.Expires = time.Now().Add(left)
		return pep.Decision{Verdict: abi.Allow}
	}))
	c, in := r.tunnelled()
	ends(t, c, in)
	left = -time.Second
	c = r.dial()
	io.WriteString(c, getChat)
	if resp, _, err := answer(c); err == nil && resp.StatusCode == 101 {
		t.Error("it was opened after the end")
	}
}

// A tunnel lives as long as something moves in one direction.
func TestAnIdleTunnelIsClosed(t *testing.T) {
	l := testLimits()
	l.IdleTimeout = 500 * time.Millisecond
	r := tunnelRig(t, l)
	c, in := r.tunnelled()
	for range 8 { // longer than it may be idle
		time.Sleep(l.IdleTimeout / 5)
		io.WriteString(c, "x\n")
		r.hears(in, "x\n")
	}
	closes(t, in)
}

func TestADrainClosesTunnels(t *testing.T) {
	r := tunnelRig(t, testLimits())
	c, in := r.tunnelled()
	r.send(control.Drain{Grace: 100 * time.Millisecond, Limit: 5 * time.Second}.Frame())
	ends(t, c, in)
	if f := r.next(); f != control.KindDrained {
		t.Errorf("%+v", f)
	}
}

// Only the route says what may become a tunnel.
func TestOnlyTheRouteOpensTunnels(t *testing.T) {
	r := newRig(t, testLimits(), parrot(t)).run()
	for _, text := range []string{getChat, "GET /app/x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"} {
		if resp, body := r.ask(text); resp.StatusCode != 501 && resp.StatusCode != 502 {
			t.Errorf("%d %q", resp.StatusCode, body)
		}
	}
	r.swap(1, 1, tunnelProgram(2, testLimits()))
	if resp, body := r.ask("GET /app/chat HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"); resp.StatusCode != 502 {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
}

// securedTunnel opens a tunnel over TLS; the first words go out with the request,
// in the same record.
func (s *secureRig) securedTunnel(pair *certtest.Pair) (net.Conn, *bufio.Reader) {
	s.t.Helper()
	c := s.tls(pair)
	io.WriteString(c, getChat+"early\n")
	in := bufio.NewReader(c)
	resp, err := http.ReadResponse(in, nil)
	if err != nil || resp.StatusCode != 101 || len(resp.Header.Get(pep.HeaderDecision)) != 32 {
		s.t.Fatalf("%+v, %v", resp, err)
	}
	s.hears(in, "early\n")
	return c, in
}

func secureTunnelRig(t *testing.T, mode transport.Mode, guards ...pep.Guard) *secureRig {
	r := newSecureRig(t, mode, testLimits(), parrot(t), guards...)
	r.run()
	r.swap(1, 1, r.tunnels(2))
	if f, ok := r.next().(control.Released); !ok {
		t.Fatalf("%+v", f)
	}
	return r
}

func (s *secureRig) tunnels(revision uint64) *program.Program {
	p := s.program(revision, testLimits())
	p.Sections[1].Data = tunnelProgram(revision, testLimits()).Sections[1].Data
	return p
}

// Over TLS a tunnel carries every byte, and ends as any other.
func TestATunnelOverTLS(t *testing.T) {
	r := secureTunnelRig(t, transport.Simple)
	c, in := r.securedTunnel(nil)
	time.Sleep(50 * time.Millisecond) // net/http is reading ahead no more
	block := strings.Repeat("0123456789abcdef", 32<<10)
	go io.WriteString(c, block+"\n")
	if line, err := in.ReadString('\n'); err != nil || line != block+"\n" {
		t.Fatalf("%d of %d bytes, %v", len(line), len(block)+1, err)
	}
	if n := r.life.server.counters().Connections; n != 1 {
		t.Errorf("%d connections are counted", n)
	}
	r.swap(2, 2, r.tunnels(3))
	ends(t, c, in)
	eventually(t, "the tunnel is forgotten", func() bool { return r.life.server.counters().Connections == 0 })
}

// Whoever came with a certificate has a tunnel for no longer than that is good,
// whatever credential the chain looked at.
func TestATunnelEndsWithTheCertificateOfItsClient(t *testing.T) {
	for name, expires := range map[string]time.Duration{"no credential": 0, "a credential that lasts longer": time.Hour} {
		t.Run(name, func(t *testing.T) {
			r := secureTunnelRig(t, transport.Mutual, guardFunc(func(x *pep.Exchange) pep.Decision {
				if expires > 0 {
					x.Expires = time.Now().Add(expires)
				}
				return pep.Decision{Verdict: abi.Allow}
			}))
			brief := r.people.Client(t, "ada", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(2 * time.Second) })
			c, in := r.securedTunnel(&brief)
			ends(t, c, in)
		})
	}
}
