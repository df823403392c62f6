package way

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/link"
)

// clients are addresses that a client may have, and what an image sees of them.
var clients = []struct{ client, seen string }{
	{"192.0.2.7:1234", "192.0.2.7:1234"},
	{"127.0.0.5:777", "127.0.0.5:777"},
	{"127.0.0.1:1023", "127.0.0.1:1023"},
	{"[::ffff:198.51.100.1]:4000", "198.51.100.1:4000"},
	{"[::1]:99", fmt.Sprintf("[%v]:99", link.Loopback6)},
	{"[2001:db8::5]:443", "[2001:db8::5]:443"},
	{"[fd00::5]:65535", "[fd00::5]:65535"},
}

// checkConnection holds that c comes from seen and carries bytes both ways.
func checkConnection(c net.Conn, seen string) error {
	defer c.Close()
	in := bufio.NewReader(c)
	line, err := in.ReadString('\n')
	if err != nil || line != seen+"\n" {
		return fmt.Errorf("the image sees %q, want %s: %v", line, seen, err)
	}
	sent := strings.Repeat("x", 1<<20)
	go func() {
		io.WriteString(c, sent)
		c.(*net.TCPConn).CloseWrite()
	}()
	if got, err := io.ReadAll(in); err != nil || string(got) != sent {
		return fmt.Errorf("%d bytes came back of %d: %v", len(got), len(sent), err)
	}
	return nil
}

// testWay shows what every Way does that makes clients' connections.
func testWay(t *testing.T, w Way) {
	i := newImage(t, w)
	i.listen(t, 8443, echo)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var all sync.WaitGroup
	for _, c := range clients {
		all.Go(func() {
			conn, err := w.Dial(ctx, netip.MustParseAddrPort(c.client), 8443)
			if err == nil {
				err = checkConnection(conn, c.seen)
			}
			if err != nil {
				t.Errorf("from %s: %v", c.client, err)
			}
		})
	}
	all.Wait()
	if i.longest.Load() <= testMTU+14 {
		t.Errorf("no frame was longer than %d bytes: what is longer than the MTU is cut by the kernel", i.longest.Load())
	}
	own, err := w.Dial(ctx, netip.AddrPort{}, 8443)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkConnection(own, own.LocalAddr().String()); err != nil || !strings.HasPrefix(own.LocalAddr().String(), w.Link().Hosts[0].String()+":") {
		t.Errorf("the tender's own, from %v: %v", own.LocalAddr(), err)
	}
	if c, err := w.Dial(ctx, netip.MustParseAddrPort("192.0.2.7:1234"), 8444); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a port without a listener: %v, %v", c, err)
	}
	for _, client := range []netip.AddrPort{netip.MustParseAddrPort("[fe80::5%lo]:1234"), netip.AddrPortFrom(link.Loopback6, 1234),
		netip.AddrPortFrom(w.Link().Hosts[0], 1234), netip.AddrPortFrom(w.Link().Addrs[1].Addr(), 1234)} {
		if c, err := w.Dial(ctx, client, 8443); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("a client at %v, which is none: %v, %v", client, c, err)
		}
	}

	// The other way: the image connects to its tender, and hears nobody else.
	l, err := w.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go echo(l)
	at := netip.AddrPortFrom(w.Link().Hosts[0], link.DialPort)
	c, err := i.dial(at, patience)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkConnection(c, c.LocalAddr().String()); err != nil {
		t.Error(err)
	}
	for _, to := range []string{"192.0.2.7:1023", "127.0.0.1:1023", "[fd6c:6f72:6963:62::1]:1023", "[2001:db8::5]:1023", at.Addr().String() + ":1024"} {
		if c, err := i.dial(netip.MustParseAddrPort(to), time.Second); err == nil {
			t.Errorf("the image reaches %s: %v", to, c.RemoteAddr())
		}
	}
}

func TestAPrivateLinkCarriesConnections(t *testing.T) {
	if w := openPrivate(t); w != nil {
		testWay(t, w)
	}
}

// A link of IPv4 alone has it at neither end, and carries it for nobody.
func testIPv4(t *testing.T, w Way) {
	if l := w.Link(); len(l.Addrs) != 1 || len(l.Hosts) != 1 || !l.Addrs[0].Addr().Is4() {
		t.Fatalf("the image is told of %v, by %v", l.Addrs, l.Hosts)
	}
	i := newImage(t, w)
	i.listen(t, 8443, echo)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := w.Dial(ctx, netip.MustParseAddrPort("192.0.2.7:1234"), 8443)
	if err == nil {
		err = checkConnection(c, "192.0.2.7:1234")
	}
	if err != nil {
		t.Error(err)
	}
	for _, client := range []string{"[2001:db8::5]:1234", "[::1]:1234"} {
		if c, err := w.Dial(ctx, netip.MustParseAddrPort(client), 8443); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("a client at %s: %v, %v", client, c, err)
		}
	}
	l, err := w.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go echo(l)
	if c, err := i.dial(netip.AddrPortFrom(w.Link().Hosts[0], link.DialPort), patience); err != nil {
		t.Error(err)
	} else if err := checkConnection(c, c.LocalAddr().String()); err != nil {
		t.Error(err)
	}
}

func TestALinkOfIPv4Alone(t *testing.T) {
	spec := Spec{MTU: testMTU, Raw: true, IPv4: true}
	for name, open := range map[string]func(Spec) (Way, error){"private": OpenPrivate, "nested": OpenNested} {
		t.Run(name, func(t *testing.T) {
			w, err := open(spec)
			if err != nil {
				missing(t, name+" links of images that have IPv4 alone", err)
				return
			}
			defer w.Close()
			testIPv4(t, w)
			if !hasIPv6() {
				return
			}
			switch in := w.(*dialled).sockets.(type) {
			case *thread:
				var off []byte
				if in.do(func() { off, err = os.ReadFile(sysctls + fmt.Sprintf(noIPv6, deviceName)) }); err != nil || off[0] != '1' {
					t.Errorf("the kernel speaks IPv6 there: %q, %v", off, err)
				}
			case *helper: // whose settings nobody else can read, but for addresses
				if has, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/if_inet6", in.pid)); err != nil || len(has) == 0 || bytes.Contains(has, []byte(deviceName)) {
					t.Errorf("the kernel has addresses of IPv6 there: %s, %v", has, err)
				}
			}
		})
	}
}

// A client may use its port again as soon as its last connection has ended, whoever
// ended it.
func TestAClientReusesItsPort(t *testing.T) {
	w := openPrivate(t)
	if w == nil {
		return
	}
	testReuse(t, w)
}

func testReuse(t *testing.T, w Way) {
	i := newImage(t, w)
	i.listen(t, 8443, echo)
	for _, client := range []string{"192.0.2.7:1234", "[2001:db8::5]:443"} {
		for n := range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			c, err := w.Dial(ctx, netip.MustParseAddrPort(client), 8443)
			cancel()
			if err == nil {
				err = checkConnection(c, client)
			}
			if err != nil {
				t.Errorf("connection %d from %s: %v", n, client, err)
			}
		}
	}
	// Another client of the same port at the same time, and another port of the image.
	i.listen(t, 8444, echo)
	for _, c := range []struct {
		client string
		port   uint16
	}{{"192.0.2.7:1234", 8443}, {"192.0.2.8:1234", 8443}, {"192.0.2.7:1234", 8444}} {
		conn, err := w.Dial(t.Context(), netip.MustParseAddrPort(c.client), c.port)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
}

func TestAPrivateLinkReachesNobodyElse(t *testing.T) {
	w := openPrivate(t)
	if w == nil {
		return
	}
	here, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	i := newImage(t, w)
	if own, _ := os.ReadFile("/proc/self/net/dev"); strings.Contains(string(own), deviceName+":") {
		t.Error("the device is in the namespace of the tender")
	}
	for _, to := range []netip.AddrPort{here.Addr().(*net.TCPAddr).AddrPort(), netip.AddrPortFrom(w.Link().Hosts[0], uint16(here.Addr().(*net.TCPAddr).Port))} {
		if c, err := i.dial(to, time.Second); err == nil {
			c.Close()
			t.Errorf("the image reaches the host at %v", to)
		}
	}
}

// What an image says of the network, its kernel does not believe.
func TestAnImageIsNoRouter(t *testing.T) {
	w := openPrivate(t)
	if w == nil {
		return
	}
	inside := w.(*dialled).sockets.(*thread)
	view := func() (v string) {
		inside.do(func() {
			list, err := net.Interfaces()
			for _, i := range list {
				a, _ := i.Addrs()
				v += fmt.Sprintln(i.Name, a, err)
			}
			b, _ := os.ReadFile("/proc/thread-self/net/ipv6_route") // of this thread, which alone is in the namespace
			for line := range strings.Lines(string(b)) {
				if f := strings.Fields(line); f[0] == strings.Repeat("0", 32) || strings.HasPrefix(f[0], "20010db8") {
					v += fmt.Sprintln(f[0], f[4], f[9])
				}
			}
		})
		return v
	}
	l := w.Link()
	want := fmt.Sprintf("lo [127.0.0.1/8 ::1/128] <nil>\n%s [%v/30 %v/126] <nil>\n", deviceName, l.Hosts[0], l.Hosts[1])
	before := view()
	if !strings.HasPrefix(before, want) {
		t.Errorf("there are\n%s, want\n%s", before, want)
	}
	i := newImage(t, w)
	// The advertisement of a router, with a network to make addresses in (RFC 4861, 4.2 and 4.6.2).
	says := append([]byte{134, 0, 0, 0, 64, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0}, 3, 4, 64, 0xc0, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 0, 0)
	says = append(says, netip.MustParseAddr("2001:db8:bad::").AsSlice()...)
	var err error
	i.do(func() { err = i.advertise(says) })
	if err != nil {
		t.Fatal(err)
	}
	// A connection after it shows that it has arrived.
	i.listen(t, 8443, echo)
	c, err := w.Dial(t.Context(), netip.MustParseAddrPort("[2001:db8::5]:443"), 8443)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkConnection(c, "[2001:db8::5]:443"); err != nil {
		t.Error(err)
	}
	if after := view(); after != before {
		t.Errorf("there are now\n%s, and were\n%s", after, before)
	}
}

// advertise sends a message of ICMPv6 to all nodes of the link.
func (i *image) advertise(b []byte) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return errors.Join(unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_MULTICAST_HOPS, 255),
		unix.Sendto(fd, b, 0, &unix.SockaddrInet6{Addr: netip.MustParseAddr("ff02::1").As16(), ZoneId: uint32(i.link.index)}))
}

// Packets of a silent image wait in the device: the kernel asks nobody who has its
// address, and calls nobody unreachable.
func TestASilentImageIsWaitedFor(t *testing.T) {
	for _, open := range []func(testing.TB) Way{openPrivate, openNested} {
		if w := open(t); w != nil {
			testSilent(t, w)
		}
	}
}

func testSilent(t *testing.T, w Way) {
	for _, client := range []string{"192.0.2.7:1", "[2001:db8::5]:1"} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if c, err := w.Dial(ctx, netip.MustParseAddrPort(client), 80); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("nobody answered: %v, %v", c, err)
		}
		cancel()
	}
	frames := waiting(t, w)
	families := map[uint16]bool{} // a request is made again where the machine is slow
	for _, f := range frames {
		families[binary.BigEndian.Uint16(f[headerSize+12:])] = true
	}
	if len(families) != 2 {
		t.Errorf("requests to connect of %d families wait", len(families))
	}
	for _, f := range frames {
		if f[0] != needsChecksum {
			t.Errorf("the kernel says %x of a frame: it is not to compute checksums", f[:headerSize])
		}
	}
	w.Close()
	w.Close()
	if c, err := w.Dial(t.Context(), netip.AddrPort{}, 80); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed one: %v, %v", c, err)
	}
	if l, err := w.Listen(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed one: %v, %v", l, err)
	}
}

const needsChecksum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM

// waiting reads the segments of TCP that wait for an image.
func waiting(t *testing.T, w Way) (list [][]byte) {
	t.Helper()
	for {
		frame := make([]byte, 1<<17)
		n, err := unix.Read(int(w.File().Fd()), frame)
		if errors.Is(err, unix.EAGAIN) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		f := frame[headerSize:n]
		switch kind := binary.BigEndian.Uint16(f[12:]); {
		case kind == unix.ETH_P_IP && f[14+9] == unix.IPPROTO_TCP, kind == unix.ETH_P_IPV6 && f[14+6] == unix.IPPROTO_TCP:
			list = append(list, frame[:n])
		case kind == unix.ETH_P_IPV6 && f[14+6] == 0: // reports of multicast groups, behind hop-by-hop options
		default:
			t.Errorf("a frame of %x", f)
		}
	}
}

// QEMU says what its guest takes: before that the kernel leaves nothing to it.
func TestQEMUIsLeftToAsk(t *testing.T) {
	if openPrivate(t) == nil {
		return
	}
	w, err := OpenPrivate(Spec{MTU: testMTU})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	w.Dial(ctx, netip.MustParseAddrPort("192.0.2.7:1"), 80)
	if frames := waiting(t, w); len(frames) == 0 || frames[0][0] != 0 {
		t.Errorf("there are %x", frames)
	}
}

// The tender must not wake for frames that are the image's.
func TestFramesWakeNobodyHere(t *testing.T) {
	w := openPrivate(t)
	if w == nil {
		return
	}
	l, err := w.Listen() // which is watched
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	watched := 0
	for _, name := range infos {
		b, _ := os.ReadFile(name)
		watched += strings.Count(string(b), "tfd:")
		if regexp.MustCompile(fmt.Sprintf(`(?m)^tfd: +%d `, w.File().Fd())).Match(b) {
			t.Errorf("the poller watches the device:\n%s", b)
		}
	}
	if watched == 0 {
		t.Error("nothing is watched at all")
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
	th := newThread()
	ready, verdict := make(chan error), make(chan error, 1)
	go func() {
		err := <-ready
		if err == nil {
			if after := own(); after != before || before == "" {
				err = fmt.Errorf("the process went from %q to %q", before, after)
			}
			th.close()
		}
		verdict <- err
	}()
	th.live(ready, func() error { return unix.Unshare(unix.CLONE_NEWNET) })
	return <-verdict
}

func TestTheFirstThreadStays(t *testing.T) {
	if openPrivate(t) == nil {
		return
	}
	if out, err := exec.Command("/proc/self/exe", "first-thread").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestPacketsThatAreRefused(t *testing.T) {
	for _, mtu := range []int{-1, 0, 1279, MaxMTU + 1} {
		if w, err := OpenPrivate(Spec{MTU: mtu, Raw: true}); err == nil || !strings.Contains(err.Error(), "packets of") {
			t.Errorf("%d: %v, %v", mtu, w, err)
		}
	}
}

// BenchmarkDial makes a client's connection and ends it.
func BenchmarkDial(b *testing.B) {
	w := openPrivate(b)
	if w == nil {
		return
	}
	benchmarkDial(b, w)
}

func benchmarkDial(b *testing.B, w Way) {
	newImage(b, w).listen(b, 80, func(l net.Listener) {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	})
	var mu sync.Mutex
	n := uint32(0)
	b.SetParallelism(8)
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			mu.Lock()
			n++
			client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 1234)
			mu.Unlock()
			c, err := w.Dial(context.Background(), client, 80)
			if err != nil {
				b.Error(err)
				return
			}
			io.Copy(io.Discard, c)
			c.Close()
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "dials/s")
}

// BenchmarkCopy sends to an image, and gets from it, with packets of some sizes.
func BenchmarkCopy(b *testing.B) {
	for _, mtu := range []int{1500, testMTU, MaxMTU} {
		for _, way := range []string{"to", "from"} {
			b.Run(fmt.Sprintf("%s/mtu=%d", way, mtu), func(b *testing.B) {
				w, err := OpenPrivate(Spec{MTU: mtu, Raw: true})
				if err != nil {
					missing(b, "private links of images by a TAP device", err)
					return
				}
				defer w.Close()
				block := make([]byte, 1<<20)
				newImage(b, w).listen(b, 80, func(l net.Listener) {
					c, err := l.Accept()
					if err != nil {
						return
					}
					defer c.Close()
					if way == "to" {
						io.Copy(io.Discard, struct{ io.Reader }{c})
						return
					}
					for err == nil {
						_, err = c.Write(block)
					}
				})
				c, err := w.Dial(b.Context(), netip.MustParseAddrPort("192.0.2.7:1234"), 80)
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				b.SetBytes(int64(len(block)))
				for b.Loop() {
					if way == "to" {
						_, err = c.Write(block)
					} else {
						_, err = io.ReadFull(c, block)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
