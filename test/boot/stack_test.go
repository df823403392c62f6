package boot

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/internal/notrun"
	"lorica.dev/lorica/tender/forward"
	machines "lorica.dev/lorica/tender/qemu"
	"lorica.dev/lorica/tender/usernet"
	"lorica.dev/lorica/tender/way"
)

const stack = "./testdata/stack"

// Where stack listens.
const (
	stackWords = 1024
	stackWeb   = 1025
)

// startStack starts a machine that runs stack, and waits until it is ready. What it
// returns waits for its end.
func startStack(t *testing.T, netdev string, mtu int, file *os.File) (wait func() (code int)) {
	t.Helper()
	m := machine{image: image(t, stack), memory: "24M", args: []string{
		"-netdev", netdev + ",id=link,fd=3", "-device", fmt.Sprintf("virtio-net-device,netdev=link,mac=%s,host_mtu=%d", machines.HardwareAddress, mtu)}}
	cmd := m.command(t.Context())
	cmd.ExtraFiles = []*os.File{file}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	serial, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: install it with apt-get install qemu-system-x86", err)
	}
	w.Close()
	if err := serial.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	lines := bufio.NewScanner(io.TeeReader(serial, &said))
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "stack: ready") {
	}
	serial.SetReadDeadline(time.Time{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		io.Copy(&said, serial)
		cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("the machine says:\n%s", &said)
		}
	})
	if lines.Text() == "" {
		t.Fatal("the machine does not become ready")
	}
	return func() int {
		select {
		case <-ended:
		case <-time.After(patience):
			t.Fatal("the machine does not end")
		}
		return cmd.ProcessState.ExitCode() / 2
	}
}

// talk sends size bytes through a mirror, and compares.
func talk(c net.Conn, size int) error {
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	words := noisy(size, size)
	failed := make(chan error, 1)
	go func() {
		_, err := c.Write(words)
		failed <- errors.Join(err, c.(interface{ CloseWrite() error }).CloseWrite())
	}()
	got := sha256.New()
	n, err := io.Copy(got, c)
	if want := sha256.Sum256(words); err == nil && (n != int64(size) || !bytes.Equal(got.Sum(nil), want[:])) {
		err = fmt.Errorf("%d bytes came back of %d, or others", n, size)
	}
	return errors.Join(err, <-failed)
}

// A microVM of 24 MB and the tender's own TCP stack: what clients say to the tender
// reaches the image, and what it asks for is connected.
func TestTheStack(t *testing.T) {
	tender, err := usernet.Open(way.Spec{MTU: usernet.MTU})
	if err != nil {
		t.Fatal(err)
	}
	defer tender.Close()
	wait := startStack(t, "socket", usernet.MTU, tender.File())
	tender.File().Close()

	fwd, addrs := forwarded(t, tender)
	defer fwd.Close()
	mirror, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mirror.Close()
	go func() {
		for c, err := mirror.Accept(); err == nil; c, err = mirror.Accept() {
			io.Copy(c, c)
			c.Close()
		}
	}()
	dials, err := forward.ServeDials(tender, func(_ context.Context, host string, port uint16) (*net.TCPConn, egress.Target, *egress.Refused) {
		target := egress.Target{Name: host, Addr: netip.MustParseAddr("127.0.0.1"), Port: port}
		if host != "mirror.test" {
			return nil, target, &egress.Refused{Code: egress.Denied, Reason: "nobody may"}
		}
		c, err := net.DialTCP("tcp", nil, mirror.Addr().(*net.TCPAddr))
		if err != nil {
			return nil, target, &egress.Refused{Code: egress.Unreachable, Reason: err.Error()}
		}
		return c, target, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer dials.Close()

	get := func(path string) string {
		t.Helper()
		r, err := http.Get("http://" + addrs[1] + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		return string(b)
	}
	if got := get("/"); !strings.HasPrefix(got, "hello 127.0.0.1:") {
		t.Errorf("it says %q", got)
	}
	if got := get("/to/mirror.test"); got != "words" {
		t.Errorf("outside it heard %q", got)
	}
	if got := get("/to/other.test"); !strings.Contains(got, "nobody may") {
		t.Errorf("where it may not connect to: %q", got)
	}
	began := time.Now()
	for range 8 {
		if got := get("/bytes"); len(got) != 1<<20 {
			t.Errorf("%d bytes of a megabyte", len(got))
		}
	}
	t.Logf("8 MiB down in %v; %s", time.Since(began).Round(time.Millisecond), get("/memory"))

	began = time.Now()
	var clients sync.WaitGroup
	for i := range 128 {
		clients.Go(func() {
			c, err := net.Dial("tcp", addrs[0])
			if err == nil {
				err = talk(c, 40<<10+i)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	clients.Wait()
	t.Logf("5 MiB there and back, of 128 clients, in %v; %s", time.Since(began).Round(time.Millisecond), get("/memory"))

	// It is drained while clients talk, and ends when they have been heard out.
	var talks []net.Conn
	for range 16 {
		c, err := net.Dial("tcp", addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil { // the image has it
			t.Fatal(err)
		}
		talks = append(talks, c)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	idle, err := net.Dial("tcp", addrs[1])
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(idle, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := http.ReadResponse(bufio.NewReader(idle), nil); err != nil {
		t.Fatal(err)
	}
	if err := fwd.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(idle, "GET /end HTTP/1.1\r\nHost: x\r\n\r\n")
	for _, c := range talks {
		clients.Go(func() {
			if err := talk(c, 100<<10); err != nil {
				t.Error(err)
			}
		})
	}
	clients.Wait()
	if code := wait(); code != 0 {
		t.Errorf("it ends with code %d", code)
	}
	if err := fwd.Finish(ctx); err != nil {
		t.Error(err)
	}
}

// The same image with the host's own TCP at the other end, which leaves checksums and
// segments to the card, and takes it for granted that the image does.
func TestTheStackAndTheHosts(t *testing.T) {
	const what = "an image's TCP with that of the host"
	if os.Geteuid() != 0 {
		notrun.Say(t, what, "needs root, to make a TAP device")
		return
	}
	link, err := way.OpenPrivate(way.Spec{MTU: usernet.MTU})
	if err != nil {
		notrun.Say(t, what, err.Error())
		return
	}
	defer link.Close()
	startStack(t, "tap,vhost=off", usernet.MTU, link.File())
	for _, client := range []string{"192.0.2.1:7", "127.0.0.1:7", "[2001:db8::1]:7", "[::1]:7"} {
		for _, size := range []int{1, 5000, 3 << 20} {
			c, err := link.Dial(t.Context(), netip.MustParseAddrPort(client), stackWords)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			if err := talk(c, size); err != nil {
				t.Errorf("%s, %d bytes: %v", client, size, err)
			}
			t.Logf("%s: %d bytes there and back in %v", client, size, time.Since(began).Round(time.Millisecond))
		}
	}
	if c, err := link.Dial(t.Context(), netip.MustParseAddrPort("192.0.2.1:7"), stackWeb+1); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("where nobody listens: %v, %v", c, err)
	}
}

// forwarded lets clients come to the ports of the stack, at addresses of this machine.
func forwarded(t *testing.T, tender *usernet.Net) (fwd *forward.Forwarder, addrs [2]string) {
	t.Helper()
	fwd = forward.New(tender, 1<<15, t.Logf)
	for i := range addrs {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addrs[i] = ln.Addr().String()
		fwd.Serve(uint16(stackWords+i), ln)
	}
	return fwd, addrs
}
