package tender

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/egress"
)

// Bounds on the connections of an image, beside egress.MaxOpen.
const (
	dialsPerSecond    = 1000
	refusalsPerSecond = 10
)

// A dialer makes the connections that an image asks for, as far as the rules in
// force allow, and passes it their descriptors. It keeps a duplicate of each, so
// that it can end a connection that the rules do not allow any more.
//
// What comes over the socket is never trusted: a message out of place ends the
// image. Descriptors that it sends are closed by the kernel, unseen.
type dialer struct {
	sock     *net.UnixConn
	resolve  resolver
	patience time.Duration
	fail     func(error) // ends the image
	log      func(format string, args ...any)
	dials    throttle
	refusals throttle

	mu    sync.Mutex
	rules *ruling
	open  map[uint64]*outgoing
	busy  int  // of open, those that are being connected
	ended bool // the image is
}

// An outgoing is a connection with a name that the image gave it. It keeps the
// name until the image is done with it.
type outgoing struct {
	target egress.Target
	fd     int // our duplicate; -1: being connected, or ended
	made   bool
}

func newDialer(sock *net.UnixConn, s egress.Section, patience time.Duration, fail func(error), log func(string, ...any)) *dialer {
	return &dialer{sock: sock, resolve: resolve, patience: patience, fail: fail, log: log, dials: throttle{limit: dialsPerSecond},
		refusals: throttle{limit: refusalsPerSecond}, rules: newRuling(s, resolve), open: make(map[uint64]*outgoing)}
}

// serve obeys the image until the socket is closed.
func (d *dialer) serve() error {
	b := make([]byte, egress.MaxMessage+1)
	for {
		n, _, flags, _, err := d.sock.ReadMsgUnix(b, nil)
		switch {
		case err != nil:
			return err
		case flags&unix.MSG_CTRUNC != 0:
			return errors.New("it sent a descriptor")
		case flags&unix.MSG_TRUNC != 0:
			return errors.New("a message is too long")
		}
		m, err := egress.FromImage(b[:n])
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case egress.Dial:
			err = d.dial(m)
		case egress.Close:
			err = d.close(m.ID)
		}
		if err != nil {
			return err
		}
	}
}

// dial begins to make a connection. An image that asks for more than a server
// could use is heard more slowly.
func (d *dialer) dial(m egress.Dial) error {
	if excess, rest, _ := d.dials.add(time.Now(), 1); excess > 0 {
		time.Sleep(rest)
	}
	d.mu.Lock()
	if d.ended {
		d.mu.Unlock()
		return net.ErrClosed
	}
	if d.open[m.ID] != nil {
		d.mu.Unlock()
		return fmt.Errorf("connection %d exists already", m.ID)
	}
	if len(d.open) >= egress.MaxOpen || d.busy >= egress.MaxPending {
		d.mu.Unlock()
		d.refuse(m, egress.Busy, "too many connections")
		return nil
	}
	o := &outgoing{fd: -1}
	d.open[m.ID] = o
	d.busy++
	rules := d.rules
	d.mu.Unlock()
	go d.connect(m, o, rules)
	return nil
}

func (d *dialer) connect(m egress.Dial, o *outgoing, rules *ruling) {
	c, target, failed := rules.connect(m.Host, m.Port)
	if failed == nil {
		defer c.Close()
		failed = d.keep(o, target, c)
	}
	d.mu.Lock()
	d.busy--
	if failed != nil {
		delete(d.open, m.ID)
	}
	d.mu.Unlock()
	if failed != nil {
		d.refuse(m, failed.code, failed.reason)
		return
	}
	d.pass(m.ID, c)
}

// keep takes a duplicate of c, if the rules that are in force by now allow it.
func (d *dialer) keep(o *outgoing, target egress.Target, c *net.TCPConn) *undialed {
	fd, err := duplicateConn(c)
	if err != nil {
		return &undialed{egress.Unreachable, err.Error()}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	failed := &undialed{egress.Unreachable, "the image has ended"}
	if !d.ended {
		failed = nil
		if res := d.rules.section.Decide(target); res.Verdict != abi.Allow {
			failed = denied(res)
		}
	}
	if failed != nil {
		unix.Close(fd)
		return failed
	}
	o.fd, o.target, o.made = fd, target, true
	return nil
}

// pass hands c to the image. What happens to our duplicate meanwhile happens to
// the connection: the descriptor stays good for nothing else.
func (d *dialer) pass(id uint64, c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		d.fail(fmt.Errorf("dial socket: %w", err))
		return
	}
	var rights []byte
	raw.Control(func(fd uintptr) { rights = unix.UnixRights(int(fd)) })
	d.send(egress.Opened{ID: id}.Encode(), rights)
}

// shutDown is what the log says of them.
const shutDown = "%d open connections of the image were shut down: the new program does not allow them"

// tell writes a refusal to the log, unless there are too many.
func (t *throttle) tell(log func(string, ...any), host string, port uint16, u *undialed) {
	excess, _, past := t.add(time.Now(), 1)
	if past > 0 {
		log("%d more connections were refused", past)
	}
	if excess == 0 {
		log("no connection to %s port %d: %s", host, port, u.reason)
	}
}

func (d *dialer) refuse(m egress.Dial, code egress.Code, reason string) {
	d.refusals.tell(d.log, m.Host, m.Port, &undialed{code, reason})
	d.send(egress.Refused{ID: m.ID, Code: code, Reason: reason}.Encode(), nil)
}

// send writes one message; an image that does not read is killed.
func (d *dialer) send(b, rights []byte) {
	d.sock.SetWriteDeadline(time.Now().Add(d.patience))
	if _, _, err := d.sock.WriteMsgUnix(b, rights, nil); err != nil && !errors.Is(err, net.ErrClosed) {
		d.fail(fmt.Errorf("dial socket: it does not take what it asked for: %w", err))
	}
}

// close forgets a connection that the image is done with.
func (d *dialer) close(id uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.open[id]
	if o == nil || !o.made {
		return fmt.Errorf("it closed connection %d, which it does not have", id)
	}
	o.end()
	delete(d.open, id)
	return nil
}

// enforce puts rules in force, and ends the connections that they do not allow.
func (d *dialer) enforce(s egress.Section) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rules = newRuling(s, d.resolve)
	ended := 0
	for _, o := range d.open {
		if o.fd >= 0 && d.rules.section.Decide(o.target).Verdict != abi.Allow {
			o.end()
			ended++
		}
	}
	if ended > 0 {
		d.log(shutDown, ended)
	}
}

// end closes everything: the image is gone.
func (d *dialer) end() {
	d.sock.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
	for _, o := range d.open {
		o.end()
	}
	clear(d.open)
}

// end shuts the connection down for everybody who has it.
func (o *outgoing) end() {
	if o.fd >= 0 {
		unix.Shutdown(o.fd, unix.SHUT_RDWR)
		unix.Close(o.fd)
		o.fd = -1
	}
}
