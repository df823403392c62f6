package tender

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/egress"
)

const (
	connectWithin = 5 * time.Second
	resolveWithin = 5 * time.Second
	maxAddresses  = 16          // of a name
	resolvePause  = time.Second // between two resolutions of a name

	// unheard is how long what was sent may stay without a word of the peer's before its
	// connection ends. The kernel alone would try for a quarter of an hour, and who writes
	// records would take them for sent. A peer that reads nothing for so long ends it as well.
	unheard = time.Minute
)

// A resolver returns the addresses of a name.
type resolver func(ctx context.Context, name string) ([]netip.Addr, error)

// resolve asks the host's resolver, as any program on it would: its hosts file and
// its search list count.
func resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
}

// A ruling holds the rules of one program, and what names resolved to while it
// was in force.
type ruling struct {
	section egress.Section
	resolve resolver
	unheard time.Duration

	mu   sync.Mutex
	pins map[string]*pin // of names that rules allow
}

// A pin is what a name resolved to. It is resolved again only when nobody could be
// connected to at any of its addresses, and not more than once in resolvePause,
// whether that failed or not.
type pin struct {
	mu     sync.Mutex
	addrs  []netip.Addr
	at     time.Time // of addrs
	failed *undialed // of the last try, if it failed
	tried  time.Time
}

func newRuling(s egress.Section, r resolver) *ruling {
	return &ruling{section: s, resolve: r, unheard: unheard, pins: make(map[string]*pin)}
}

// An undialed says why there is no connection.
type undialed struct {
	code   egress.Code
	reason string
}

func denied(res egress.Result) *undialed {
	if res.Rule.ID == "" {
		return &undialed{egress.Denied, "the program has no rules for connections"}
	}
	reason := "denied by " + res.Rule.ID
	if res.Rule.Line != "" {
		reason += " (" + res.Rule.Line + ")"
	}
	if res.Reason != "" {
		reason += ": " + res.Reason
	}
	return &undialed{egress.Denied, reason}
}

// connect connects to a host, if the rules allow it. The target has the address
// that was connected to.
func (o *ruling) connect(host string, port uint16) (*net.TCPConn, egress.Target, *undialed) {
	t, err := egress.ParseTarget(host, port)
	if err != nil {
		return nil, t, &undialed{egress.Denied, err.Error()}
	}
	if res := o.section.Decide(t); res.Verdict != abi.Allow {
		return nil, t, denied(res)
	}
	if t.Name == "" {
		return o.try(t, []netip.Addr{t.Addr})
	}
	o.mu.Lock()
	p := o.pins[t.Name]
	if p == nil {
		p = &pin{}
		o.pins[t.Name] = p
	}
	o.mu.Unlock()
	addrs, at, failed := p.get(o.resolve, t.Name, time.Time{})
	if failed != nil {
		return nil, t, failed
	}
	c, with, failed := o.try(t, addrs)
	if failed == nil {
		return c, with, nil
	}
	again, later, stale := p.get(o.resolve, t.Name, at)
	if stale != nil || later.Equal(at) {
		return nil, t, failed
	}
	return o.try(t, again)
}

// get returns the addresses of the name, resolved after the given time, or the
// ones there are where that would be too soon.
func (p *pin) get(r resolver, name string, after time.Time) ([]netip.Addr, time.Time, *undialed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.at.After(after) {
		return p.addrs, p.at, nil
	}
	if time.Since(p.tried) < resolvePause {
		return p.addrs, p.at, p.failed
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveWithin)
	defer cancel()
	addrs, err := r(ctx, name)
	if err == nil && len(addrs) == 0 {
		err = errors.New("it has no address")
	}
	p.tried, p.failed = time.Now(), nil
	if err != nil {
		p.failed = &undialed{egress.Unresolved, "the name cannot be resolved: " + err.Error()}
		return nil, p.at, p.failed
	}
	p.addrs, p.at = addrs[:min(len(addrs), maxAddresses)], p.tried
	return p.addrs, p.at, nil
}

// try connects to the first address that answers. The rules are asked about each.
func (o *ruling) try(t egress.Target, addrs []netip.Addr) (*net.TCPConn, egress.Target, *undialed) {
	failed := &undialed{egress.Unresolved, "the name has no address"}
	for _, a := range addrs {
		t.Addr = a.Unmap()
		if res := o.section.Decide(t); res.Verdict != abi.Allow {
			failed = denied(res)
			continue
		}
		// A share for each, so that none waits for one that never answers, nor the image
		// for all of them. TCP_NODELAY and keep-alive are defaults.
		d := net.Dialer{Timeout: connectWithin / time.Duration(len(addrs)), Control: o.giveUp}
		c, err := d.Dial("tcp", netip.AddrPortFrom(t.Addr, t.Port).String())
		if err == nil {
			return c.(*net.TCPConn), t, nil
		}
		failed = &undialed{egress.Unreachable, fmt.Sprintf("connecting to %s: %v", t.Addr, errors.Unwrap(err))}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			failed.code = egress.Late
		}
	}
	return nil, t, failed
}

// giveUp lets a socket end its connection where the peer is unheard.
func (o *ruling) giveUp(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = os.NewSyscallError("TCP_USER_TIMEOUT", unix.SetsockoptInt(int(fd), unix.SOL_TCP, unix.TCP_USER_TIMEOUT, int(o.unheard.Milliseconds())))
	})
	return cmp.Or(err, failed)
}

// duplicateConn returns a descriptor of the same socket that the runtime's poller
// knows nothing of: the tender must not wake up for what the image reads.
func duplicateConn(c *net.TCPConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd, failed := -1, error(nil)
	if err := raw.Control(func(s uintptr) { fd, failed = unix.FcntlInt(s, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return -1, err
	}
	return fd, failed
}
