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

// same compares the module with the definition, flow.Section.Decide.
func same(t testing.TB, s *flow.Section, st pep.GateState, f flow.Flow) {
	t.Helper()
	want, got := s.Decide(f), st.Admit(f)
	if !f.Plain().Src.IsValid() {
		want.Rule = got.Rule // the definition names no rule where there is no source
	}
	if got.Verdict != want.Verdict || got.Rule != want.Rule || got.Record != want.Audit {
		t.Fatalf("%+v: the index says %+v, the definition %+v", f, got, want)
	}
}

// randomSection draws from few prefixes and ports, so that rules overlap.
func randomSection(r *rand.Rand, rules int) *flow.Section {
	s := &flow.Section{}
	for l := range 1 + r.IntN(3) {
		list := flow.List{Level: fmt.Sprint(l), Default: abi.Verdict(r.IntN(2)), Rule: abi.Rule{ID: "default:network", Line: fmt.Sprint(l)}}
		for i := range r.IntN(rules + 1) {
			x := flow.Rule{Rule: abi.Rule{ID: fmt.Sprint(l, "-", i)}, Verdict: abi.Verdict(r.IntN(2)), Audit: r.IntN(4) == 0,
				Protocol: []flow.Protocol{flow.AnyProtocol, flow.TCP, flow.UDP}[r.IntN(3)]}
			a := randomAddr(r).Unmap().WithZone("")
			x.Src, _ = a.Prefix(r.IntN(a.BitLen() + 1))
			x.PortLo = randomPort(r)
			x.PortHi = x.PortLo
			if hi := randomPort(r); hi > x.PortLo && r.IntN(2) == 0 {
				x.PortHi = hi
			}
			list.Rules = append(list.Rules, x)
		}
		s.Lists = append(s.Lists, list)
	}
	return s
}

func randomAddr(r *rand.Rand) netip.Addr {
	pick := func() byte { return []byte{0, 1, 10, 127, 128, 255}[r.IntN(6)] }
	if r.IntN(2) == 0 {
		a := netip.AddrFrom4([4]byte{10, pick(), pick(), pick()})
		if r.IntN(4) == 0 {
			a = netip.AddrFrom16(a.As16())
		}
		return a
	}
	b := [16]byte{0x20, 0x01}
	for i := 2; i < 16; i++ {
		b[i] = pick()
	}
	a := netip.AddrFrom16(b)
	if r.IntN(8) == 0 {
		a = a.WithZone("eth0")
	}
	return a
}

func randomPort(r *rand.Rand) uint16 {
	return []uint16{0, 1, 22, 79, 80, 81, 443, 8000, 65534, 65535}[r.IntN(10)]
}

func TestIndexEqualsDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 400 {
		s := randomSection(r, 60)
		st := prepare(t, s)
		for range 200 {
			same(t, s, st, flow.Flow{Src: randomAddr(r), DstPort: randomPort(r), Protocol: []flow.Protocol{flow.ICMP, flow.TCP, flow.UDP}[r.IntN(3)]})
		}
	}
}

func FuzzIndexEqualsDefinition(f *testing.F) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 8 {
		f.Add(randomSection(r, 6).Encode(), randomAddr(r).Unmap().AsSlice(), randomPort(r), uint8(flow.TCP))
	}
	f.Fuzz(func(t *testing.T, section, addr []byte, port uint16, protocol uint8) {
		s, err := flow.Decode(section)
		if err != nil || len(s.Lists) == 0 {
			return
		}
		src, _ := netip.AddrFromSlice(addr)
		same(t, &s, prepare(t, &s), flow.Flow{Src: src, DstPort: port, Protocol: flow.Protocol(protocol)})
	})
}

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

func BenchmarkAdmit(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10_000, 100_000} {
		st := prepare(b, manyRules(n))
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			f := tcp("192.0.2.1", 443)
			b.ReportAllocs()
			for b.Loop() {
				st.Admit(f)
			}
		})
	}
}

func BenchmarkPrepare(b *testing.B) {
	s := manyRules(10_000).Encode()
	m := firewall.New()
	for b.Loop() {
		if _, err := m.Prepare(&pep.Input{Section: s}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestAdmitDoesNotAllocate(t *testing.T) {
	st := prepare(t, manyRules(1000))
	f := tcp("::ffff:192.0.2.1", 443)
	if n := testing.AllocsPerRun(100, func() { st.Admit(f) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
