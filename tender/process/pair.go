package process

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Pair makes the two ends of a socket of a kind (unix.SOCK_STREAM and the like), of
// which theirs is to be handed to another process. The name is for errors.
func Pair(kind int, name string) (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	theirs = os.NewFile(uintptr(fds[1]), name)
	f := os.NewFile(uintptr(fds[0]), name)
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return c.(*net.UnixConn), theirs, nil
}
