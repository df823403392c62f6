package firewall

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/pep"
)

// Denials are what was denied since the last report: exact counts, with a fair sample
// of each. A rule has a count and a sample of its own, so that denials of one cannot
// hide those of another; rules beyond the first few share one.
type denials struct {
	mu     sync.Mutex
	slots  [maxSampled]sample
	keys   [maxSampled]int // of what the slots are for: these lie side by side, and slots do not
	used   int
	others [2]sample // of packets that ask for a connection, and of others
}

const (
	maxSampled = 16 // rules with a sample of their own
	sampled    = 2  // packets of each
)

// A sample is a reservoir (Vitter's algorithm R).
type sample struct {
	count uint64
	picks [sampled]denial
}

// A denial is a packet that a rule denied, or would have denied.
type denial struct {
	flow  flow.Flow
	table *table
	rule  int
	note  int // see table.enforce
	opens bool
}

// key tells denials apart, but for those by another table.
func (d *denial) key() int {
	key := d.note<<32 + 2*d.rule
	if d.opens {
		key++
	}
	return key
}

func (s *sample) note(d denial) {
	s.count++
	if at := rand.Uint64N(s.count); s.count <= sampled {
		s.picks[s.count-1] = d
	} else if at < sampled {
		s.picks[at] = d
	}
}

func (s *sample) of(t *table) bool { return s.picks[0].table == t }

func (d *denials) note(x denial) {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := x.key()
	for i, k := range d.keys[:d.used] {
		if k == key && d.slots[i].of(x.table) {
			d.slots[i].note(x)
			return
		}
	}
	switch {
	case d.used < maxSampled:
		d.slots[d.used], d.keys[d.used] = sample{}, key
		d.slots[d.used].note(x)
		d.used++
	case x.opens:
		d.others[0].note(x)
	default:
		d.others[1].note(x)
	}
}

func (d *denials) take() []pep.PacketDenial {
	d.mu.Lock()
	samples := append(slices.Clone(d.slots[:d.used]), d.others[:]...)
	d.used, d.others = 0, [2]sample{}
	d.mu.Unlock()
	var list []pep.PacketDenial
	for i := range samples {
		s := &samples[i]
		picks := min(s.count, sampled)
		for j := range picks {
			x := &s.picks[j]
			n := s.count / picks
			if j == 0 {
				n += s.count % picks
			}
			list = append(list, pep.PacketDenial{Flow: x.flow, Decision: x.decision(n), Count: n, Opens: x.opens})
		}
	}
	return list
}

// decision is what the rules say, and how many packets this one stands for.
func (d *denial) decision(count uint64) pep.Decision {
	x := d.table.decision(d.flow)
	if _, isDefault := d.table.name(d.rule); isDefault && x.Verdict != abi.Allow {
		x.Reason = "no rule matches the packet"
	}
	var trial pep.Trial
	if d.table.dry != nil {
		x, _ = trial.Release(x)
	} else if d.note > 0 {
		trial.Tried(x, d.table.tried.decision(d.flow))
	}
	x = trial.End(x, d.table.dry)
	x.Record = true
	if count > 1 {
		x.Reason = strings.TrimPrefix(x.Reason+fmt.Sprintf("; the record stands for %d packets", count), "; ")
	}
	return x
}
