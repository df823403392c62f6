// Package forward passes connections between an image with a network of its own and the
// rest of the world, by the rules of package abi/link: those of clients to the image, and
// those that the image asks for.
//
// The image is hostile: what it does to its end of a connection can end that connection,
// and nothing else.
package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"lorica.dev/lorica/tender/relay"
)

// A Link is the network that has only the image on it.
type Link interface {
	// Dial connects to a port of the image, from the address and the port of a client.
	// Its error is net.ErrClosed where the image has left.
	Dial(ctx context.Context, client netip.AddrPort, port uint16) (net.Conn, error)
	Listen() (net.Listener, error)
}

const (
	maxWaiting = 256             // connections that the image has not answered; more wait in the kernel
	dialWithin = 1 * time.Minute // for an image whose backlog is full
	pauseLeast = 5 * time.Millisecond
	pauseMost  = time.Second
)

// A Forwarder connects clients to an image, for one life of it.
type Forwarder struct {
	link    Link
	log     func(format string, args ...any)
	open    chan struct{} // one for each connection
	waiting chan struct{} // one for each that is not answered, and for each accept
	ctx     context.Context
	cancel  context.CancelFunc // of those that are not answered

	mu       sync.Mutex
	stopped  bool
	sockets  []net.Listener
	left     []Client
	pairs    pairs
	buffers  relay.Pool
	accepts  sync.WaitGroup // loops
	arriving sync.WaitGroup // connections that are neither answered nor given up
}

// A Client was accepted for a port of the image, and nothing was read of it yet.
type Client struct {
	Port uint16
	net.Conn
}

// New returns a forwarder that accepts nothing yet, and never more than most
// connections at once.
func New(l Link, most int, log func(format string, args ...any)) *Forwarder {
	f := &Forwarder{link: l, log: log, open: make(chan struct{}, max(most, 1)), waiting: make(chan struct{}, maxWaiting), pairs: newPairs()}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// Serve forwards what ln accepts to a port of the image. It takes ln over: closing it
// leaves the socket to who else has it.
func (f *Forwarder) Serve(port uint16, ln net.Listener) error {
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
		f.accept(port, ln)
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

func (f *Forwarder) accept(port uint16, ln net.Listener) {
	pause := time.Duration(0)
	for {
		f.waiting <- struct{}{}
		f.open <- struct{}{}
		c, err := ln.Accept()
		if err == nil {
			pause = 0
			f.arriving.Add(1)
			go f.forward(Client{port, c})
			continue
		}
		<-f.open
		<-f.waiting
		if errors.Is(err, net.ErrClosed) {
			return
		}
		// Descriptors are short, or the client has gone already.
		if pause = min(max(2*pause, pauseLeast), pauseMost); pause == pauseMost {
			f.log("accepting clients on %v: %v", ln.Addr(), err)
		}
		time.Sleep(pause)
	}
}

// forward connects c to the image and passes bytes until both have ended. Nothing is
// read of c before the image has answered: should it die, the client can wait for its
// next life.
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
	if !added { // the image died as soon as it had answered
		p.join(g)
	}
	f.pairs.end(p)
}

// arrive returns a connection to the image as that of c. Where there is none, it leaves c
// to the next life of the image, or resets it where this one goes on: it refused, or was
// silent.
func (f *Forwarder) arrive(c Client) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(f.ctx, dialWithin)
	defer cancel()
	g, err := f.link.Dial(ctx, addrPort(c.RemoteAddr()), c.Port)
	if err == nil {
		return g, nil
	}
	if errors.Is(err, net.ErrClosed) { // it is about to be said that the image has ended
		<-ctx.Done()
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

// Stop stops to accept, and returns when the image has every connection that was
// accepted, or has refused it: nothing is on its way then. What is open stays open.
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
		return fmt.Errorf("link: the image does not accept what it was sent: %w", context.Cause(ctx))
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

// Finish returns when clients have everything that the image had to say, which is for
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

// Close ends every connection that the image has, and returns the clients that it had
// not answered.
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
