package unikernel

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/pep"
)

// cutOff reports whether the image ends c without a word.
func cutOff(c net.Conn) bool {
	c.SetReadDeadline(time.Now().Add(time.Minute))
	n, err := io.Copy(io.Discard, c)
	return n == 0 && (err == nil || strings.Contains(err.Error(), "reset"))
}

func TestRefusedConnectionsAreClosedUnreadAndRecorded(t *testing.T) {
	r := newRig(t, testLimits(), text("ok")).run()
	p := testProgram(2, testLimits())
	p.Sections[0].Data = (&flow.Section{Lists: []flow.List{{Rule: abi.Rule{ID: abi.RuleNetwork, Line: "p.yaml:3"}}}}).Encode()
	open := r.dial()
	io.WriteString(open, getApp)
	if _, body, err := answer(open); body != "ok" {
		t.Fatal(body, err)
	}
	r.swap(1, 1, p)
	if !cutOff(open) {
		t.Error("a connection that the new program denies stays open")
	}
	if !cutOff(r.dial()) {
		t.Error("a refused connection stays open")
	}
	for _, k := range r.kept(t, 3)[1:] {
		if k.Verdict != abi.Deny || k.Stage != abi.StageFirewall || k.Rule.ID != abi.RuleNetwork || k.Source != "127.0.0.1" || len(k.ID) != 32 {
			t.Errorf("recorded %+v", k)
		}
	}
	if s := r.life.stats(); s.Refused != 2 || s.Requests != 1 || s.Connections != 0 {
		t.Errorf("statistics are %+v", s)
	}
}

// Rules are asked about both ends of a connection that is accepted.
func TestBothEndsOfAConnectionAreJudged(t *testing.T) {
	local := flow.Rule{Rule: abi.Rule{ID: "local"}, Verdict: abi.Allow, Src: netip.MustParsePrefix("127.0.0.1/32"), Dst: netip.MustParsePrefix("127.0.0.1/32"), FromLo: 1024, FromHi: 65535, PortHi: 65535}
	elsewhere, low := local, local
	elsewhere.Dst = netip.MustParsePrefix("127.0.0.2/32")
	low.FromLo, low.FromHi = 1, 1023
	for name, c := range map[string]struct {
		rule    flow.Rule
		allowed bool
	}{"its own ends": {local, true}, "another destination": {elsewhere, false}, "another port of the client": {low, false}} {
		p := testProgram(1, testLimits())
		p.Sections[0].Data = (&flow.Section{Lists: []flow.List{{Rules: []flow.Rule{c.rule}}}}).Encode()
		conn := bootRig(t, TLS{}, nil, p, text("ok")).run().dial()
		io.WriteString(conn, getApp)
		if _, body, err := answer(conn); (body == "ok") != c.allowed {
			t.Errorf("%s: %q, %v", name, body, err)
		}
	}
}

func TestARequestIsJudgedByTheGatesInForce(t *testing.T) {
	r := newRig(t, testLimits(), text("ok")).run()
	c := r.dial()
	io.WriteString(c, getApp)
	if _, body, err := answer(c); body != "ok" {
		t.Fatal(body, err)
	}
	// The moment between the swap and the walk over open connections.
	p := testProgram(2, testLimits())
	p.Sections[0].Data = (&flow.Section{Lists: []flow.List{{}}}).Encode()
	g, err := r.life.take(control.Prepare{Slot: 1, Length: r.put(1, p)}, from(2))
	if err != nil {
		t.Fatal(err)
	}
	r.life.server.install(g).unpin()
	io.WriteString(c, getApp)
	if _, body, err := answer(c); err == nil {
		t.Errorf("got %q", body)
	}
	if err := r.life.server.rejudge(); err != nil {
		t.Fatal(err)
	}
	if k := r.kept(t, 2)[1]; k.Verdict != abi.Deny || k.Stage != abi.StageFirewall {
		t.Errorf("recorded %+v", k)
	}
}

func TestConnectionsBeyondTheLimitWait(t *testing.T) {
	l := testLimits()
	l.MaxConnections = 2
	r := newRig(t, l, text("ok")).run()
	first := r.dial()
	r.dial()
	eventually(t, "two are open", func() bool { return r.life.stats().Connections == 2 })
	third := r.dial()
	io.WriteString(third, getApp)
	third.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, _ := third.Read(make([]byte, 1)); n > 0 {
		t.Fatal("a third connection is served")
	}
	first.Close()
	third.SetReadDeadline(time.Now().Add(time.Minute))
	if _, body, err := answer(third); body != "ok" {
		t.Errorf("after one left: %q, %v", body, err)
	}
}

func TestNewLimitsReachConnectionsThatWait(t *testing.T) {
	l := testLimits()
	l.MaxConnections = 1
	r := newRig(t, l, text("ok")).run()
	r.dial()
	eventually(t, "one is open", func() bool { return r.life.stats().Connections == 1 })
	second := r.dial()
	io.WriteString(second, getApp)
	l.MaxConnections = 2
	r.swap(1, 1, testProgram(2, l))
	if _, body, err := answer(second); body != "ok" {
		t.Errorf("got %q, %v", body, err)
	}
}

func TestOpenConnectionsLeaveLimitsOfTheOldProgram(t *testing.T) {
	r := newRig(t, testLimits(), text("ok")).run()
	c := r.dial()
	io.WriteString(c, getApp)
	if resp, _, err := answer(c); err != nil || resp.Close {
		t.Fatalf("%+v, %v", resp, err)
	}
	l := testLimits()
	l.IdleTimeout /= 2
	r.swap(1, 1, testProgram(2, l))
	io.WriteString(c, getApp)
	if resp, body, err := answer(c); err != nil || body != "ok" || !resp.Close {
		t.Errorf("the connection goes on under the old limits: %+v, %v", resp, err)
	}
	if resp, _ := r.ask(getApp); resp.Close {
		t.Error("a new connection is closed as well")
	}
	eventually(t, "the old server is gone", func() bool {
		r.life.server.mu.Lock()
		defer r.life.server.mu.Unlock()
		return len(r.life.server.fronts) == 1
	})
}

func TestSlowClientsAreCutOff(t *testing.T) {
	l := testLimits()
	l.HeaderTimeout, l.BodyTimeout, l.IdleTimeout = 200*time.Millisecond, 200*time.Millisecond, 200*time.Millisecond
	reader := guardFunc(func(x *pep.Exchange) pep.Decision {
		if _, err := x.Body(); err != nil {
			return pep.Decision{Reason: "body"}
		}
		return pep.Decision{Verdict: abi.Allow}
	})
	r := newRig(t, l, text("ok"), reader).run()
	for name, said := range map[string]string{
		"says nothing":    "",
		"slow header":     "GET /app/x HTTP/1.1\r\nHost: a\r\nX-",
		"silent after it": getApp,
		"slow body":       "POST /app/x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc",
		"slow chunk":      "POST /app/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nabc",
	} {
		c := r.dial()
		io.WriteString(c, said)
		begin := time.Now()
		io.Copy(io.Discard, c)
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("%s: held the connection for %v", name, d)
		}
	}
	eventually(t, "all are gone", func() bool { return r.life.stats().Connections == 0 })
}

func TestHeadersBeyondTheLimitAreRefused(t *testing.T) {
	r := newRig(t, testLimits(), text("ok")).run()
	resp, _ := r.ask("GET /app/x HTTP/1.1\r\nHost: a\r\nX-Long: " + strings.Repeat("x", 9<<10) + "\r\n\r\n")
	if resp.StatusCode != 431 {
		t.Errorf("got %d", resp.StatusCode)
	}
	if resp, _ = r.ask("GET /app/x HTTP/1.1\r\nHost: a\r\nX-Long: " + strings.Repeat("x", 7<<10) + "\r\n\r\n"); resp.StatusCode != 200 {
		t.Errorf("within the limit: got %d", resp.StatusCode)
	}
}

func TestWhatCannotBeReadIsRecorded(t *testing.T) {
	l := testLimits()
	l.HeaderTimeout = 200 * time.Millisecond
	r := newRig(t, l, text("ok")).run()
	for _, said := range []string{
		"nonsense\r\n\r\n",
		"GET /app/x HTTP/1.1\r\n\r\n", // no Host
		"GET /app/x HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 9<<10) + "\r\n\r\n",
		"GET /app/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
		"GET /app/x HTTP/1.1\r\nHost: a\r\nX-", // and nothing more
		"GET /app/x HTTP/3.0\r\nHost: a\r\n\r\n",
	} {
		c := r.dial()
		io.WriteString(c, said)
		b, _ := io.ReadAll(c)
		if strings.Contains(string(b), "ok") {
			t.Errorf("%.40q: served", said)
		}
	}
	for _, k := range r.kept(t, 6) {
		if k.Verdict != abi.Deny || k.Rule.ID != abi.RuleRequest || k.Stage != abi.StageFilter || k.Path != "" {
			t.Errorf("recorded %+v", k)
		}
	}
	if s := r.life.stats(); s.Requests != 6 || s.Denied != 6 {
		t.Errorf("statistics are %+v", s)
	}
	r.dial().Close() // says nothing and is nothing
	r.ask(getApp)
	r.kept(t, 7)
}

// failing is a listener that fails before it works.
type failing struct {
	net.Listener
	errs chan error
}

func (f failing) Accept() (net.Conn, error) {
	select {
	case err := <-f.errs:
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", err)}
	default:
		return f.Listener.Accept()
	}
}

func TestAcceptOutlivesWhatPassesAndNothingElse(t *testing.T) {
	for err, lives := range map[error]bool{syscall.EMFILE: true, syscall.ECONNABORTED: true, syscall.EINVAL: false, syscall.ENOTSOCK: false} {
		r := newRig(t, testLimits(), text("ok")).run()
		ln, e := net.Listen("tcp", "127.0.0.1:0")
		if e != nil {
			t.Fatal(e)
		}
		defer ln.Close()
		f := failing{ln, make(chan error, 2)}
		f.errs <- err
		f.errs <- err
		ended := make(chan error, 1)
		go func() { ended <- r.life.server.accept(port{f, 1}) }()
		if lives {
			r.addr = ln.Addr().String()
			if _, body := r.ask(getApp); body != "ok" {
				t.Errorf("%v: got %q", err, body)
			}
			ln.Close()
		}
		if got := <-ended; (got == nil) != lives {
			t.Errorf("%v: ended with %v", err, got)
		}
	}
}

func TestWhoArrivesTooLateIsClosed(t *testing.T) {
	r := newRig(t, testLimits(), text("ok")).run()
	r.life.server.drain(0, time.Second, false)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.life.server.welcome(accepted, 1); err != nil || !cutOff(c) {
		t.Errorf("%v", err)
	}
	if n := r.life.stats().Connections; n != 0 {
		t.Errorf("%d connections", n)
	}
}

func TestAConnectionWithoutAnAddressIsRefused(t *testing.T) {
	r := newRig(t, testLimits(), text("ok")).run()
	ours, theirs := net.Pipe()
	if err := r.life.server.welcome(theirs, 1); err != nil || !cutOff(ours) {
		t.Errorf("%v", err)
	}
	if k := r.kept(t, 1)[0]; k.Verdict != abi.Deny {
		t.Errorf("recorded %+v", k)
	}
}

// mute is an auditor that fails.
type mute struct{}

func (mute) Record(*pep.Exchange, pep.Decision) (audit.Record, bool) { panic("mute") }

func TestWithoutEvidenceNothingPasses(t *testing.T) {
	r := newRig(t, testLimits(), http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the application was called") }))
	r.life.server.current().audit = mute{}
	r.run()
	c := r.dial()
	io.WriteString(c, getApp)
	if !cutOff(c) {
		t.Error("got an answer")
	}
	eventually(t, "it is logged", func() bool { return r.logged("audit: panic: mute") })
}

func TestProgramsWithoutLimitsAreRefused(t *testing.T) {
	r := newRig(t, testLimits(), text("ok"))
	for i := range 6 {
		l := testLimits()
		switch i {
		case 0:
			l.MaxHeaderBytes = 0
		case 1:
			l.MaxConnections = 0
		case 2:
			l.HeaderTimeout = 0
		case 3:
			l.BodyTimeout = 0
		case 4:
			l.WriteTimeout = 0
		case 5:
			l.IdleTimeout = 0
		}
		m := control.Prepare{Slot: 1, Length: r.put(1, testProgram(2, l))}
		if g, err := r.life.open(m, from(0)); err == nil || !strings.Contains(err.Error(), "limit") {
			t.Errorf("case %d: %+v, %v", i, g, err)
		}
	}
}
