package dhcp

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A network is a link of a client, with a server that a test plays.
type network struct {
	asked chan asked
	heard chan []byte
	done  chan struct{}

	mu   sync.Mutex
	held []string
}

type asked struct {
	from, to netip.Addr
	kind     kind
	id       uint32
	answer   // what options say
	current  netip.Addr
}

func (n *network) MAC() [6]byte          { return mac }
func (n *network) Heard() <-chan []byte  { return n.heard }
func (n *network) Done() <-chan struct{} { return n.done }

func (n *network) Hold(a netip.Prefix, router netip.Addr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held = append(n.held, a.String()+" by "+router.String())
	return nil
}

func (n *network) Ask(from, to netip.Addr, b []byte) error {
	q := asked{from: from, to: to, id: binary.BigEndian.Uint32(b[atID:]), current: netip.AddrFrom4([4]byte(b[atCurrent:]))}
	q.options(b[atOptions:])
	q.kind = q.answer.kind
	select {
	case n.asked <- q:
	case <-n.done:
	}
	return nil
}

// next returns the next question.
func (n *network) next(t *testing.T, want kind) asked {
	t.Helper()
	select {
	case q := <-n.asked:
		if q.kind != want {
			t.Fatalf("it asks %+v, and not for %d", q, want)
		}
		return q
	case <-time.After(24 * time.Hour):
		t.Fatal("it does not ask")
		return asked{}
	}
}

// holds waits until the client has held these, one after the other.
func (n *network) holds(t *testing.T, want ...string) {
	t.Helper()
	for range 100 {
		n.mu.Lock()
		same := slices.Equal(n.held, want)
		n.mu.Unlock()
		if same {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	t.Fatalf("it held %q, and not %q", n.held, want)
}

// start runs a client, in the time of package synctest.
func start(t *testing.T) *network {
	n := &network{asked: make(chan asked), heard: make(chan []byte, 8), done: make(chan struct{})}
	var ended sync.WaitGroup
	ended.Go(func() { (&client{n}).run() })
	t.Cleanup(func() {
		close(n.done)
		ended.Wait()
	})
	return n
}

const mineByRouter, none = "10.0.0.9/24 by 10.0.0.1", "invalid Prefix by invalid IP"

// lend has the client take an address for a time.
func lend(t *testing.T, n *network, seconds uint32) {
	t.Helper()
	q := n.next(t, discover)
	if q.from.IsValid() || q.to.IsValid() {
		t.Errorf("it looks for servers from %v to %v", q.from, q.to)
	}
	time := binary.BigEndian.AppendUint32(nil, seconds)
	n.heard <- answerOf(offer, q.id, "10.0.0.9", map[byte][]byte{optionLease: time})
	q = n.next(t, request)
	if q.server.String() != "10.0.0.1" || q.to.IsValid() {
		t.Errorf("it asks %+v", q)
	}
	n.heard <- answerOf(ack, q.id, "10.0.0.9", map[byte][]byte{optionLease: time})
}

func TestALease(t *testing.T) { synctest.Test(t, testALease) }

func testALease(t *testing.T) {
	n := start(t)
	n.next(t, discover) // nobody hears it
	lend(t, n, 1000)
	n.holds(t, mineByRouter)

	// Its server extends it, with another router.
	q := n.next(t, request)
	if q.from.String() != "10.0.0.9" || q.to.String() != "10.0.0.1" || q.current != q.from || q.server.IsValid() {
		t.Errorf("it asks its server %+v", q)
	}
	n.heard <- answerOf(ack, q.id, "10.0.0.9", map[byte][]byte{optionLease: {0, 0, 3, 0}, optionRouter: {10, 0, 0, 2}})
	n.holds(t, mineByRouter, "10.0.0.9/24 by 10.0.0.2")

	// Its server says nothing, another does.
	for q = n.next(t, request); q.to.IsValid(); q = n.next(t, request) {
	}
	if q.current.String() != "10.0.0.9" {
		t.Errorf("it asks everybody %+v", q)
	}
	n.heard <- answerOf(ack, q.id, "10.0.0.9", map[byte][]byte{optionServer: {10, 0, 0, 3}, optionLease: {0, 0, 3, 0}})
	n.holds(t, mineByRouter, "10.0.0.9/24 by 10.0.0.2", mineByRouter)

	// That one is its server now. Nobody says anything: its time is over.
	if q = n.next(t, request); q.to.String() != "10.0.0.3" {
		t.Errorf("it asks %v", q.to)
	}
	for q.kind == request {
		q = <-n.asked
	}
	if q.kind != discover {
		t.Errorf("it asks %+v", q)
	}
	n.holds(t, mineByRouter, "10.0.0.9/24 by 10.0.0.2", mineByRouter, none)
}

func TestAServerTakesItBack(t *testing.T) { synctest.Test(t, testAServerTakesItBack) }

func testAServerTakesItBack(t *testing.T) {
	n := start(t)
	lend(t, n, 1000)
	n.holds(t, mineByRouter)
	q := n.next(t, request)
	n.heard <- answerOf(nak, q.id, "", nil)
	n.next(t, discover)
	n.holds(t, mineByRouter, none)
}

func TestAnOfferThatIsTakenBack(t *testing.T) { synctest.Test(t, testAnOfferThatIsTakenBack) }

func testAnOfferThatIsTakenBack(t *testing.T) {
	n := start(t)
	q := n.next(t, discover)
	n.heard <- answerOf(offer, q.id, "10.0.0.9", nil)
	q = n.next(t, request)
	n.heard <- answerOf(nak, q.id, "", nil)
	lend(t, n, 1<<32-1) // forever
	n.holds(t, mineByRouter)
	select {
	case q := <-n.asked:
		t.Errorf("it has it forever, and asks %+v", q)
	case <-time.After(10 * 365 * 24 * time.Hour):
	}
}

// Others on the link know neither the number of the question nor, from outside, anything.
func TestForgedAnswers(t *testing.T) { synctest.Test(t, testForgedAnswers) }

func testForgedAnswers(t *testing.T) {
	n := start(t)
	q := n.next(t, discover)
	other := map[byte][]byte{optionServer: {10, 0, 0, 66}}
	n.heard <- answerOf(offer, q.id+1, "10.0.0.66", nil)
	n.heard <- answerOf(ack, q.id, "10.0.0.66", nil)
	n.heard <- answerOf(offer, q.id, "10.0.0.9", nil)
	r := n.next(t, request)
	n.heard <- answerOf(ack, r.id, "10.0.0.9", other)
	n.heard <- answerOf(nak, r.id, "", other)
	n.heard <- answerOf(ack, r.id, "10.0.0.66", nil)
	n.heard <- answerOf(ack, r.id+1, "10.0.0.9", nil)
	n.heard <- answerOf(ack, r.id, "10.0.0.9", map[byte][]byte{optionLease: {0, 0, 16, 0}})
	n.holds(t, mineByRouter)
	r = n.next(t, request) // for more time
	n.heard <- answerOf(nak, r.id, "", other)
	n.heard <- answerOf(nak, r.id+1, "", nil)
	n.heard <- answerOf(ack, r.id, "10.0.0.66", nil)
	n.heard <- answerOf(ack, r.id, "10.0.0.9", nil)
	n.holds(t, mineByRouter, mineByRouter)
}
