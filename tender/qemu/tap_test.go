package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/link"
	"lorica.dev/lorica/internal/notrun"
)

var (
	near = launch.Link{Addr: netip.MustParsePrefix("10.0.2.2/30"), Host: netip.MustParseAddr("10.0.2.1")}
	far  = launch.Link{Addr: netip.MustParsePrefix("10.0.2.1/30"), Host: netip.MustParseAddr("10.0.2.2")}
)

// openTAP makes a network; nil where this machine gives none, which is on the list then.
func openTAP(t *testing.T, l launch.Link) *TAP {
	t.Helper()
	n, err := OpenTAP(l, 1500)
	if err == nil {
		t.Cleanup(func() { n.Close() })
		return n
	}
	if _, missing := os.Stat(tunDevice); os.Geteuid() == 0 && missing == nil && !errors.Is(err, os.ErrPermission) {
		t.Fatal(err)
	}
	notrun.Say(t, "the network of microVMs by a TAP device", err.Error())
	return nil
}

// join carries the frames of two devices to each other, as a wire does.
func join(t *testing.T, a, b *TAP) {
	var fds [2]int
	for i, n := range []*TAP{a, b} {
		fd, err := unix.Dup(int(n.File().Fd()))
		if err != nil {
			t.Fatal(err)
		}
		fds[i] = fd
	}
	cut := make(chan struct{})
	var all sync.WaitGroup
	carry := func(from, to int) {
		frame := make([]byte, 1<<17)
		for {
			poll := []unix.PollFd{{Fd: int32(from), Events: unix.POLLIN}}
			ready, _ := unix.Poll(poll, 50)
			select {
			case <-cut:
				return
			default:
			}
			if ready == 1 {
				if n, err := unix.Read(from, frame); err == nil {
					unix.Write(to, frame[:n]) // what a wire does not carry is lost
				}
			}
		}
	}
	all.Go(func() { carry(fds[0], fds[1]) })
	all.Go(func() { carry(fds[1], fds[0]) })
	t.Cleanup(func() {
		close(cut)
		all.Wait()
		unix.Close(fds[0])
		unix.Close(fds[1])
	})
}

// The peer is Linux's own stack, in a second namespace behind a second device.
func TestATAPCarriesConnections(t *testing.T) {
	n := openTAP(t, near)
	if n == nil {
		return
	}
	guest := openTAP(t, far)
	if guest == nil {
		return
	}
	join(t, n, guest)
	l, err := guest.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if want := "10.0.2.2:1023"; l.Addr().String() != want {
		t.Errorf("it listens at %v, want %s", l.Addr(), want)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		var all sync.WaitGroup
		defer all.Wait()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				io.Copy(c, c)
			})
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			c, err := n.Dial(ctx, link.DialPort)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if from := c.LocalAddr().(*net.TCPAddr).IP.String(); from != "10.0.2.1" {
				t.Errorf("from %s", from)
			}
			sent := strings.Repeat("x", 1<<20)
			go func() {
				io.WriteString(c, sent)
				c.(*net.TCPConn).CloseWrite()
			}()
			if got, err := io.ReadAll(c); err != nil || string(got) != sent {
				t.Errorf("%d bytes came back of %d: %v", len(got), len(sent), err)
			}
		})
	}
	all.Wait()
	if c, err := n.Dial(ctx, link.DialPort+1); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a port without a listener: %v, %v", c, err)
	}
	l.Close()
	<-served
}

func TestATAPReachesNobodyElse(t *testing.T) {
	n := openTAP(t, near)
	if n == nil {
		return
	}
	here, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	var routes, devices []byte
	if err := n.do(func() {
		// Of this thread, which alone is in the namespace.
		routes, _ = os.ReadFile("/proc/thread-self/net/route")
		devices, _ = os.ReadFile("/proc/thread-self/net/dev")
		d := net.Dialer{Timeout: time.Second}
		if c, err := d.Dial("tcp4", here.Addr().String()); err == nil {
			c.Close()
			t.Error("the host is reached")
		}
	}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(routes), "\n"); got != 2 || !strings.Contains(string(routes), tapName) { // the head, and the link
		t.Errorf("routes are\n%s", routes)
	}
	if got := strings.Count(string(devices), ":"); got != 2 || !strings.Contains(string(devices), tapName) { // and lo
		t.Errorf("devices are\n%s", devices)
	}
	if own, _ := os.ReadFile("/proc/self/net/dev"); strings.Contains(string(own), tapName+":") {
		t.Error("the device is in the namespace of the tender")
	}
	// The neighbour is silent: nothing reads the device.
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if c, err := n.Dial(ctx, link.ForwardPort); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody answered: %v, %v", c, err)
	}
	n.Close()
	n.Close()
	if c, err := n.Dial(t.Context(), link.ForwardPort); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed one: %v, %v", c, err)
	}
	if l, err := n.Listen(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed one: %v, %v", l, err)
	}
}

// firstThread enters a network from the first thread of the process, which must stay
// where it is: what /proc says of the process is said of it.
func firstThread() error {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		return errors.New("this is another thread")
	}
	own := func() string { s, _ := os.Readlink("/proc/self/ns/net"); return s }
	before := own()
	n := &TAP{link: near, mtu: 1500, work: make(chan func()), gone: make(chan struct{})}
	ready, verdict := make(chan error), make(chan error, 1)
	go func() {
		err := <-ready
		if err == nil {
			if after := own(); after != before || before == "" {
				err = fmt.Errorf("the process went from %q to %q", before, after)
			}
			n.Close()
		}
		verdict <- err
	}()
	n.live(ready)
	return <-verdict
}

func TestTheFirstThreadStays(t *testing.T) {
	if openTAP(t, near) == nil {
		return
	}
	if out, err := exec.Command("/proc/self/exe", "first-thread").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestNetworksThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		link launch.Link
		mtu  int
	}{
		"none":             {launch.Link{}, 1500},
		"IPv6":             {launch.Link{Addr: netip.MustParsePrefix("fd00::2/64"), Host: netip.MustParseAddr("fd00::1")}, 1500},
		"elsewhere":        {launch.Link{Addr: near.Addr, Host: netip.MustParseAddr("10.9.0.1")}, 1500},
		"the same twice":   {launch.Link{Addr: near.Addr, Host: near.Addr.Addr()}, 1500},
		"too long packets": {near, 1 << 16},
	} {
		if n, err := OpenTAP(c.link, c.mtu); err == nil || !strings.Contains(err.Error(), "a network of") {
			t.Errorf("%s: %v, %v", name, n, err)
		}
	}
}

// QEMU takes the device, with the header of virtio before each frame.
func TestQEMUTakesATAP(t *testing.T) {
	n := openTAP(t, near)
	if n == nil {
		return
	}
	b := newBench(t)
	g := b.mustStart(t, idle(), func(s *Spec) {
		s.Devices = append(s.Devices, DeviceNet)
		s.Net, s.Network, s.MTU = n.File(), Interface, 1500
	})
	if s, err := g.Status(t.Context()); err != nil || s != "running" {
		t.Errorf("status %q, %v", s, err)
	}
	r, err := unix.NewIfreq("")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlIfreq(int(n.File().Fd()), unix.TUNGETIFF, r); err != nil || r.Uint16()&(unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR) != unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR {
		t.Errorf("flags %#x, %v", r.Uint16(), err)
	}
}
