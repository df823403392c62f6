// Package delivery is what sinks share that send records to a collector over the network:
// a bounded queue in memory, a connection with TLS that is made again when it breaks, and
// an account of what was lost.
//
// Records go in the order in which decisions were recorded, each under a number; together
// with the random name of the image's life it is the id of the record. Numbers have no
// gaps but where records were lost, and a record that is sent again has the number that it
// had. What waits is in memory, and ends with the image if it is killed.
package delivery

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/pep"
)

// A Dialer makes a connection out of the image, where the program allows it.
type Dialer func(ctx context.Context, host string, port uint16) (net.Conn, error)

// A Protocol says records to a collector. It has no state.
type Protocol interface {
	// Open begins to speak on a connection whose other end was verified.
	Open(c net.Conn, to *Target) Line
	// Confirms reports whether Send returns when the collector says that it has the records.
	Confirms() bool
}

// A Line is a connection to a collector. Its methods but Broken are called by one
// goroutine.
type Line interface {
	// Send sends a batch, and returns how many records of it the collector refuses for good,
	// with an error that says why. After an error without any the line is closed, and the
	// batch is sent again on another.
	Send(ctx context.Context, batch []*Entry, lost uint64) (refused int, err error)
	// Broken is closed when the collector ended the connection, or said what it must not.
	Broken() <-chan struct{}
	// Close ends the line; within ctx it waits until the collector has what was sent.
	Close(ctx context.Context) error
}

// A Target is a collector as a program names it, and the values of its secrets.
type Target struct {
	audit.Collector
	Life  string // the random name of this life of the image
	Token string // of OTLP; empty: none

	tls         *tls.Config
	fingerprint []byte
}

// An Entry is a record that waits.
type Entry struct {
	Number uint64 // from 1
	Record audit.Record
	cost   int
	sent   time.Time
}

// Overhead is what a record takes in memory beside its encoding.
const overhead = 768

// A Module is a sink. It is safe for concurrent use.
type Module struct {
	name     string
	protocol Protocol
	dial     Dialer
	life     string
	pace     pace

	mu       sync.Mutex
	work     *sync.Cond // the courier waits here
	target   *Target    // in force
	waiting  []*Entry   // in order; those that are being sent included
	bytes    int        // of waiting
	tail     []*Entry   // sent on this line, and not known to have arrived
	number   uint64
	count    control.Sink
	draining bool
	idle     chan struct{} // closed when nothing more is sent
	wake     chan struct{} // ends a pause
}

// New returns a sink that takes a section, and speaks a protocol on connections of dial.
func New(section string, p Protocol, dial Dialer) *Module {
	name := strings.TrimPrefix(section, "audit-")
	m := &Module{name: name, protocol: p, dial: dial, pace: usual, life: newLife(), idle: make(chan struct{}), wake: make(chan struct{}, 1)}
	m.work, m.count.Name = sync.NewCond(&m.mu), name
	return m
}

// newLife returns 128 random bits in hexadecimal.
func newLife() string {
	var b [16]byte
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return hex.EncodeToString(b[:])
}

// Prepare implements pep.Sink. What is tried, and not enforced, denies nobody.
func (m *Module) Prepare(in *pep.Input) (pep.SinkState, error) {
	c, err := audit.DecodeCollector(in.Section)
	if err != nil {
		return nil, err
	}
	if in.DryRun != nil {
		c.Deny = false
	}
	t := &Target{Collector: c, Life: m.life, fingerprint: bytes.Clone(in.Section)}
	read := func(name string) ([]byte, error) {
		b, ok := in.Secrets[name]
		if !ok {
			return nil, fmt.Errorf("audit: there is no secret %q", name)
		}
		t.fingerprint = append(append(t.fingerprint, 0), b...)
		return b, nil
	}
	if t.tls, err = config(&c, read); err != nil {
		return nil, err
	}
	if c.Token != "" {
		b, err := read(c.Token)
		if err != nil {
			return nil, err
		}
		if t.Token, err = audit.ParseToken(b); err != nil {
			return nil, fmt.Errorf("audit: secret %q: %w", c.Token, err)
		}
	}
	return &state{m, t}, nil
}

func config(c *audit.Collector, read func(string) ([]byte, error)) (*tls.Config, error) {
	b, err := read(c.Trust)
	if err != nil {
		return nil, err
	}
	trust, err := transport.ParseTrust(b)
	if err != nil {
		return nil, fmt.Errorf("audit: secret %q: %w", c.Trust, err)
	}
	roots := x509.NewCertPool() // never the host's: there are none here
	for _, cert := range trust {
		roots.AddCert(cert)
	}
	conf := &tls.Config{RootCAs: roots, ServerName: c.ServerName, MinVersion: tls.VersionTLS12}
	if c.Certificate == "" {
		return conf, nil
	}
	chain, err := read(c.Certificate)
	if err != nil {
		return nil, err
	}
	key, err := read(c.Key)
	if err != nil {
		return nil, err
	}
	pair, err := transport.ClientPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("audit: secrets %q and %q: %w", c.Certificate, c.Key, err)
	}
	conf.Certificates = []tls.Certificate{pair}
	return conf, nil
}

// Start implements pep.Sink.
func (m *Module) Start(tender pep.Keeper) { go m.deliver(tender.Log) }

// Report implements pep.SinkReporter.
func (m *Module) Report() control.Sink {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.count
	c.Waiting = uint64(len(m.waiting))
	return c
}

// Drain implements pep.Sink.
func (m *Module) Drain(ctx context.Context) error {
	m.mu.Lock()
	m.draining = true
	m.work.Signal()
	m.mu.Unlock()
	m.rouse()
	select {
	case <-m.idle:
		return nil
	case <-ctx.Done():
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.waiting)
	if n == 0 {
		return nil
	}
	m.count.Lost += uint64(n)
	return fmt.Errorf("audit: %d records for %s (%s) are lost, numbers %d to %d: they could not be delivered in the time of the drain: %s",
		n, m.name, m.target.Host, m.waiting[0].Number, m.waiting[n-1].Number, m.count.Trouble)
}

// rouse ends a pause between two tries.
func (m *Module) rouse() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

type state struct {
	module *Module
	target *Target
}

// Demands implements pep.SinkState.
func (s *state) Demands() bool { return s.target.Deny }

// Enforce implements pep.SinkState.
func (s *state) Enforce() {
	m := s.module
	m.mu.Lock()
	m.target = s.target
	m.work.Signal()
	m.mu.Unlock()
	m.rouse()
}

// Keep implements pep.SinkState: it never waits. A record without a place has a number all
// the same, so that it is missed.
func (s *state) Keep(r audit.Record, _ bool) error {
	m := s.module
	r = r.Own()
	cost := r.Size() + overhead
	m.mu.Lock()
	defer m.mu.Unlock()
	m.number++
	if len(m.waiting) >= int(s.target.Records) || m.bytes+cost > int(s.target.Bytes) {
		m.count.Lost++
		if s.target.Deny {
			return pep.ErrNoRoom
		}
		return nil
	}
	m.waiting = append(m.waiting, &Entry{Number: m.number, Record: r, cost: cost})
	m.bytes += cost
	m.work.Signal()
	return nil
}
