// Package dhcp asks for the IPv4 address of an image that is launched without one
// (RFC 2131), and keeps it for as long as its server lets it: a module for images on
// networks that have a DHCP server.
//
// Answers are believed where they carry the number of the question, the hardware address
// of the image and the name of the server that was asked. A server is on the image's own
// network and can hand out any address there; it can do nothing else.
package dhcp

import (
	"crypto/rand"
	"encoding/binary"
	mathrand "math/rand/v2"
	"net/netip"
	"time"

	"lorica.dev/lorica/netstack/direct"
)

// New returns the module, as a part of package direct's network.
func New() direct.Option {
	return direct.Leasing(func(l *direct.Lessee) { (&client{l}).run() })
}

// Times in seconds.
const (
	leastWait  = 4 // for an answer to the first question; twice that for the next
	mostWait   = 64
	requests   = 4  // that an offer is asked for
	leastAgain = 60 // between two questions about a lease
	leastLease = 60
)

// A link is what a client needs of a network.
type link interface {
	MAC() [6]byte
	Ask(from, to netip.Addr, message []byte) error
	Heard() <-chan []byte
	Hold(a netip.Prefix, router netip.Addr) error
	Done() <-chan struct{}
}

type client struct {
	link link
}

// A lease is an address for a time.
type lease struct {
	answer
	since time.Time // when it was asked for
}

// run holds addresses until the network ends.
func (c *client) run() {
	for wait := uint32(leastWait); ; {
		l, ok := c.acquire(wait)
		if c.over() {
			return
		}
		if !ok || c.link.Hold(l.prefix(), l.router) != nil {
			wait = min(2*wait, mostWait)
			continue
		}
		wait = leastWait
		c.keep(l)
		if c.over() || c.link.Hold(netip.Prefix{}, netip.Addr{}) != nil {
			return
		}
	}
}

func (c *client) over() bool {
	select {
	case <-c.link.Done():
		return true
	default:
		return false
	}
}

// acquire asks everybody for an address, and takes the first that is offered. It takes
// wait seconds at the least to fail, a second more or less.
func (c *client) acquire(wait uint32) (l lease, ok bool) {
	q := question{kind: discover, id: number(), mac: c.link.MAC()}
	until := time.Now().Add(seconds(wait) + mathrand.N(2*time.Second) - time.Second)
	defer func() {
		if !ok {
			c.await(until, func(*answer) bool { return false })
		}
	}()
	if c.link.Ask(netip.Addr{}, netip.Addr{}, q.encode()) != nil {
		return lease{}, false
	}
	offered, heard := c.await(until, func(a *answer) bool { return a.id == q.id && a.kind == offer })
	if !heard {
		return lease{}, false
	}
	q.kind, q.requested, q.server = request, offered.yours, offered.server
	for try := range requests {
		l.since = time.Now()
		if c.link.Ask(netip.Addr{}, netip.Addr{}, q.encode()) != nil {
			return lease{}, false
		}
		said, heard := c.await(l.since.Add(seconds(leastWait<<try)), func(a *answer) bool {
			return a.id == q.id && a.server == offered.server && (a.kind == nak || a.kind == ack && a.yours == offered.yours)
		})
		if heard {
			l.answer = *said
			return l, said.kind == ack
		}
	}
	return lease{}, false
}

// keep returns when the lease is over: its time is, or its server says so. From T1 on it
// asks its server to extend it, from T2 on anyone.
func (c *client) keep(l lease) {
	for {
		t1, t2 := l.times()
		renew, rebind, end := l.since.Add(seconds(t1)), l.since.Add(seconds(t2)), l.since.Add(seconds(l.lease))
		c.await(renew, func(*answer) bool { return false })
		next, extended := c.extend(&l, l.server, rebind)
		if next == nil {
			next, extended = c.extend(&l, netip.Addr{}, end)
		}
		if next == nil || !extended || c.link.Hold(next.prefix(), next.router) != nil {
			return
		}
		l = *next
	}
}

// times returns when to ask the server, and when to ask anyone.
func (l *lease) times() (renew, rebind uint32) {
	renew, rebind = l.renew, l.rebind
	if rebind == 0 || rebind >= l.lease {
		rebind = uint32(uint64(l.lease) * 7 / 8)
	}
	if renew == 0 || renew >= rebind {
		renew = min(l.lease/2, rebind)
	}
	return max(renew, min(leastLease/2, rebind)), rebind
}

// extend asks a server for more time, or everybody, until there is an answer: nil if
// there was none until then.
func (c *client) extend(l *lease, server netip.Addr, until time.Time) (next *lease, extended bool) {
	for !c.over() && time.Now().Before(until) {
		q := question{kind: request, id: number(), mac: c.link.MAC(), current: l.yours}
		since := time.Now()
		if c.link.Ask(l.yours, server, q.encode()) != nil {
			return nil, false
		}
		again := max(time.Until(until)/2, seconds(leastAgain))
		said, heard := c.await(earlier(since.Add(again), until), func(a *answer) bool {
			return a.id == q.id && (a.server == server || !server.IsValid()) && (a.kind == nak || a.kind == ack && a.yours == l.yours)
		})
		if heard {
			return &lease{*said, since}, said.kind == ack
		}
	}
	return nil, false
}

// await returns the first answer that is wanted, if there is one in time. It reads all
// that arrive: what is of yesterday answers nothing of today.
func (c *client) await(until time.Time, wanted func(*answer) bool) (*answer, bool) {
	late := time.NewTimer(time.Until(until))
	defer late.Stop()
	for {
		select {
		case b := <-c.link.Heard():
			if a, err := decode(b, c.link.MAC()); err == nil && wanted(a) {
				return a, true
			}
		case <-late.C:
			return nil, false
		case <-c.link.Done():
			return nil, false
		}
	}
}

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// number returns one that nobody can guess.
func number() uint32 {
	var b [4]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint32(b[:])
}
