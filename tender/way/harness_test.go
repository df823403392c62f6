package way

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/internal/notrun"
)

// The test binary is also what tests start.
func TestMain(m *testing.M) {
	roles := map[string]func() error{HelperCommand: Helper, "first-thread": firstThread, "routed": holdRouted, "routed-unowned": holdUnowned}
	if len(os.Args) == 2 && roles[os.Args[1]] != nil {
		if err := roles[os.Args[1]](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Geteuid() != 0 && os.Getenv(inside) == "" {
		// An ordinary user is root in namespaces of its own, which is enough for most of it.
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}}
		if err := cmd.Start(); err == nil {
			cmd.Wait()
			os.Exit(cmd.ProcessState.ExitCode())
		}
	}
	os.Exit(m.Run())
}

// inside is set where the tests of an ordinary user have namespaces of their own.
const inside = "LORICA_TEST_INSIDE"

const (
	patience = 20 * time.Second
	testMTU  = 16370
)

// missing says on the list of what was not run why this machine gives no TAP device, and
// fails the test where it should.
func missing(t testing.TB, what string, err error) {
	t.Helper()
	if _, none := os.Stat(tunDevice); os.Geteuid() == 0 && none == nil && !errors.Is(err, os.ErrPermission) {
		t.Fatal(err)
	}
	notrun.Say(t, what, err.Error())
}

// openPrivate makes a link; nil where this machine gives none.
func openPrivate(t testing.TB) Way {
	t.Helper()
	w, err := OpenPrivate(Spec{MTU: testMTU, Raw: true})
	if err != nil {
		missing(t, "private links of images by a TAP device", err)
		return nil
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// newNamespace returns a thread in a new network namespace, after what enter does there.
func newNamespace(t testing.TB, enter func() error) *thread {
	t.Helper()
	th := newThread()
	ready := make(chan error)
	go th.live(ready, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return enter()
	})
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(th.close)
	return th
}

// An image is Linux's own stack in a namespace of its own, at the other end of a link.
type image struct {
	*thread
	link    *device
	longest atomic.Int64 // of the frames that it was sent
}

// newImage attaches an image to w. It takes packets from wherever they say to come.
func newImage(t testing.TB, w Way) *image {
	t.Helper()
	i := &image{}
	i.thread = newNamespace(t, func() error { return i.enter(w) })
	cut := join(t, w.File(), i.link.file, &i.longest)
	t.Cleanup(func() {
		cut()
		i.link.file.Close()
	})
	return i
}

// enter gives the namespace of an image what an image makes of its link by itself.
func (i *image) enter(w Way) error {
	l := w.Link()
	d, err := openDevice("image", Spec{MTU: int(l.MTU), Raw: true})
	if err != nil {
		return err
	}
	i.link = d
	route, err := openNetlink(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer route.close()
	mac := attributes{}.bytes(unix.IFLA_ADDRESS, l.MAC[:]).u32(unix.IFLA_MTU, uint32(l.MTU))
	list := []message{{kind: unix.RTM_NEWLINK, body: ifinfo(d.index, 0), attrs: mac, what: "hardware address"}, setUp(d.index),
		newAddress(d.index, netip.MustParsePrefix("fe80::2/64"))}
	for _, s := range [][2]string{{"ipv4/conf/all/rp_filter", "0"}, {"ipv4/conf/image/rp_filter", "0"}, {"ipv4/conf/image/route_localnet", "1"},
		{"ipv4/conf/image/accept_local", "1"}, {"ipv6/conf/image/addr_gen_mode", "1"}} {
		if err := setSysctl(s[0], s[1]); err != nil {
			return err
		}
	}
	for n, a := range l.Addrs {
		list = append(list, newAddress(d.index, a), newRoute(family(a.Addr()), unix.RT_TABLE_MAIN, unix.RTN_UNICAST, netip.Prefix{},
			attributes{}.u32(unix.RTA_OIF, uint32(d.index)).bytes(unix.RTA_GATEWAY, l.Hosts[n].AsSlice()), "default route"))
	}
	return route.do(list...)
}

// join carries the frames of two devices to each other, as a wire does, until it is cut,
// and notes the longest of a's.
func join(t testing.TB, a, b *os.File, longest *atomic.Int64) (cut func()) {
	var fds [2]int
	for i, f := range []*os.File{a, b} {
		fd, err := unix.Dup(int(f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		fds[i] = fd
	}
	stop := make(chan struct{})
	var all sync.WaitGroup
	carry := func(from, to int, longest *atomic.Int64) {
		frame := make([]byte, 1<<17)
		for {
			n, err := unix.Read(from, frame)
			if err == nil {
				if size := int64(n - headerSize); size > longest.Load() {
					longest.Store(size)
				}
				unix.Write(to, frame[:n]) // what a wire does not carry is lost
				continue
			}
			select {
			case <-stop:
				return
			default:
				unix.Poll([]unix.PollFd{{Fd: int32(from), Events: unix.POLLIN}}, 50)
			}
		}
	}
	all.Go(func() { carry(fds[0], fds[1], longest) })
	all.Go(func() { carry(fds[1], fds[0], new(atomic.Int64)) })
	return func() {
		close(stop)
		all.Wait()
		unix.Close(fds[0])
		unix.Close(fds[1])
	}
}

// listen serves what it accepts at a port of both families, which Go's
// "tcp" leaves to what the machine's own namespace has.
func (th *thread) listen(t testing.TB, port uint16, serve func(net.Listener)) {
	t.Helper()
	for _, network := range []string{"tcp4", "tcp6"} {
		var l net.Listener
		var err error
		if closed := th.do(func() {
			var c net.ListenConfig
			c.SetMultipathTCP(false)
			l, err = c.Listen(context.Background(), network, fmt.Sprintf(":%d", port))
		}); closed != nil || err != nil {
			t.Fatal(closed, err)
		}
		t.Cleanup(func() { l.Close() })
		go serve(l)
	}
}

// dial connects to a, which may well fail.
func (th *thread) dial(a netip.AddrPort, within time.Duration) (c net.Conn, err error) {
	return th.dialFrom(0, a, within)
}

// dialFrom does so from a port; 0: any.
func (th *thread) dialFrom(port int, a netip.AddrPort, within time.Duration) (c net.Conn, err error) {
	if closed := th.do(func() {
		d := net.Dialer{Timeout: within, LocalAddr: &net.TCPAddr{Port: port}}
		c, err = d.Dial("tcp", a.String())
	}); closed != nil {
		return nil, closed
	}
	return c, err
}

// echo answers every connection of l with the address that it comes from, and then with
// what is sent.
func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			fmt.Fprintf(c, "%v\n", c.RemoteAddr())
			io.Copy(c, c)
		}()
	}
}
