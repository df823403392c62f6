package firewall

// What is remembered of a flow besides its state.
const (
	refused  = 1 << iota // by rules that came later
	outward              // the image asked for it
	adopted              // its begin was not seen
	numbered             // entry.number is set
	finIn
	finOut
)

// forgeable is how far the number of a reset may be ahead of what was acknowledged. A
// connection that is taken for ended is forgotten a minute after its last packet, and
// no sooner; who is not on its way would have to guess more.
const forgeable = 1 << 16

// opens reports whether the packet asks for a connection.
func (p *packet) opens() bool { return p.kind == segment && p.flags&(syn|ack) == syn }

// farewell reports whether the packet ends a connection and says nothing else.
func (p *packet) farewell() bool {
	return p.kind == segment && p.flags&(fin|rst) != 0 && p.payload == 0
}

func (s *shard) at(i int32) *entry {
	if i == 0 {
		return nil
	}
	return &s.entries[i]
}

// admit remembers that the rules let the packet in. Its entry is 0 where there is none.
func (t *flows) admit(s *shard, i int32, h uint64, p *packet, generation uint32, rule int32, now uint32) {
	if i == 0 {
		var marks uint8
		st := datagrams
		if p.kind == segment {
			if p.flags&rst != 0 {
				return // nobody answers
			}
			st = halfOpen
			if !p.opens() {
				marks = adopted
			}
		}
		i = t.add(s, &p.key, h, st, now)
		s.entries[i].marks = marks
	}
	if e := &s.entries[i]; e.marks&outward == 0 {
		e.generation, e.rule = generation, rule
		e.marks &^= refused
		if p.opens() && e.state == closing {
			t.turn(s, i, halfOpen)
			e.marks = 0
		}
		if p.opens() {
			e.marks &^= adopted
		}
	}
	t.arrived(s, i, p, now)
}

// arrived follows a connection by a packet that was let in. It is established when the
// client has acknowledged what only the image can have told it; a flood of forged
// packets does not come so far.
func (t *flows) arrived(s *shard, i int32, p *packet, now uint32) {
	e := &s.entries[i]
	s.touch(i, now)
	if p.kind != segment || p.opens() {
		return
	}
	if e.state == halfOpen && e.marks&numbered != 0 && p.flags&ack != 0 && p.ack == e.number {
		e.marks &^= numbered
		t.turn(s, i, established)
	}
	switch {
	case e.state != established:
	case p.flags&rst != 0 && (e.marks&numbered == 0 || p.seq-e.number < forgeable):
		t.turn(s, i, closing)
	case p.flags&fin != 0:
		e.marks |= finIn
		t.ended(s, i)
	}
}

// left follows a connection by a packet of the image.
func (t *flows) left(s *shard, i int32, p *packet, now uint32) {
	e := &s.entries[i]
	s.touch(i, now)
	switch {
	case p.kind != segment:
	case p.flags&rst != 0:
		if e.state == established {
			t.turn(s, i, closing)
		}
	case p.flags&syn != 0:
		if e.state == halfOpen {
			e.number = p.seq + 1
			e.marks |= numbered
		}
	default:
		if e.state == halfOpen && (p.payload > 0 || e.marks&adopted != 0) {
			t.turn(s, i, established)
		}
		if e.state != established {
			return
		}
		e.number = p.ack
		e.marks |= numbered
		if p.flags&fin != 0 {
			e.marks |= finOut
			t.ended(s, i)
		}
	}
}

// ended notes that a connection closes when both sides have said so.
func (t *flows) ended(s *shard, i int32) {
	if s.entries[i].marks&(finIn|finOut) == finIn|finOut {
		t.turn(s, i, closing)
	}
}

// start remembers that the image asks for the connection k.
func (t *flows) start(s *shard, i int32, h uint64, k *key, now uint32) {
	if i == 0 {
		i = t.add(s, k, h, established, now)
	}
	t.turn(s, i, established)
	s.entries[i].marks = outward
	s.touch(i, now)
}
