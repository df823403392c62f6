package link

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/link"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/tender/forward"
)

// letting allows networks.
func letting(networks ...string) flow.List {
	l := flow.List{Rule: abi.Rule{ID: abi.RuleNetwork}}
	for _, s := range networks {
		l.Rules = append(l.Rules, flow.Rule{Rule: abi.Rule{ID: s}, Verdict: abi.Allow, Src: netip.MustParsePrefix(s), FromHi: 65535, PortHi: 65535})
	}
	return l
}

// Whom the rules deny has no connection, and knows at once: the image's stack never hears
// of it. A client at ::1 is judged as such.
func TestDeniedClientsKnowAtOnce(t *testing.T) {
	r := newRig(t, faults{}, mtu)
	r.serve(0, mirror)
	r.enforce(t, letting("192.0.2.0/24", "::1/128"))
	for client, allowed := range map[string]bool{
		"192.0.2.7:40000": true, "[::1]:40000": true, "[::ffff:192.0.2.8]:40000": true,
		"10.0.0.1:40000": false, "127.0.0.1:40000": false, "[2001:db8::1]:40000": false, "[fd6c:6f72:6963:62::5]:40000": false,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		c, err := r.tender.Dial(ctx, netip.MustParseAddrPort(client), port(0))
		late := ctx.Err()
		cancel()
		if allowed != (err == nil) || late != nil {
			t.Errorf("%s: %v, %v", client, err, late)
		}
		if err == nil {
			c.Close()
		}
	}
	n := r.filter.(pep.PacketReporter).Counters()
	if n.Denied != 4 || n.Malformed != 0 {
		t.Errorf("counted %+v", n)
	}
	if made := r.accepted.Load(); made > 3 {
		t.Errorf("the image accepted %d connections", made)
	}
}

// Whoever has the address that stands for ::1 on a link is not taken for ::1.
func TestNobodyElseIsLoopback(t *testing.T) {
	r := newRig(t, faults{}, mtu)
	r.serve(0, mirror)
	client := netip.AddrPortFrom(link.Loopback6, 40000)
	if c, err := r.tender.Dial(t.Context(), client, port(0)); err == nil {
		t.Errorf("%v has a connection: %v", client, c)
	}
	if n := r.filter.(pep.PacketReporter).Counters(); n.Flows > 0 {
		t.Errorf("the image heard of it: %+v", n)
	}
}

// Rules that change stop connections that they do not allow, both ways, and let them go
// on where they allow them again. That it ends a client hears all the same.
func TestConnectionsThatRulesStop(t *testing.T) {
	r := newRig(t, faults{}, mtu)
	client, image := r.pair(t)
	other, kept := r.pair(t)
	say := func(from, to net.Conn) {
		t.Helper()
		if _, err := from.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		to.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadFull(to, make([]byte, 1)); err != nil {
			t.Errorf("nothing was heard: %v", err)
		}
	}
	hush := func(from, to net.Conn) {
		t.Helper()
		if _, err := from.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		to.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if n, err := to.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("heard %d bytes, %v", n, err)
		}
	}
	say(client, image)
	say(image, client)
	r.enforce(t, letting("192.0.2.0/24"))
	hush(client, image)
	hush(image, client)
	r.enforce(t, letting("127.0.0.0/8"))
	for _, c := range []net.Conn{image, client} { // what was said meanwhile
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Errorf("what was said meanwhile is not heard: %v", err)
		}
	}
	say(client, image)
	say(image, client)
	r.enforce(t, letting("192.0.2.0/24"))
	kept.Close()
	other.SetReadDeadline(time.Now().Add(20 * time.Second))
	if n, err := other.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a client whose connection has ended heard %d bytes, %v", n, err)
	}
}

// What the image asks of its tender is no matter of rules on clients.
func TestDialsPassWhateverClientsMay(t *testing.T) {
	r := newRig(t, faults{}, mtu)
	_, port := outside(t)
	dials, err := forward.ServeDials(r.tender, func(_ context.Context, host string, port uint16) (*net.TCPConn, egress.Target, *egress.Refused) {
		target := egress.Target{Name: host, Addr: netip.MustParseAddr(host), Port: port}
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
	r.enforce(t, letting("192.0.2.0/32"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := r.image.Connect(ctx, "127.0.0.1", port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r.enforce(t, letting("192.0.2.1/32"))
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Error(err)
	}
}
