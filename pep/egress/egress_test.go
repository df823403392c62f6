package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/egress"
	"lorica.dev/lorica/pep"
)

// A tender makes connections to the test: the other ends come over peers. Where
// there is a gate, it waits for it.
type tender struct {
	peers chan net.Conn
	gate  chan struct{}
	asked int
}

func (x *tender) Connect(context.Context, string, uint16) (net.Conn, error) {
	x.asked++
	ours, theirs := net.Pipe()
	x.peers <- theirs
	if x.gate != nil {
		<-x.gate
	}
	return ours, nil
}

func allow(port uint16) []byte {
	return (&egress.Section{Lists: []egress.List{{Rule: abi.Rule{ID: abi.RuleEgress}, Rules: []egress.Rule{{Rule: abi.Rule{ID: "out"}, Verdict: abi.Allow,
		CIDRs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Names: []string{"a.test"}, Ports: []egress.Ports{{Lo: port, Hi: port}}}}}}}).Encode()
}

func enforce(t testing.TB, m *Module, section []byte) {
	t.Helper()
	s, err := m.Prepare(&pep.Input{Section: section})
	if err != nil {
		t.Fatal(err)
	}
	s.Enforce()
}

func module() (*Module, *tender) {
	x := &tender{peers: make(chan net.Conn, 8)}
	return New(x), x
}

func TestAConnectionIsWhatTheTenderMakes(t *testing.T) {
	m, x := module()
	enforce(t, m, allow(80))
	c, err := m.Dial(t.Context(), "a.test", 80)
	if err != nil {
		t.Fatal(err)
	}
	peer := <-x.peers
	go io.WriteString(peer, "in")
	b := make([]byte, 2)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "in" {
		t.Errorf("%q, %v", b, err)
	}
	c.Close()
	if err := c.Close(); err == nil {
		t.Error("closed twice")
	}
	if _, err := peer.Read(b); err != io.EOF || len(m.open) != 0 {
		t.Errorf("the peer: %v; %d open", err, len(m.open))
	}
}

// What the rules here deny is not even asked for.
func TestDeniedBeforeItIsAskedFor(t *testing.T) {
	m, x := module()
	for _, section := range [][]byte{nil, allow(80), (&egress.Section{}).Encode()} {
		if section != nil {
			enforce(t, m, section)
		}
		for host, port := range map[string]uint16{"127.0.0.1": 81, "b.test": 80, "127.0.0.2": 80, "A.test": 80, "": 80, "a.test.": 80, "0.0.0.0": 80, "127.0.0.1%lo": 80} {
			var refused egress.Refused
			if _, err := m.Dial(t.Context(), host, port); !errors.As(err, &refused) || refused.Code != egress.Denied {
				t.Errorf("%s port %d: %v", host, port, err)
			}
		}
	}
	if x.asked > 0 {
		t.Errorf("the tender was asked %d times", x.asked)
	}
}

// A new program closes what it does not allow, and what was on its way.
func TestWithdrawnConnectionsAreClosed(t *testing.T) {
	m, x := module()
	enforce(t, m, allow(80))
	c, err := m.Dial(t.Context(), "a.test", 80)
	if err != nil {
		t.Fatal(err)
	}
	peer := <-x.peers
	x.gate = make(chan struct{})
	late := make(chan error, 1)
	go func() {
		c, err := m.Dial(t.Context(), "a.test", 80)
		if c != nil {
			err = errors.New("it is there")
		}
		late <- err
	}()
	latePeer := <-x.peers
	enforce(t, m, allow(81))
	if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the peer: %v", err)
	}
	if _, err := c.Write([]byte("x")); err == nil {
		t.Error("it is written to")
	}
	close(x.gate)
	var refused egress.Refused
	if err := <-late; !errors.As(err, &refused) {
		t.Errorf("the late one: %v", err)
	}
	if _, err := latePeer.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the late peer: %v", err)
	}
}

func TestPrepareFailsClosed(t *testing.T) {
	for _, b := range [][]byte{nil, {}, {1}, []byte("garbage")} {
		if s, err := New(nil).Prepare(&pep.Input{Section: b}); err == nil || s != nil {
			t.Errorf("%q: %v", b, s)
		}
	}
	if _, err := New(nil).Dial(t.Context(), "127.0.0.1", 80); err == nil {
		t.Error("a module without a program dials")
	}
}
