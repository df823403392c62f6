package control

import "lorica.dev/lorica/abi/wire"

// Packets are the counters of a firewall that sees packets.
type Packets struct {
	In, Out      uint64 // that passed
	Denied       uint64 // by a rule or a default, either way
	Malformed    uint64 // dropped before any rule: no whole packet of a known form, a fragment, an impossible address
	Flows        uint32 // known now
	FlowsDropped uint64 // forgotten before their time, for want of room
	Rules        []RuleCount
}

// A RuleCount counts the packets that a rule decided about since its program is in
// force, those of flows that it let in included.
type RuleCount struct {
	ID      string
	Packets uint64
}

func (p *Packets) write(w *wire.Writer) {
	for _, v := range []uint64{p.In, p.Out, p.Denied, p.Malformed, p.FlowsDropped} {
		w.U64(v)
	}
	w.U32(p.Flows)
	w.U32(uint32(len(p.Rules)))
	for _, r := range p.Rules {
		w.String(r.ID)
		w.U64(r.Packets)
	}
}

func readPackets(r *wire.Reader) Packets {
	p := Packets{In: r.U64(), Out: r.U64(), Denied: r.U64(), Malformed: r.U64(), FlowsDropped: r.U64(), Flows: r.U32()}
	for range r.Count(12) {
		p.Rules = append(p.Rules, RuleCount{r.String(), r.U64()})
	}
	return p
}
