package egress

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"lorica.dev/lorica/abi/egress"
)

// A conn is a connection that the tender made. An os.File reads and writes it: a
// net.Conn of that descriptor would take system calls that the seal does not have.
type conn struct {
	file   *os.File
	module *Module
	id     uint64
	target egress.Target
	once   sync.Once
}

func newConn(m *Module, id uint64, t egress.Target, fd int) *conn {
	return &conn{file: os.NewFile(uintptr(fd), t.String()), module: m, id: id, target: t}
}

func (c *conn) Read(b []byte) (int, error)         { return c.file.Read(b) }
func (c *conn) Write(b []byte) (int, error)        { return c.file.Write(b) }
func (c *conn) SetDeadline(t time.Time) error      { return c.file.SetDeadline(t) }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.file.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.file.SetWriteDeadline(t) }

// LocalAddr is not known here: the host made the connection.
func (c *conn) LocalAddr() net.Addr { return &net.TCPAddr{} }

// RemoteAddr has no address where a name was asked for: the tender resolved it.
func (c *conn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.target.Addr, c.target.Port))
}

// Close tells the tender as well, whose duplicate would keep the connection open.
func (c *conn) Close() error {
	err := os.ErrClosed
	c.once.Do(func() {
		err = c.file.Close()
		m := c.module
		m.mu.Lock()
		delete(m.open, c)
		m.mu.Unlock()
		m.send(egress.Close{ID: c.id}.Encode()) // without a tender there is no image for long
	})
	return err
}
