package tender

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/internal/notrun"
)

// ownNetwork is set where a test has a network namespace of its own.
const ownNetwork = "LORICA_TEST_OWN_NETWORK"

// A path that swallows packets ends a connection as soon as the peer is unheard for too
// long: here loopback, of a namespace of the test's own, which goes down.
func TestADeadPathEndsAConnection(t *testing.T) {
	if os.Getenv(ownNetwork) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), ownNetwork+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if os.Geteuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
		}
		out, err := cmd.CombinedOutput()
		switch {
		case cmd.Process == nil:
			notrun.Say(t, "connections out of an image on a path that swallows packets", err.Error())
		case err != nil:
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	loopback(t, unix.IFF_UP)
	port, _ := echoes(t)
	c := hasty(t, port).opened(1, "127.0.0.1", port)
	talks(t, c)
	loopback(t, 0)
	if _, err := io.WriteString(c, "lost"); err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection lives: %d bytes, %v", n, err)
	}
}

// So does a peer that is there, and reads nothing.
func TestAPeerThatReadsNothingEndsAConnection(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close() // nobody accepts
	port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
	c := hasty(t, port).opened(1, "127.0.0.1", port)
	c.SetDeadline(time.Now().Add(20 * time.Second))
	for err == nil {
		_, err = c.Write(make([]byte, 1<<20))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection lives: %v", err)
	}
}

// hasty returns a dialer whose peers may be unheard for half a second.
func hasty(t *testing.T, port uint16) *dialing {
	t.Helper()
	x := newDialing(t, allow(nil, port, "127.0.0.1/32"), nil)
	x.d.mu.Lock()
	defer x.d.mu.Unlock()
	if x.d.rules.unheard != time.Minute {
		t.Errorf("a peer may be unheard for %v", x.d.rules.unheard)
	}
	x.d.rules.unheard = 500 * time.Millisecond
	return x
}

func loopback(t *testing.T, flags uint16) {
	t.Helper()
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	r.SetUint16(flags)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r); err != nil {
		t.Fatal(err)
	}
}
