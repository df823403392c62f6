// Package tap is the network of a process that has one of its own: a TCP/IP stack over
// a descriptor that its tender handed in, a TAP device or one end of a socket pair. Each
// read and each write is one Ethernet frame behind a header, as package launch says.
package tap

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"lorica.dev/lorica/abi/launch"
	"lorica.dev/lorica/netstack/direct"
)

// burst is how many frames are read before others get to run.
const burst = 64

// New returns the module.
func New(options ...direct.Option) *direct.Net { return direct.New(open, options...) }

func open(p *launch.Params) (direct.Device, error) { return adopt(launch.NetFD, &p.Link) }

// A device is the descriptor. It makes the calls read and write, and those of the
// runtime's poller, on which it waits.
type device struct {
	traits   direct.Traits
	verified bool
	fd       int
	file     *os.File // keeps the descriptor
	raw      syscall.RawConn
	write    func(fd uintptr) bool // writes out; false if there is no room

	mu  sync.Mutex // held by who sends
	out []byte
	err error // of the last write
}

// adopt takes a descriptor over. It needs system calls that a sealed image does not have.
func adopt(fd int, l *launch.Link) (*device, error) {
	if l.MAC[0]&1 != 0 || l.MAC == [6]byte{} {
		return nil, fmt.Errorf("%x is no hardware address of one device", l.MAC)
	}
	if err := syscall.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("device, descriptor %d: %w", fd, err)
	}
	f := os.NewFile(uintptr(fd), "link")
	if err := f.SetDeadline(time.Time{}); err != nil { // what the poller does not know has none
		return nil, fmt.Errorf("device, descriptor %d: nobody can wait for it: %w", fd, err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("device, descriptor %d: %w", fd, err)
	}
	d := &device{
		traits:   direct.Traits{MAC: l.MAC, MTU: int(l.MTU), Checksums: l.Offload, Segments: l.Offload},
		verified: l.Verified, fd: fd, file: f, raw: raw, out: make([]byte, 0, headerSize+maxFrame),
	}
	d.write = func(uintptr) bool { return d.try() }
	return d, nil
}

// Traits implements direct.Device.
func (d *device) Traits() direct.Traits { return d.traits }

// Send implements direct.Device. A frame that the other end cannot take now is lost, as
// on any link; one for which it has no room yet waits.
func (d *device) Send(f *direct.Frame) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.out = header(f).append(d.out[:0])
	for _, p := range f.Parts {
		d.out = append(d.out, p...)
	}
	if len(d.out) > headerSize+maxFrame {
		return fmt.Errorf("a frame of %d bytes", len(d.out)-headerSize)
	}
	if !d.try() { // the poller is asked only where it is needed
		if err := d.raw.Write(d.write); err != nil {
			return err
		}
	}
	switch d.err {
	case syscall.EIO, syscall.ENETDOWN, syscall.ENOBUFS, syscall.ENOMEM: // down, or short of memory
		return nil
	}
	return d.err
}

// try writes d.out; false if there is no room.
func (d *device) try() bool {
	for {
		_, d.err = syscall.Write(d.fd, d.out)
		switch d.err {
		case syscall.EINTR:
		case syscall.EAGAIN:
			return false
		default:
			return true
		}
	}
}

// Receive implements direct.Device.
func (d *device) Receive(f func(direct.Packet)) error {
	b := make([]byte, headerSize+maxFrame+1)
	var failed error
	drain := func(fd uintptr) bool {
		for range burst {
			n, err := syscall.Read(int(fd), b)
			switch {
			case err == syscall.EAGAIN:
				return false
			case err == syscall.EINTR:
			case err == nil && n == 0:
				failed = io.EOF
				return true
			case err != nil:
				failed = err
				return true
			default:
				if p, ok := parse(b[:n], d.verified); ok {
					f(p)
				}
			}
		}
		return true
	}
	for failed == nil {
		if err := d.raw.Read(drain); err != nil {
			return err
		}
		runtime.Gosched()
	}
	if failed == io.EOF {
		return errors.New("the tender has closed its end")
	}
	return failed
}
