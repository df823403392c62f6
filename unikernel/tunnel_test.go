package unikernel

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/route"
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

func TestATunnelIsClosedWithItsProgram(t *testing.T) {
	r := tunnelRig(t, testLimits())
	c, in := r.tunnelled()
	io.WriteString(c, "hello\n")
	r.hears(in, "hello\n")
	if n := r.life.server.counters().Connections; n != 1 {
		t.Errorf("%d connections are counted", n)
	}
	r.swap(2, 2, tunnelProgram(3, testLimits()))
	closes(t, in)
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
		g, err := r.life.take(control.Prepare{Slot: 2, Length: r.put(2, tunnelProgram(3, testLimits()))}, 3)
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
	_, in := r.tunnelled()
	closes(t, in)
	left = -time.Second
	c := r.dial()
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
	_, in := r.tunnelled()
	r.send(control.Drain{Grace: 100 * time.Millisecond, Limit: 5 * time.Second}.Frame())
	closes(t, in)
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
