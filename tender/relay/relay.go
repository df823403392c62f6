// Package relay holds bytes on their way between two connections: a buffer is taken
// only while there are bytes to move, and buffers get small when many are held.
package relay

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	large = 32 << 10
	small = 4 << 10
	many  = 256 // in use: further ones are small
)

// A Pool is where buffers are. What is held is bounded by the number of connections
// whose receiver takes no more just now. The zero Pool is ready, and safe for
// concurrent use.
type Pool struct {
	used atomic.Int64
	free sync.Pool
}

// Get returns a buffer, which is to be put back.
func (p *Pool) Get() []byte {
	if p.used.Add(1) > many {
		return make([]byte, small)
	}
	if b, ok := p.free.Get().(*[large]byte); ok {
		return b[:]
	}
	return make([]byte, large)
}

// Put gives a buffer back.
func (p *Pool) Put(b []byte) {
	p.used.Add(-1)
	if len(b) == large {
		p.free.Put((*[large]byte)(b))
	}
}

// Fill waits until there is something to read, and only then takes a buffer for it,
// which is to be put back unless it is nil.
func (p *Pool) Fill(raw syscall.RawConn) (b []byte, n int, err error) {
	failed := raw.Read(func(fd uintptr) bool {
		b = p.Get()
		for {
			n, err = unix.Read(int(fd), b)
			if err != unix.EINTR {
				break
			}
		}
		if err == unix.EAGAIN {
			p.Put(b)
			b = nil
			return false
		}
		return true
	})
	switch {
	case failed != nil:
		return b, 0, failed
	case err != nil:
		return b, 0, err
	case n == 0:
		return b, 0, io.EOF
	}
	return b, n, nil
}

// Move passes bytes from src to dst until src ends. Between two sockets of the kernel,
// io.Copy would hold a pipe, which is two descriptors, even while there is nothing to
// move; others are to implement what it looks for, with a Pool.
func (p *Pool) Move(dst, src net.Conn) error {
	from, ok := src.(*net.TCPConn)
	if _, both := dst.(*net.TCPConn); !ok || !both {
		_, err := io.Copy(dst, src)
		return err
	}
	raw, err := from.SyscallConn()
	if err != nil {
		return err
	}
	for {
		b, n, err := p.Fill(raw)
		if n > 0 {
			_, err = dst.Write(b[:n])
		}
		if b != nil {
			p.Put(b)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
