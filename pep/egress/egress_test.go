package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/pep"
)

// A tender is the other end of a dial socket, played by the test.
type tender struct {
	t    *testing.T
	sock *net.UnixConn
}

func allow(port uint16) []byte {
	return (&egress.Section{Lists: []egress.List{{Rule: abi.Rule{ID: abi.RuleEgress}, Rules: []egress.Rule{{Rule: abi.Rule{ID: "out"}, Verdict: abi.Allow,
		CIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Names: []string{"a.test"}, Ports: []egress.Ports{{Lo: port, Hi: port}}}}}}}).Encode()
}

func adopt(t *testing.T) (*Module, *tender) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "tender")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	m := New()
	if err := m.Adopt(fds[1]); err != nil {
		t.Fatal(err)
	}
	return m, &tender{t, c.(*net.UnixConn)}
}

func enforce(t testing.TB, m *Module, section []byte) {
	t.Helper()
	s, err := m.Prepare(&pep.Input{Section: section})
	if err != nil {
		t.Fatal(err)
	}
	s.Enforce()
}

func (x *tender) hear() any {
	x.t.Helper()
	b := make([]byte, 1024)
	x.sock.SetReadDeadline(time.Now().Add(20 * time.Second))
	n, err := x.sock.Read(b)
	if err != nil {
		x.t.Fatal(err)
	}
	m, err := egress.FromImage(b[:n])
	if err != nil {
		x.t.Fatal(err)
	}
	return m
}

func (x *tender) say(b []byte, fds ...int) {
	x.t.Helper()
	if _, _, err := x.sock.WriteMsgUnix(b, syscall.UnixRights(fds...), nil); err != nil {
		x.t.Fatal(err)
	}
}

// pass answers a dial with one end of a connection and returns the other.
func (x *tender) pass(id uint64) net.Conn {
	x.t.Helper()
	ours, theirs := pair(x.t)
	x.say(egress.Opened{ID: id}.Encode(), theirs)
	syscall.Close(theirs)
	return ours
}

func pair(t *testing.T) (net.Conn, int) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "peer")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, fds[1]
}

type dialed struct {
	conn net.Conn
	err  error
}

func dial(m *Module, ctx context.Context, host string, port uint16) chan dialed {
	c := make(chan dialed, 1)
	go func() {
		conn, err := m.Dial(ctx, host, port)
		c <- dialed{conn, err}
	}()
	return c
}

func TestAConnectionIsWhatTheTenderPasses(t *testing.T) {
	m, x := adopt(t)
	enforce(t, m, allow(80))
	got := dial(m, t.Context(), "a.test", 80)
	d, ok := x.hear().(egress.Dial)
	if !ok || d.Host != "a.test" || d.Port != 80 {
		t.Fatalf("%+v", d)
	}
	peer := x.pass(d.ID)
	r := <-got
	if r.err != nil {
		t.Fatal(r.err)
	}
	io.WriteString(r.conn, "out")
	io.WriteString(peer, "in")
	b := make([]byte, 3)
	if _, err := io.ReadFull(peer, b); err != nil || string(b) != "out" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := io.ReadFull(r.conn, b[:2]); err != nil || string(b[:2]) != "in" {
		t.Errorf("%q, %v", b, err)
	}
	r.conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := r.conn.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after its deadline: %v", err)
	}
	r.conn.Close()
	if err := r.conn.Close(); err == nil {
		t.Error("closed twice")
	}
	if c := x.hear(); c != any(egress.Close{ID: d.ID}) {
		t.Errorf("%+v", c)
	}
	if _, err := peer.Read(b); err != io.EOF {
		t.Errorf("the peer: %v", err)
	}
}

// What the rules here deny is not even asked for.
func TestDeniedBeforeItIsAskedFor(t *testing.T) {
	m, x := adopt(t)
	for _, section := range [][]byte{nil, allow(80), (&egress.Section{}).Encode()} {
		if section != nil {
			enforce(t, m, section)
		}
		for host, port := range map[string]uint16{"127.0.0.1": 81, "b.test": 80, "127.0.0.2": 80, "A.test": 80, "": 80, "a.test.": 80, "0.0.0.0": 80, "127.0.0.1%lo": 80} {
			var refused egress.Refused
			if _, err := m.Dial(t.Context(), host, port); !errors.As(err, &refused) || refused.Code != egress.Denied {
				t.Errorf("%s port %d: %v", host, port, err)
			}
		}
	}
	x.sock.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := x.sock.Read(make([]byte, 100)); err == nil {
		t.Errorf("the tender was asked: %d bytes", n)
	}
}

func TestRefusalsReachWhoAsked(t *testing.T) {
	m, x := adopt(t)
	enforce(t, m, allow(80))
	first, second := dial(m, t.Context(), "a.test", 80), dial(m, t.Context(), "127.0.0.1", 80)
	hosts := map[string]uint64{}
	for range 2 {
		d := x.hear().(egress.Dial)
		hosts[d.Host] = d.ID
	}
	x.say(egress.Refused{ID: hosts["127.0.0.1"], Code: egress.Busy, Reason: "busy"}.Encode())
	x.say(egress.Refused{ID: hosts["a.test"], Code: egress.Late, Reason: "late"}.Encode())
	for want, c := range map[egress.Code]chan dialed{egress.Late: first, egress.Busy: second} {
		var refused egress.Refused
		if r := <-c; !errors.As(r.err, &refused) || refused.Code != want || r.conn != nil {
			t.Errorf("%+v", r)
		}
	}
}

// A new program closes what it does not allow, and what was on its way.
func TestWithdrawnConnectionsAreClosed(t *testing.T) {
	m, x := adopt(t)
	enforce(t, m, allow(80))
	open := dial(m, t.Context(), "a.test", 80)
	id := x.hear().(egress.Dial).ID
	peer := x.pass(id)
	r := <-open
	late := dial(m, t.Context(), "a.test", 80)
	lateID := x.hear().(egress.Dial).ID
	enforce(t, m, allow(81))
	if c := x.hear(); c != any(egress.Close{ID: id}) {
		t.Errorf("%+v", c)
	}
	if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the peer: %v", err)
	}
	if _, err := r.conn.Write([]byte("x")); err == nil {
		t.Error("it is written to")
	}
	latePeer := x.pass(lateID)
	if r := <-late; r.err == nil || r.conn != nil {
		t.Errorf("%+v", r)
	}
	if c := x.hear(); c != any(egress.Close{ID: lateID}) {
		t.Errorf("%+v", c)
	}
	if _, err := latePeer.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the late peer: %v", err)
	}
}

// Who gives up leaves no connection behind, and no place taken.
func TestGivingUp(t *testing.T) {
	m, x := adopt(t)
	enforce(t, m, allow(80))
	for range 3 * egress.MaxPending {
		ctx, cancel := context.WithCancel(t.Context())
		got := dial(m, ctx, "a.test", 80)
		id := x.hear().(egress.Dial).ID
		cancel()
		if r := <-got; !errors.Is(r.err, context.Canceled) {
			t.Fatalf("%+v", r)
		}
		peer := x.pass(id)
		if c := x.hear(); c != any(egress.Close{ID: id}) {
			t.Fatalf("%+v", c)
		}
		if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
			t.Fatalf("the peer: %v", err)
		}
	}
}

// No more requests are on their way than a tender takes.
func TestRequestsWaitForTheirPlace(t *testing.T) {
	m, x := adopt(t)
	enforce(t, m, allow(80))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var started atomic.Int64
	for range 2 * egress.MaxPending {
		started.Add(1)
		dial(m, ctx, "a.test", 80)
	}
	for range egress.MaxPending {
		x.hear()
	}
	x.sock.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := x.sock.Read(make([]byte, 1000)); err == nil {
		t.Errorf("one more was asked for: %d bytes", n)
	}
}

// A tender that says what is out of place is not believed again.
func TestAnswersOutOfPlaceBreakTheSocket(t *testing.T) {
	for name, answer := range map[string]func(x *tender, id uint64){
		"garbage":                   func(x *tender, id uint64) { x.say([]byte("garbage")) },
		"what an image says":        func(x *tender, id uint64) { x.say(egress.Close{ID: id}.Encode()) },
		"another ID":                func(x *tender, id uint64) { x.say(egress.Refused{ID: id + 1}.Encode()) },
		"no descriptor":             func(x *tender, id uint64) { x.say(egress.Opened{ID: id}.Encode()) },
		"a descriptor too many":     func(x *tender, id uint64) { x.say(egress.Opened{ID: id}.Encode(), 0, 1) },
		"a refusal with descriptor": func(x *tender, id uint64) { x.say(egress.Refused{ID: id}.Encode(), 0) },
		"too long":                  func(x *tender, id uint64) { x.say(make([]byte, egress.MaxMessage+10)) },
		"the end":                   func(x *tender, id uint64) { x.sock.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			m, x := adopt(t)
			enforce(t, m, allow(80))
			before := openFiles(t)
			got := dial(m, t.Context(), "a.test", 80)
			answer(x, x.hear().(egress.Dial).ID)
			if r := <-got; r.err == nil || r.conn != nil {
				t.Errorf("%+v", r)
			}
			if _, err := m.Dial(t.Context(), "a.test", 80); err == nil || !strings.Contains(err.Error(), "dial socket") {
				t.Errorf("the next one: %v", err)
			}
			if after := openFiles(t); after > before {
				t.Errorf("%d descriptors before, %d after", before, after)
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

func TestPrepareFailsClosed(t *testing.T) {
	for _, b := range [][]byte{nil, {}, {1}, []byte("garbage")} {
		if s, err := New().Prepare(&pep.Input{Section: b}); err == nil || s != nil {
			t.Errorf("%q: %v", b, s)
		}
	}
	if _, err := New().Dial(t.Context(), "127.0.0.1", 80); err == nil {
		t.Error("a module without a socket dials")
	}
}

// Whatever the tender says, one answer reaches the one who waits for it, once; no
// place is lost, and no descriptor stays open that nobody has.
func FuzzAnswers(f *testing.F) {
	f.Add(egress.Opened{ID: 1}.Encode(), true)
	f.Add(egress.Opened{ID: 1}.Encode(), false)
	f.Add(egress.Refused{ID: 1, Code: egress.Busy, Reason: "x"}.Encode(), false)
	f.Add(egress.Refused{ID: 1, Code: egress.Denied}.Encode(), true)
	f.Add(egress.Opened{ID: 2}.Encode(), true)
	f.Add([]byte{3}, false)
	f.Fuzz(func(t *testing.T, b []byte, with bool) {
		m := New()
		var err error
		if m.sock, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0); err != nil {
			t.Fatal(err)
		}
		defer m.sock.Close()
		m.broken = nil
		enforce(t, m, allow(80))
		target, err := egress.ParseTarget("a.test", 80)
		if err != nil {
			t.Fatal(err)
		}
		r := &request{target: target, answer: make(chan answer, 1)}
		m.slots <- struct{}{}
		if err := m.ask(r, "a.test"); err != nil {
			t.Fatal(err)
		}
		fd := -1
		if with {
			if fd, err = syscall.Dup(int(m.sock.Fd())); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.take(b, fd); err != nil {
			if fd >= 0 && syscall.Close(fd) != nil { // it stays the caller's
				t.Fatal("a descriptor is closed that was refused")
			}
			if len(m.slots) != 1 || len(m.pending) != 1 || len(r.answer) != 0 || len(m.open) != 0 {
				t.Fatalf("after %v: %d places are taken, %d wait", err, len(m.slots), len(m.pending))
			}
			return
		}
		conn, err := (<-r.answer).result()
		if (conn != nil) != with || (err == nil) != with || len(m.slots) != 0 || len(m.pending) != 0 {
			t.Fatalf("%v, %v; %d places are taken, %d wait", conn, err, len(m.slots), len(m.pending))
		}
		if conn != nil {
			conn.Close()
		}
		if len(m.open) != 0 || m.take(b, -1) == nil {
			t.Fatal("the answer counts twice")
		}
	})
}
