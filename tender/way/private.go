package way

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// private is the settings of a namespace with nobody in it but the kernel, beside those
// of the interface: packets come back to addresses that are anywhere, and what is known
// of one client says nothing of the next.
var private = []struct{ name, value string }{
	{"ipv4/conf/all/rp_filter", "0"},
	{"ipv4/conf/" + deviceName + "/rp_filter", "0"},
	{"ipv4/tcp_no_metrics_save", "1"},
}

const deviceName = "lorica0"

// enterPrivate makes the link in the network namespace of the calling thread, which is new.
func enterPrivate(s Spec) (*device, error) {
	d, err := openDevice(deviceName, s)
	if err != nil {
		return nil, err
	}
	if err := d.enter(); err != nil {
		d.file.Close()
		return nil, err
	}
	return d, nil
}

func (d *device) enter() error {
	for _, s := range private {
		if err := setSysctl(s.name, s.value); err != nil {
			return err
		}
	}
	route, err := openNetlink(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer route.close()
	if err := d.configure(route); err != nil {
		return err
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return err
	}
	list := []message{setUp(int32(lo.Index)), setUp(d.index)}
	for _, host := range d.link.Hosts {
		list = append(list, everywhere(family(host), int32(lo.Index)))
	}
	return route.do(list...)
}

// A thread is a private link whose sockets are made by a thread that is kept in its
// namespace; they work from any.
type thread struct {
	work chan func()
	gone chan struct{}
	once sync.Once
}

func newThread() *thread { return &thread{work: make(chan func()), gone: make(chan struct{})} }

// OpenPrivate makes a link in a namespace of its own. It takes root. The error says why
// there can be none.
func OpenPrivate(s Spec) (Way, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	t := newThread()
	var d *device
	ready := make(chan error)
	go t.live(ready, func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("a network namespace: %w", err)
		}
		d, err = enterPrivate(s)
		return err
	})
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("way: a private network: %w", err)
	}
	return &dialled{device: d, sockets: t}, nil
}

// live is the life of the thread in the namespace. It is never unlocked: the thread
// ends with this function, and the namespace with the last of its sockets.
func (t *thread) live(ready chan<- error, enter func() error) {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() { // the first thread of a process cannot end before it, and is what /proc shows
		defer runtime.UnlockOSThread()
		moved := make(chan error)
		go t.live(moved, enter) // on another, since this one is taken until then
		ready <- <-moved
		return
	}
	err := enter()
	ready <- err
	if err != nil {
		return
	}
	for {
		select {
		case f := <-t.work:
			f()
		case <-t.gone:
			return
		}
	}
}

// do runs f on the thread in the namespace.
func (t *thread) do(f func()) error {
	done := make(chan struct{})
	select {
	case t.work <- func() { f(); close(done) }:
		<-done
		return nil
	case <-t.gone:
		return net.ErrClosed
	}
}

// socket implements sockets.
func (t *thread) socket(family uint8) (f *os.File, err error) {
	closed := t.do(func() { f, err = newSocket(family) })
	if closed != nil {
		return nil, closed
	}
	return f, err
}

func (t *thread) close() { t.once.Do(func() { close(t.gone) }) }

// done implements sockets.
func (t *thread) done() <-chan struct{} { return t.gone }
