// Package firewall judges connections by source, protocol and port before their
// first byte is read. It applies the rules of the program and makes none: the
// first rule that matches decides, every list of the section must allow, and a
// source that is no address, like a program without a section, is denied.
//
// IPv4-mapped sources are judged as IPv4 and zones are ignored. Rules on the
// source port or the destination address do not exist: a process is handed its
// listeners.
package firewall

import (
	"fmt"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/pep"
)

// A Module has no state of its own: nothing about a connection outlives the
// program that judged it.
type Module struct{}

// New returns the module.
func New() *Module { return &Module{} }

// Prepare builds the index of the program's rules. Its time is n log n in the
// number of rules and its memory linear.
func (*Module) Prepare(in *pep.Input) (pep.GateState, error) {
	s, err := flow.Decode(in.Section)
	if err != nil {
		return nil, fmt.Errorf("firewall: %w", err)
	}
	if len(s.Lists) == 0 {
		return nil, fmt.Errorf("firewall: the section has no rule list; every connection would be denied")
	}
	return newTable(&s), nil
}

// A table is a section ready to be asked. It is immutable; the zero table denies.
type table struct{ lists []list }

func newTable(s *flow.Section) *table {
	t := &table{}
	for i := range s.Lists {
		t.lists = append(t.lists, newList(&s.Lists[i]))
	}
	return t
}

// Admit gives the result of flow.Section.Decide. It does not allocate.
func (t *table) Admit(f flow.Flow) pep.Decision {
	f = f.Plain()
	d := pep.Decision{Stage: abi.StageFirewall, Rule: abi.Rule{ID: abi.RuleNetwork}, Reason: "the source is not an address"}
	if !f.Src.IsValid() {
		return d
	}
	for i := range t.lists {
		l := &t.lists[i]
		d.Verdict, d.Rule = l.Default, l.Rule
		d.Reason = "no rule matches the connection"
		if r := l.match(f); r != nil {
			d.Verdict, d.Rule = r.Verdict, r.Rule
			d.Record = d.Record || r.Audit
			d.Reason = "the rule denies"
		}
		if d.Verdict != abi.Allow {
			return d
		}
	}
	if d.Verdict == abi.Allow {
		d.Reason = ""
	}
	return d
}
