// Package socket is the network of an image that owns none: its tender opens the
// listening sockets and hands them in, and the image only accepts.
package socket

import (
	"fmt"
	"net"
	"os"

	"lorica.dev/lorica/abi/launch"
)

// A Net adopts listening descriptors.
type Net struct{}

// New returns the module.
func New() Net { return Net{} }

// Listen adopts fd, which must be a listening TCP socket, and closes it: the
// listener has a descriptor of its own. It needs system calls that a sealed
// image does not have.
//
// Closing the listener leaves the socket, and the connections waiting in it, to
// whoever else holds it.
func (Net) Listen(fd int, l launch.Listener) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), l.Name)
	if f == nil {
		return nil, fmt.Errorf("listener %q: descriptor %d is invalid", l.Name, fd)
	}
	defer f.Close()
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("listener %q, descriptor %d: %w", l.Name, fd, err)
	}
	if _, ok := ln.(*net.TCPListener); !ok {
		ln.Close()
		return nil, fmt.Errorf("listener %q, descriptor %d: %s is not TCP", l.Name, fd, ln.Addr().Network())
	}
	return ln, nil
}
