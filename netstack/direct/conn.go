package direct

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A conn is a connection of the stack as a net.Conn. Nothing is allocated to read or to
// write.
type conn struct {
	net           *Net
	ep            tcpip.Endpoint
	local, remote net.Addr
	closed        atomic.Bool

	in, out side
	dst     tcpip.SliceWriter // of the read that holds in.mu
	src     bytes.Reader      // of the write that holds out.mu
}

// newConn takes over ep, whose events are in wq.
func newConn(n *Net, ep tcpip.Endpoint, wq *waiter.Queue, local, remote net.Addr) *conn {
	c := &conn{net: n, ep: ep, local: local, remote: remote}
	c.in.watch(wq, waiter.ReadableEvents)
	c.out.watch(wq, waiter.WritableEvents)
	n.memory.take(c)
	return c
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	for {
		n, again, err := c.read(b)
		if !again {
			return n, c.wrap("read", err)
		}
		<-c.in.wake
	}
}

// read takes what is there, or says that the caller has to wait. It holds in.mu.
func (c *conn) read(b []byte) (n int, again bool, err error) {
	if err := c.usable(&c.in); err != nil {
		return 0, false, err
	}
	if len(b) == 0 {
		return 0, false, nil
	}
	if c.ep.Readiness(waiter.ReadableEvents) == 0 {
		return 0, true, nil
	}
	return c.take(b)
}

// take is apart from read because what the stack returns is large: a goroutine that
// waits for the first byte, and may never see one, is to fit on a small stack.
//
//go:noinline
func (c *conn) take(b []byte) (n int, again bool, err error) {
	c.dst = b
	res, failed := c.ep.Read(&c.dst, tcpip.ReadOptions{})
	c.dst = nil
	if _, again := failed.(*tcpip.ErrWouldBlock); again {
		return 0, true, nil
	}
	return res.Count, false, c.translate(failed)
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (n int, err error) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	defer c.src.Reset(nil)
	for {
		if err := c.usable(&c.out); err != nil {
			return n, c.wrap("write", err)
		}
		if n == len(b) {
			return n, nil
		}
		c.src.Reset(b[n:])
		c.net.clock.move()
		wrote, failed := c.ep.Write(&c.src, tcpip.WriteOptions{})
		n += int(wrote)
		if _, again := failed.(*tcpip.ErrWouldBlock); again {
			<-c.out.wake
		} else if failed != nil {
			return n, c.wrap("write", c.translate(failed))
		} else if n == len(b) {
			return n, nil
		}
	}
}

func (c *conn) usable(s *side) error {
	if c.closed.Load() {
		return net.ErrClosed
	}
	select {
	case <-c.net.broken:
		return c.net.err
	default:
	}
	return s.late(c.net)
}

// translate says that the connection was closed here, or that the device broke, where
// that is why it failed.
func (c *conn) translate(err tcpip.Error) error {
	switch {
	case err == nil:
		return nil
	case c.closed.Load():
		return net.ErrClosed
	}
	return c.net.because(translate(err))
}

// CloseWrite tells the other end that no more bytes follow.
func (c *conn) CloseWrite() error {
	c.net.clock.move()
	return c.wrap("close", translate(c.ep.Shutdown(tcpip.ShutdownWrite)))
}

// Close implements net.Conn. What was written still arrives.
func (c *conn) Close() error {
	if c.closed.Swap(true) {
		return c.wrap("close", net.ErrClosed)
	}
	c.net.clock.move()
	c.in.close()
	c.out.close()
	c.ep.Close()
	c.net.memory.give(c)
	return nil
}

// abort resets the connection: the other end is to see that it has failed.
func (c *conn) abort() {
	c.ep.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: true})
	c.Close()
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.out.set(c.net, t)
	return c.SetReadDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.set(c.net, t)
	return c.open()
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.out.set(c.net, t)
	return c.open()
}

func (c *conn) open() error {
	if c.closed.Load() {
		return c.wrap("set", net.ErrClosed)
	}
	return nil
}

func (c *conn) wrap(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// translate says what callers of package net compare with.
func translate(err tcpip.Error) error {
	switch err.(type) {
	case nil:
		return nil
	case *tcpip.ErrClosedForReceive:
		return io.EOF
	case *tcpip.ErrClosedForSend:
		return syscall.EPIPE
	case *tcpip.ErrConnectionReset:
		return syscall.ECONNRESET
	case *tcpip.ErrConnectionAborted, *tcpip.ErrAborted:
		return syscall.ECONNABORTED
	case *tcpip.ErrConnectionRefused:
		return syscall.ECONNREFUSED
	case *tcpip.ErrTimeout:
		return syscall.ETIMEDOUT
	case *tcpip.ErrNotConnected:
		return syscall.ENOTCONN
	}
	return errors.New(err.String())
}
