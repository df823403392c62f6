// Package egress makes connections out of a sealed image, which has no call to
// make one: it asks the tender over the dial socket and is passed a descriptor.
//
// The rules of the program are asked here first. The tender asks them again, and
// is what a compromised image cannot get around: it alone resolves names.
package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/pep"
)

// A Module is the image's end of the dial socket. It is safe for concurrent use.
type Module struct {
	sock  *os.File
	slots chan struct{} // one for each connection that is being asked for

	mu      sync.Mutex
	rules   *egress.Section // in force; nil: everything is denied
	pending map[uint64]*request
	open    map[*conn]struct{}
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

// New returns a module that has no socket yet.
func New() *Module {
	return &Module{slots: make(chan struct{}, egress.MaxPending), pending: make(map[uint64]*request), open: make(map[*conn]struct{}),
		broken: errors.New("egress: there is no dial socket")}
}

// Adopt implements pep.Outbound.
func (m *Module) Adopt(fd int) error {
	if err := syscall.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("egress: dial socket, descriptor %d: %w", fd, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sock = os.NewFile(uintptr(fd), "dial")
	raw, err := m.sock.SyscallConn()
	if err != nil {
		return fmt.Errorf("egress: dial socket, descriptor %d: %w", fd, err)
	}
	m.broken = nil
	go m.read(raw)
	return nil
}

// Prepare implements pep.Outbound.
func (m *Module) Prepare(in *pep.Input) (pep.OutboundState, error) {
	s, err := egress.Decode(in.Section)
	if err != nil {
		return nil, err
	}
	return &state{m, &s}, nil
}

type state struct {
	module *Module
	rules  *egress.Section
}

// Enforce implements pep.OutboundState.
func (s *state) Enforce() {
	m := s.module
	m.mu.Lock()
	m.rules = s.rules
	var gone []*conn
	for c := range m.open {
		if m.judge(c.target) != nil {
			gone = append(gone, c)
		}
	}
	m.mu.Unlock()
	for _, c := range gone {
		c.Close()
	}
}

// judge asks the rules in force, as far as they can be asked before a name is
// resolved. The caller holds m.mu.
func (m *Module) judge(t egress.Target) error {
	if m.rules == nil {
		return egress.Refused{Code: egress.Denied, Reason: "no program is in force"}
	}
	if res := m.rules.Decide(t); res.Verdict != abi.Allow {
		return egress.Refused{Code: egress.Denied, Reason: fmt.Sprintf("%s is denied by %s (%s)", t, res.Rule.ID, res.Rule.Line)}
	}
	return nil
}

// Dial connects to a host, a name or an IP address. Its error is an
// egress.Refused where rules or the tender refused, or the one of ctx.
func (m *Module) Dial(ctx context.Context, host string, port uint16) (net.Conn, error) {
	t, err := egress.ParseTarget(host, port)
	if err != nil {
		return nil, egress.Refused{Code: egress.Denied, Reason: err.Error()}
	}
	select {
	case m.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	r := &request{target: t, answer: make(chan answer, 1)}
	if err := m.ask(r, host); err != nil {
		<-m.slots
		return nil, err
	}
	select {
	case a := <-r.answer:
		return a.result()
	case <-ctx.Done():
	}
	m.mu.Lock()
	r.left = true
	m.mu.Unlock()
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

func (m *Module) ask(r *request, host string) error {
	m.mu.Lock()
	err := m.broken
	if err == nil {
		err = m.judge(r.target)
	}
	if err != nil {
		m.mu.Unlock()
		return err
	}
	m.last++
	id := m.last
	m.pending[id] = r
	m.mu.Unlock()
	if err := m.send(egress.Dial{ID: id, Host: host, Port: r.target.Port}.Encode()); err != nil {
		m.mu.Lock()
		delete(m.pending, id)
		m.mu.Unlock()
		return err
	}
	return nil
}

func (m *Module) send(b []byte) error {
	if _, err := m.sock.Write(b); err != nil {
		return fmt.Errorf("egress: dial socket: %w", err)
	}
	return nil
}

// read takes answers until the socket breaks, which is for good.
func (m *Module) read(raw syscall.RawConn) {
	err := func() error {
		for {
			b, fd, err := receive(raw)
			if err != nil {
				return err
			}
			if err := m.take(b, fd); err != nil {
				if fd >= 0 {
					syscall.Close(fd)
				}
				return err
			}
		}
	}()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = fmt.Errorf("egress: dial socket: %w", err)
	for id, r := range m.pending {
		delete(m.pending, id)
		r.answer <- answer{err: m.broken}
		<-m.slots
	}
}

// take hands an answer to who waits for it. It keeps the descriptor unless it
// returns an error.
func (m *Module) take(b []byte, fd int) error {
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
	m.mu.Lock()
	r := m.pending[id]
	if r == nil {
		m.mu.Unlock()
		return fmt.Errorf("an answer to request %d, which nobody made", id)
	}
	delete(m.pending, id)
	<-m.slots
	var unwanted *conn
	if a.err == nil {
		c := newConn(m, id, r.target, fd)
		a.conn = c
		m.open[c] = struct{}{}
		if a.err = m.judge(r.target); a.err != nil || r.left { // the rules may have changed meanwhile
			unwanted = c
		}
	}
	if !r.left {
		r.answer <- a
	}
	m.mu.Unlock()
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
