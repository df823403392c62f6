package firewall

import (
	"hash/maphash"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/link"
	"lorica.dev/lorica/pep"
)

// A filter judges packets: those that ask for something by the rules, those of flows
// that were let in by what is remembered of them, and everything else by its absence
// from both.
type filter struct {
	place   pep.PacketPlace
	seconds func() uint32         // the clock of the flows
	force   atomic.Pointer[table] // nil: no program is in force
	own     atomic.Pointer[[]netip.Addr]
	flows   flows
	denials denials

	in, out, denied, malformed atomic.Uint64
}

func newFilter(place pep.PacketPlace) *filter {
	epoch := time.Now()
	f := &filter{place: place, seconds: func() uint32 { return uint32(time.Since(epoch) / time.Second) }}
	f.flows.seed = maphash.MakeSeed()
	f.Own(place.Own)
	return f
}

// Own implements pep.PacketFilter.
func (f *filter) Own(list []netip.Addr) {
	own := make([]netip.Addr, 0, len(list))
	for _, a := range list {
		own = append(own, a.Unmap().WithZone(""))
	}
	f.own.Store(&own)
}

// In implements pep.PacketFilter.
func (f *filter) In(b []byte) pep.Action {
	t := f.force.Load()
	if t == nil {
		return pep.Drop
	}
	var p packet
	if !p.read(b, false) {
		f.malformed.Add(1)
		return pep.Drop
	}
	src, dst := address(p.src, p.v6), address(p.dst, p.v6)
	own := slices.Contains(*f.own.Load(), dst)
	ok := false
	switch from := f.possible(src); p.kind {
	case neighbour:
		ok = f.discovers(&p, src, dst, from, own)
	case icmpError:
		ok = from && own && f.knows(t, p.about.reversed())
	case segment, echoRequest:
		if from && own {
			return f.ask(t, &p)
		}
	case datagram:
		ok = f.place.DHCP && !p.v6 && from && (own || dst == broadcast) && p.sport == dhcpServer && p.dport == dhcpClient
		if !ok && from && own {
			return f.ask(t, &p)
		}
	}
	if !ok {
		f.malformed.Add(1)
		return pep.Drop
	}
	f.in.Add(1)
	return pep.Pass
}

// ask judges a packet that may ask for something: by what is known of its flow under
// the rules in force, else by the rules.
func (f *filter) ask(t *table, p *packet) pep.Action {
	now := f.seconds()
	s, h := f.flows.lock(&p.key)
	i := s.find(&p.key, h, now)
	if e := s.at(i); e != nil && !p.opens() && e.marks&refused == 0 && (e.generation == t.generation || e.marks&outward != 0) {
		if e.marks&outward == 0 {
			t.counts[e.rule].Add(1)
		}
		f.flows.arrived(s, i, p, now)
		s.mu.Unlock()
		f.in.Add(1)
		return pep.Pass
	}
	x := f.asks(&p.key)
	verdict, rule, note := t.enforce(x)
	if verdict == abi.Allow {
		f.flows.admit(s, i, h, p, t.generation, int32(rule), now)
	}
	s.mu.Unlock()
	t.counts[rule].Add(1)
	if verdict == abi.Allow {
		f.in.Add(1)
		if note > 0 && !f.accepts(p) {
			f.denials.note(denial{x, t, rule, note, p.opens()})
		}
		return pep.Pass
	}
	f.denied.Add(1)
	f.denials.note(denial{x, t, rule, note, p.opens()})
	if p.opens() {
		return pep.Refuse
	}
	return pep.Drop
}

// accepts reports whether the packet opens a connection that is judged again when it is
// accepted: what would have become of it is recorded there.
func (f *filter) accepts(p *packet) bool {
	_, served := f.place.Ports[p.key.dport]
	return p.opens() && served
}

// asks is what the rules are asked about the packets of k that arrive.
func (f *filter) asks(k *key) flow.Flow {
	v6 := [12]byte(k.src[:]) != prefix4
	x := flow.Flow{Src: address(k.src, v6), Dst: address(k.dst, v6), SrcPort: k.sport, DstPort: k.dport, Protocol: flow.Protocol(k.protocol)}
	if x.Protocol == flow.ICMP {
		x.SrcPort = 0 // it is the identifier
	}
	if x.Src == link.Loopback6 {
		x.Src = netip.IPv6Loopback()
	}
	if x.Protocol == flow.TCP {
		if port, ok := f.place.Ports[k.dport]; ok {
			x.DstPort = port
		}
	}
	return x
}

// Out implements pep.PacketFilter.
func (f *filter) Out(b []byte) pep.Action {
	t := f.force.Load()
	if t == nil {
		return pep.Drop
	}
	var p packet
	if !p.read(b, true) || !f.leaves(t, &p) {
		f.denied.Add(1)
		return pep.Drop
	}
	f.out.Add(1)
	return pep.Pass
}

// leaves judges a packet that is about to leave.
func (f *filter) leaves(t *table, p *packet) bool {
	src, dst := address(p.src, p.v6), address(p.dst, p.v6)
	own := slices.Contains(*f.own.Load(), src)
	switch p.kind {
	case neighbour:
		return f.discovered(p, src, dst, own)
	case datagram:
		if f.place.DHCP && !p.v6 && (own || src.IsUnspecified()) && p.sport == dhcpClient && p.dport == dhcpServer {
			return true
		}
	case icmpError:
		return own && p.about.src == p.dst && f.knows(t, p.about)
	case echoRequest:
		return false
	}
	if !own {
		return false
	}
	now := f.seconds()
	k := p.key.reversed()
	s, h := f.flows.lock(&k)
	defer s.mu.Unlock()
	i := s.find(&k, h, now)
	if p.opens() {
		if !slices.Contains(f.place.Outward, netip.AddrPortFrom(dst, p.dport)) {
			return false
		}
		f.flows.start(s, i, h, &k, now)
		return true
	}
	e := s.at(i)
	if e == nil {
		return false
	}
	if !f.stands(t, e) && !p.farewell() {
		return false
	}
	f.flows.left(s, i, p, now)
	return true
}

// stands reports whether the rules in force allow a flow that is known.
func (f *filter) stands(t *table, e *entry) bool {
	if e.generation != t.generation && e.marks&outward == 0 {
		verdict, rule, _ := t.enforce(f.asks(&e.key))
		e.generation, e.rule = t.generation, int32(rule)
		e.marks &^= refused
		if verdict != abi.Allow {
			e.marks |= refused
		}
	}
	return e.marks&refused == 0
}

// knows reports whether the flow is known and allowed.
func (f *filter) knows(t *table, k key) bool {
	s, h := f.flows.lock(&k)
	defer s.mu.Unlock()
	e := s.at(s.find(&k, h, f.seconds()))
	return e != nil && f.stands(t, e)
}

// Report implements pep.PacketReporter.
func (f *filter) Report() []pep.PacketDenial { return f.denials.take() }

// Counters implements pep.PacketReporter.
func (f *filter) Counters() control.Packets {
	known, dropped := f.flows.count(f.seconds())
	c := control.Packets{In: f.in.Load(), Out: f.out.Load(), Denied: f.denied.Load(), Malformed: f.malformed.Load(),
		Flows: uint32(known), FlowsDropped: dropped}
	if t := f.force.Load(); t != nil {
		c.Rules = t.counted()
	}
	return c
}
