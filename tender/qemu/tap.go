package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/link"
)

const (
	tunDevice = "/dev/net/tun"
	tapName   = "lorica"
)

// A TAP is the network between a guest and its tender where that may make network
// namespaces: an interface in one of its own, in which there is nobody else and
// from which no route leads on. The tender's sockets are made by a thread that is
// kept there; they work from any. Safe for concurrent use.
type TAP struct {
	link launch.Link
	mtu  int
	file *os.File
	work chan func()

	once sync.Once
	gone chan struct{}
}

// OpenTAP makes a network for l, in IPv4, with packets of mtu bytes. The error says
// why there can be none.
func OpenTAP(l launch.Link, mtu int) (*TAP, error) {
	if mtu > maxMTU || !l.Addr.IsValid() || !l.Addr.Addr().Is4() || !l.Host.Is4() || !l.Addr.Contains(l.Host) || l.Host == l.Addr.Addr() {
		return nil, fmt.Errorf("qemu: a network of %v with %v and packets of %d bytes", l.Addr, l.Host, mtu)
	}
	t := &TAP{link: l, mtu: mtu, work: make(chan func()), gone: make(chan struct{})}
	ready := make(chan error)
	go t.live(ready)
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("qemu: a network for the guest: %w", err)
	}
	return t, nil
}

// live is the life of the thread in the namespace. It is never unlocked: the thread
// ends with this function, and the namespace with the last of its sockets.
func (t *TAP) live(ready chan<- error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() { // the first thread of a process cannot end before it, and is what /proc shows
		defer runtime.UnlockOSThread()
		moved := make(chan error)
		go t.live(moved) // on another, since this one is taken until then
		ready <- <-moved
		return
	}
	err := t.enter()
	ready <- err
	if err != nil {
		return
	}
	for {
		select {
		case f := <-t.work:
			f()
		case <-t.gone:
			return
		}
	}
}

// enter takes the calling thread to a namespace with the interface.
func (t *TAP) enter() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("a network namespace: %w", err)
	}
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0) // it is of the namespace that it was opened in
	if err != nil {
		return fmt.Errorf("%s: %w", tunDevice, err)
	}
	t.file = os.NewFile(uintptr(fd), tunDevice)
	if err := t.configure(fd); err != nil {
		t.file.Close()
		return err
	}
	return nil
}

func (t *TAP) configure(fd int) error {
	// The kernel announces itself over IPv6, to nobody who wants to know.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	r, err := unix.NewIfreq(tapName)
	if err != nil {
		return err
	}
	// What of checksums and segments is left to the other side is between QEMU, which
	// knows what the guest negotiated, and the kernel.
	r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); err != nil {
		return fmt.Errorf("a TAP interface: %w", err)
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	mask := net.CIDRMask(t.link.Addr.Bits(), 32)
	for _, set := range []struct {
		what    string
		request uint
		value   func(*unix.Ifreq) error
	}{
		{"address", unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(t.link.Host.AsSlice()) }},
		{"network", unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr(mask) }},
		{"MTU", unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(uint32(t.mtu)); return nil }},
		{"flags", unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING); return nil }},
	} {
		r, err := unix.NewIfreq(tapName)
		if err == nil {
			err = set.value(r)
		}
		if err == nil {
			err = unix.IoctlIfreq(s, set.request, r)
		}
		if err != nil {
			return fmt.Errorf("the %s of the interface: %w", set.what, err)
		}
	}
	return nil
}

// File is the interface for QEMU; it stays with t.
func (t *TAP) File() *os.File { return t.file }

// do runs f on the thread in the namespace.
func (t *TAP) do(f func()) error {
	done := make(chan struct{})
	select {
	case t.work <- func() { f(); close(done) }:
		<-done
		return nil
	case <-t.gone:
		return net.ErrClosed
	}
}

// Dial connects to a port of the guest.
func (t *TAP) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	to := netip.AddrPortFrom(t.link.Addr.Addr(), port)
	var fd int
	var made error
	err := t.do(func() {
		fd, made = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	})
	if err = errors.Join(err, made); err != nil {
		return nil, fmt.Errorf("qemu: %w", err)
	}
	f := os.NewFile(uintptr(fd), to.String())
	defer f.Close()
	if err := connect(ctx, f, fd, to); err != nil {
		return nil, fmt.Errorf("qemu: connecting to %v: %w", to, err)
	}
	return net.FileConn(f)
}

func connect(ctx context.Context, f *os.File, fd int, to netip.AddrPort) error {
	err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	if err == nil || !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		n, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil || n != 0 {
			failed = errors.Join(err, unix.Errno(n))
			return true
		}
		_, err = unix.Getpeername(int(fd))
		return err == nil // or it was woken too early
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(err, failed)
}

// Listen returns where the guest connects to the tender.
func (t *TAP) Listen() (l net.Listener, err error) {
	var listened error
	err = t.do(func() {
		var c net.ListenConfig
		c.SetMultipathTCP(false)
		l, listened = c.Listen(context.Background(), "tcp4", netip.AddrPortFrom(t.link.Host, link.DialPort).String())
	})
	if err = errors.Join(err, listened); err != nil {
		return nil, fmt.Errorf("qemu: %w", err)
	}
	return l, nil
}

// Close takes the interface away, once QEMU has ended too. Sockets stay open and
// reach nobody.
func (t *TAP) Close() error {
	t.once.Do(func() {
		close(t.gone)
		t.file.Close()
	})
	return nil
}
