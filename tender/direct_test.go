package tender_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/internal/notrun"
	"lorica.dev/lorica/tender"
)

// startDirect runs an image that has a stack of its own, joined to the tender's: where
// there would be devices for it, the tender is started where it sees none. It returns nil
// where the tender has another way all the same.
func startDirect(t *testing.T, listeners ...*os.File) (*tender.Client, tender.Config) {
	t.Helper()
	exe := []string{"/proc/self/exe", "tender"}
	if os.Geteuid() == 0 {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		exe = []string{"unshare", "-m", "sh", "-c", `test ! -e /dev/net || mount -t tmpfs none /dev/net; exec "$0" tender`, self}
	}
	cfg := direct.configure(t)
	cfg.Net = api.NetDirect
	c := startAs(t, exe, cfg, listeners...)
	if s := status(t, c); s.Way != tender.WayOwnStack {
		notrun.Say(t, "an image's stack joined to its tender's", "packets come "+s.Way)
		return nil, cfg
	}
	return c, cfg
}

// An image with a stack of its own is confined as others are, holds one descriptor for
// its network, and sees its clients where they are.
func TestAnImageWithAStack(t *testing.T) {
	c, _ := startDirect(t)
	if c == nil {
		return
	}
	s := status(t, c)
	descriptors(t, s.PID)
	for fd := 5; fd < 8; fd++ {
		what, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", s.PID, fd))
		if socket := strings.HasPrefix(what, "socket:"); socket != (fd == 5) {
			t.Errorf("descriptor %d is %s (%v)", fd, what, err)
		}
	}
	var from net.Addr
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, 2, 3)}}
		c, err := d.DialContext(ctx, network, addr)
		if err == nil {
			from = c.LocalAddr()
		}
		return c, err
	}}}
	r, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/who", s.Listen[0].Port))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b := make([]byte, 64)
	n, _ := r.Body.Read(b)
	if string(b[:n]) != from.String() {
		t.Errorf("%v is seen as %q", from, b[:n])
	}
}

// Clients of an image that has died wait for its next life, whether they come before
// that is known or after; what it had is reset.
func TestClientsWaitForTheNextLife(t *testing.T) {
	c, _ := startDirect(t)
	if c == nil {
		return
	}
	s := status(t, c)
	open, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.Listen[0].Port))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	fmt.Fprintf(open, "GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
	open.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := open.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	// It answers nothing from here on: these clients are on their way when it dies.
	stop(t, s.PID)
	var clients sync.WaitGroup
	ask := func() {
		clients.Go(func() {
			if code, body := get(t, s, "/hello"); code != 200 || body != "hello\n" {
				t.Errorf("got %d %q", code, body)
			}
		})
	}
	for range 8 {
		ask()
	}
	time.Sleep(200 * time.Millisecond)
	if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		ask()
	}
	clients.Wait()
	for err = nil; err == nil; {
		_, err = open.Read(make([]byte, 512))
	}
	if !strings.Contains(err.Error(), "reset") {
		t.Errorf("what was open: %v", err)
	}
	if after := status(t, c); after.Restarts != 1 || after.Way != tender.WayOwnStack {
		t.Errorf("status is %+v", after)
	}
}

// A successor with a stack takes over from an image with sockets, another from that, and
// one with sockets again, while clients keep coming: none of them notices.
func TestNetworksAreHandedOver(t *testing.T) {
	cfg := configure(t)
	now := start(t, cfg)
	s := status(t, now)
	var asked, lost atomic.Int64
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			one := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
			for {
				select {
				case <-stop:
					return
				default:
				}
				asked.Add(1)
				r, err := one.Get(fmt.Sprintf("http://127.0.0.1:%d/hello", s.Listen[0].Port))
				if err != nil {
					lost.Add(1)
					t.Error(err)
					continue
				}
				r.Body.Close()
			}
		})
	}
	for _, stack := range []bool{true, true, false} {
		files, err := now.Listeners(background)
		if err != nil {
			t.Fatal(err)
		}
		var next *tender.Client
		if stack {
			next, _ = startDirect(t, files...)
		} else {
			next = start(t, configure(t), files...)
		}
		for _, f := range files {
			f.Close()
		}
		if next == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
		if err := now.Drain(background, 300*time.Millisecond, 5*time.Second); err != nil {
			t.Fatal(err)
		}
		ends(t, now)
		now = next
	}
	close(stop)
	clients.Wait()
	t.Logf("%d of %d requests were lost", lost.Load(), asked.Load())
}
