// Package forward passes connections between a microVM and the rest of the world, by
// the rules of package abi/link: those of clients to the guest, and those that the guest
// asks for.
//
// The guest is hostile: what it does to its end of a connection can end that connection,
// and nothing else.
package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"lorica.dev/lorica/abi/link"
	"lorica.dev/lorica/tender/relay"
)

// A Link is the network that has only the guest on it.
type Link interface {
	Dial(ctx context.Context, port uint16) (net.Conn, error)
	Listen() (net.Listener, error)
	Close() error
}

const (
	maxWaiting = 256             // connections that the guest has not welcomed; more wait in the kernel
	dialWithin = 1 * time.Minute // for a guest whose backlog is full
	pauseLeast = 5 * time.Millisecond
	pauseMost  = time.Second
)

// A Forwarder connects clients to a guest, for one life of it.
type Forwarder struct {
	link    Link
	log     func(format string, args ...any)
	open    chan struct{} // one for each connection
	waiting chan struct{} // one for each that is not welcomed, and for each accept
	ctx     context.Context
	cancel  context.CancelFunc // of those that are not welcomed

	mu       sync.Mutex
	stopped  bool
	sockets  []net.Listener
	left     []Client
	pairs    pairs
	buffers  relay.Pool
	accepts  sync.WaitGroup // loops
	arriving sync.WaitGroup // connections that are neither welcomed nor given up
}

// A Client was accepted at listener Index, and nothing was read of it yet.
type Client struct {
	Index int
	net.Conn
}

// New returns a forwarder that accepts nothing yet, and never more than most
// connections at once.
func New(l Link, most int, log func(format string, args ...any)) *Forwarder {
	f := &Forwarder{link: l, log: log, open: make(chan struct{}, max(most, 1)), waiting: make(chan struct{}, maxWaiting), pairs: newPairs()}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// Serve forwards what ln accepts to listener i of the guest. It takes ln over: closing
// it leaves the socket to who else has it.
func (f *Forwarder) Serve(i int, ln net.Listener) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		ln.Close()
		return net.ErrClosed
	}
	f.sockets = append(f.sockets, ln)
	f.accepts.Add(1)
	go func() {
		defer f.accepts.Done()
		f.accept(i, ln)
	}()
	return nil
}

// Resume forwards clients that the life before left: they waited for this one.
func (f *Forwarder) Resume(list []Client) {
	for _, c := range list {
		f.waiting <- struct{}{}
		f.open <- struct{}{}
		f.arriving.Add(1)
		go f.forward(c)
	}
}

func (f *Forwarder) accept(i int, ln net.Listener) {
	pause := time.Duration(0)
	for {
		f.waiting <- struct{}{}
		f.open <- struct{}{}
		c, err := ln.Accept()
		if err == nil {
			pause = 0
			f.arriving.Add(1)
			go f.forward(Client{i, c})
			continue
		}
		<-f.open
		<-f.waiting
		if errors.Is(err, net.ErrClosed) {
			return
		}
		// Descriptors are short, or the client has gone already.
		if pause = min(max(2*pause, pauseLeast), pauseMost); pause == pauseMost {
			f.log("listener %d: %v", i, err)
		}
		time.Sleep(pause)
	}
}

// forward connects c to the guest and passes bytes until both have ended. Nothing is
// read of c before the guest has welcomed it: should the guest die, the client can
// wait for its next life.
func (f *Forwarder) forward(c Client) {
	defer func() { <-f.open }()
	g, err := f.arrive(c)
	p := newPair(c.Conn)
	added := err == nil && f.pairs.add(p)
	<-f.waiting
	f.arriving.Done()
	if err != nil {
		return
	}
	if added && p.join(g) {
		p.splice(&f.buffers)
	}
	if !added { // the guest died as soon as it had welcomed it
		p.join(g)
	}
	f.pairs.end(p)
}

// arrive returns a connection that the guest has welcomed as that of c. Else it leaves
// c to the next life of the guest, or ends it where this one goes on.
func (f *Forwarder) arrive(c Client) (net.Conn, error) {
	g, err := f.introduce(c)
	if err == nil {
		return g, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx.Err() != nil {
		f.left = append(f.left, c)
	} else {
		linger(c.Conn)
		c.Close()
	}
	return nil, err
}

func (f *Forwarder) introduce(c Client) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(f.ctx, dialWithin)
	defer cancel()
	g, err := f.link.Dial(ctx, link.ForwardPort+uint16(c.Index))
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { g.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var b [1]byte
	_, err = g.Write(link.Peer{Client: addrPort(c.RemoteAddr()), Local: addrPort(c.LocalAddr())}.Encode())
	if err == nil {
		_, err = io.ReadFull(g, b[:])
	}
	switch {
	case err != nil:
	case b[0] != link.Welcome:
		err = fmt.Errorf("link: it is welcomed with %d", b[0])
	case !stop():
		err = context.Cause(ctx)
	}
	if err != nil {
		linger(g)
		g.Close()
		return nil, err
	}
	return g, nil
}

// Stop stops to accept, and returns when the guest has every connection that was
// accepted, or that has failed: nothing is on its way then. What is open stays open.
func (f *Forwarder) Stop(ctx context.Context) error {
	f.halt()
	done := make(chan struct{})
	go func() {
		f.accepts.Wait()
		f.arriving.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("link: the guest does not accept what it was sent: %w", context.Cause(ctx))
	}
}

func (f *Forwarder) halt() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopped = true
	for _, ln := range f.sockets {
		ln.Close()
	}
	f.sockets = nil
}

// Finish returns when clients have everything that the guest had to say, which is for
// when it has ended, or when ctx is over.
func (f *Forwarder) Finish(ctx context.Context) error {
	for _, p := range f.pairs.list() {
		select {
		case <-p.told:
		case <-p.ctx.Done():
		case <-ctx.Done():
			return fmt.Errorf("link: clients have not taken what they were sent: %w", context.Cause(ctx))
		}
	}
	return nil
}

// Close ends every connection that the guest has, and returns the clients that it had
// not welcomed.
func (f *Forwarder) Close() []Client {
	f.halt()
	f.cancel()
	f.pairs.close()
	f.accepts.Wait()
	f.arriving.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	left := f.left
	f.left = nil
	return left
}
