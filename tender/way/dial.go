package way

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/link"
)

const socketKind = unix.SOCK_STREAM | unix.SOCK_NONBLOCK | unix.SOCK_CLOEXEC

// backlog is how many connections of an image may wait for the tender.
const backlog = 1024

// sockets makes TCP sockets in the namespace of a link.
type sockets interface {
	socket(family uint8) (*os.File, error) // net.ErrClosed once it is closed
	done() <-chan struct{}                 // closed once it makes no more
	close()
}

// dialled is a Way on which the tender makes clients' connections.
type dialled struct {
	*device
	sockets sockets
}

// newSocket makes a socket in the namespace of the calling thread.
func newSocket(family uint8) (*os.File, error) {
	fd, err := unix.Socket(int(family), socketKind, unix.IPPROTO_TCP)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return os.NewFile(uintptr(fd), "tcp"), nil
}

// Link implements Way.
func (d *device) Link() launch.Link { return d.link }

// File implements Way.
func (d *device) File() *os.File { return d.file }

// Close implements Way.
func (w *dialled) Close() error {
	w.sockets.close()
	w.file.Close()
	return nil
}

// Done is closed when the link is of no more use: it was closed, or its helper has died.
func (w *dialled) Done() <-chan struct{} { return w.sockets.done() }

// Dial implements Way.
func (w *dialled) Dial(ctx context.Context, client netip.AddrPort, port uint16) (net.Conn, error) {
	from := netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	switch from.Addr() {
	case link.Loopback6: // which it would be taken for, and is not
		return nil, fmt.Errorf("way: a client at %v, which stands for %v of this machine: %w", client, netip.IPv6Loopback(), errors.ErrUnsupported)
	case netip.IPv6Loopback():
		from = netip.AddrPortFrom(link.Loopback6, from.Port())
	}
	own := func(p netip.Prefix) bool { return p.Contains(from.Addr()) }
	if from.Addr().Is6() && from.Addr().IsLinkLocalUnicast() || slices.ContainsFunc(w.link.Addrs, own) {
		return nil, fmt.Errorf("way: a client at %v, which is of the link itself: %w", client, errors.ErrUnsupported)
	}
	to, _, err := w.address(from.Addr())
	if err != nil {
		return nil, fmt.Errorf("way: %w", err)
	}
	c, err := w.dial(ctx, from, netip.AddrPortFrom(to, port))
	if err != nil {
		return nil, fmt.Errorf("way: connecting to %v for %v: %w", netip.AddrPortFrom(to, port), client, err)
	}
	return c, nil
}

func (w *dialled) dial(ctx context.Context, from, to netip.AddrPort) (net.Conn, error) {
	f, err := w.sockets.socket(family(to.Addr()))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = start(int(fd), from, to) }); err != nil {
		return nil, err
	}
	if errors.Is(failed, unix.EINPROGRESS) {
		stop := context.AfterFunc(ctx, func() { f.SetWriteDeadline(time.Unix(1, 0)) })
		defer stop()
		if err := raw.Write(func(fd uintptr) (over bool) {
			over, failed = connected(int(fd))
			return over
		}); err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, err
		}
	}
	if failed != nil {
		return nil, failed
	}
	return net.FileConn(f)
}

// start begins to connect a socket to an address, from one that need not be this
// machine's unless it is the zero AddrPort.
func start(fd int, from, to netip.AddrPort) error {
	if from.IsValid() {
		level, option := unix.SOL_IP, unix.IP_TRANSPARENT
		if to.Addr().Is6() {
			level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
		}
		if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
			return os.NewSyscallError("IP_TRANSPARENT", err)
		}
		// Ports are the clients': that another client has the same says nothing, nor that this
		// one had it in a connection that has ended, which timestamps tell from the next.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return os.NewSyscallError("SO_REUSEADDR", err)
		}
		if err := unix.Bind(fd, sockaddr(from)); err != nil {
			return fmt.Errorf("bind to %v: %w", from, err)
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_NODELAY, 1); err != nil {
		return os.NewSyscallError("TCP_NODELAY", err)
	}
	return unix.Connect(fd, sockaddr(to))
}

// connected reports whether connecting is over, and how it ended.
func connected(fd int) (over bool, err error) {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, err
	}
	if n != 0 {
		return true, unix.Errno(n)
	}
	_, err = unix.Getpeername(fd)
	return err == nil, nil // or it was woken too early
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// Listen implements Way.
func (w *dialled) Listen() (net.Listener, error) {
	f, err := w.sockets.socket(unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("way: %w", err)
	}
	defer f.Close()
	return w.listen(f)
}

// listen makes f, a socket of IPv4 in the link's namespace, the one that images connect
// to.
func (d *device) listen(f *os.File) (net.Listener, error) {
	at := netip.AddrPortFrom(d.link.Hosts[0], link.DialPort)
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	if err := raw.Control(func(s uintptr) {
		fd := int(s)
		if failed = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); failed != nil {
			return
		}
		if failed = unix.Bind(fd, sockaddr(at)); failed == nil {
			failed = unix.Listen(fd, backlog)
		}
	}); err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, fmt.Errorf("way: listening at %v: %w", at, failed)
	}
	return net.FileListener(f)
}
