package firewall_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/firewall"
)

func prepare(t testing.TB, s *flow.Section) pep.GateState {
	t.Helper()
	st, err := firewall.New().Prepare(&pep.Input{Section: s.Encode()})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func rule(id string, v abi.Verdict, src string, lo, hi uint16) flow.Rule {
	return flow.Rule{Rule: abi.Rule{ID: id, Line: "p.yaml:1"}, Verdict: v, Protocol: flow.TCP, Src: netip.MustParsePrefix(src), FromHi: 65535, PortLo: lo, PortHi: hi}
}

func tcp(src string, port uint16) flow.Flow {
	f := flow.Flow{DstPort: port, Protocol: flow.TCP}
	if src != "" {
		f.Src = netip.MustParseAddr(src)
	}
	return f
}

func TestWithoutRulesNothingIsPrepared(t *testing.T) {
	for name, section := range map[string][]byte{
		"no section": nil, "no bytes": {}, "no list": (&flow.Section{}).Encode(), "malformed": {1, 2, 3},
	} {
		if st, err := firewall.New().Prepare(&pep.Input{Section: section}); err == nil || st != nil {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
}

// What holds decisions to the definition, under many rules and their trees, is in
// test/conform.
func TestDecisions(t *testing.T) {
	audited := rule("audited", abi.Allow, "10.3.0.0/16", 443, 443)
	audited.Audit = true
	s := &flow.Section{Lists: []flow.List{
		{Level: "normal", Rule: abi.Rule{ID: "default:network", Line: "p.yaml:9"}, Rules: []flow.Rule{
			rule("ssh-never", abi.Deny, "0.0.0.0/0", 22, 22),
			rule("guests", abi.Deny, "10.9.0.0/16", 0, 65535),
			audited,
			rule("corp", abi.Allow, "10.0.0.0/8", 0, 65535),
			rule("six", abi.Allow, "2001:db8::/32", 443, 443),
			rule("link-local", abi.Deny, "fe80::/10", 0, 65535),
			rule("any-six", abi.Allow, "::/0", 8000, 8000),
		}},
		{Level: "elevated", Rule: abi.Rule{ID: "default:network", Line: "p.yaml:10"}, Rules: []flow.Rule{
			rule("not-8000", abi.Deny, "10.0.0.0/8", 8000, 8000),
			rule("corp-too", abi.Allow, "10.0.0.0/8", 0, 65535),
			rule("all-six", abi.Allow, "::/0", 0, 65535),
		}},
	}}
	st := prepare(t, s)
	for name, c := range map[string]struct {
		flow   flow.Flow
		want   abi.Verdict
		by     string
		record bool
	}{
		"allowed by both lists":             {tcp("10.1.1.1", 443), abi.Allow, "corp-too", false},
		"denied before it is allowed":       {tcp("10.1.1.1", 22), abi.Deny, "ssh-never", false},
		"a source within an allowed one":    {tcp("10.9.1.1", 443), abi.Deny, "guests", false},
		"a mapped source is IPv4":           {tcp("::ffff:10.9.1.1", 443), abi.Deny, "guests", false},
		"a mapped source may be allowed":    {tcp("::ffff:10.1.1.1", 443), abi.Allow, "corp-too", false},
		"denied by the higher level only":   {tcp("10.1.1.1", 8000), abi.Deny, "not-8000", false},
		"IPv6":                              {tcp("2001:db8::7", 443), abi.Allow, "all-six", false},
		"IPv6 at another port":              {tcp("2001:db8::7", 444), abi.Deny, "default:network", false},
		"a zone does not dodge":             {tcp("fe80::1%eth0", 8000), abi.Deny, "link-local", false},
		"an unknown source":                 {tcp("192.0.2.1", 443), abi.Deny, "default:network", false},
		"another protocol":                  {flow.Flow{Src: netip.MustParseAddr("10.1.1.1"), DstPort: 443, Protocol: flow.UDP}, abi.Deny, "default:network", false},
		"no source":                         {tcp("", 443), abi.Deny, "default:network", false},
		"recorded although allowed":         {tcp("10.3.1.1", 443), abi.Allow, "corp-too", true},
		"recorded by a list, denied by one": {tcp("10.3.1.1", 22), abi.Deny, "ssh-never", false},
	} {
		d := st.Admit(c.flow)
		if d.Verdict != c.want || d.Rule.ID != c.by || d.Record != c.record || d.Stage != abi.StageFirewall {
			t.Errorf("%s: %+v", name, d)
		}
		if (d.Verdict == abi.Deny) != (d.Reason != "") {
			t.Errorf("%s: reason %q", name, d.Reason)
		}
	}
	if d := st.Admit(tcp("192.0.2.1", 443)); d.Rule.Line != "p.yaml:9" {
		t.Errorf("the default is at %q", d.Rule.Line)
	}
}

func TestADefaultThatAllowsDoesNotAllowNobody(t *testing.T) {
	st := prepare(t, &flow.Section{Lists: []flow.List{{Default: abi.Allow, Rule: abi.Rule{ID: "default:network"}}}})
	if d := st.Admit(tcp("192.0.2.1", 1)); d.Verdict != abi.Allow {
		t.Errorf("%+v", d)
	}
	if d := st.Admit(flow.Flow{}); d.Verdict != abi.Deny {
		t.Errorf("a flow without a source: %+v", d)
	}
}

// manyRules are some that nobody made trees for.
func manyRules(n int) *flow.Section {
	r := rand.New(rand.NewPCG(7, 8))
	list := flow.List{Rule: abi.Rule{ID: "default:network"}}
	for i := range n {
		src, _ := netip.AddrFrom4([4]byte{byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))}).Prefix(8 + r.IntN(25))
		lo := uint16(r.IntN(60000))
		list.Rules = append(list.Rules, flow.Rule{Rule: abi.Rule{ID: fmt.Sprint(i)}, Verdict: abi.Allow, Protocol: flow.TCP, Src: src, FromHi: 65535, PortLo: lo, PortHi: lo + uint16(r.IntN(1000))})
	}
	return &flow.Section{Lists: []flow.List{list}}
}

func TestAdmitDoesNotAllocate(t *testing.T) {
	st := prepare(t, manyRules(1000))
	f := tcp("::ffff:192.0.2.1", 443)
	if n := testing.AllocsPerRun(100, func() { st.Admit(f) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
