package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// An image is what forwarded connections reach, on the loopback of the host. It answers
// each with what the test says.
type image struct {
	net.Listener
	clients chan netip.AddrPort // as they are said to be
	answers chan error
	silent  atomic.Bool
}

const imagePort = 8443

func (g *image) Dial(ctx context.Context, client netip.AddrPort, port uint16) (net.Conn, error) {
	if port != imagePort {
		return nil, errors.New("another port")
	}
	g.clients <- client
	if g.silent.Load() {
		select {
		case err := <-g.answers:
			if err != nil {
				return nil, fmt.Errorf("link: %w", err)
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", g.Addr().String())
}

func (g *image) Listen() (net.Listener, error) { return g, nil }

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// start forwards what clients say to an image. A silent one answers when it is told.
func start(t *testing.T, silent bool) (f *Forwarder, g *image, connect func() net.Conn) {
	t.Helper()
	g = &image{Listener: listen(t), clients: make(chan netip.AddrPort, 2*maxWaiting), answers: make(chan error)}
	g.silent.Store(silent)
	f = New(g, 1<<10, t.Logf)
	t.Cleanup(func() { f.Close() })
	ln := listen(t)
	if err := f.Serve(imagePort, ln); err != nil {
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

// accept returns a connection as the image sees it.
func accept(t *testing.T, g *image) net.Conn {
	t.Helper()
	c, err := g.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func short(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// A client whom the image refuses is reset, whatever the reason, and is told of it at
// once.
func TestARefusedClient(t *testing.T) {
	for _, why := range []error{syscall.EHOSTUNREACH, syscall.ECONNREFUSED, syscall.EADDRINUSE} {
		f, g, connect := start(t, true)
		client := connect()
		if got := <-g.clients; got.String() != client.LocalAddr().String() {
			t.Errorf("the client is said to be %v", got)
		}
		g.answers <- why
		if got, err := io.ReadAll(client); !errors.Is(err, syscall.ECONNRESET) || len(got) > 0 {
			t.Errorf("%v: the client hears %q, %v", why, got, err)
		}
		if err := f.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if left := f.Close(); len(left) > 0 {
			t.Errorf("%v: %d clients are left for the next life", why, len(left))
		}
	}
}

// A client whose image has gone before it answered waits for the next life of it, whether
// the link says so or is only silent.
func TestAClientOfAnImageThatIsGone(t *testing.T) {
	for name, answer := range map[string]error{"the link is closed": net.ErrClosed, "silence": nil} {
		t.Run(name, func(t *testing.T) {
			f, g, connect := start(t, true)
			client := connect()
			<-g.clients
			if answer != nil {
				g.answers <- answer
			}
			if err := f.Stop(short(t)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("it is said to be served: %v", err)
			}
			left := f.Close()
			if len(left) != 1 || left[0].Port != imagePort {
				t.Fatalf("left are %v", left)
			}
			next, g, _ := start(t, false)
			next.Resume(left)
			c := accept(t, g)
			if got := <-g.clients; got.String() != client.LocalAddr().String() {
				t.Errorf("the client is said to be %v", got)
			}
			c.Write([]byte("hello"))
			c.Close()
			if got, err := io.ReadAll(client); err != nil || string(got) != "hello" {
				t.Errorf("the client hears %q, %v", got, err)
			}
			if err := next.Stop(t.Context()); err != nil {
				t.Errorf("the next life: %v", err)
			}
		})
	}
}

// Stop waits for what was accepted, and takes nothing new.
func TestStopWaitsForTheImage(t *testing.T) {
	f, g, connect := start(t, true)
	client := connect()
	<-g.clients
	if err := f.Stop(short(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a connection is on its way, and Stop says %v", err)
	}
	if err := f.Serve(imagePort, listen(t)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("it serves another socket: %v", err)
	}
	g.answers <- nil
	c := accept(t, g)
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

// A client that gives up takes no place for longer than the image takes to answer it.
func TestClientsThatGiveUp(t *testing.T) {
	f, g, connect := start(t, true)
	client := connect()
	<-g.clients
	client.(*net.TCPConn).SetLinger(0)
	client.Close()
	g.answers <- nil
	c := accept(t, g)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the image reads %v", err)
	}
	if err := f.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// An image that answers nobody is sent so many connections, and no more: the others wait
// where another image can take them.
func TestHowManyWait(t *testing.T) {
	f, g, connect := start(t, true)
	for range maxWaiting + 20 {
		connect()
	}
	for range maxWaiting {
		<-g.clients
	}
	select {
	case c := <-g.clients:
		t.Errorf("one more: %v", c)
	case <-time.After(100 * time.Millisecond):
	}
	left := f.Close()
	if err := f.Stop(t.Context()); err != nil {
		t.Errorf("after Close: %v", err)
	}

	// Nothing was read of those that were accepted: the next life of the image has them.
	if len(left) != maxWaiting {
		t.Fatalf("%d clients are left", len(left))
	}
	next, g, _ := start(t, false)
	go next.Resume(left)
	for range left {
		accept(t, g)
	}
	if err := next.Stop(t.Context()); err != nil {
		t.Errorf("the next life: %v", err)
	}
}
