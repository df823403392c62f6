package delivery

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"lorica.dev/lorica/abi/audit"
)

// A pace is how long things may take, and how long they are left alone.
type pace struct {
	connect    time.Duration // until a connection is there, its handshake included
	send       time.Duration // of one batch
	close      time.Duration // until the collector has what was sent last
	first      time.Duration // pause after a failure, doubled with each that follows
	most       time.Duration
	good       time.Duration // a line that held for so long had no failure
	unsure     time.Duration // how long what was sent may not have arrived
	whileDrain time.Duration // the longest pause of a drain
}

var usual = pace{connect: 10 * time.Second, send: 10 * time.Second, close: 2 * time.Second, first: 100 * time.Millisecond,
	most: 30 * time.Second, good: 10 * time.Second, unsure: 5 * time.Second, whileDrain: 250 * time.Millisecond}

// Bounds of a batch, and of what is kept after it was sent where nothing confirms it.
const (
	batchRecords = 64
	batchBytes   = 256 << 10
	tailRecords  = 1024
	tailBytes    = 1 << 20
)

// A courier sends what waits in a module, one batch after the other.
type courier struct {
	*Module
	log    func(string)
	line   Line
	to     *Target // of line
	since  time.Time
	proven bool // something was sent on line
	failed int  // in a row

	refuses bool // the collector took not all of the last batch, for good
}

// deliver sends until the end of a drain.
func (m *Module) deliver(log func(string)) {
	c := &courier{Module: m, log: log}
	defer close(m.idle)
	for {
		batch, to := c.next()
		if batch == nil {
			c.hangUp(true)
			return
		}
		if c.line != nil && !bytes.Equal(c.to.fingerprint, to.fingerprint) {
			c.hangUp(true)
			continue // what waits may be more now
		}
		err := c.carry(batch, to)
		if err != nil && c.stale(err) {
			c.hangUp(false)
			err = c.carry(batch, to)
		}
		if err != nil {
			c.trouble(to, err)
		}
	}
}

// A Patience is an error that says when to come again.
type Patience interface{ Wait() time.Duration }

// stale reports whether a line may be of no more use only because it was not used for a
// while, which is nothing to make a noise about.
func (c *courier) stale(err error) bool {
	var asks Patience
	return c.line != nil && c.proven && c.protocol.Confirms() && !errors.As(err, &asks)
}

// next waits for a batch; nil: the drain is over. A line that breaks meanwhile has lost
// what was sent on it, so that it is noticed at once.
func (c *courier) next() ([]*Entry, *Target) {
	for {
		c.mu.Lock()
		for len(c.waiting) == 0 && !c.draining && !c.broken() {
			c.work.Wait()
		}
		broken, to := c.broken(), c.target
		if !broken && len(c.waiting) == 0 {
			c.mu.Unlock()
			return nil, nil
		}
		if !broken {
			defer c.mu.Unlock()
			return c.waiting[:c.fits()], to
		}
		c.mu.Unlock()
		c.trouble(to, errBroken)
	}
}

var errBroken = errors.New("the collector ended the connection")

// broken reports whether there is a line that is of no more use.
func (c *courier) broken() bool {
	if c.line == nil {
		return false
	}
	select {
	case <-c.line.Broken():
		return true
	default:
		return false
	}
}

// fits returns how many of those that wait are a batch. The caller holds c.mu.
func (c *courier) fits() int {
	n, size := 0, 0
	for n < min(len(c.waiting), batchRecords) {
		if size += c.waiting[n].cost; size > batchBytes && n > 0 {
			break
		}
		n++
	}
	return n
}

// carry sends a batch, on the line that there is or a new one.
func (c *courier) carry(batch []*Entry, to *Target) error {
	if c.line == nil {
		if err := c.connect(to); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.pace.send)
	defer cancel()
	c.mu.Lock()
	lost := c.count.Lost
	c.mu.Unlock()
	refused, err := c.line.Send(ctx, batch, lost)
	if err != nil && refused == 0 {
		return err
	}
	c.proven = true
	if refused > 0 && !c.refuses {
		c.log(fmt.Sprintf("audit: %s: %s port %d does not take records, and they are lost: %d of numbers %d to %d: %v",
			c.name, to.Host, to.Port, refused, batch[0].Number, batch[len(batch)-1].Number, err))
	}
	c.refuses = refused > 0
	c.done(batch, min(refused, len(batch)))
	return nil
}

func (c *courier) connect(to *Target) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.pace.connect)
	defer cancel()
	conn, err := c.dial(ctx, to.Host, to.Port)
	if err != nil {
		return err
	}
	secured := tls.Client(conn, to.tls)
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return fmt.Errorf("TLS: %w", err)
	}
	c.line, c.to, c.since, c.proven = c.protocol.Open(secured, to), to, time.Now(), false
	go func(l Line) { // so that the one who waits for records sees it
		<-l.Broken()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.work.Signal()
	}(c.line)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count.Trouble != "" {
		c.log(fmt.Sprintf("audit: %s: connected to %s again; %d records wait, %d are lost so far", c.name, to.Host, len(c.waiting), c.count.Lost))
	}
	c.count.Connected, c.count.Trouble = true, ""
	return nil
}

// done takes a batch that was sent out of the queue.
func (c *courier) done(batch []*Entry, refused int) {
	now := time.Now()
	if c.protocol.Confirms() {
		c.failed = 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count.Delivered += uint64(len(batch) - refused)
	c.count.Lost += uint64(refused)
	for i, e := range batch {
		c.bytes -= e.cost
		e.sent = now
		if !c.protocol.Confirms() {
			c.tail = append(c.tail, e)
		}
		c.waiting[i] = nil
	}
	c.waiting = c.waiting[len(batch):]
	c.forget(now)
}

// forget leaves of the tail what may not have arrived yet. The caller holds c.mu.
func (c *courier) forget(now time.Time) {
	size := 0
	for _, e := range c.tail {
		size += e.cost
	}
	n := 0
	for n < len(c.tail) && (now.Sub(c.tail[n].sent) > c.pace.unsure || size > tailBytes || len(c.tail)-n > tailRecords) {
		size -= c.tail[n].cost
		c.tail[n] = nil
		n++
	}
	c.tail = c.tail[n:]
}

// trouble ends the line, and waits before the next try. What was sent on the line of late
// is sent once more, before all else, under the numbers that it had.
func (c *courier) trouble(to *Target, err error) {
	now := time.Now()
	if c.line != nil && now.Sub(c.since) >= c.pace.good {
		c.failed = 0
	}
	c.hangUp(false)
	c.failed++
	c.mu.Lock()
	c.again(now)
	text := audit.Cut(audit.Printable(err.Error()), audit.MaxField)
	tell := c.count.Trouble != text
	c.count.Trouble = text
	draining := c.draining
	if c.target == to { // else there is a new one to be tried at once
		select {
		case <-c.wake: // it was for what has been seen just now
		default:
		}
	}
	c.mu.Unlock()
	if tell {
		c.log(fmt.Sprintf("audit: %s: %s port %d: %s", c.name, to.Host, to.Port, text))
	}
	var asks Patience
	least := time.Duration(0)
	if errors.As(err, &asks) {
		least = asks.Wait()
	}
	c.pause(least, draining)
}

// again puts what may not have arrived before all that waits. The caller holds c.mu.
func (c *courier) again(now time.Time) {
	c.forget(now)
	n := uint64(len(c.tail))
	if n == 0 {
		return
	}
	for _, e := range c.tail {
		c.bytes += e.cost
	}
	c.waiting = append(c.tail, c.waiting...)
	c.tail = nil
	c.count.Repeated += n
	c.count.Delivered -= n
}

// pause waits longer after each failure, and not always as long: images that lost their
// collector together do not come back together.
func (c *courier) pause(least time.Duration, draining bool) {
	wait := min(c.pace.first<<min(c.failed-1, 20), c.pace.most)
	wait = max(wait-rand.N(wait/4+1), min(least, c.pace.most))
	if draining {
		wait = min(wait, c.pace.whileDrain)
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.wake:
	}
}

// hangUp ends the line; in order where nothing is wrong with it. Where the collector does not
// show then that it has read all, what was sent last is for the next place, or is named.
func (c *courier) hangUp(inOrder bool) {
	if c.line == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.pace.close)
	defer cancel()
	if !inOrder {
		cancel()
	}
	err := c.line.Close(ctx)
	c.line = nil
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count.Connected = false
	if !inOrder {
		return
	}
	c.forget(time.Now())
	if n := len(c.tail); err != nil && n > 0 {
		c.log(fmt.Sprintf("audit: %s: %s port %d may not have read numbers %d to %d, which were sent last: %s",
			c.name, c.to.Host, c.to.Port, c.tail[0].Number, c.tail[n-1].Number, audit.Cut(audit.Printable(err.Error()), audit.MaxField)))
		if len(c.waiting) > 0 {
			c.again(time.Now())
		}
	}
	c.tail = nil
}
