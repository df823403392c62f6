package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// share returns another holder of a listening socket.
func share(t *testing.T, ln net.Listener) net.Listener {
	t.Helper()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	other, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	return other
}

// ask makes one request on a connection of its own.
func ask(addr string, n int) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	word := fmt.Sprint("request ", n)
	if _, err := io.WriteString(c, word); err != nil {
		return err
	}
	if err := c.(halfCloser).CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	if err == nil && string(got) != word {
		err = fmt.Errorf("%q is answered with %q", word, got)
	}
	return err
}

// Images replace each other on one socket, under load: no connection is lost, whatever
// the moment. LORICA_DRAINS is how often.
func TestDrainsLoseNothing(t *testing.T) {
	drains := 40
	if s := os.Getenv("LORICA_DRAINS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		drains = n
	}
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	var load sync.WaitGroup
	var asked, failed atomic.Int64
	stop := make(chan struct{})
	for range 8 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := ask(socket.Addr().String(), int(asked.Add(1))); err != nil {
					failed.Add(1)
					t.Error(err)
					return
				}
			}
		})
	}
	var drain func()
	for i := range drains {
		r := join(t, faults{}, mtu, i%2 == 0)
		r.serve(0, mirror)
		r.fwd.Serve(port(0), share(t, socket))
		if drain != nil {
			drain()
		}
		had := asked.Load()
		for asked.Load() < had+5 && failed.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		drain = func() {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			if err := r.fwd.Stop(ctx); err != nil {
				t.Fatal(err)
			}
			for r.accepted.Load() < r.made.Load() { // as it goes on to accept when it is drained
				time.Sleep(time.Millisecond)
			}
			r.ports[0].Close()
			r.serving.Wait()
			if err := r.image.Settle(ctx); err != nil {
				t.Fatal(err)
			}
			r.cable.sock.Close() // the machine ends
			if err := r.fwd.Finish(ctx); err != nil {
				t.Fatal(err)
			}
			r.fwd.Close()
			r.tender.Close()
		}
	}
	close(stop)
	load.Wait()
	drain()
	t.Logf("%d drains, %d connections", drains, asked.Load())
}

// What a guest had to say before it ended reaches a client that is slow to hear it; what
// it had not ended is reset at once.
func TestWordsOutliveTheGuest(t *testing.T) {
	r := newRig(t, faults{}, mtu)
	words := bytes.Repeat([]byte("last words "), 20000)
	var clients []halfCloser
	for _, says := range []bool{true, false} {
		client, image := r.pair(t)
		client.(*net.TCPConn).SetReadBuffer(32 << 10) // the host holds the rest
		if !says {
			client.CloseWrite()
		}
		if _, err := image.Write(words); err != nil {
			t.Fatal(err)
		}
		image.Close()
		clients = append(clients, client)
	}
	cut, half := r.pair(t)
	if _, err := cut.Write([]byte("?")); err != nil { // or the client could wait for another guest
		t.Fatal(err)
	}
	if _, err := io.ReadFull(half, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := half.Write([]byte("and")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(cut, make([]byte, 3)); err != nil { // it was welcomed, too
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := r.image.Settle(ctx); err != nil {
		t.Fatal(err)
	}
	r.cable.sock.Close()
	if err := r.fwd.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	r.fwd.Close()
	r.tender.Close()
	for i, c := range clients {
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, words) {
			t.Errorf("client %d: %d bytes of %d, %v", i, len(got), len(words), err)
		}
	}
	if _, err := io.ReadAll(cut); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("what had not ended: %v", err)
	}
}

// An image that ended now would take with it what the tender has not got.
func TestSettleWaitsForTheTender(t *testing.T) {
	r := newRig(t, faults{}, mtu)
	client, image := r.pair(t)
	r.cable.deaf.Store(true)
	if _, err := image.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	image.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := r.image.Settle(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody heard it, and it says %v", err)
	}
	r.cable.deaf.Store(false)
	if err := r.image.Settle(t.Context()); err != nil {
		t.Error(err)
	}
	r.cable.sock.Close()
	if got, err := io.ReadAll(client); err != nil || string(got) != "last words" {
		t.Errorf("the client hears %q, %v", got, err)
	}
}
