// Package firewall judges connections by source, protocol and port before their
// first byte is read, and where the image has a network of its own every packet before
// its TCP stack sees it. It applies the rules of the program and makes none: the
// first rule that matches decides, every list of the section must allow, and a
// source that is no address, like a program without a section, is denied.
//
// IPv4-mapped sources are judged as IPv4 and zones are ignored. Rules on the
// source port or the destination address do not exist: a process is handed its
// listeners, and packets that are not for the image are none of its business.
package firewall

import (
	"cmp"
	"fmt"
	"slices"
	"sync/atomic"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/pep"
)

// A Module keeps what outlives programs: the flows of packets that were let in. Nothing
// about an accepted connection outlives the program that judged it.
type Module struct{ filter atomic.Pointer[filter] }

// New returns the module.
func New() *Module { return &Module{} }

// Packets implements pep.PacketGate.
func (m *Module) Packets(place pep.PacketPlace) pep.PacketFilter {
	f := newFilter(place)
	m.filter.Store(f)
	return f
}

// Prepare builds the index of the program's rules. Its time is n log n in the
// number of rules and its memory linear.
func (m *Module) Prepare(in *pep.Input) (pep.GateState, error) {
	s, err := flow.Decode(in.Section)
	if err != nil {
		return nil, fmt.Errorf("firewall: %w", err)
	}
	if len(s.Lists) == 0 {
		return nil, fmt.Errorf("firewall: the section has no rule list; every connection would be denied")
	}
	t := newTable(&s)
	t.module = m
	return t, nil
}

// A table is a section ready to be asked. Its rules are immutable; the zero table
// denies.
type table struct {
	lists  []list
	module *Module

	generation uint32          // set by Enforce; never 0 then
	counts     []atomic.Uint64 // of packets, by rule; see decide
}

func newTable(s *flow.Section) *table {
	t := &table{}
	for i := range s.Lists {
		t.lists = append(t.lists, newList(&s.Lists[i]))
	}
	return t
}

// Enforce has the table decide about packets. Flows that others let in are decided
// again with their next packet, whichever way it goes.
func (t *table) Enforce() {
	f := t.module.filter.Load()
	if f == nil {
		return // the image has sockets
	}
	t.generation = 1
	if old := f.force.Load(); old != nil {
		t.generation = old.generation + 1
	}
	n := 0
	for i := range t.lists {
		n += 1 + len(t.lists[i].Rules)
	}
	t.counts = make([]atomic.Uint64, n)
	f.force.Store(t)
}

// decide gives the result of flow.Section.Decide for a flow with an address. Rules are
// numbered through all lists, the default of each before its rules. It does not
// allocate.
func (t *table) decide(f flow.Flow) (verdict abi.Verdict, rule int, audit bool) {
	f = f.Plain()
	first := 0
	for i := range t.lists {
		l := &t.lists[i]
		verdict, rule = l.Default, first
		if r := l.match(f); r != none {
			verdict, rule = l.Rules[r].Verdict, first+1+r
			audit = audit || l.Rules[r].Audit
		}
		if verdict != abi.Allow {
			break
		}
		first += 1 + len(l.Rules)
	}
	return verdict, rule, audit
}

// name returns the rule of a number, and whether it is a default.
func (t *table) name(rule int) (r abi.Rule, isDefault bool) {
	for i := range t.lists {
		l := &t.lists[i]
		if rule == 0 {
			return l.Rule, true
		}
		if rule <= len(l.Rules) {
			return l.Rules[rule-1].Rule, false
		}
		rule -= 1 + len(l.Rules)
	}
	return abi.Rule{ID: abi.RuleNetwork}, true
}

// Admit gives the result of flow.Section.Decide. It does not allocate.
func (t *table) Admit(f flow.Flow) pep.Decision { return t.decision(f) }

func (t *table) decision(f flow.Flow) pep.Decision {
	d := pep.Decision{Stage: abi.StageFirewall, Rule: abi.Rule{ID: abi.RuleNetwork}, Reason: "the source is not an address"}
	if !f.Src.IsValid() {
		return d
	}
	verdict, rule, audit := t.decide(f)
	d.Verdict, d.Record, d.Reason = verdict, audit, ""
	var isDefault bool
	d.Rule, isDefault = t.name(rule)
	switch {
	case verdict == abi.Allow:
	case isDefault:
		d.Reason = "no rule matches the connection"
	default:
		d.Reason = "the rule denies"
	}
	return d
}

// maxCounted bounds the rules that are told of.
const maxCounted = 256

// counted returns the rules with most packets. Lists may have rules of one name.
func (t *table) counted() []control.RuleCount {
	sums := map[string]uint64{}
	rule := 0
	add := func(id string) {
		if n := t.counts[rule].Load(); n > 0 {
			sums[id] += n
		}
		rule++
	}
	for i := range t.lists {
		add(t.lists[i].Rule.ID)
		for j := range t.lists[i].Rules {
			add(t.lists[i].Rules[j].ID)
		}
	}
	list := make([]control.RuleCount, 0, len(sums))
	for id, n := range sums {
		list = append(list, control.RuleCount{ID: id, Packets: n})
	}
	slices.SortFunc(list, func(a, b control.RuleCount) int {
		return cmp.Or(cmp.Compare(b.Packets, a.Packets), cmp.Compare(a.ID, b.ID))
	})
	return list[:min(len(list), maxCounted)]
}
