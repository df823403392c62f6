package main

import (
	"fmt"
	"net/netip"
	"os"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/firewall"
	"lorica.dev/lorica/test/conform/packets"
)

var target = packets.Target{V4: netip.MustParseAddr("169.254.76.2"), V6: netip.MustParseAddr("fd6c:6f72:6963:62::2"), Ports: []uint16{8443}}

// enforce returns a firewall with packets, under encoded rules.
func enforce(section []byte) (pep.PacketFilter, pep.GateState, error) {
	m := firewall.New()
	f := m.Packets(pep.PacketPlace{Own: []netip.Addr{target.V4, target.V6}})
	st, err := m.Prepare(&pep.Input{Section: section})
	if err != nil {
		return nil, nil, err
	}
	st.(pep.PacketState).Enforce()
	return f, st, nil
}

// filterSet reads a filter set of ClassBench as the rules of a firewall.
func filterSet(name string) (*flow.Section, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	rules, err := packets.ClassBench(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if len(rules) == 0 {
		return nil, fmt.Errorf("%s: it holds no rules", name)
	}
	return &flow.Section{Lists: []flow.List{{Rule: abi.Rule{ID: abi.RuleNetwork}, Rules: rules}}}, nil
}

// expected is what the definition of rules says of a packet: what a list says that is read
// from its beginning.
func expected(p *packets.Packet, want func(flow.Flow) abi.Verdict) pep.Action {
	switch {
	case p.Flow.Src.IsValid() && want(p.Flow) == abi.Allow:
		return pep.Pass
	case p.Flow.Src.IsValid() && p.Opens:
		return pep.Refuse
	}
	return pep.Drop
}

// packetsAtATime bounds the memory that packets take.
const packetsAtATime = 20_000

// classBench judges generated packets by a filter set: the firewall and the definition
// must agree on each, and on the rule that decides where a connection begins.
func classBench(name string, count int) *suite {
	s := &suite{Name: name}
	section, err := filterSet(name)
	if err != nil {
		s.Unreadable = err.Error()
		return s
	}
	s.Tests = len(section.Lists[0].Rules)
	for seed := uint64(0); s.Requests < count; seed++ {
		f, st, err := enforce(section.Encode())
		if err != nil {
			s.Unreadable = err.Error()
			return s
		}
		for _, p := range packets.Generate(seed, min(packetsAtATime, count-s.Requests), target, section) {
			s.Requests++
			want := expected(&p, func(x flow.Flow) abi.Verdict { return section.Decide(x).Verdict })
			if got := f.In(p.Bytes); got != want {
				s.found(mismatch{Where: fmt.Sprintf("%s, packets %d", name, seed), Request: fmt.Sprintf("%s %+v (%x)", p.Form, p.Flow, p.Bytes),
					Expected: fmt.Sprintf("action %d", want), Got: fmt.Sprintf("action %d", got)})
			}
			if !p.Flow.Src.IsValid() {
				continue
			}
			if want, got := section.Decide(p.Flow), st.Admit(p.Flow); got.Verdict != want.Verdict || got.Rule != want.Rule {
				s.found(mismatch{Where: fmt.Sprintf("%s, packets %d", name, seed), Request: fmt.Sprintf("%+v", p.Flow),
					Expected: fmt.Sprintf("%s by %s", want.Verdict, want.Rule.ID), Got: fmt.Sprintf("%s by %s", got.Verdict, got.Rule.ID)})
			}
		}
	}
	return s
}
