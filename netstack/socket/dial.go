package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"lorica.dev/lorica/abi/egress"
)

// A dialer is the image's end of the dial socket: a sealed image has no call to
// make a connection, so it asks the tender for one and is passed a descriptor. It is
// safe for concurrent use.
type dialer struct {
	sock  *os.File
	slots chan struct{} // one for each connection that is being asked for

	mu      sync.Mutex
	pending map[uint64]*request
	last    uint64
	broken  error
}

// A request waits for the tender's answer.
type request struct {
	target egress.Target
	answer chan answer // room for one
	left   bool        // nobody waits any more
}

type answer struct {
	conn *conn
	err  error
}

// newDialer adopts the descriptor of the dial socket.
func newDialer(fd int) (*dialer, error) {
	if err := syscall.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("dial socket, descriptor %d: %w", fd, err)
	}
	d := &dialer{sock: os.NewFile(uintptr(fd), "dial"), slots: make(chan struct{}, egress.MaxPending), pending: make(map[uint64]*request)}
	raw, err := d.sock.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("dial socket, descriptor %d: %w", fd, err)
	}
	go d.read(raw)
	return d, nil
}

// connect asks for a connection.
func (d *dialer) connect(ctx context.Context, host string, port uint16) (net.Conn, error) {
	t, err := egress.ParseTarget(host, port)
	if err != nil {
		return nil, egress.Refused{Code: egress.Denied, Reason: err.Error()}
	}
	select {
	case d.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	r := &request{target: t, answer: make(chan answer, 1)}
	if err := d.ask(r, host); err != nil {
		<-d.slots
		return nil, err
	}
	select {
	case a := <-r.answer:
		return a.result()
	case <-ctx.Done():
	}
	d.mu.Lock()
	r.left = true
	d.mu.Unlock()
	select {
	case a := <-r.answer: // it had come already
		return a.result()
	default:
		return nil, context.Cause(ctx)
	}
}

// result is a net.Conn, or nil: not one that holds nil.
func (a answer) result() (net.Conn, error) {
	if a.err != nil {
		return nil, a.err
	}
	return a.conn, nil
}

func (d *dialer) ask(r *request, host string) error {
	d.mu.Lock()
	if err := d.broken; err != nil {
		d.mu.Unlock()
		return err
	}
	d.last++
	id := d.last
	d.pending[id] = r
	d.mu.Unlock()
	if err := d.send(egress.Dial{ID: id, Host: host, Port: r.target.Port}.Encode()); err != nil {
		d.mu.Lock()
		delete(d.pending, id)
		d.mu.Unlock()
		return err
	}
	return nil
}

func (d *dialer) send(b []byte) error {
	if _, err := d.sock.Write(b); err != nil {
		return fmt.Errorf("dial socket: %w", err)
	}
	return nil
}

// read takes answers until the socket breaks, which is for good.
func (d *dialer) read(raw syscall.RawConn) {
	err := func() error {
		for {
			b, fd, err := receive(raw)
			if err != nil {
				return err
			}
			if err := d.take(b, fd); err != nil {
				if fd >= 0 {
					syscall.Close(fd)
				}
				return err
			}
		}
	}()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = fmt.Errorf("dial socket: %w", err)
	for id, r := range d.pending {
		delete(d.pending, id)
		r.answer <- answer{err: d.broken}
		<-d.slots
	}
}

// take hands an answer to who waits for it. It keeps the descriptor unless it
// returns an error.
func (d *dialer) take(b []byte, fd int) error {
	msg, err := egress.FromTender(b)
	if err != nil {
		return err
	}
	var id uint64
	var a answer
	switch msg := msg.(type) {
	case egress.Opened:
		if id = msg.ID; fd < 0 {
			return errors.New("a connection without a descriptor")
		}
	case egress.Refused:
		if id, a.err = msg.ID, msg; fd >= 0 {
			return errors.New("a refusal with a descriptor")
		}
	}
	d.mu.Lock()
	r := d.pending[id]
	if r == nil {
		d.mu.Unlock()
		return fmt.Errorf("an answer to request %d, which nobody made", id)
	}
	delete(d.pending, id)
	<-d.slots
	var unwanted *conn
	if a.err == nil {
		a.conn = &conn{file: os.NewFile(uintptr(fd), r.target.String()), dialer: d, id: id, target: r.target}
		if r.left {
			unwanted = a.conn
		}
	}
	if !r.left {
		r.answer <- a
	}
	d.mu.Unlock()
	if unwanted != nil {
		unwanted.Close()
	}
	return nil
}

// receive returns the next message and the descriptor that came with it, or -1.
func receive(raw syscall.RawConn) (b []byte, fd int, err error) {
	b = make([]byte, egress.MaxMessage+1)
	oob := make([]byte, syscall.CmsgSpace(4))
	var n, oobn, flags int
	failed := raw.Read(func(s uintptr) bool {
		for {
			n, oobn, flags, _, err = syscall.Recvmsg(int(s), b, oob, syscall.MSG_CMSG_CLOEXEC)
			if err != syscall.EINTR {
				return err != syscall.EAGAIN
			}
		}
	})
	if err = errors.Join(failed, err); err != nil {
		return nil, -1, err
	}
	fd, err = descriptor(oob[:oobn])
	switch {
	case err != nil:
	case n == 0:
		err = errors.New("the tender closed it")
	case flags&(syscall.MSG_TRUNC|syscall.MSG_CTRUNC) != 0:
		err = errors.New("a message is too long")
	}
	if err != nil && fd >= 0 {
		syscall.Close(fd)
		fd = -1
	}
	return b[:n], fd, err
}

// descriptor returns the one descriptor of a control message. The padding of the
// message leaves room for another, which is closed.
func descriptor(oob []byte) (int, error) {
	if len(oob) == 0 {
		return -1, nil
	}
	list, err := syscall.ParseSocketControlMessage(oob)
	if err != nil || len(list) != 1 {
		return -1, errors.New("a control message that is none")
	}
	fds, err := syscall.ParseUnixRights(&list[0])
	if err != nil || len(fds) != 1 {
		for _, fd := range fds {
			syscall.Close(fd)
		}
		return -1, errors.New("a control message without one descriptor")
	}
	return fds[0], nil
}

// A conn is a connection that the tender made. An os.File reads and writes it: a
// net.Conn of that descriptor would take system calls that the seal does not have.
type conn struct {
	file   *os.File
	dialer *dialer
	id     uint64
	target egress.Target
	once   sync.Once
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
		c.dialer.send(egress.Close{ID: c.id}.Encode()) // without a tender there is no image for long
	})
	return err
}
