package tender

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// listen takes duplicates of the listeners that were handed over and makes the
// others.
func (t *tender) listen(inherited []*os.File) ([]*os.File, error) {
	if len(inherited) > 0 && len(inherited) != len(t.cfg.Listen) {
		return nil, fmt.Errorf("tender: %d listeners were handed over, expected %d", len(inherited), len(t.cfg.Listen))
	}
	if t.cfg.Interface != nil {
		return nil, nil // the image does
	}
	var files []*os.File
	for i, l := range t.cfg.Listen {
		var handed *os.File
		if len(inherited) > 0 {
			handed = inherited[i]
		}
		f, err := t.listener(i, l, handed)
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("tender: listener %q on %s port %d: %w", l.Name, l.Address, l.Port, err)
		}
		files = append(files, f)
	}
	return files, nil
}

func (t *tender) listener(i int, l Listener, handed *os.File) (*os.File, error) {
	var in net.Listener
	var err error
	if handed != nil {
		in, err = net.FileListener(handed)
	} else {
		in, err = net.Listen("tcp", net.JoinHostPort(l.Address, fmt.Sprint(l.Port)))
	}
	if err != nil {
		return nil, err
	}
	defer in.Close()
	tcp, ok := in.(*net.TCPListener)
	if !ok {
		return nil, errors.New("it is not a TCP listener")
	}
	if l.Port == 0 {
		t.cfg.Listen[i].Port = tcp.Addr().(*net.TCPAddr).AddrPort().Port()
	}
	return duplicate(tcp)
}

// duplicate returns a file of the same socket. Unlike the one that File makes,
// it does not put the socket, which is shared with every image that was handed
// it, into blocking mode when its descriptor is passed on: an image would hang
// in accept and could not drain.
func duplicate(ln *net.TCPListener) (*os.File, error) {
	raw, err := ln.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var failed error
	if err := raw.Control(func(s uintptr) { fd, failed = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, os.NewSyscallError("fcntl", failed)
	}
	return os.NewFile(uintptr(fd), "listener"), nil
}
