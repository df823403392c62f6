package firewall_test

import (
	"net/netip"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/firewall"
)

func (r *rig) counters() control.Packets { return r.filter.(pep.PacketReporter).Counters() }

func TestPortsAreThoseOfTheRules(t *testing.T) {
	s := &flow.Section{Lists: []flow.List{{Rule: abi.Rule{ID: abi.RuleNetwork}, Rules: []flow.Rule{rule("https", abi.Allow, "10.0.0.0/8", 8443, 8443)}}}}
	r := newRig(t, place(), s)
	r.arrives(pep.Pass, client("10.0.0.1", 4000, 1443).in(syn, 1, 0, 0))
	r.arrives(pep.Refuse, client("10.0.0.1", 4000, 80).in(syn, 1, 0, 0))
	r.arrives(pep.Pass, client("10.0.0.1", 4000, 8443).in(syn, 1, 0, 0)) // nobody listens there: the stack says so
	// Rules on TCP say nothing of what else has the port.
	r.arrives(pep.Drop, ip(netip.MustParseAddr("10.0.0.1"), own4, 17, udpBody(4000, 8443, 0)))
	r.arrives(pep.Drop, ip(netip.MustParseAddr("10.0.0.1"), own4, 17, udpBody(4000, 1443, 0)))
	// Nor is another number than its own that of a port of UDP.
	s.Lists[0].Rules[0].Protocol = flow.AnyProtocol
	r.enforce(s)
	r.arrives(pep.Pass, ip(netip.MustParseAddr("10.0.0.1"), own4, 17, udpBody(4000, 8443, 0)))
	r.arrives(pep.Drop, ip(netip.MustParseAddr("10.0.0.1"), own4, 17, udpBody(4000, 1443, 0)))
}

func TestOnlyAnswersLeave(t *testing.T) {
	r := newRig(t, place(), letting("10.0.0.0/8", "2001:db8::/32"))
	for _, c := range []peer{client("10.0.0.1", 4000, 1443), client("2001:db8::1", 4000, 80)} {
		r.leaves(pep.Drop, c.out(syn|ack, 1, 1, 0), c.out(ack, 1, 1, 9), c.out(rst, 1, 0, 0), c.out(syn, 1, 0, 0))
		r.connect(c)
		r.leaves(pep.Pass, c.out(ack|psh, 901, 101, 1000), c.out(ack|fin, 1901, 101, 0))
		other := c
		other.port++
		r.leaves(pep.Drop, other.out(ack, 1, 1, 9))
		other = c
		other.served++
		r.leaves(pep.Drop, other.out(ack, 1, 1, 9), c.out(syn, 1, 0, 0))
	}
	// Of other addresses of the image, and of other protocols.
	r.leaves(pep.Drop, ip(host4, netip.MustParseAddr("10.0.0.1"), 6, tcpBody(1443, 4000, ack, 1, 1, 0)))
	r.leaves(pep.Drop, ip(own4, netip.MustParseAddr("10.0.0.1"), 17, udpBody(1443, 4000, 0)))
	a := netip.MustParseAddr("10.0.0.2")
	r.leaves(pep.Drop, ip(own4, a, 17, udpBody(53, 4000, 0)), ip(own4, a, 1, icmp(8, 0, 5, nil)), ip(own4, a, 1, icmp(0, 0, 5, nil)))
	r.arrives(pep.Pass, ip(a, own4, 17, udpBody(4000, 53, 0)), ip(a, own4, 1, icmp(8, 0, 5, nil)))
	r.leaves(pep.Pass, ip(own4, a, 17, udpBody(53, 4000, 0)), ip(own4, a, 1, icmp(0, 0, 5, nil)))
	r.leaves(pep.Drop, ip(own4, a, 17, udpBody(53, 4001, 0)), ip(own4, a, 1, icmp(0, 0, 6, nil)), ip(own4, a, 1, icmp(8, 0, 5, nil)))
}

// A packet that is about to leave may come without its end.
func TestWhatLeavesMayBeCutShort(t *testing.T) {
	r := newRig(t, place(), letting("10.0.0.0/8"))
	c := client("10.0.0.1", 4000, 80)
	r.connect(c)
	whole := c.out(ack, 901, 101, 1000)
	r.leaves(pep.Pass, whole[:40])
	r.leaves(pep.Drop, whole[:39])
}

func TestConnectionsOutOfTheImage(t *testing.T) {
	r := newRig(t, place(), letting("192.0.2.0/32"))
	dial := client("169.254.76.1", 1023, 5000) // the other side serves
	r.arrives(pep.Drop, dial.in(syn|ack, 1, 1, 0))
	r.leaves(pep.Pass, dial.out(syn, 1, 0, 0))
	r.arrives(pep.Pass, dial.in(syn|ack, 1, 2, 0), dial.in(ack, 2, 2, 100))
	r.leaves(pep.Pass, dial.out(ack, 2, 2, 100))
	for _, other := range []peer{client("169.254.76.1", 1022, 5000), client("169.254.76.9", 1023, 5000), client("fd6c:6f72:6963:62::1", 1023, 5000)} {
		r.leaves(pep.Drop, other.out(syn, 1, 0, 0))
	}
	r.arrives(pep.Drop, client("169.254.76.1", 1023, 5001).in(ack, 2, 2, 100))
	r.leaves(pep.Drop, ip(netip.MustParseAddr("192.0.2.9"), host4, 6, tcpBody(5000, 1023, syn, 1, 0, 0)))
	// It is none of the rules' business, not those that come later either, nor can
	// somebody who has the address make it so.
	r.enforce(letting("192.0.2.0/32"))
	r.arrives(pep.Refuse, dial.in(syn, 7, 0, 0))
	r.arrives(pep.Pass, dial.in(ack, 2, 2, 100))
	r.leaves(pep.Pass, dial.out(ack, 2, 2, 100))
	if n := r.counters(); len(n.Rules) != 1 || n.Rules[0] != (control.RuleCount{ID: abi.RuleNetwork, Packets: 1}) {
		t.Errorf("counted %+v", n)
	}
}

func TestAChangeOfTheProgramIsInForceAtOnce(t *testing.T) {
	r := newRig(t, place(), letting("10.0.0.0/8"))
	stays, goes := client("10.0.0.1", 4000, 80), client("10.1.0.1", 4000, 80)
	silent, alone := client("10.1.0.2", 4000, 80), client("10.1.0.3", 4000, 80)
	for _, c := range []peer{stays, goes, silent, alone} {
		r.connect(c)
	}
	r.arrives(pep.Pass, ip(goes.addr, own4, 17, udpBody(9, 9, 0)))
	r.enforce(letting("10.0.0.0/16"))
	r.arrives(pep.Drop, ip(host4, own4, 1, icmp(3, 4, 0, alone.out(ack, 901, 101, 10)))) // nothing else did since
	r.leaves(pep.Drop, silent.out(ack, 901, 101, 1))                                     // nothing arrived since
	r.arrives(pep.Drop, goes.in(ack, 101, 901, 10), ip(goes.addr, own4, 17, udpBody(9, 9, 0)))
	r.leaves(pep.Drop, goes.out(ack, 901, 101, 10), goes.out(fin|ack, 901, 101, 10), ip(own4, goes.addr, 17, udpBody(9, 9, 0)))
	r.leaves(pep.Drop, ip(own4, goes.addr, 1, icmp(3, 3, 0, goes.in(ack, 101, 901, 10))))
	r.arrives(pep.Drop, ip(host4, own4, 1, icmp(3, 4, 0, goes.out(ack, 901, 101, 10))))
	r.arrives(pep.Refuse, goes.in(syn, 7, 0, 0))
	// Who is not to stay may be told that it ends.
	r.leaves(pep.Pass, goes.out(fin|ack, 901, 101, 0), goes.out(rst|ack, 902, 101, 0))
	r.arrives(pep.Pass, stays.in(ack, 101, 901, 10))
	r.leaves(pep.Pass, stays.out(ack, 901, 111, 10))
	// And back.
	r.enforce(letting("10.0.0.0/8"))
	r.leaves(pep.Pass, silent.out(ack, 901, 101, 1))
	r.arrives(pep.Pass, goes.in(ack, 101, 901, 10))
	r.leaves(pep.Pass, goes.out(ack, 901, 101, 10))
}

// What began before the image did, or is forgotten, goes on where the rules let it.
func TestConnectionsAreAdopted(t *testing.T) {
	r := newRig(t, place(), letting("10.0.0.0/16"))
	for _, flags := range []uint8{ack, ack | fin, syn | ack} {
		c := client("10.0.0.1", 4000+uint16(flags), 80)
		r.arrives(pep.Pass, c.in(flags, 5, 5, 100))
		r.leaves(pep.Pass, c.out(ack, 5, 105, 9), c.out(rst, 5, 0, 0))
	}
	c := client("10.1.0.1", 4000, 80)
	r.arrives(pep.Drop, c.in(ack, 5, 5, 100), c.in(rst, 5, 5, 0), c.in(syn|ack, 5, 5, 0))
	r.leaves(pep.Drop, c.out(ack, 5, 105, 9), c.out(rst, 5, 0, 0))
	// Nobody answers a reset.
	c = client("10.0.0.9", 4000, 80)
	before := r.counters().Flows
	r.arrives(pep.Pass, c.in(rst, 5, 5, 0))
	r.leaves(pep.Drop, c.out(ack, 5, 105, 9))
	if n := r.counters().Flows; n != before {
		t.Errorf("a reset made %d flows", n-before)
	}
}

func TestErrorsAreAboutKnownFlows(t *testing.T) {
	r := newRig(t, place(), letting("10.0.0.0/8", "2001:db8::/32"))
	c4, c6 := client("10.0.0.1", 4000, 80), client("2001:db8::1", 4000, 80)
	router4, router6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:ffff::1")
	error4 := func(about []byte) []byte { return ip(router4, own4, 1, icmp(3, 4, 0, about)) }
	error6 := func(about []byte) []byte { return ip(router6, own6, 58, icmp(2, 0, 0, about)) }
	sent4, sent6 := c4.out(ack, 901, 101, 100), c6.out(ack, 901, 101, 100)
	r.arrives(pep.Drop, error4(sent4), error6(sent6))
	r.connect(c4)
	r.connect(c6)
	r.arrives(pep.Pass, error4(sent4), error6(sent6), error4(sent4[:28]), error6(sent6[:48]))
	r.arrives(pep.Drop, error4(sent4[:27]), error6(sent6[:47]), error4(c4.in(ack, 1, 1, 0)), error4(nil), error6(sent4), error4(sent6),
		error4(client("10.0.0.1", 4001, 80).out(ack, 1, 1, 0)), error6(with(sent6, 6, 44)),
		ip(own4, own4, 1, icmp(3, 4, 0, sent4)), ip(router4, host4, 1, icmp(3, 4, 0, sent4)))
	for kind, want := range map[uint8]pep.Action{3: pep.Pass, 11: pep.Pass, 12: pep.Pass, 4: pep.Drop, 5: pep.Drop} {
		r.arrives(want, ip(router4, own4, 1, icmp(kind, 0, 0, sent4)))
	}
	for kind, want := range map[uint8]pep.Action{1: pep.Pass, 2: pep.Pass, 3: pep.Pass, 4: pep.Pass, 137: pep.Drop} {
		r.arrives(want, ip(router6, own6, 58, icmp(kind, 0, 0, sent6)))
	}
	// Ours are about what was let in, and go to who sent it.
	asked := ip(c4.addr, own4, 17, udpBody(4000, 53, 10))
	answer := ip(own4, c4.addr, 1, icmp(3, 3, 0, asked))
	r.leaves(pep.Drop, answer)
	r.arrives(pep.Pass, asked)
	r.leaves(pep.Pass, answer)
	r.leaves(pep.Drop, ip(own4, netip.MustParseAddr("10.0.0.2"), 1, icmp(3, 3, 0, asked)), ip(host4, c4.addr, 1, icmp(3, 3, 0, asked)))
	// Of echoes too, in the direction of their answer.
	r.arrives(pep.Pass, ip(c6.addr, own6, 58, icmp(128, 0, 77, nil)))
	r.arrives(pep.Pass, error6(ip(own6, c6.addr, 58, icmp(129, 0, 77, nil))))
	r.arrives(pep.Drop, error6(ip(own6, c6.addr, 58, icmp(129, 0, 78, nil))), error6(ip(own6, c6.addr, 58, icmp(135, 0, 77, nil))))
}

func TestFlowsAreForgotten(t *testing.T) {
	var c = client("10.0.0.1", 4000, 80)
	for _, x := range []struct {
		name  string
		make  func(*rig)
		after time.Duration
	}{
		{"half-open", func(r *rig) { r.arrives(pep.Pass, c.in(syn, 1, 0, 0)); r.leaves(pep.Pass, c.out(syn|ack, 9, 2, 0)) }, time.Minute},
		{"a wrong acknowledgement", func(r *rig) {
			r.arrives(pep.Pass, c.in(syn, 1, 0, 0))
			r.leaves(pep.Pass, c.out(syn|ack, 9, 2, 0))
			r.arrives(pep.Pass, c.in(ack, 2, 9, 0), c.in(ack, 2, 11, 0), c.in(ack, 2, 0, 100))
			r.leaves(pep.Pass, c.out(ack, 10, 2, 0)) // of a handshake that goes on
		}, time.Minute},
		{"refused by the stack", func(r *rig) { r.arrives(pep.Pass, c.in(syn, 1, 0, 0)); r.leaves(pep.Pass, c.out(rst|ack, 0, 2, 0)) }, time.Minute},
		{"adopted and refused", func(r *rig) { r.arrives(pep.Pass, c.in(ack, 1, 5, 0)); r.leaves(pep.Pass, c.out(rst, 5, 0, 0)) }, time.Minute},
		{"adopted and answered", func(r *rig) { r.arrives(pep.Pass, c.in(ack, 1, 5, 0)); r.leaves(pep.Pass, c.out(ack, 5, 1, 0)) }, 2*time.Hour + 4*time.Minute},
		{"established", func(r *rig) { r.connect(c) }, 2*time.Hour + 4*time.Minute},
		{"established by an answer", func(r *rig) {
			r.arrives(pep.Pass, c.in(syn, 1, 0, 0))
			r.leaves(pep.Pass, c.out(ack, 10, 2, 1))
		}, 2*time.Hour + 4*time.Minute},
		{"one side has closed", func(r *rig) { r.connect(c); r.arrives(pep.Pass, c.in(fin|ack, 101, 901, 0)) }, 2*time.Hour + 4*time.Minute},
		{"closed", func(r *rig) {
			r.connect(c)
			r.arrives(pep.Pass, c.in(fin|ack, 101, 901, 0))
			r.leaves(pep.Pass, c.out(fin|ack, 901, 102, 0))
		}, time.Minute},
		{"reset by the image", func(r *rig) { r.connect(c); r.leaves(pep.Pass, c.out(rst|ack, 901, 101, 0)) }, time.Minute},
		{"reset by the client", func(r *rig) {
			r.connect(c)
			r.leaves(pep.Pass, c.out(ack, 901, 151, 0))
			r.arrives(pep.Pass, c.in(rst, 160, 0, 0))
		}, time.Minute},
		{"reset before the image has said anything", func(r *rig) { r.connect(c); r.arrives(pep.Pass, c.in(rst, 5, 0, 0)) }, time.Minute},
		{"a reset that is forged", func(r *rig) {
			r.connect(c)
			r.leaves(pep.Pass, c.out(ack, 901, 151, 0))
			r.arrives(pep.Pass, c.in(rst, 150, 0, 0), c.in(rst, 151+1<<16, 0, 0))
		}, 2*time.Hour + 4*time.Minute},
		{"asked for again", func(r *rig) {
			r.connect(c)
			r.leaves(pep.Pass, c.out(rst|ack, 901, 101, 0))
			r.connect(c)
		}, 2*time.Hour + 4*time.Minute},
		{"asked for while it lasts", func(r *rig) { r.connect(c); r.arrives(pep.Pass, c.in(syn, 5, 0, 0)) }, 2*time.Hour + 4*time.Minute},
	} {
		t.Run(x.name, func(t *testing.T) {
			known := func(r *rig) bool {
				n := r.filter.(pep.PacketReporter).Counters()
				return n.Flows == 1
			}
			r := newRig(t, place(), letting("10.0.0.0/8"))
			x.make(r)
			r.age(x.after)
			if !known(r) {
				t.Error("it is forgotten too early")
			}
			r.arrives(pep.Pass, c.in(ack, 101, 7, 0)) // seen again
			r.age(x.after)
			if !known(r) {
				t.Error("it is forgotten too early after it was seen")
			}
			r.age(time.Second)
			r.leaves(pep.Drop, c.out(ack, 1000, 101, 0))
			if known(r) || r.counters().FlowsDropped != 0 {
				t.Errorf("it is not forgotten: %+v", r.counters())
			}
		})
	}
}

// Whoever asked the clock first may come to a flow last.
func TestAClockThatWasAskedBefore(t *testing.T) {
	r := newRig(t, place(), letting("10.0.0.0/8"))
	c := client("10.0.0.1", 4000, 80)
	r.age(10 * time.Second)
	r.connect(c)
	r.age(-time.Second)
	r.leaves(pep.Pass, c.out(ack, 901, 101, 1))
	r.age(time.Second + 2*time.Hour + 4*time.Minute) // since it was seen last
	r.leaves(pep.Pass, c.out(ack, 901, 101, 1))
}

// numbered is one of many clients.
func numbered(i int) peer {
	return peer{netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), uint16(1 + i%60000), 80}
}

func TestAFloodPushesOutNobodyElse(t *testing.T) {
	halves, others, _ := firewall.MaxFlows()
	r := newRig(t, place(), letting("10.0.0.0/8"))
	const connections = 1000
	a := netip.MustParseAddr("10.250.0.1")
	asked := ip(a, own4, 17, udpBody(9, 9, 0))
	for i := range connections {
		r.connect(numbered(i))
	}
	dial := client("169.254.76.1", 1023, 5000)
	r.leaves(pep.Pass, dial.out(syn, 1, 0, 0))
	r.arrives(pep.Pass, asked)
	for i := range 3 * halves {
		c := numbered(connections + i)
		r.arrives(pep.Pass, c.in(syn, 1, 0, 0))
		if i%3 == 0 { // blind, as their source is forged
			r.arrives(pep.Pass, c.in(ack, 1, uint32(i), 10))
		}
	}
	r.leaves(pep.Pass, ip(own4, a, 17, udpBody(9, 9, 0)))
	for i := range 2 * others {
		r.arrives(pep.Pass, ip(numbered(i).addr, own4, 17, udpBody(9, 9, 0)))
	}
	n := r.counters()
	if most := uint32(halves + others + connections + 1); n.Flows > most || n.Flows < most*9/10 {
		t.Errorf("%d flows are known; there is room for %d", n.Flows, most)
	}
	if want := uint64(connections+1+1+3*halves+2*others) - uint64(n.Flows); n.FlowsDropped != want {
		t.Errorf("%d flows were dropped, and not %d", n.FlowsDropped, want)
	}
	for i := range connections {
		r.leaves(pep.Pass, numbered(i).out(ack, 901, 101, 10))
	}
	r.arrives(pep.Pass, dial.in(syn|ack, 1, 2, 0))
	r.leaves(pep.Drop, numbered(connections).out(syn|ack, 1, 2, 0)) // long gone
}

// What was forgotten in time makes room without being counted as pushed out.
func TestTimeMakesRoom(t *testing.T) {
	halves, _, _ := firewall.MaxFlows()
	r := newRig(t, place(), letting("10.0.0.0/8"))
	for i := range 2 * halves {
		r.arrives(pep.Pass, numbered(i).in(syn, 1, 0, 0))
	}
	before := r.counters()
	r.age(61 * time.Second)
	for i := range halves / 2 {
		r.arrives(pep.Pass, numbered(2*halves+i).in(syn, 1, 0, 0))
	}
	if n := r.counters(); before.FlowsDropped == 0 || n.FlowsDropped != before.FlowsDropped || int(n.Flows) != halves/2 {
		t.Errorf("counted are %+v after %+v", n, before)
	}
}

// The connections that go first when there are too many have ended, or were silent the
// longest.
func TestTheOldestConnectionsGoFirst(t *testing.T) {
	_, _, whole := firewall.MaxFlows()
	many := whole + whole/8
	r := newRig(t, place(), letting("10.0.0.0/8"))
	ended, busy := numbered(1<<23), numbered(1<<23+1)
	r.connect(busy)
	for i := range many {
		if i%(whole/16) == 0 {
			r.age(time.Second)
			r.leaves(pep.Pass, busy.out(ack, 901, 101, 1))
		}
		r.connect(numbered(i))
	}
	r.age(time.Second)
	r.leaves(pep.Pass, busy.out(ack, 901, 101, 1))
	r.leaves(pep.Drop, numbered(0).out(ack, 901, 101, 1))
	last := numbered(many - 1)
	r.leaves(pep.Pass, last.out(ack, 901, 101, 1))
	r.connect(ended)
	r.leaves(pep.Pass, ended.out(rst, 901, 101, 0))
	known := r.counters().Flows
	if most := uint32(whole); known > most || known < most*95/100 {
		t.Errorf("%d connections are known; there is room for %d", known, most)
	}
	// As many again as the shards have, and the one that ended is among those that went.
	for i := range 2000 {
		r.connect(numbered(many + i))
	}
	r.leaves(pep.Drop, ended.out(ack, 901, 101, 1))
	r.leaves(pep.Pass, last.out(ack, 901, 101, 1), busy.out(ack, 901, 101, 1))
}

func TestPacketsDoNotAllocate(t *testing.T) {
	r := newRig(t, place(), manyRules(1000))
	c, denied := client("10.0.0.1", 4000, 80), client("192.0.2.1", 4000, 80)
	r.enforce(letting("10.0.0.0/8"))
	r.connect(c)
	packets := [][]byte{c.in(ack, 101, 901, 100), c.in(syn, 101, 901, 0), denied.in(syn, 1, 0, 0), denied.in(ack, 1, 0, 0), {1, 2, 3},
		ip(host4, own4, 1, icmp(3, 4, 0, c.out(ack, 901, 101, 10))), ndp("fd6c:6f72:6963:62::1", "ff02::1:ff00:2", 135, 24)}
	answers := [][]byte{c.out(ack, 901, 101, 10), denied.out(ack, 1, 1, 1), ndp("fd6c:6f72:6963:62::2", "fe80::1", 136, 24)}
	if n := testing.AllocsPerRun(100, func() {
		for _, b := range packets {
			r.filter.In(b)
		}
		for _, b := range answers {
			r.filter.Out(b)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
