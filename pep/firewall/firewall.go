// Package firewall judges connections by addresses, protocol and ports before their
// first byte is read, and where the image has a network of its own every packet before
// its TCP stack sees it. It applies the rules of the program and makes none: the
// first rule that matches decides, every list of the section must allow, and a
// source that is no address, like a program without a section, is denied.
//
// IPv4-mapped addresses are judged as IPv4 and zones are ignored. Packets that are not for
// the image are none of its business, whatever rules say about them.
//
// Rules are asked where they lie in the program, by the decision forest that was made for
// them when it was compiled; this package builds nothing out of them.
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

// Prepare checks the program's rules, in time in proportion to their number.
func (m *Module) Prepare(in *pep.Input) (pep.GateState, error) {
	v, err := flow.Open(in.Section)
	if err != nil {
		return nil, fmt.Errorf("firewall: %w", err)
	}
	if len(v.Lists) == 0 {
		return nil, fmt.Errorf("firewall: the section has no rule list; every connection would be denied")
	}
	return &table{view: v, module: m, dry: in.DryRun}, nil
}

// A table is a section ready to be asked. It does not change.
type table struct {
	view   *flow.View
	module *Module

	tried *table    // asked as well, of what is tried and not enforced; nil: nothing is
	dry   *abi.Rule // lets through what is denied; nil: it is enforced

	generation uint32          // set by Enforce; never 0 then
	counts     []atomic.Uint64 // of packets, by rule; see decide
}

// Try implements pep.Trier.
func (t *table) Try(s pep.GateState) { t.tried, _ = s.(*table) }

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
	last := &t.view.Lists[len(t.view.Lists)-1]
	t.counts = make([]atomic.Uint64, last.First+last.Rules+len(t.view.Lists))
	f.force.Store(t)
}

// decide gives the result of flow.Section.Decide for a flow with an address. Rules are
// numbered through all lists, the default of each before its rules. It does not
// allocate.
func (t *table) decide(f flow.Flow) (verdict abi.Verdict, rule int, audit bool) {
	p := flow.At(f.Plain())
	for i := range t.view.Lists {
		l := &t.view.Lists[i]
		verdict, rule = l.Default, l.First+i
		if r := t.view.Match(l, &p); r != flow.None {
			var asks bool
			verdict, asks = t.view.Verdict(r)
			rule, audit = r+i+1, audit || asks
		}
		if verdict != abi.Allow {
			break
		}
	}
	return verdict, rule, audit
}

// enforce is decide, with what is enforced about packets. A note says, where what is tried
// would have decided otherwise, by which rule: its number, counted from one; 0: the same.
func (t *table) enforce(f flow.Flow) (verdict abi.Verdict, rule, note int) {
	verdict, rule, _ = t.decide(f)
	switch {
	case t.dry != nil && verdict != abi.Allow:
		return abi.Allow, rule, rule + 1
	case t.tried != nil:
		if would, by, _ := t.tried.decide(f); would != verdict {
			note = by + 1
		}
	}
	return verdict, rule, note
}

// name returns the rule of a number, and whether it is a default.
func (t *table) name(rule int) (r abi.Rule, isDefault bool) {
	for i := range t.view.Lists {
		switch l := &t.view.Lists[i]; {
		case rule == l.First+i:
			return l.Rule, true
		case rule <= l.First+i+l.Rules:
			return t.view.Name(rule - i - 1), false
		}
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
	for rule := range t.counts {
		if n := t.counts[rule].Load(); n > 0 {
			r, _ := t.name(rule)
			sums[r.ID] += n
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
