package tender

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/tender/forward"
	"lorica.dev/lorica/tender/qemu"
	"lorica.dev/lorica/tender/usernet"
	"lorica.dev/lorica/tender/way"
)

// stopAfter bounds how long clients are waited for that are on their way to an image
// that is to end, or have not taken what it had to say.
const stopAfter = 10 * time.Second

// Ways by which clients' packets come to an image that has a stack of its own, as
// Status.Way names them.
const (
	WayRouted    = "routed"    // the kernel sends them there
	WayPrivate   = "private"   // the tender accepts clients, and connects for them in a network namespace
	WayNested    = "nested"    // the same, in one that an ordinary user may make
	WayOwnStack  = "own stack" // the same, by a TCP stack of the tender's own
	WayInterface = "interface" // the image is on their network itself
)

// A network joins the images of a tender, one after another, to their clients.
type network struct {
	spec    way.Spec
	name    string  // of the way; "" before there is one
	lasting way.Way // from one image to the next; nil: each gets a new one
	most    int     // connections at once
	binds   []uint16
	waiting []forward.Client // of the image that died: the next one gets them
	log     func(string, ...any)
}

func newNetwork(t *tender, raw bool) (*network, error) {
	n := &network{spec: way.Spec{MTU: usernet.MTU, Raw: raw, IPv4: t.cfg.IPv4},
		log: func(format string, args ...any) { t.log(FromTender, format, args...) }}
	var err error
	n.most, err = mostClients()
	return n, err
}

// mostClients leaves descriptors for what else the tender does: its files, a launch,
// and those who ask at its control socket.
func mostClients() (int, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, fmt.Errorf("tender: RLIMIT_NOFILE: %w", err)
	}
	const kept, each = 32, 2 // a connection is one to the client, and may be one to the image
	return int(min((max(l.Cur, kept+each)-kept)/each, 1<<16)), nil
}

func (n *network) close() {
	for _, c := range n.waiting {
		c.Close()
	}
	if n.lasting != nil {
		n.closeWay(n.lasting)
	}
}

// closeWay says what could not be put back as it was, which is for an administrator to do.
func (n *network) closeWay(w way.Way) {
	if err := w.Close(); err != nil {
		n.log("%v", err)
	}
}

// A joint is the network of one life of an image.
type joint struct {
	way.Way
	network *network
	doors   *forward.Forwarder
	dials   *guestDials // nil: it makes no connections
	log     func(string, ...any)

	mu     sync.Mutex
	strays []net.Listener // where nobody is to arrive
}

// join makes a network for the next life of the image.
func (n *network) join(t *tender) (*joint, error) {
	if n.binds == nil {
		n.binds = bindings(t.cfg.Listen)
	}
	j := &joint{network: n, log: n.log}
	var err error
	if j.Way, err = n.open(t); err != nil {
		return nil, fmt.Errorf("tender: %w", err)
	}
	if t.egress != nil {
		if j.dials, err = newGuestDials(j, *t.egress, j.log); err != nil {
			j.release()
			return nil, err
		}
	}
	j.doors = forward.New(j, n.most, j.log)
	t.mu.Lock()
	t.status.Way = n.name
	t.mu.Unlock()
	return j, nil
}

// open returns the network for a life. The best that the host gives is looked for once:
// what it is stays so.
func (n *network) open(t *tender) (way.Way, error) {
	if n.lasting != nil {
		return n.lasting, nil
	}
	if i := t.cfg.Interface; i != nil {
		opened, err := way.OpenInterface(i.Name, n.spec.Raw)
		if err != nil {
			return nil, err
		}
		opened.Address(i.Static, i.Gateways, i.DHCP, i.SLAAC)
		n.name, n.lasting = WayInterface, opened
		return opened, nil
	}
	if n.name == "" {
		n.name = WayOwnStack
		for _, w := range n.ways(t) {
			opened, err := w.open()
			if err == nil {
				n.name, n.lasting = w.name, opened
				return opened, nil
			}
			t.log(FromTender, "the network of the image is not %s: %v", w.name, err)
		}
	}
	return usernet.Open(n.spec)
}

// A choice is a way that may work here.
type choice struct {
	name string
	open func() (way.Way, error)
}

// ways lists those that last, the best first.
func (n *network) ways(t *tender) []choice {
	private := choice{WayPrivate, func() (way.Way, error) { return way.OpenPrivate(n.spec) }}
	nested := choice{WayNested, func() (way.Way, error) { return way.OpenNested(n.spec) }}
	routed := choice{WayRouted, func() (way.Way, error) { return n.openRouted(&t.cfg) }}
	switch {
	case os.Geteuid() != 0:
		return []choice{nested}
	case t.cfg.Net != api.NetDirect:
		return []choice{private, nested}
	}
	return []choice{routed, private, nested}
}

// openRouted opens a link on which the kernel reaches every client that there may be:
// to have some that nobody hears is no network.
func (n *network) openRouted(cfg *Config) (way.Way, error) {
	r, err := way.OpenRouted("lorica "+cfg.Instance, n.spec)
	if err != nil {
		return nil, err
	}
	var listen []netip.Addr
	for _, l := range cfg.Listen {
		a, err := netip.ParseAddr(l.Address)
		if err != nil {
			r.Close()
			return nil, fmt.Errorf("listener %q: %w", l.Name, err)
		}
		listen = append(listen, a)
	}
	if notes := r.Notes(listen...); len(notes) > 0 {
		r.Close()
		return nil, errors.New(strings.Join(notes, "; "))
	}
	return r, nil
}

// release lets go of a network that is not for the next life.
func (j *joint) release() {
	n := j.network
	if j.Way == n.lasting {
		if !over(j.Way) {
			return
		}
		n.lasting, n.name = nil, ""
	}
	n.closeWay(j.Way)
}

// A brittle way can end before the image does.
type brittle interface{ Done() <-chan struct{} }

func over(w way.Way) bool {
	b, ok := w.(brittle)
	return ok && closed(b.Done())
}

// card says what carries frames to QEMU.
func (j *joint) card() qemu.Network {
	if j.network.name == WayOwnStack {
		return qemu.Stream
	}
	return qemu.Interface
}

// bindings returns the port of the image's own stack for each listener: the one that
// clients know, where no other listener has it.
func bindings(list []Listener) []uint16 {
	var ports []uint16
	for _, l := range list {
		ports = append(ports, l.Port)
	}
	for i := range ports {
		for slices.Contains(ports[:i], ports[i]) || ports[i] == 0 {
			for ports[i] = 1 << 10; slices.Contains(ports[:i], ports[i]) || slices.Contains(ports[i+1:], ports[i]); ports[i]++ {
			}
		}
	}
	return ports
}

// drop ends a network that no image was joined to.
func (j *joint) drop() {
	if j.dials != nil {
		j.dials.end()
	}
	j.release()
}

// attend has inst, which was given the network, ask over it for connections. Where only
// the image is to have its end, it ends when it lets go of that.
func (j *joint) attend(inst *instance) {
	if j.dials != nil {
		inst.outlet = j.dials
	}
	if own, ok := j.Way.(*usernet.Net); ok {
		own.File().Close()
	}
	if b, ok := j.Way.(brittle); ok {
		go func() {
			select {
			case <-b.Done():
				inst.leave(fmt.Errorf("its network: %w", io.EOF))
			case <-inst.proc.Done():
			}
		}()
	}
}

// params tells the image of its network.
func (j *joint) params(p *launch.Params) {
	p.Link = j.Link()
	for i := range p.Listeners {
		p.Listeners[i].Bind = j.network.binds[i]
	}
}

// serve lets clients of every listener come to the image.
func (j *joint) serve(t *tender) error {
	j.doors.Resume(j.network.waiting)
	j.network.waiting = nil
	serve := j.doors.Serve
	if routed, ok := j.Way.(*way.Routed); ok {
		if err := j.admit(routed, t.cfg.Listen); err != nil {
			return err
		}
		serve = j.stray
	}
	for i, f := range t.listeners {
		ln, err := net.FileListener(f)
		if err == nil {
			err = serve(j.network.binds[i], ln)
		}
		if err != nil {
			return fmt.Errorf("tender: listener %q: %w", t.cfg.Listen[i].Name, err)
		}
	}
	return nil
}

// admit has the kernel route clients to the image.
func (j *joint) admit(r *way.Routed, list []Listener) error {
	var doors []way.Door
	for i, l := range list {
		a, err := netip.ParseAddr(l.Address)
		if err != nil {
			return fmt.Errorf("tender: listener %q: %w", l.Name, err)
		}
		doors = append(doors, way.Door{Listen: netip.AddrPortFrom(a, l.Port), Bind: j.network.binds[i]})
	}
	if err := r.Admit(doors); err != nil {
		return fmt.Errorf("tender: %w", err)
	}
	return nil
}

// strayAfter is for an instance before this one to accept what had arrived at the
// sockets when the kernel began to route.
const strayAfter = 2 * time.Second

// stray resets who arrives at a socket though the kernel routes its clients: it connected
// before that, and nobody will ever accept it.
func (j *joint) stray(_ uint16, ln net.Listener) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.strays = append(j.strays, ln)
	go func() {
		time.Sleep(strayAfter)
		for {
			c, err := ln.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				time.Sleep(strayAfter)
				continue
			}
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	}()
	return nil
}

// shut closes what stray was given.
func (j *joint) shut() {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, ln := range j.strays {
		ln.Close()
	}
	j.strays = nil
}

// settle is for clients whose packets are on their way to the image when the kernel
// routes others elsewhere.
const settle = 100 * time.Millisecond

// stop lets no more clients come; none is on its way when it returns.
func (j *joint) stop() error {
	if r, ok := j.Way.(*way.Routed); ok {
		j.shut()
		err := r.Admit(nil)
		time.Sleep(settle)
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopAfter)
	defer cancel()
	return j.doors.Stop(ctx)
}

// end lets go of the image, which has ended, when clients have what it had to say if
// that was in order.
func (j *joint) end(inOrder bool) {
	if inOrder {
		ctx, cancel := context.WithTimeout(context.Background(), stopAfter)
		defer cancel()
		if err := j.doors.Finish(ctx); err != nil {
			j.log("%v", err)
		}
	}
	j.shut()
	j.network.waiting = append(j.network.waiting, j.doors.Close()...)
	j.release()
}
