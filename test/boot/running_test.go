package boot

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// guestMAC is the address of every guest's card.
var guestMAC = []byte{0x52, 0x54, 0x00, 0x12, 0x34, 0x56}

// echo is a program that answers whatever its devices bring.
const echo = "./testdata/echo"

// A running machine runs echo. Its control channel is connected to the test.
type running struct {
	console net.Conn
	said    string // on the serial line, until it was ready
	memory  string // the file that is its RAM
	end     func() (said string, code int)
}

// start starts a machine of 24 MB with a network card, and waits until it is ready.
func start(t *testing.T, netdev, card string, files ...*os.File) *running {
	t.Helper()
	if _, err := exec.LookPath(qemu); err != nil {
		t.Fatalf("%v: install it with apt-get install qemu-system-x86", err)
	}
	socket := filepath.Join(t.TempDir(), "console")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()

	memory := filepath.Join(t.TempDir(), "memory")
	m := machine{image: image(t, echo), memory: "24M", board: "pit=on,rtc=on,memory-backend=ram", args: []string{
		"-object", "memory-backend-file,id=ram,size=24M,share=on,mem-path=" + memory,
		"-chardev", "socket,id=console,path=" + socket, "-device", "virtio-serial-device,max_ports=2", "-device", "virtserialport,chardev=console,nr=1",
		"-netdev", netdev + ",id=link", "-device", "virtio-net-device,netdev=link,mac=" + net.HardwareAddr(guestMAC).String() + card}}
	cmd := m.command(t.Context())
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	serial, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// What it says after it was ready belongs to the log of the test: why it ended, above all.
	ready, ended := make(chan string, 1), make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(serial)
		var said strings.Builder
		for lines.Scan() {
			fmt.Fprintln(&said, strings.TrimRight(lines.Text(), "\r"))
			if strings.HasPrefix(lines.Text(), "echo: ready") {
				ready <- said.String()
				said.Reset()
			}
		}
		ended <- said.String()
		close(ready)
	}()
	end := sync.OnceValues(func() (string, int) {
		last := <-ended
		cmd.Wait()
		if last != "" || complaints.Len() > 0 {
			t.Logf("the machine: %s%s", last, &complaints)
		}
		return last, cmd.ProcessState.ExitCode() / 2
	})
	t.Cleanup(func() {
		cmd.Process.Kill()
		end()
	})

	r := &running{memory: memory, end: end}
	select {
	case said, ok := <-ready:
		if !ok {
			t.Fatal("the machine ended before it was ready")
		}
		r.said = said
	case <-time.After(patience):
		t.Fatal("the machine does not become ready")
	}
	t.Log(r.said)
	if err := listener.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if r.console, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.console.Close() })
	if err := r.console.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return r
}

// A link is the other end of a guest's network, without a network: one message is one frame.
type link struct {
	*net.UnixConn
	guest *net.UnixAddr
}

// newLink returns a link and what QEMU calls it.
func newLink(t *testing.T) (*link, string) {
	t.Helper()
	dir := t.TempDir()
	here, there := filepath.Join(dir, "test"), filepath.Join(dir, "guest")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: here, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for _, set := range []func(int) error{c.SetReadBuffer, c.SetWriteBuffer} {
		if err := set(256 << 10); err != nil { // frames have up to 64 KiB
			t.Fatal(err)
		}
	}
	return &link{c, &net.UnixAddr{Name: there, Net: "unixgram"}},
		fmt.Sprintf("dgram,local.type=unix,local.path=%s,remote.type=unix,remote.path=%s", there, here)
}

func (l *link) send(frame []byte) error {
	_, err := l.WriteToUnix(frame, l.guest)
	return err
}

// stalls waits until what counts moves no more, or has reached its end: the machine is
// full then.
func stalls(count func() int, end int) {
	for last, still := -1, 0; still < 5 && count() < end; time.Sleep(50 * time.Millisecond) {
		if n := count(); n == last {
			still++
		} else {
			last, still = n, 0
		}
	}
}

// noisy returns n bytes that depend on seed, quickly.
func noisy(seed, n int) []byte {
	b := make([]byte, n)
	x := uint32(seed)*2654435761 + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}
