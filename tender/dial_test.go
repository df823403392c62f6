package tender

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/tender/process"
)

// A dialing is a dialer and the image's end of its socket.
type dialing struct {
	t      *testing.T
	d      *dialer
	sock   *net.UnixConn
	served chan error
	failed chan error
	mu     sync.Mutex
	log    strings.Builder
}

func allow(names []string, port uint16, cidrs ...string) egress.Section {
	r := egress.Rule{Rule: abi.Rule{ID: "out", Line: "policy.yaml:7"}, Verdict: abi.Allow, Names: names, Ports: []egress.Ports{{Lo: port, Hi: port}}}
	for _, c := range cidrs {
		r.CIDRs = append(r.CIDRs, netip.MustParsePrefix(c))
	}
	return egress.Section{Lists: []egress.List{{Rule: abi.Rule{ID: abi.RuleEgress}, Rules: []egress.Rule{r}}}}
}

func newDialing(t *testing.T, s egress.Section, r resolver) *dialing {
	t.Helper()
	ours, theirs, err := process.Pair(unix.SOCK_SEQPACKET, "dial")
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	c, err := net.FileConn(theirs)
	if err != nil {
		t.Fatal(err)
	}
	x := &dialing{t: t, sock: c.(*net.UnixConn), served: make(chan error, 1), failed: make(chan error, 100)}
	x.d = newDialer(ours, s, time.Second, func(err error) {
		select {
		case x.failed <- err:
		default:
		}
	}, func(format string, args ...any) {
		x.mu.Lock()
		defer x.mu.Unlock()
		fmt.Fprintf(&x.log, format+"\n", args...)
	})
	if r != nil {
		x.d.resolve, x.d.rules.resolve = r, r
	}
	go func() { x.served <- x.d.serve() }()
	t.Cleanup(func() {
		x.d.end()
		x.sock.Close()
	})
	return x
}

func (x *dialing) say(m interface{ Encode() []byte }) {
	x.t.Helper()
	if _, err := x.sock.Write(m.Encode()); err != nil {
		x.t.Fatal(err)
	}
}

// hear returns the next message and the connection that came with it, if any.
func (x *dialing) hear() (any, net.Conn) {
	x.t.Helper()
	b, oob := make([]byte, 1024), make([]byte, unix.CmsgSpace(16))
	x.sock.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, oobn, _, _, err := x.sock.ReadMsgUnix(b, oob)
	if err != nil {
		x.t.Fatal(err)
	}
	m, err := egress.FromTender(b[:n])
	if err != nil {
		x.t.Fatal(err)
	}
	if oobn == 0 {
		return m, nil
	}
	list, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		x.t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&list[0])
	if err != nil || len(fds) != 1 {
		x.t.Fatalf("%d descriptors, %v", len(fds), err)
	}
	f := os.NewFile(uintptr(fds[0]), "passed")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { c.Close() })
	return m, c
}

// opened dials and expects a connection.
func (x *dialing) opened(id uint64, host string, port uint16) net.Conn {
	x.t.Helper()
	x.say(egress.Dial{ID: id, Host: host, Port: port})
	m, c := x.hear()
	if m != any(egress.Opened{ID: id}) || c == nil {
		x.t.Fatalf("%s: %+v", host, m)
	}
	return c
}

func (x *dialing) refused(id uint64, host string, port uint16, code egress.Code) string {
	x.t.Helper()
	x.say(egress.Dial{ID: id, Host: host, Port: port})
	m, c := x.hear()
	r, ok := m.(egress.Refused)
	if !ok || r.ID != id || r.Code != code || c != nil {
		x.t.Errorf("%s port %d: %+v, want code %d", host, port, m, code)
	}
	return r.Reason
}

// echoes is a service that says everything back, and its port.
func echoes(t *testing.T) (port uint16, accepted *atomic.Int64) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	accepted = new(atomic.Int64)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			go func() {
				defer c.Close()
				io.Copy(c, c)
				accepted.Add(-1)
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).AddrPort().Port(), accepted
}

func talks(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 5)
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Fatalf("%q, %v", b, err)
	}
}

func ends(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	var timeout net.Error
	if n, err := c.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("the connection lives: %d bytes, %v", n, err)
	}
}

func TestConnectionsAreMadeWhereTheRulesAllow(t *testing.T) {
	port, accepted := echoes(t)
	x := newDialing(t, allow(nil, port, "127.0.0.1/32"), nil)
	c := x.opened(1, "127.0.0.1", port)
	talks(t, c)
	talks(t, x.opened(2, "::ffff:127.0.0.1", port))
	if why := x.refused(3, "127.0.0.1", port+1, egress.Denied); why != "denied by default:egress" {
		t.Errorf("%q", why)
	}
	for _, host := range []string{"127.0.0.2", "::1", "localhost", "0.0.0.0", "127.1", "", "LOCALHOST", "127.0.0.1%lo"} {
		x.refused(4, host, port, egress.Denied) // an ID is free again after a refusal
	}
	// The duplicate of the tender does not outlive what the image is done with.
	c.Close()
	x.say(egress.Close{ID: 1})
	wait(t, "the service sees the end", func() bool { return accepted.Load() == 1 })
	talks(t, x.opened(1, "127.0.0.1", port))
	x.d.end()
	wait(t, "an image that is gone has no connections", func() bool { return accepted.Load() == 0 })
	x.mu.Lock()
	defer x.mu.Unlock()
	if !strings.Contains(x.log.String(), "no connection to 127.0.0.2 port "+fmt.Sprint(port)+": denied by default:egress") {
		t.Errorf("the log: %s", x.log.String())
	}
}

func TestNobodyAnswers(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
	ln.Close()
	var asked atomic.Int64
	x := newDialing(t, allow([]string{"a.test"}, port, "127.0.0.1/32"), func(context.Context, string) ([]netip.Addr, error) {
		asked.Add(1)
		return nil, errors.New("no such host")
	})
	x.refused(1, "127.0.0.1", port, egress.Unreachable)
	start := time.Now()
	for range 20 {
		x.refused(2, "a.test", port, egress.Unresolved)
	}
	if most := 1 + int64(time.Since(start)/resolvePause); asked.Load() > most {
		t.Errorf("a name that does not exist was asked for %d times", asked.Load())
	}
}

func TestWithdrawnConnectionsAreShutDown(t *testing.T) {
	port, _ := echoes(t)
	other, _ := echoes(t)
	both := allow(nil, port, "127.0.0.1/32")
	both.Lists[0].Rules[0].Ports = append(both.Lists[0].Rules[0].Ports, egress.Ports{Lo: other, Hi: other})
	x := newDialing(t, both, nil)
	gone, stays := x.opened(1, "127.0.0.1", port), x.opened(2, "127.0.0.1", other)
	x.d.enforce(allow(nil, other, "127.0.0.1/32"))
	ends(t, gone)
	talks(t, stays)
	x.refused(3, "127.0.0.1", port, egress.Denied)
	x.say(egress.Close{ID: 1}) // it may not have known
	talks(t, x.opened(4, "127.0.0.1", other))
	x.d.enforce(egress.Section{})
	ends(t, stays)
	x.refused(5, "127.0.0.1", other, egress.Denied)
}

func TestNamesArePinned(t *testing.T) {
	port, _ := echoes(t)
	var asked atomic.Int64
	addr := atomic.Pointer[string]{}
	set := func(s string) { addr.Store(&s) }
	set("127.0.0.1")
	x := newDialing(t, allow([]string{"a.test"}, port, "127.0.0.0/8"), func(_ context.Context, name string) ([]netip.Addr, error) {
		asked.Add(1)
		return []netip.Addr{netip.MustParseAddr(*addr.Load())}, nil
	})
	talks(t, x.opened(1, "a.test", port))
	set("127.0.0.9") // nobody listens there
	for id := range uint64(5) {
		talks(t, x.opened(10+id, "a.test", port))
	}
	if asked.Load() != 1 {
		t.Errorf("the name was resolved %d times", asked.Load())
	}
	x.d.enforce(allow([]string{"a.test"}, port, "127.0.0.0/8")) // a new program: other pins
	x.refused(20, "a.test", port, egress.Unreachable)
	set("127.0.0.1") // it moves back; the pinned address does not answer
	time.Sleep(resolvePause)
	talks(t, x.opened(21, "a.test", port))
	if n := asked.Load(); n < 3 || n > 4 {
		t.Errorf("the name was resolved %d times", n)
	}
}

// Whoever controls a name cannot point it at this machine.
func TestNamesDoNotRebind(t *testing.T) {
	port, accepted := echoes(t)
	for _, addr := range []string{"127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0", "::", "::1", "169.254.169.254", "fe80::1", "224.0.0.1"} {
		x := newDialing(t, allow([]string{"a.test"}, port, "10.0.0.0/8"), func(context.Context, string) ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr(addr)}, nil
		})
		x.refused(1, "a.test", port, egress.Denied)
	}
	if accepted.Load() != 0 {
		t.Error("a connection was made")
	}
}

// What is out of place ends the image; descriptors that it sends stay nowhere.
func TestHostileDials(t *testing.T) {
	port, _ := echoes(t)
	for name, c := range map[string]struct {
		attack func(x *dialing)
		want   string
	}{
		"garbage":            {func(x *dialing) { x.sock.Write([]byte("garbage")) }, "a message of kind 103"},
		"half a message":     {func(x *dialing) { x.sock.Write(egress.Dial{ID: 1, Host: "a", Port: 1}.Encode()[:9]) }, "too short"},
		"a word too many":    {func(x *dialing) { x.sock.Write(append(egress.Close{ID: 1}.Encode(), 0)) }, "left over"},
		"a long message":     {func(x *dialing) { x.sock.Write(bytes.Repeat([]byte{1}, egress.MaxMessage+2)) }, "too long"},
		"what a tender says": {func(x *dialing) { x.say(egress.Opened{ID: 1}) }, "a message of kind 65"},
		"close of nothing":   {func(x *dialing) { x.say(egress.Close{ID: 9}) }, "connection 9, which it does not have"},
		"an ID twice": {func(x *dialing) {
			x.opened(1, "127.0.0.1", port)
			x.say(egress.Dial{ID: 1, Host: "127.0.0.1", Port: port})
		}, "connection 1 exists"},
		"a descriptor": {func(x *dialing) {
			x.sock.WriteMsgUnix(egress.Dial{ID: 1, Host: "127.0.0.1", Port: port}.Encode(), unix.UnixRights(0, 1, 2), nil)
		}, "it sent a descriptor"},
		"an empty message": {func(x *dialing) { x.sock.Write(nil); x.sock.WriteMsgUnix([]byte{}, nil, nil); x.sock.CloseWrite() }, "EOF"},
		"the end":          {func(x *dialing) { x.sock.Close() }, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			x := newDialing(t, allow(nil, port, "127.0.0.1/32"), nil)
			before := openFiles(t)
			c.attack(x)
			select {
			case err := <-x.served:
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %s", err, c.want)
				}
			case <-time.After(20 * time.Second):
				t.Error("it is served on")
			}
			if name == "a descriptor" && openFiles(t) > before {
				t.Errorf("%d descriptors before, %d after", before, openFiles(t))
			}
		})
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestConnectionsAreBounded(t *testing.T) {
	port, _ := echoes(t)
	x := newDialing(t, allow(nil, port, "127.0.0.1/32"), nil)
	open := 0
	for id := range uint64(egress.MaxOpen + 10) {
		x.say(egress.Dial{ID: id, Host: "127.0.0.1", Port: port})
		m, c := x.hear()
		if r, refused := m.(egress.Refused); refused && r.Code != egress.Busy {
			t.Fatalf("%+v", r)
		}
		if c != nil {
			open++
		}
	}
	if open != egress.MaxOpen {
		t.Errorf("%d connections are open", open)
	}
	x.say(egress.Close{ID: 0})
	x.opened(5000, "127.0.0.1", port)
}

// An image that asks and never listens costs its life, not the tender's time.
func TestADeafDialerIsKilled(t *testing.T) {
	port, _ := echoes(t)
	x := newDialing(t, allow(nil, port, "127.0.0.1/32"), nil)
	stop := make(chan struct{})
	go func() {
		for id := uint64(0); ; id++ {
			select {
			case <-stop:
				return
			default:
				x.sock.SetWriteDeadline(time.Now().Add(time.Second))
				x.sock.Write(egress.Dial{ID: id, Host: "127.0.0.2", Port: port}.Encode())
			}
		}
	}()
	select {
	case err := <-x.failed:
		if !strings.Contains(err.Error(), "does not take") {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("it lives")
	}
	close(stop)
	x.mu.Lock()
	defer x.mu.Unlock()
	if n := strings.Count(x.log.String(), "\n"); n > 40*refusalsPerSecond {
		t.Errorf("%d lines of log", n)
	}
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal(what + ": not in time")
}

// A connection that is made when its image has ended is let go of, and no rule is
// blamed for it.
func TestAConnectionThatComesTooLate(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	at := ln.Addr().(*net.TCPAddr).AddrPort()
	x := newDialing(t, allow(nil, at.Port(), "127.0.0.1/32"), nil)
	x.d.end()
	x.d.mu.Lock()
	o := &outgoing{fd: -1}
	x.d.open[1], x.d.busy = o, 1
	x.d.mu.Unlock()
	x.d.connect(egress.Dial{ID: 1, Host: "127.0.0.1", Port: at.Port()}, o, x.d.rules)
	if o.fd >= 0 || len(x.d.open) > 0 || x.d.busy != 0 {
		t.Errorf("kept: %+v, %d open, %d busy", o, len(x.d.open), x.d.busy)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if log := x.log.String(); !strings.Contains(log, "the image has ended") || strings.Contains(log, "denied") {
		t.Error(log)
	}
}
