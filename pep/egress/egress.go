// Package egress makes connections out of an image, which the tender makes for it:
// it asks the rules of the program, keeps account of what is open, and ends what
// new rules do not allow.
//
// The tender asks the rules again, and is what a compromised image cannot get
// around: it alone resolves names.
package egress

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/pep"
)

// A Module judges connections and holds those that are open. It is safe for
// concurrent use.
type Module struct {
	tender pep.Connector

	mu    sync.Mutex
	rules *egress.Section // in force; nil: everything is denied
	open  map[*conn]struct{}
}

// New returns a module whose connections the tender makes.
func New(tender pep.Connector) *Module {
	return &Module{tender: tender, open: make(map[*conn]struct{})}
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
	m.mu.Lock()
	err = m.judge(t)
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	made, err := m.tender.Connect(ctx, host, port)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: made, module: m, target: t}
	m.mu.Lock()
	if err = m.judge(t); err == nil { // the rules may have changed meanwhile
		m.open[c] = struct{}{}
	}
	m.mu.Unlock()
	if err != nil {
		made.Close()
		return nil, err
	}
	return c, nil
}

// A conn is a connection of the module's account.
type conn struct {
	net.Conn
	module *Module
	target egress.Target
	once   sync.Once
}

// Close leaves the account.
func (c *conn) Close() error {
	err := os.ErrClosed
	c.once.Do(func() {
		c.module.mu.Lock()
		delete(c.module.open, c)
		c.module.mu.Unlock()
		err = c.Conn.Close()
	})
	return err
}
