package link

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/tender/way"
)

// mirror sends back what it reads, and ends when that ends.
func mirror(c net.Conn) {
	defer c.Close()
	if _, err := io.Copy(c, c); err == nil {
		c.(halfCloser).CloseWrite()
	}
}

// exchange sends size random bytes through a mirror, and compares.
func exchange(addr string, seed uint64, size int64) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(3 * time.Minute))
	sent := sha256.New()
	failed := make(chan error, 1)
	go func() {
		r := io.LimitReader(rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}), size)
		_, err := io.Copy(c, io.TeeReader(r, sent))
		failed <- errors.Join(err, c.(halfCloser).CloseWrite())
	}()
	got := sha256.New()
	n, err := io.Copy(got, c)
	if err := errors.Join(err, <-failed); err != nil {
		return err
	}
	if n != size || string(got.Sum(nil)) != string(sent.Sum(nil)) {
		return fmt.Errorf("%d bytes came back of %d, or others", n, size)
	}
	return nil
}

func TestBytesSurviveTheLink(t *testing.T) {
	for name, c := range map[string]struct {
		faults faults
		mtu    int
		raw    bool
		ipv4   bool // alone
		size   int64
		conns  int
	}{
		"one":               {faults{}, mtu, false, false, 20 << 20, 1},
		"one, by messages":  {faults{}, mtu, true, false, 20 << 20, 1},
		"many":              {faults{}, 1500, false, false, 60 << 10, 256},
		"many, by messages": {faults{}, 1500, true, false, 60 << 10, 256},
		"many, IPv4 alone":  {faults{}, 1500, true, true, 60 << 10, 256},
		// Not so many that the buffers of each are less than a frame: a receiver of gVisor may
		// then forget to say that it has room again. No image has such frames (usernet.MTU).
		"many, long frames":  {faults{}, 65535 - 14, false, false, 60 << 10, 32},
		"loss, twice":        {faults{lose: 50, repeat: 20}, 4096, false, false, 1 << 20, 4},
		"loss, and messages": {faults{lose: 50, repeat: 20}, 4096, true, false, 1 << 20, 4},
		"another order":      {faults{swap: 10}, 4096, false, false, 60 << 10, 64},
		"everything":         {faults{lose: 100, repeat: 50, swap: 50}, 1500, false, false, 20 << 10, 64},
	} {
		t.Run(name, func(t *testing.T) {
			r := joinAs(t, c.faults, way.Spec{MTU: c.mtu, Raw: c.raw, IPv4: c.ipv4})
			r.serve(0, mirror)
			start := time.Now()
			var wg sync.WaitGroup
			for i := range c.conns {
				wg.Go(func() {
					if err := exchange(r.addrs[0], uint64(i), c.size); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			all := float64(c.size) * float64(c.conns) / (1 << 20)
			t.Logf("%.0f MiB each way, %.1f MiB/s, %d and %d frames", all, all/time.Since(start).Seconds(), r.cable.ways[0].frames.Load(), r.cable.ways[1].frames.Load())
		})
	}
}

// pair connects a client to listener 0 of the image.
func (r *rig) pair(t *testing.T) (client, image halfCloser) {
	t.Helper()
	c, err := net.Dial("tcp", r.addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	i, err := r.ports[0].Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.Close() })
	for _, c := range []net.Conn{c, i} {
		c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return c.(halfCloser), i.(halfCloser)
}

// A client is at the other end of its connection with its own address and port, whatever
// the address, and hears what the image says there.
func TestClientsComeFromWhereTheyAre(t *testing.T) {
	r := newRig(t, faults{}, mtu)
	for client, seen := range map[string]string{
		"127.0.0.1:40000":              "",
		"127.9.8.7:40000":              "",
		"192.0.2.7:1":                  "",
		"10.76.0.2:65535":              "",
		"169.254.1.1:5000":             "",
		"169.254.76.5:5000":            "", // near the link's own
		"[::1]:40000":                  "",
		"[2001:db8::7]:40000":          "",
		"[fe80::7%eth0]:40000":         "[fe80::7]:40000",
		"[::ffff:192.0.2.8]:40000":     "192.0.2.8:40000",
		"[fd6c:6f72:6963:62::5]:40000": "",
	} {
		t.Run(client, func(t *testing.T) {
			if seen == "" {
				seen = client
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			c, err := r.tender.Dial(ctx, netip.MustParseAddrPort(client), port(0))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			i, err := r.ports[0].Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer i.Close()
			if got := i.RemoteAddr().(*net.TCPAddr).AddrPort(); netip.AddrPortFrom(got.Addr().Unmap(), got.Port()).String() != seen {
				t.Errorf("the image sees %v", got)
			}
			if got := i.LocalAddr().(*net.TCPAddr); got.Port != int(port(0)) {
				t.Errorf("it connected to %v", got)
			}
			for _, x := range [][2]net.Conn{{c, i}, {i, c}} {
				if err := x[1].SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
					t.Fatal(err)
				}
				if _, err := x[0].Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(x[1], make([]byte, 1)); err != nil {
					t.Errorf("what was said: %v", err)
				}
			}
		})
	}
}

// A client may come again from the same port as soon as its connection has ended, whoever
// ended it first, and talk to another port of the image meanwhile.
func TestPortsAreUsedAgain(t *testing.T) {
	r := newRig(t, faults{}, mtu)
	r.serve(0, mirror)
	r.serve(1, func(c net.Conn) { // ends first
		c.Write([]byte("bye"))
		c.(halfCloser).CloseWrite()
		io.Copy(io.Discard, c)
		c.Close()
	})
	client := netip.MustParseAddrPort("192.0.2.7:40000")
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	start := time.Now()
	const times = 200
	for n := range times {
		c, err := r.tender.Dial(ctx, client, port(0))
		if err != nil {
			t.Fatalf("connection %d: %v", n, err)
		}
		other, err := r.tender.Dial(ctx, client, port(1))
		if err != nil {
			t.Fatalf("connection %d, to another port: %v", n, err)
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		other.SetDeadline(time.Now().Add(20 * time.Second))
		if got, err := io.ReadAll(other); err != nil || string(got) != "bye" {
			t.Fatalf("connection %d hears %q, %v", n, got, err)
		}
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if n%3 == 0 { // or it is reset, with bytes on their way, or ends in order
			if err := c.(halfCloser).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
				t.Fatalf("connection %d hears %q, %v", n, got, err)
			}
		} else if n%3 == 1 {
			c.(interface{ SetLinger(int) error }).SetLinger(0)
		}
		c.Close()
		other.Close()
	}
	t.Logf("%d connections in %v", 2*times, time.Since(start))
}

// Each side can end what it says and still hear the other.
func TestHalvesEndAlone(t *testing.T) {
	r := newRig(t, faults{}, mtu)
	client, image := r.pair(t)
	for _, c := range []struct {
		name     string
		from, to halfCloser
	}{{"the client", client, image}, {"the image", image, client}} {
		if _, err := c.from.Write([]byte(c.name)); err != nil {
			t.Fatal(err)
		}
		if err := c.from.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c.to); err != nil || string(got) != c.name {
			t.Errorf("from %s: %q, %v", c.name, got, err)
		}
	}
}

// A connection that fails at one end fails at the other, and does not just end.
func TestResetsSurviveTheLink(t *testing.T) {
	r := newRig(t, faults{}, mtu)
	client, image := r.pair(t)
	client.(*net.TCPConn).SetLinger(0)
	client.Close()
	if _, err := image.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client failed: the image reads %v", err)
	}
	client, image = r.pair(t)
	if _, err := client.Write([]byte("unread")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(image, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	image.Close() // with bytes unread
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the image failed: the client reads %v", err)
	}
}

// Who waits is woken by a deadline, a new deadline, and a close.
func TestWaitsEnd(t *testing.T) {
	r := newRig(t, faults{}, mtu)
	_, image := r.pair(t)
	read := func() error { _, err := image.Read(make([]byte, 1)); return err }
	image.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a deadline: %v", err)
	}
	if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a deadline that is over: %v", err)
	}
	image.SetReadDeadline(time.Time{})
	time.AfterFunc(10*time.Millisecond, func() { image.SetReadDeadline(time.Unix(1, 0)) })
	if err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a new deadline: %v", err)
	}
	image.SetDeadline(time.Time{})
	time.AfterFunc(10*time.Millisecond, func() { image.Close() })
	full := make([]byte, 1<<20)
	for {
		if _, err := image.Write(full); errors.Is(err, net.ErrClosed) {
			break
		} else if err != nil {
			t.Fatalf("a close: %v", err)
		}
	}
	if err := read(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after a close: %v", err)
	}
	time.AfterFunc(10*time.Millisecond, func() { r.ports[0].Close() })
	if c, err := r.ports[0].Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a listener that is closed: %v, %v", c, err)
	}
}
