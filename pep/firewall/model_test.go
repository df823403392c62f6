package firewall_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/link"
	"lorica.dev/lorica/pep"
)

// A model is what the firewall is to remember and do, written plainly: a map of flows
// that are never too many.
type model struct {
	programs []*flow.Section
	program  int
	now      int
	flows    map[talk]*memory

	in, out, denied uint64
}

// A talk names a flow; ports are those of the client and of the image.
type talk struct {
	client       netip.Addr
	protocol     flow.Protocol
	theirs, ours uint16
}

// A memory is what is known of a flow.
type memory struct {
	phase          string // opening, open, over, or exchange for what is no connection
	ours           bool   // the image asked for it
	seenFromBegin  bool
	program        int
	unwanted       bool
	last           int
	number         *uint32 // what the client acknowledges in the end; later, what the image has
	theyEnd, weEnd bool
}

// A move is a packet, either way.
type move struct {
	talk
	flags       uint8
	seq, number uint32
	payload     int
}

func (m *model) recall(t talk) *memory {
	f := m.flows[t]
	if f == nil {
		return nil
	}
	keep := map[string]int{"opening": 60, "exchange": 60, "open": 7440, "over": 60}[f.phase]
	if m.now-f.last > keep {
		delete(m.flows, t)
		return nil
	}
	return f
}

func (m *model) allows(t talk) bool {
	f := flow.Flow{Src: t.client, Protocol: t.protocol}
	if t.client == link.Loopback6 {
		f.Src = netip.MustParseAddr("::1")
	}
	if t.protocol != flow.ICMP {
		f.DstPort = t.ours
		if t.protocol == flow.TCP && t.ours == 1443 {
			f.DstPort = 8443
		}
	}
	return m.programs[m.program].Decide(f).Verdict == abi.Allow
}

func (m *model) arrives(v move) pep.Action {
	tcp := v.protocol == flow.TCP
	asks := tcp && v.flags&(syn|ack) == syn
	f := m.recall(v.talk)
	if f == nil || asks || f.unwanted || f.program != m.program && !f.ours {
		if !m.allows(v.talk) {
			m.denied++
			if f != nil && !f.ours {
				f.unwanted = true
			}
			if asks {
				return pep.Refuse
			}
			return pep.Drop
		}
		switch {
		case f == nil && tcp && v.flags&rst != 0:
			m.in++
			return pep.Pass
		case f == nil && tcp:
			f = &memory{phase: "opening", seenFromBegin: asks}
			m.flows[v.talk] = f
		case f == nil:
			f = &memory{phase: "exchange"}
			m.flows[v.talk] = f
		case asks && f.phase == "over" && !f.ours:
			*f = memory{phase: "opening", seenFromBegin: true}
		case asks && !f.ours:
			f.seenFromBegin = true
		}
		if !f.ours {
			f.unwanted, f.program = false, m.program
		}
	}
	m.in++
	f.last = m.now
	if !tcp || asks {
		return pep.Pass
	}
	if f.phase == "opening" && f.number != nil && v.flags&ack != 0 && v.number == *f.number {
		f.phase, f.number = "open", nil
	}
	if f.phase != "open" {
		return pep.Pass
	}
	if v.flags&rst != 0 {
		if f.number == nil || v.seq-*f.number < 65536 {
			f.phase = "over"
		}
	} else if v.flags&fin != 0 {
		f.theyEnd = true
		if f.weEnd {
			f.phase = "over"
		}
	}
	return pep.Pass
}

func (m *model) leaves(v move) pep.Action {
	if !m.mayLeave(v) {
		m.denied++
		return pep.Drop
	}
	m.out++
	return pep.Pass
}

func (m *model) mayLeave(v move) bool {
	tcp := v.protocol == flow.TCP
	f := m.recall(v.talk)
	if tcp && v.flags&(syn|ack) == syn {
		if v.client != host4 || v.theirs != 1023 {
			return false
		}
		m.flows[v.talk] = &memory{phase: "open", ours: true, last: m.now}
		return true
	}
	if f == nil {
		return false
	}
	if !f.ours && f.program != m.program {
		f.program, f.unwanted = m.program, !m.allows(v.talk)
	}
	if f.unwanted && !(tcp && v.flags&(fin|rst) != 0 && v.payload == 0) {
		return false
	}
	f.last = m.now
	switch {
	case !tcp:
	case v.flags&rst != 0:
		if f.phase == "open" {
			f.phase = "over"
		}
	case v.flags&syn != 0:
		if f.phase == "opening" {
			n := v.seq + 1
			f.number = &n
		}
	default:
		if f.phase == "opening" && (v.payload > 0 || !f.seenFromBegin) {
			f.phase = "open"
		}
		if f.phase == "open" {
			n := v.number
			f.number = &n
			f.weEnd = f.weEnd || v.flags&fin != 0
			if f.weEnd && f.theyEnd {
				f.phase = "over"
			}
		}
	}
	return true
}

func (v move) own() netip.Addr {
	if v.client.Is4() {
		return own4
	}
	return own6
}

// bytes makes the packet of a move.
func (v move) bytes(arrives bool) []byte {
	src, dst, sport, dport := v.client, v.own(), v.theirs, v.ours
	if !arrives {
		src, dst, sport, dport = dst, src, dport, sport
	}
	switch v.protocol {
	case flow.TCP:
		return ip(src, dst, 6, tcpBody(sport, dport, v.flags, v.seq, v.number, v.payload))
	case flow.UDP:
		return ip(src, dst, 17, udpBody(sport, dport, v.payload))
	}
	kind, protocol := uint8(8), uint8(1)
	if src.Is6() {
		kind, protocol = 128, 58
	}
	if !arrives {
		kind = map[uint8]uint8{8: 0, 128: 129}[kind]
	}
	return ip(src, dst, protocol, icmp(kind, 0, v.theirs, make([]byte, v.payload)))
}

// play has a firewall and the model see the same packets, and returns how often what
// happened.
func play(t *testing.T, r *rand.Rand, moves int, seen map[string]int) {
	m := &model{flows: map[talk]*memory{}, programs: []*flow.Section{letting("10.0.0.0/8", "::1/128"), letting("10.1.0.0/16", "2001:db8::/32"), letting("0.0.0.0/0"),
		{Lists: []flow.List{{Default: abi.Allow}, {Rules: []flow.Rule{rule("https", abi.Allow, "0.0.0.0/0", 8443, 8443), rule("six", abi.Allow, "::/0", 0, 65535)}}}}}}
	g := newRig(t, place(), m.programs[0])
	clients := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("2001:db8::1"), link.Loopback6, host4}
	numbers := []uint32{0, 1, 100, 101, 65636, 65637, 1<<32 - 1}
	flags := []uint8{syn, syn, syn | ack, syn | ack, ack, ack, ack, ack | psh, ack | fin, ack | fin, rst, rst | ack}
	for i := range moves {
		switch r.IntN(40) {
		case 0:
			m.program = r.IntN(len(m.programs))
			g.enforce(m.programs[m.program])
			// Equal programs are other ones still: what is known is decided again.
			m.programs = append(m.programs, m.programs[m.program])
			m.program = len(m.programs) - 1
			continue
		case 1:
			d := []int{1, 20, 60, 61, 7440, 7441}[r.IntN(6)]
			m.now += d
			g.age(time.Duration(d) * time.Second)
			continue
		}
		v := move{talk{clients[r.IntN(len(clients))], []flow.Protocol{flow.TCP, flow.TCP, flow.TCP, flow.UDP, flow.ICMP}[r.IntN(5)], uint16(1023 + r.IntN(2)), []uint16{1443, 80}[r.IntN(2)]},
			flags[r.IntN(len(flags))], numbers[r.IntN(len(numbers))], numbers[r.IntN(len(numbers))], r.IntN(2)}
		if v.protocol == flow.ICMP {
			v.ours = 0
		}
		way, got, want := "arrives", pep.Drop, pep.Drop
		if r.IntN(2) == 0 {
			got, want = g.filter.In(v.bytes(true)), m.arrives(v)
		} else {
			way, got, want = "leaves", g.filter.Out(v.bytes(false)), m.leaves(v)
		}
		if got != want {
			t.Fatalf("packet %d %s: %+v: %s, and not %s; known is %+v", i, way, v, says(got), says(want), m.flows[v.talk])
		}
		seen[way+" "+says(got)]++
		if f := m.flows[v.talk]; f != nil {
			seen[fmt.Sprintf("%s, ours %t, unwanted %t", f.phase, f.ours, f.unwanted)]++
		}
	}
	for k := range m.flows {
		m.recall(k)
	}
	if n := g.counters(); n.In != m.in || n.Out != m.out || n.Denied != m.denied || n.Malformed != 0 || int(n.Flows) != len(m.flows) || n.FlowsDropped != 0 {
		t.Errorf("counted are %+v, and not in %d, out %d, denied %d, %d flows", n, m.in, m.out, m.denied, len(m.flows))
	}
}

func TestFlowsAreThoseOfTheModel(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(400) {
		play(t, rand.New(rand.NewPCG(seed, 9)), 500, seen)
	}
	want := []string{"arrives drop", "arrives pass", "arrives refuse", "leaves drop", "leaves pass", "open, ours true, unwanted false", "over, ours true, unwanted false"}
	for _, phase := range []string{"opening", "open", "over", "exchange"} {
		want = append(want, phase+", ours false, unwanted false", phase+", ours false, unwanted true")
	}
	for _, what := range want {
		if seen[what] < 100 {
			t.Errorf("%q was seen %d times", what, seen[what])
		}
	}
}

// steps is a source of numbers that a fuzzer steers: its bytes first.
type steps struct {
	data []byte
	rest rand.PCG
}

func (s *steps) Uint64() uint64 {
	v := s.rest.Uint64()
	if len(s.data) > 0 {
		v = v>>8 | uint64(s.data[0])<<56
		s.data = s.data[1:]
	}
	return v
}

func FuzzFlows(f *testing.F) {
	r := rand.NewChaCha8([32]byte{1})
	for range 8 {
		b := make([]byte, 400)
		r.Read(b)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		play(t, rand.New(&steps{data: data}), min(len(data)/8, 500), map[string]int{})
	})
}
