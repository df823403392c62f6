package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/compiler"
	"lorica.dev/lorica/internal/notrun"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/test/conform/packets"
)

func packetFilter(t testing.TB, section []byte) (pep.PacketFilter, pep.GateState) {
	t.Helper()
	f, st, err := enforce(section)
	if err != nil {
		t.Fatal(err)
	}
	return f, st
}

// judged counts what packets came to.
type judged map[string]int

// judge has a firewall judge packets, and holds its verdicts to those of want.
func (n judged) judge(t testing.TB, f pep.PacketFilter, list []packets.Packet, want func(flow.Flow) abi.Verdict) {
	t.Helper()
	for i := range list {
		p := &list[i]
		action := expected(p, want)
		if got := f.In(p.Bytes); got != action {
			t.Fatalf("%s (%x) of %+v: the firewall says %d, the definition %d", p.Form, p.Bytes, p.Flow, got, action)
		}
		n[fmt.Sprint(action, p.Form)]++
		n[fmt.Sprint(action)]++
	}
}

// counted holds the counters of a firewall to what it was shown.
func counted(t testing.TB, f pep.PacketFilter, s *flow.Section, list []packets.Packet) {
	t.Helper()
	want, rules := [3]uint64{}, map[string]uint64{}
	for i := range list {
		if p := &list[i]; !p.Flow.Src.IsValid() {
			want[2]++
		} else {
			r := s.Decide(p.Flow)
			want[1-r.Verdict]++
			rules[r.Rule.ID]++
		}
	}
	n := f.(pep.PacketReporter).Counters()
	if got := [3]uint64{n.In, n.Denied, n.Malformed}; got != want {
		t.Errorf("let in, denied and malformed are counted %v, and not %v", got, want)
	}
	for _, r := range n.Rules {
		if rules[r.ID] != r.Packets {
			t.Errorf("rule %s decided about %d packets, and not %d", r.ID, r.Packets, rules[r.ID])
		}
	}
	if len(n.Rules) != min(len(rules), 256) {
		t.Errorf("%d rules are counted, and not %d", len(n.Rules), len(rules))
	}
}

func (n judged) both(t testing.TB, forms ...string) {
	t.Helper()
	for _, form := range forms {
		for _, a := range []pep.Action{pep.Drop, pep.Pass} {
			if form == "TCP" && a == pep.Drop {
				a = pep.Refuse
			}
			if n[fmt.Sprint(a, form)] == 0 {
				t.Errorf("no %s came to %d: %v", form, a, n)
			}
		}
	}
}

// TestPacketsAreJudgedAsTheDefinitionSays asks the firewall about a million packets, and
// the definition of its rules about their fields.
func TestPacketsAreJudgedAsTheDefinitionSays(t *testing.T) {
	n := judged{}
	for seed, c := range []struct{ sets, rules, packets int }{{8, 0, 5000}, {80, 60, 10_000}, {15, 1000, 10_000}, {1, 10_000, 10_000}} {
		for i := range c.sets {
			s := packets.Rules(uint64(seed*1000+i), c.rules, target.V4, target.V6)
			list := packets.Generate(uint64(i), c.packets, target, s)
			f, _ := packetFilter(t, planted(s))
			n.judge(t, f, list, func(x flow.Flow) abi.Verdict { return s.Decide(x).Verdict })
			counted(t, f, s, list)
		}
	}
	n.both(t, "TCP", "UDP", "echo")
	if n["0"]+n["1"]+n["2"] < 1_000_000 {
		t.Errorf("only %v", n)
	}
	t.Logf("dropped, let in and refused: %d, %d, %d", n["0"], n["1"], n["2"])
}

// LORICA_CLASSBENCH names a folder of ClassBench filter sets. Packets are all for the
// image: here the rules are about every destination.
func TestPacketsAreJudgedByClassBench(t *testing.T) {
	sets := filterSets(t)
	if sets == nil {
		notrun.Say(t, "packets judged by ClassBench filter sets", "LORICA_CLASSBENCH names no folder of them")
		return
	}
	for name, rules := range sets {
		for i := range rules {
			rules[i].Dst = netip.Prefix{}
		}
		s := &flow.Section{Lists: []flow.List{{Rule: abi.Rule{ID: abi.RuleNetwork}, Rules: rules}}}
		f, st := packetFilter(t, planted(s))
		list := packets.Generate(1, 20_000, target, s)
		n := judged{}
		n.judge(t, f, list, func(x flow.Flow) abi.Verdict { return s.Decide(x).Verdict })
		counted(t, f, s, list)
		n.both(t, "TCP")
		for _, p := range list { // connections are judged alike when they are accepted
			if want, got := s.Decide(p.Flow), st.Admit(p.Flow); p.Flow.Src.IsValid() && (got.Verdict != want.Verdict || got.Rule != want.Rule) {
				t.Fatalf("%+v: the forest says %+v, the definition %+v", p.Flow, got, want)
			}
		}
		t.Logf("%s: %d rules; dropped, let in and refused: %d, %d, %d", name, len(rules), n["0"], n["1"], n["2"])
	}
}

// ingress writes a policy about the network, of rules in random order.
func (g *generator) ingress() string {
	var b strings.Builder
	b.WriteString(head + "  default: {authorization: Allow, network: " + pick(g, "Allow", "Deny") + "}\n  levels: {names: [normal, elevated, lockdown], initial: normal}\n  endpoints:\n")
	nets := []string{"10.20.0.0/16", "10.20.1.0/24", "127.0.0.0/8", "192.0.2.7/32", "0.0.0.0/0", `"2001:db8::/32"`, `"2001:db8:20::/48"`, `"::1/128"`, `"::/0"`}
	for i := range 4 {
		fmt.Fprintf(&b, "    - {name: e%d, cidrs: [%s, %s]}\n", i, pick(g, nets...), pick(g, nets...))
	}
	b.WriteString("  network:\n    ingress:\n")
	for i := range 2 + g.IntN(8) {
		fmt.Fprintf(&b, "      - {name: r%d, action: %s, from: [%s]%s%s}\n", i, pick(g, "Allow", "Allow", "Deny"), pick(g, "e0", "e1", "e2", "e3", "any"),
			pick(g, "", ", ports: [{protocol: ICMP}]", ", ports: [{protocol: any}]", ", ports: [{protocol: TCP, port: 8443}, {protocol: ICMP}]",
				", ports: [{protocol: UDP, portRange: 50-60}]", ", ports: [{protocol: any, port: 443}]", ", ports: [{protocol: TCP}]"),
			pick(g, "", "", ", minLevel: elevated", ", maxLevel: elevated", ", minLevel: lockdown"))
	}
	b.WriteString("      - {name: last, action: Allow, from: [e0]}\n") // a policy that denies everything is an error
	return b.String()
}

// TestPacketsAreJudgedAsTheReferenceSays compiles policies and asks package policy.
func TestPacketsAreJudgedAsTheReferenceSays(t *testing.T) {
	n := judged{}
	protocols := map[flow.Protocol]string{flow.TCP: "TCP", flow.UDP: "UDP", flow.ICMP: api.ICMP}
	for seed := range uint64(60) {
		doc := seeded(seed).ingress()
		d := load(t, doc)
		for i, l := range must(compiler.Compile(d)).Levels {
			section := l.Program(d, program.PlanID{}, 1).Section(flow.Name)
			s := must(flow.Decode(section))
			f, _ := packetFilter(t, section)
			n.judge(t, f, packets.Generate(seed, 300, target, &s), func(x flow.Flow) abi.Verdict {
				return d.Classify(d.Policy.Levels.Names[i], api.Packet{From: x.Src, Protocol: protocols[x.Protocol], Port: x.DstPort}).Verdict
			})
		}
	}
	n.both(t, "TCP", "UDP", "echo")
}
