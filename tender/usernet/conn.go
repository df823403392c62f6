package usernet

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// A conn is a connection with the image. It counts until the image has confirmed its
// end, or was not heard of for too long: so what ends is bounded as well.
//
// io.Copy from and to a conn holds a buffer only while there are bytes to move, and
// heeds no deadline.
type conn struct {
	*gonet.TCPConn
	ep     tcpip.Endpoint
	wq     *waiter.Queue
	leave  func() // it was closed here
	gone   func() // and nothing of it is left
	net    *Net
	once   sync.Once
	closed chan struct{}
}

// newConn takes over ep, whose events are in wq.
func newConn(n *Net, ep tcpip.Endpoint, wq *waiter.Queue, leave, gone func()) *conn {
	size := min(max(buffers/(4*n.open.Add(1)), leastBuffer), mostBuffer)
	o := ep.SocketOptions()
	o.SetReceiveBufferSize(size, true)
	o.SetSendBufferSize(size, true)
	idle, each := tcpip.KeepaliveIdleOption(keepIdle), tcpip.KeepaliveIntervalOption(keepEach)
	ep.SetSockOpt(&idle)
	ep.SetSockOpt(&each)
	ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepCount)
	o.SetKeepAlive(true) // the image may have forgotten the connection
	return &conn{TCPConn: gonet.NewTCPConn(wq, ep), ep: ep, wq: wq, leave: leave, gone: gone, net: n, closed: make(chan struct{})}
}

// Close implements net.Conn. What was written still arrives, if the image takes it soon.
func (c *conn) Close() error {
	err := error(net.ErrClosed)
	c.once.Do(func() {
		err = nil
		close(c.closed)
		c.leave()
		c.net.open.Add(-1)
		var ended sync.Once
		var late *time.Timer
		end := func() { ended.Do(c.gone) }
		late = time.AfterFunc(c.net.patience, func() {
			if c.alive() {
				c.ep.Abort()
			}
			end()
		})
		entry := waiter.NewFunctionEntry(waiter.EventHUp, func(waiter.EventMask) {
			late.Stop()
			end()
		})
		c.wq.EventRegister(&entry)
		c.ep.Close()
		if !c.alive() {
			late.Stop()
			end()
		}
	})
	return err
}

// alive reports whether there is an end of the connection to wait for.
func (c *conn) alive() bool {
	switch tcp.EndpointState(c.ep.State()) {
	case tcp.StateClose, tcp.StateError:
		return false
	}
	return true
}

// SetLinger is what a *net.TCPConn has: with 0, Close resets the connection.
func (c *conn) SetLinger(sec int) error {
	c.ep.SocketOptions().SetLinger(tcpip.LingerOption{Enabled: sec >= 0, Timeout: time.Duration(max(sec, 0)) * time.Second})
	return nil
}

// WriteTo implements io.WriterTo.
func (c *conn) WriteTo(w io.Writer) (total int64, err error) {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	c.wq.EventRegister(&entry)
	defer c.wq.EventUnregister(&entry)
	for {
		b := c.net.buffers.Get()
		dst := tcpip.SliceWriter(b)
		res, failed := c.ep.Read(&dst, tcpip.ReadOptions{})
		if failed == nil {
			var n int
			n, err = w.Write(b[:res.Count])
			total += int64(n)
		}
		c.net.buffers.Put(b)
		switch failed.(type) {
		case nil:
			if err != nil {
				return total, err
			}
			continue
		case *tcpip.ErrWouldBlock:
		case *tcpip.ErrClosedForReceive:
			// What failed says so once, and may have said it to the other direction.
			if tcp.EndpointState(c.ep.State()) == tcp.StateError {
				return total, syscall.ECONNRESET
			}
			return total, nil
		default:
			return total, errors.New(failed.String())
		}
		select {
		case <-ready:
		case <-c.closed:
			return total, net.ErrClosed
		}
	}
}

// ReadFrom implements io.ReaderFrom.
func (c *conn) ReadFrom(r io.Reader) (total int64, err error) {
	read := r.Read
	raw := descriptor(r)
	for {
		var b []byte
		var n int
		if raw == nil {
			b = c.net.buffers.Get()
			n, err = read(b)
		} else {
			b, n, err = c.net.buffers.Fill(raw)
		}
		if n > 0 {
			var wrote int
			var failed error
			wrote, failed = c.Write(b[:n])
			total += int64(wrote)
			if failed != nil {
				err = failed
			}
		}
		if b != nil {
			c.net.buffers.Put(b)
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// descriptor returns what r reads from, nil where it is not the kernel's.
func descriptor(r io.Reader) syscall.RawConn {
	s, ok := r.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}
