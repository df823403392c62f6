package socket

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"lorica.dev/lorica/abi/launch"
)

// descriptor returns a duplicate for Listen to close.
func duplicate(t *testing.T, s interface{ File() (*os.File, error) }) int {
	t.Helper()
	f, err := s.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestListenAdoptsAListeningSocket(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		owner, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer owner.Close()
		ln, err := adopt(duplicate(t, owner.(*net.TCPListener)), launch.Listener{Name: "api"})
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", owner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		got, err := ln.Accept()
		if err != nil || got.RemoteAddr().String() != c.LocalAddr().String() {
			t.Fatalf("%v, %v", got, err)
		}
		got.Close()

		// What arrives when this holder is gone is the other's.
		ln.Close()
		late, err := net.Dial("tcp", owner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer late.Close()
		if got, err = owner.Accept(); err != nil || got.RemoteAddr().String() != late.LocalAddr().String() {
			t.Errorf("%v, %v", got, err)
		}
	}
}

func TestListenRefusesWhatIsNotATCPListener(t *testing.T) {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	unix, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	file, err := syscall.Open(".", syscall.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, fd := range map[string]int{
		"udp":  duplicate(t, udp.(*net.UDPConn)),
		"unix": duplicate(t, unix.(*net.UnixListener)),
		"file": file, "closed": 1 << 20, "negative": -1,
	} {
		if ln, err := adopt(fd, launch.Listener{Name: "api"}); err == nil || !strings.Contains(err.Error(), `"api"`) {
			t.Errorf("%s: %v, %v", name, ln, err)
		}
	}
}

// An image without a network of its own is not launched with one.
func TestALinkIsRefused(t *testing.T) {
	if err := New().Open(&launch.Params{Link: launch.Link{DHCP: true}}); err == nil || !strings.Contains(err.Error(), "launched with a link") {
		t.Error(err)
	}
}
