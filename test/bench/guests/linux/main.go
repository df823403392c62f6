// Command linux is /init of a guest with a Linux kernel: it loads the modules that
// are there, gives the network its address, and serves.
package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/test/bench/guests/handler"
)

func main() {
	err := start()
	if err == nil {
		err = serve()
	}
	fmt.Println("init:", err)
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

// start does what a system does before its services. The kernel makes environment
// variables of words on its command line that it does not know.
func start() error {
	modules, err := filepath.Glob("/modules/*.ko") // named in their order
	if err != nil {
		return err
	}
	for _, m := range modules {
		if err := load(m); err != nil {
			return fmt.Errorf("module %s: %w", m, err)
		}
	}
	addr, err := netip.ParsePrefix(os.Getenv("lorica_addr"))
	if err != nil {
		return err
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	for _, set := range []struct {
		request uint
		value   func(*unix.Ifreq) error
	}{
		{unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(addr.Addr().AsSlice()) }},
		{unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr(net.CIDRMask(addr.Bits(), 32)) }},
		{unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }},
	} {
		r, err := unix.NewIfreq("eth0")
		if err == nil {
			err = set.value(r)
		}
		if err == nil {
			err = unix.IoctlIfreq(s, set.request, r)
		}
		if err != nil {
			return fmt.Errorf("eth0: %w", err)
		}
	}
	return nil
}

func load(module string) error {
	f, err := os.Open(module)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

func serve() error {
	l, err := net.Listen("tcp4", fmt.Sprintf(":%d", handler.Port))
	if err != nil {
		return err
	}
	free, _ := memory()
	handler.Limit(free)
	fmt.Println(handler.Serving)
	return http.Serve(l, handler.New(memory))
}

func memory() (free, total uint64) {
	var i unix.Sysinfo_t
	if unix.Sysinfo(&i) != nil {
		return 0, 0
	}
	return i.Freeram * uint64(i.Unit), i.Totalram * uint64(i.Unit)
}
