package relay

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// sockets returns the two ends of a connection of the kernel.
func sockets(t *testing.T) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// Bytes arrive as they were sent, and what waits for bytes holds neither buffer nor
// descriptor.
func TestBytesAreMoved(t *testing.T) {
	sent := make([]byte, 5<<20)
	rand.Read(sent)
	client, src := sockets(t)
	dst, server := sockets(t)
	var c Pool
	done := make(chan error, 1)
	before := files(t)
	go func() {
		err := c.Move(dst, src)
		dst.(*net.TCPConn).CloseWrite()
		done <- err
	}()
	for range 100 { // it waits
		if time.Sleep(time.Millisecond); c.used.Load() == 0 {
			break
		}
	}
	if n := files(t); c.used.Load() != 0 || n != before {
		t.Errorf("while there is nothing to move, %d buffers are held, and %d files are open of %d before", c.used.Load(), n, before)
	}
	go func() {
		client.Write(sent)
		client.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(server)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes of %d, %v", len(got), len(sent), err)
	}
	if err := <-done; err != nil || c.used.Load() != 0 {
		t.Errorf("%v, %d buffers are held", err, c.used.Load())
	}
}

func files(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// Receivers that take nothing hold a bounded amount each, the less the more they are.
func TestBuffersGetSmall(t *testing.T) {
	var c Pool
	var list [][]byte
	for range many + 10 {
		list = append(list, c.Get())
	}
	if len(list[0]) != large || len(list[many]) != small {
		t.Errorf("the first has %d bytes, a late one %d", len(list[0]), len(list[many]))
	}
	for _, b := range list {
		c.Put(b)
	}
	if c.used.Load() != 0 || len(c.Get()) != large {
		t.Error("what is given back is not there again")
	}
}

func TestAResetIsAnError(t *testing.T) {
	client, src := sockets(t)
	dst, _ := sockets(t)
	var c Pool
	done := make(chan error, 1)
	go func() { done <- c.Move(dst, src) }()
	client.(*net.TCPConn).SetLinger(0)
	client.Close()
	if err := <-done; err == nil {
		t.Error("a reset passes for the end")
	}
}
