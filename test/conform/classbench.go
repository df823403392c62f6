package main

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/compiler/forest"
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

// planted returns the bytes of a section whose lists have trees.
func planted(s *flow.Section) []byte {
	p := flow.Section{}
	for _, l := range s.Lists {
		forest.Plant(&l)
		p.Lists = append(p.Lists, l)
	}
	return p.Encode()
}

// packetsAtATime bounds the memory that packets take.
const packetsAtATime = 20_000

// classBench asks about flows that the rules of a filter set are about, of all five
// fields: the forest and the definition must agree on each verdict and rule. Packets come
// to an image alone, so a tenth as many are judged under the same rules for every
// destination.
func classBench(name string, count int) *suite {
	s := &suite{Name: name}
	section, err := filterSet(name)
	if err == nil {
		s.Tests = len(section.Lists[0].Rules)
		if err = s.flows(section, count); err == nil {
			err = s.packets(section, count/10)
		}
	}
	if err != nil {
		s.Unreadable = err.Error()
	}
	return s
}

func (s *suite) flows(section *flow.Section, count int) error {
	_, st, err := enforce(planted(section))
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	workers := runtime.NumCPU()
	for w := range workers {
		wg.Go(func() {
			next := packets.Flows(uint64(w), section)
			for range (count + workers - 1) / workers {
				f := next()
				want, got := section.Decide(f), st.Admit(f)
				if got.Verdict != want.Verdict || f.Src.IsValid() && got.Rule != want.Rule || got.Record != want.Audit {
					mu.Lock()
					s.found(mismatch{Where: s.Name, Request: fmt.Sprintf("%+v", f),
						Expected: fmt.Sprintf("%s by %s", want.Verdict, want.Rule.ID), Got: fmt.Sprintf("%s by %s", got.Verdict, got.Rule.ID)})
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	s.Requests += (count + workers - 1) / workers * workers
	return nil
}

func (s *suite) packets(section *flow.Section, count int) error {
	for i := range section.Lists[0].Rules {
		section.Lists[0].Rules[i].Dst = netip.Prefix{}
	}
	for seed, n := uint64(0), 0; n < count; seed++ {
		f, _, err := enforce(planted(section))
		if err != nil {
			return err
		}
		list := packets.Generate(seed, min(packetsAtATime, count-n), target, section)
		n += len(list)
		s.Requests += len(list)
		for _, p := range list {
			want := expected(&p, func(x flow.Flow) abi.Verdict { return section.Decide(x).Verdict })
			if got := f.In(p.Bytes); got != want {
				s.found(mismatch{Where: fmt.Sprintf("%s, packets %d", s.Name, seed), Request: fmt.Sprintf("%s %+v (%x)", p.Form, p.Flow, p.Bytes),
					Expected: fmt.Sprintf("action %d", want), Got: fmt.Sprintf("action %d", got)})
			}
		}
	}
	return nil
}
