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
	out      sync.Pool // of *[]byte, what is written
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
		verified: l.Verified, fd: fd, file: f, raw: raw,
	}
	d.out.New = func() any { return new([]byte) }
	return d, nil
}

// Traits implements direct.Device.
func (d *device) Traits() direct.Traits { return d.traits }

// Send implements direct.Device. A frame that the other end cannot take now is lost, as
// on any link; one for which it has no room yet waits. Several are written at a time:
// the kernel passes each on before its write returns.
func (d *device) Send(f *direct.Frame) error {
	out := d.out.Get().(*[]byte)
	defer d.out.Put(out)
	b := header(f).append((*out)[:0])
	for _, p := range f.Parts {
		b = append(b, p...)
	}
	*out = b
	if len(b) > headerSize+maxFrame {
		return fmt.Errorf("a frame of %d bytes", len(b)-headerSize)
	}
	err := d.try(b)
	if err == syscall.EAGAIN { // the poller is asked only where it is needed
		if broken := d.raw.Write(func(uintptr) bool { err = d.try(b); return err != syscall.EAGAIN }); broken != nil {
			return broken
		}
	}
	switch err {
	case syscall.EIO, syscall.ENETDOWN, syscall.ENOBUFS, syscall.ENOMEM: // down, or short of memory
		return nil
	}
	return err
}

// try writes b, unless there is no room.
func (d *device) try(b []byte) error {
	for {
		_, err := syscall.Write(d.fd, b)
		switch err {
		case syscall.EINTR:
		case nil:
			return nil
		default:
			return err
		}
	}
}

// Receive implements direct.Device.
func (d *device) Receive(f func(direct.Packet)) error {
	b, p := make([]byte, headerSize+maxFrame+1), new(packet)
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
				var ok bool
				if *p, ok = parse(b[:n], d.verified); ok {
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
