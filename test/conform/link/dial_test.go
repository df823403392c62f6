package link

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/tender/forward"
)

// outside is what the tender connects an image to: it repeats what it hears.
func outside(t *testing.T) (net.Listener, uint16) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go mirror(c)
		}
	}()
	return ln, uint16(ln.Addr().(*net.TCPAddr).Port)
}

func TestImagesConnectThroughTheirTender(t *testing.T) {
	r := newRig(t, faults{}, mtu)
	_, port := outside(t)
	hang := make(chan struct{})
	defer close(hang)
	dials, err := forward.ServeDials(r.tender, func(ctx context.Context, host string, port uint16) (*net.TCPConn, egress.Target, *egress.Refused) {
		target := egress.Target{Name: host, Addr: netip.MustParseAddr("127.0.0.1"), Port: port}
		switch host {
		case "forbidden.test":
			return nil, target, &egress.Refused{Code: egress.Denied, Reason: "because"}
		case "slow.test":
			<-ctx.Done()
			return nil, target, &egress.Refused{Code: egress.Late, Reason: "slow"}
		}
		c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.AddrPortFrom(target.Addr, port)))
		if err != nil {
			return nil, target, &egress.Refused{Code: egress.Unreachable, Reason: err.Error()}
		}
		return c, target, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer dials.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	connect := func(host string) halfCloser {
		t.Helper()
		c, err := r.image.Connect(ctx, host, port)
		if err != nil {
			t.Fatalf("%s: %v", host, err)
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		return c.(halfCloser)
	}
	hear := func(c net.Conn) error {
		if _, err := io.WriteString(c, "x"); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 1))
		return err
	}

	c := connect("mirror.test")
	defer c.Close()
	if err := hear(c); err != nil {
		t.Error(err)
	}
	c.CloseWrite()
	if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
		t.Errorf("the end: %q, %v", rest, err)
	}

	var refused egress.Refused
	if c, err := r.image.Connect(ctx, "forbidden.test", port); !errors.As(err, &refused) || refused.Code != egress.Denied || refused.Reason != "because" {
		t.Errorf("a refusal: %v, %v", c, err)
	}
	if c, err := r.image.Connect(ctx, "127.0.0.1", 0); !errors.As(err, &refused) {
		t.Errorf("no target: %v, %v", c, err)
	}
	short, over := context.WithTimeout(ctx, 20*time.Millisecond)
	defer over()
	if c, err := r.image.Connect(short, "slow.test", port); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no answer: %v, %v", c, err)
	}

	// New rules end what they do not allow, and what is being connected meanwhile.
	stays, goes := connect("mirror.test"), connect("other.test")
	defer stays.Close()
	defer goes.Close()
	if n := dials.Recheck(func(t egress.Target) bool { return t.Name == "mirror.test" }); n != 1 {
		t.Errorf("%d connections were ended, not one", n)
	}
	if _, err := goes.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("what is not allowed any more: %v", err)
	}
	if err := hear(stays); err != nil {
		t.Errorf("what still is: %v", err)
	}
	if c, err := r.image.Connect(ctx, "other.test", port); !errors.As(err, &refused) {
		t.Errorf("what was allowed while it was connected: %v, %v", c, err)
	}
	dials.Close()
	if _, err := stays.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives the service")
	}
}
