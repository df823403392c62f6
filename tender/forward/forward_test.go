package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/abi/link"
)

// A guest is what forwarded connections reach, on the loopback of the host.
type guest struct{ net.Listener }

func (g guest) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	if port != link.ForwardPort {
		return nil, errors.New("another port")
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", g.Addr().String())
}

func (g guest) Listen() (net.Listener, error) { return g, nil }

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// start forwards what clients say to a guest.
func start(t *testing.T) (f *Forwarder, g guest, connect func() net.Conn) {
	t.Helper()
	g = guest{listen(t)}
	f = New(g, 1<<10, t.Logf)
	t.Cleanup(func() { f.Close() })
	ln := listen(t)
	if err := f.Serve(0, ln); err != nil {
		t.Fatal(err)
	}
	return f, g, func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(20 * time.Second))
		return c
	}
}

// accept returns a connection as the guest sees it, and who it is said to be of.
func accept(t *testing.T, g guest) (net.Conn, link.Peer) {
	t.Helper()
	c, err := g.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, link.PeerSize)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	p, err := link.DecodePeer(b)
	if err != nil {
		t.Fatal(err)
	}
	return c, p
}

func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// Nothing a guest says before it has welcomed a client reaches that client, and what is
// no welcome ends the connection.
func TestAGuestHasToWelcome(t *testing.T) {
	for name, say := range map[string]func(net.Conn){
		"another word": func(c net.Conn) { c.Write([]byte("HTTP/1.1 200 OK")) },
		"nothing":      func(c net.Conn) { c.Close() },
		"a reset": func(c net.Conn) {
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, g, connect := start(t)
			client := connect()
			c, p := accept(t, g)
			if p.Client.String() != client.LocalAddr().String() || p.Local.String() != client.RemoteAddr().String() {
				t.Errorf("the client is said to be %v", p)
			}
			say(c)
			if got, err := io.ReadAll(client); !errors.Is(err, syscall.ECONNRESET) || len(got) > 0 {
				t.Errorf("the client hears %q, %v", got, err)
			}
			if err := f.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// Stop waits for what was accepted, and takes nothing new.
func TestStopWaitsForTheGuest(t *testing.T) {
	f, g, connect := start(t)
	client := connect()
	c, _ := accept(t, g)
	if err := f.Stop(short(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a connection is on its way, and Stop says %v", err)
	}
	if err := f.Serve(1, listen(t)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("it serves another socket: %v", err)
	}
	if _, err := c.Write([]byte{link.Welcome}); err != nil {
		t.Fatal(err)
	}
	if err := f.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if got, err := io.ReadAll(client); err != nil || string(got) != "still here" {
		t.Errorf("what is open: %q, %v", got, err)
	}
	if err := f.Finish(t.Context()); err != nil {
		t.Error(err)
	}
}

// A client that gives up takes no place for longer than the guest takes to welcome it.
func TestClientsThatGiveUp(t *testing.T) {
	f, g, connect := start(t)
	client := connect()
	c, _ := accept(t, g)
	client.(*net.TCPConn).SetLinger(0)
	client.Close()
	c.Write([]byte{link.Welcome})
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the guest reads %v", err)
	}
	if err := f.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// A guest that welcomes nobody is sent so many connections, and no more: the others
// wait where another image can take them.
func TestHowManyWait(t *testing.T) {
	f, g, connect := start(t)
	for range maxWaiting + 20 {
		connect()
	}
	for range maxWaiting {
		accept(t, g)
	}
	g.Listener.(*net.TCPListener).SetDeadline(time.Now().Add(100 * time.Millisecond))
	if c, err := g.Accept(); err == nil {
		t.Errorf("one more: %v", c.RemoteAddr())
	}
	left := f.Close()
	if err := f.Stop(t.Context()); err != nil {
		t.Errorf("after Close: %v", err)
	}

	// Nothing was read of those that were accepted: the next life of the guest has them.
	if len(left) != maxWaiting {
		t.Fatalf("%d clients are left", len(left))
	}
	next, g, _ := start(t)
	go next.Resume(left)
	for range left {
		c, _ := accept(t, g)
		c.Write([]byte{link.Welcome})
	}
	if err := next.Stop(t.Context()); err != nil {
		t.Errorf("the next life: %v", err)
	}
}
