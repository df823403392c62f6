package unikernel

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/abi/program"
)

// A life is an image between boot and exit: it answers the tender, one request
// of it at a time, and owns the slots.
type life struct {
	opener
	channel io.Reader
	out     *outbox
	server  *server
	end     chan error // the first reason to exit; nil after a drain
	packets watch

	used     [launch.MaxSlots]atomic.Bool // in force, prepared, or still pinned
	batch    program.Batch
	prepared *generation
	txn      uint64 // of prepared
	draining bool
}

func newLife(img Image, plan program.PlanID, p *launch.Params, window []byte, channel io.ReadWriter) *life {
	out := newOutbox(channel)
	return &life{
		opener: opener{img: &img, mem: memory{bytes: window, slot: int(p.SlotSize)}, plan: plan,
			trust: p.Trust[:], tenant: p.Tenant, workload: p.Workload},
		channel: bufio.NewReader(channel),
		out:     out,
		server:  newServer(out),
		end:     make(chan error, 1),
	}
}

// first opens the program of the launch, before the seal.
func (l *life) first(m control.Prepare, floor uint64) error {
	g, err := l.take(m, from(floor))
	if err != nil {
		return fmt.Errorf("the first program: %w", err)
	}
	l.install(g)
	return nil
}

// from takes any program from the revision floor on.
func from(floor uint64) func(uint64, string, program.Digest) error {
	return func(revision uint64, _ string, _ program.Digest) error {
		if revision < floor {
			return fmt.Errorf("the program has revision %d; this image takes %d or later", revision, floor)
		}
		return nil
	}
}

// install puts g in force and returns the generation before it.
func (l *life) install(g *generation) *generation {
	l.batch.Enter(g.revision, g.level, g.digest)
	return l.server.install(g)
}

// take opens a program and claims its slot.
func (l *life) take(m control.Prepare, may func(revision uint64, level string, sum program.Digest) error) (*generation, error) {
	if int(m.Slot) < len(l.used) && l.used[m.Slot].Load() {
		return nil, fmt.Errorf("slot %d is in use", m.Slot)
	}
	g, err := l.open(m, may)
	if err != nil {
		return nil, err
	}
	l.used[m.Slot].Store(true)
	g.pins.Store(1)
	g.release = func() {
		l.used[g.slot].Store(false)
		l.out.send(control.Released{Slot: g.slot}.Frame())
	}
	return g, nil
}

// run says Ready, serves, and returns when the image is to exit. It returns nil
// only after a drain.
func (l *life) run() error {
	l.startSinks() // before anything is decided that they are to keep
	commands := make(chan any, maxCommands)
	go func() { l.finish(l.read(commands)) }()
	go func() { l.finish(l.out.run()) }()
	go func() {
		for m := range commands {
			if err := l.obey(m); err != nil {
				l.finish(err)
				return
			}
		}
	}()
	if l.packets.filter != nil {
		go func() { l.finish(l.packets.run(l.server)) }()
	}
	l.out.send(control.Ready())
	l.server.start(l.finish)
	err := <-l.end
	l.out.close(errClosed)
	return err
}

// finish ends the image for a reason; the first one counts.
func (l *life) finish(err error) {
	select {
	case l.end <- err:
	default:
	}
}

// read takes frames off the channel until it breaks, which is the end: an image
// that nobody hears must not serve.
func (l *life) read(commands chan<- any) error {
	for {
		f, err := control.ReadFrame(l.channel, control.MaxFromTender)
		if err != nil {
			return fmt.Errorf("control channel: %w", err)
		}
		m, err := f.Decode()
		if err != nil {
			return err
		}
		switch m := m.(type) {
		case control.Ack: // at once: requests may be waiting for it
			err = l.out.ack(m.Seq)
		case control.Clock:
			err = l.setClock(m)
		case control.Txn:
			err = hand(commands, command{f.Kind, m})
		case control.Prepare, control.Drain:
			err = hand(commands, m)
		default:
			if f.Kind != control.KindQuery {
				return fmt.Errorf("control channel: frame of kind %d from the tender", f.Kind)
			}
			l.out.send(l.stats().Frame())
		}
		if err != nil {
			return fmt.Errorf("control channel: %w", err)
		}
	}
}

// setClock sets the clock of a machine that has its own.
func (l *life) setClock(m control.Clock) error {
	c, ok := l.img.Platform.(interface{ SetClock(ns int64) error })
	if !ok {
		return errors.New("a clock for an image that has none of its own")
	}
	return c.SetClock(m.Now)
}

// maxCommands is how many commands may wait for the one that is obeyed.
const maxCommands = 16

// hand queues a command. It never waits: while a command waits for the channel,
// somebody must read the Acks.
func hand(commands chan<- any, m any) error {
	select {
	case commands <- m:
		return nil
	default:
		return fmt.Errorf("more than %d commands wait", maxCommands)
	}
}

// A command is a Commit or an Abort.
type command struct {
	kind control.Kind
	control.Txn
}

func (l *life) obey(m any) error {
	switch m := m.(type) {
	case control.Prepare:
		l.prepare(m)
	case command:
		switch {
		case l.prepared == nil || l.txn != m.Txn.Txn:
			if m.kind == control.KindCommit {
				return fmt.Errorf("control channel: Commit of %d, which is not prepared", m.Txn.Txn)
			}
		case m.kind == control.KindCommit:
			return l.commit()
		default:
			l.abort()
		}
	case control.Drain:
		if !l.draining {
			l.draining = true
			go l.drain(m)
		}
	}
	return nil
}

// prepare answers whether every module consents to a program. Nothing changes
// before Commit.
func (l *life) prepare(m control.Prepare) {
	var err error
	if l.prepared != nil {
		err = fmt.Errorf("transaction %d is prepared; commit or abort it first", l.txn)
	} else {
		var g *generation
		if g, err = l.take(m, l.batch.Follows); err == nil {
			l.prepared, l.txn = g, m.Txn
		}
	}
	answer := control.Prepared{Txn: m.Txn}
	if err != nil {
		answer.Err = err.Error()
		l.out.log(fmt.Sprintf("refused the program in slot %d: %v", m.Slot, err))
	}
	l.out.send(answer.Frame())
}

func (l *life) commit() error {
	if err := l.packets.report(l.server); err != nil { // under the program that denied them
		return err
	}
	g := l.prepared
	l.prepared = nil
	old := l.install(g)
	l.out.send(control.Committed{Txn: l.txn, Slot: g.slot, Revision: g.revision, Program: g.digest}.Frame())
	old.unpin()
	return l.server.rejudge()
}

func (l *life) abort() {
	l.used[l.prepared.slot].Store(false)
	l.prepared = nil
}

// settleWithin bounds the wait for clients to take the end of what they were sent,
// where nobody but the image has it.
const settleWithin = 5 * time.Second

func (l *life) drain(m control.Drain) {
	_, own := l.img.Net.(PacketNet)
	end := time.Now().Add(m.Grace + m.Limit)
	l.server.drain(m.Grace, m.Limit, own)
	if n, ok := l.img.Net.(interface{ Settle(context.Context) error }); ok {
		ctx, cancel := context.WithTimeout(context.Background(), settleWithin)
		defer cancel()
		if err := n.Settle(ctx); err != nil {
			l.out.log(err.Error())
		}
	}
	err := l.packets.report(l.server)
	l.drainSinks(end)
	l.out.send(control.Drained())
	l.finish(cmp.Or(err, l.out.flush()))
}

// stats reads the counters. It does not stop the world.
func (l *life) stats() control.Stats {
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(heap)
	s := l.server.counters()
	s.Packets = l.packets.counters()
	if n, ok := l.img.Net.(interface{ Addresses() []string }); ok {
		s.Addresses = n.Addresses()
	}
	s.Sinks = l.img.sinks()
	s.HeapBytes = heap[0].Value.Uint64()
	s.Goroutines = uint32(runtime.NumGoroutine())
	return s
}
