// Package socket is the network of an image that owns none: its tender opens the
// listening sockets and hands them in, and makes its connections.
package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"lorica.dev/lorica/abi/launch"
)

// A Net adopts descriptors.
type Net struct {
	first int     // descriptor of the first listener
	dial  *dialer // nil: the image makes no connections
}

// New returns the module.
func New() *Net { return &Net{} }

// Open adopts the dial socket, where the launch has one.
func (n *Net) Open(p *launch.Params) (err error) {
	if p.Link.Present() {
		return errors.New("network: this image has no network of its own, and was launched with a link")
	}
	n.first = p.FirstListener()
	if p.Dials {
		n.dial, err = newDialer(launch.DialFD)
	}
	return err
}

// Listen adopts the descriptor of listener i, which must be a listening TCP socket,
// and closes it: the listener has a descriptor of its own. It needs system calls
// that a sealed image does not have.
//
// Closing the listener leaves the socket, and the connections waiting in it, to
// whoever else holds it.
func (n *Net) Listen(i int, l launch.Listener) (net.Listener, error) {
	return adopt(n.first+i, l)
}

func adopt(fd int, l launch.Listener) (net.Listener, error) {
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

// Connect implements pep.Connector.
func (n *Net) Connect(ctx context.Context, host string, port uint16) (net.Conn, error) {
	if n.dial == nil {
		return nil, errors.New("there is no dial socket")
	}
	return n.dial.connect(ctx, host, port)
}
