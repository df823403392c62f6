package tender

import (
	"context"
	"net"
	"sync"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/tender/forward"
)

// guestDials makes the connections that an image asks for over its link, as far as
// the rules in force allow.
type guestDials struct {
	dials    *forward.Dials
	ended    chan struct{}
	log      func(format string, args ...any)
	asked    throttle
	refusals throttle

	mu    sync.Mutex
	rules *ruling
}

func newGuestDials(l forward.Link, s egress.Section, log func(string, ...any)) (*guestDials, error) {
	d := &guestDials{ended: make(chan struct{}), log: log, asked: throttle{limit: dialsPerSecond}, refusals: throttle{limit: refusalsPerSecond},
		rules: newRuling(s, resolve)}
	var err error
	d.dials, err = forward.ServeDials(l, d.connect)
	return d, err
}

func (d *guestDials) connect(ctx context.Context, host string, port uint16) (*net.TCPConn, egress.Target, *egress.Refused) {
	if excess, rest, _ := d.asked.add(time.Now(), 1); excess > 0 {
		time.Sleep(rest)
	}
	d.mu.Lock()
	rules := d.rules
	d.mu.Unlock()
	c, target, failed := rules.connect(host, port)
	if failed == nil {
		return c, target, nil
	}
	d.refusals.tell(d.log, host, port, failed)
	return nil, target, &egress.Refused{Code: failed.code, Reason: failed.reason}
}

// serve implements outlet: a request out of place costs the image that connection.
func (d *guestDials) serve() error {
	<-d.ended
	return net.ErrClosed
}

func (d *guestDials) enforce(s egress.Section) {
	rules := newRuling(s, resolve)
	d.mu.Lock()
	d.rules = rules
	d.mu.Unlock()
	if n := d.dials.Recheck(func(t egress.Target) bool { return rules.section.Decide(t).Verdict == abi.Allow }); n > 0 {
		d.log(shutDown, n)
	}
}

func (d *guestDials) end() {
	d.dials.Close()
	close(d.ended)
}
