package socket

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/abi/egress"
)

// A tender is the other end of a dial socket, played by the test.
type tender struct {
	t    *testing.T
	sock *net.UnixConn
}

func dialing(t *testing.T) (*dialer, *tender) {
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
	d, err := newDialer(fds[1])
	if err != nil {
		t.Fatal(err)
	}
	return d, &tender{t, c.(*net.UnixConn)}
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

func dial(d *dialer, ctx context.Context, host string, port uint16) chan dialed {
	c := make(chan dialed, 1)
	go func() {
		conn, err := d.connect(ctx, host, port)
		c <- dialed{conn, err}
	}()
	return c
}

func TestAConnectionIsWhatTheTenderPasses(t *testing.T) {
	d, x := dialing(t)
	got := dial(d, t.Context(), "a.test", 80)
	asked, ok := x.hear().(egress.Dial)
	if !ok || asked.Host != "a.test" || asked.Port != 80 {
		t.Fatalf("%+v", asked)
	}
	peer := x.pass(asked.ID)
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
	if c := x.hear(); c != any(egress.Close{ID: asked.ID}) {
		t.Errorf("%+v", c)
	}
	if _, err := peer.Read(b); err != io.EOF {
		t.Errorf("the peer: %v", err)
	}
}

func TestRefusalsReachWhoAsked(t *testing.T) {
	d, x := dialing(t)
	first, second := dial(d, t.Context(), "a.test", 80), dial(d, t.Context(), "127.0.0.1", 80)
	hosts := map[string]uint64{}
	for range 2 {
		asked := x.hear().(egress.Dial)
		hosts[asked.Host] = asked.ID
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

// Who gives up leaves no connection behind, and no place taken.
func TestGivingUp(t *testing.T) {
	d, x := dialing(t)
	for range 3 * egress.MaxPending {
		ctx, cancel := context.WithCancel(t.Context())
		got := dial(d, ctx, "a.test", 80)
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
	d, x := dialing(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var started atomic.Int64
	for range 2 * egress.MaxPending {
		started.Add(1)
		dial(d, ctx, "a.test", 80)
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
			d, x := dialing(t)
			before := openFiles(t)
			got := dial(d, t.Context(), "a.test", 80)
			answer(x, x.hear().(egress.Dial).ID)
			if r := <-got; r.err == nil || r.conn != nil {
				t.Errorf("%+v", r)
			}
			if _, err := d.connect(t.Context(), "a.test", 80); err == nil || !strings.Contains(err.Error(), "dial socket") {
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
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		d := &dialer{sock: null, slots: make(chan struct{}, 1), pending: make(map[uint64]*request)}
		target, err := egress.ParseTarget("a.test", 80)
		if err != nil {
			t.Fatal(err)
		}
		r := &request{target: target, answer: make(chan answer, 1)}
		d.slots <- struct{}{}
		if err := d.ask(r, "a.test"); err != nil {
			t.Fatal(err)
		}
		fd := -1
		if with {
			if fd, err = syscall.Dup(int(d.sock.Fd())); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.take(b, fd); err != nil {
			if fd >= 0 && syscall.Close(fd) != nil { // it stays the caller's
				t.Fatal("a descriptor is closed that was refused")
			}
			if len(d.slots) != 1 || len(d.pending) != 1 || len(r.answer) != 0 {
				t.Fatalf("after %v: %d places are taken, %d wait", err, len(d.slots), len(d.pending))
			}
			return
		}
		conn, err := (<-r.answer).result()
		if (conn != nil) != with || (err == nil) != with || len(d.slots) != 0 || len(d.pending) != 0 {
			t.Fatalf("%v, %v; %d places are taken, %d wait", conn, err, len(d.slots), len(d.pending))
		}
		if conn != nil {
			conn.Close()
		}
		if d.take(b, -1) == nil {
			t.Fatal("the answer counts twice")
		}
	})
}
