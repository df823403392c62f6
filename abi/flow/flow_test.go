package flow_test

import (
	"net/netip"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/flow"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func rule(id string, v abi.Verdict, src string, lo, hi uint16) flow.Rule {
	return flow.Rule{Rule: abi.Rule{ID: id, Line: "p.yaml:1"}, Verdict: v, Protocol: flow.TCP, Src: prefix(src), FromHi: 65535, PortLo: lo, PortHi: hi}
}

func sample() *flow.Section {
	audited := rule("audited", abi.Allow, "10.0.0.0/8", 443, 443)
	audited.Audit = true
	any := rule("any-protocol", abi.Deny, "::/0", 0, 65535)
	any.Protocol = flow.AnyProtocol
	return &flow.Section{Lists: []flow.List{
		{Level: "normal", Rule: abi.Rule{ID: "default:network", Line: "p.yaml:9"}, Rules: []flow.Rule{audited, any}},
		{Level: "elevated", Default: abi.Allow, Rule: abi.Rule{ID: "default:network"}},
	}}
}

func TestNothingDecodesToADenial(t *testing.T) {
	for name, b := range map[string][]byte{"no section": nil, "no bytes": {}, "malformed": {1}, "an endless list": {255, 255, 255, 255}} {
		s, err := flow.Decode(b)
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		if r := s.Decide(flow.Flow{Src: netip.MustParseAddr("10.0.0.1"), DstPort: 443, Protocol: flow.TCP}); r.Verdict != abi.Deny {
			t.Errorf("%s: %v", name, r)
		}
	}
	s, err := flow.Decode(make([]byte, 28)) // no rule, and no list
	if err != nil || s.Decide(flow.Flow{Src: netip.MustParseAddr("10.0.0.1")}).Verdict != abi.Deny {
		t.Errorf("zero bytes: %v, %+v", err, s)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, change := range map[string]func(*flow.Section){
		"a verdict that is neither": func(s *flow.Section) { s.Lists[0].Rules[0].Verdict = 2 },
		"a default that is neither": func(s *flow.Section) { s.Lists[0].Default = 2 },
		"no prefix":                 func(s *flow.Section) { s.Lists[0].Rules[0].Src = netip.Prefix{} },
		"host bits":                 func(s *flow.Section) { s.Lists[0].Rules[0].Src = netip.PrefixFrom(netip.MustParseAddr("10.0.0.1"), 8) },
		"an IPv4-mapped prefix":     func(s *flow.Section) { s.Lists[0].Rules[0].Src = prefix("::ffff:10.0.0.0/104") },
		"ports in the wrong order":  func(s *flow.Section) { s.Lists[0].Rules[0].PortHi = 442 },
	} {
		s := sample()
		change(s)
		if got, err := flow.Decode(s.Encode()); err == nil || len(got.Lists) != 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestDecide(t *testing.T) {
	web := rule("web", abi.Allow, "10.0.0.0/8", 443, 443)
	never := rule("never", abi.Deny, "10.9.0.0/16", 0, 65535)
	six := rule("six", abi.Allow, "2001:db8::/32", 443, 443)
	linkLocal := rule("link-local", abi.Deny, "fe80::/10", 0, 65535)
	allV6 := rule("all-v6", abi.Allow, "::/0", 0, 65535)
	audited := rule("audited", abi.Allow, "10.0.0.0/8", 443, 443)
	audited.Audit = true
	list := func(level string, rules ...flow.Rule) flow.List {
		return flow.List{Level: level, Rule: abi.Rule{ID: "default:network"}, Rules: rules}
	}
	open := flow.List{Level: "open", Default: abi.Allow, Rule: abi.Rule{ID: "default:network"}}
	for name, c := range map[string]struct {
		lists []flow.List
		src   string
		want  abi.Verdict
		by    string
		audit bool
	}{
		"no list":               {nil, "10.1.1.1", abi.Deny, "", false},
		"a rule that allows":    {[]flow.List{list("a", web)}, "10.1.1.1", abi.Allow, "web", false},
		"no rule matches":       {[]flow.List{list("a", web)}, "11.1.1.1", abi.Deny, "default:network", false},
		"a default that allows": {[]flow.List{open}, "11.1.1.1", abi.Allow, "default:network", false},
		"no address, although the default allows":  {[]flow.List{open}, "", abi.Deny, "", false},
		"the earlier denial wins":                  {[]flow.List{list("a", never, web)}, "10.9.1.1", abi.Deny, "never", false},
		"the earlier permission wins":              {[]flow.List{list("a", web, never)}, "10.9.1.1", abi.Allow, "web", false},
		"an IPv4-mapped source is IPv4":            {[]flow.List{list("a", never, allV6)}, "::ffff:10.9.1.1", abi.Deny, "never", false},
		"IPv6":                                     {[]flow.List{list("a", web, six)}, "2001:db8::1", abi.Allow, "six", false},
		"::/0 is not IPv4":                         {[]flow.List{list("a", allV6)}, "10.1.1.1", abi.Deny, "default:network", false},
		"a zone does not dodge a rule":             {[]flow.List{list("a", linkLocal, allV6)}, "fe80::1%eth0", abi.Deny, "link-local", false},
		"every list must allow, the first denies":  {[]flow.List{list("a", never, web), list("b", web)}, "10.9.1.1", abi.Deny, "never", false},
		"every list must allow, the second denies": {[]flow.List{list("a", web), list("b", never, web)}, "10.9.1.1", abi.Deny, "never", false},
		"the last list names what allows":          {[]flow.List{list("a", web), open}, "10.1.1.1", abi.Allow, "default:network", false},
		"an audited rule of any list is recorded":  {[]flow.List{list("a", audited), open}, "10.1.1.1", abi.Allow, "default:network", true},
	} {
		s := flow.Section{Lists: c.lists}
		f := flow.Flow{DstPort: 443, Protocol: flow.TCP}
		if c.src != "" {
			f.Src = netip.MustParseAddr(c.src)
		}
		got := s.Decide(f)
		if got.Verdict != c.want || got.Rule.ID != c.by || got.Audit != c.audit {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestICMPIsOfBothFamilies(t *testing.T) {
	echo := rule("echo", abi.Allow, "2001:db8::/32", 0, 65535)
	echo.Protocol = flow.ICMP
	s := flow.Section{Lists: []flow.List{{Rules: []flow.Rule{echo}}}}
	for p, want := range map[flow.Protocol]abi.Verdict{flow.ICMP: abi.Allow, flow.ICMPv6: abi.Allow, flow.TCP: abi.Deny, 59: abi.Deny} {
		if got := s.Decide(flow.Flow{Src: netip.MustParseAddr("2001:db8::1"), Protocol: p}); got.Verdict != want {
			t.Errorf("protocol %d: %+v", p, got)
		}
	}
}

func TestDestinations(t *testing.T) {
	to := rule("to", abi.Allow, "10.0.0.0/8", 443, 443)
	to.Dst = prefix("192.0.2.0/24")
	any := rule("any", abi.Allow, "0.0.0.0/0", 443, 443)
	any.Dst = prefix("0.0.0.0/0")
	s := flow.Section{Lists: []flow.List{{Rules: []flow.Rule{to, any}}}}
	for dst, want := range map[string]string{"192.0.2.7": "to", "::ffff:192.0.2.7": "to", "192.0.3.7": "any", "2001:db8::1": "any", "": "any"} {
		f := flow.Flow{Src: netip.MustParseAddr("10.1.1.1"), DstPort: 443, Protocol: flow.TCP}
		if dst != "" {
			f.Dst = netip.MustParseAddr(dst)
		}
		if got := s.Decide(f); got.Rule.ID != want {
			t.Errorf("to %q: %+v", dst, got)
		}
	}
}

func TestMatches(t *testing.T) {
	r := rule("r", abi.Allow, "10.0.0.0/8", 80, 90)
	r.Dst, r.FromLo, r.FromHi = prefix("192.0.2.0/24"), 1000, 1999
	f := flow.Flow{Src: netip.MustParseAddr("10.1.1.1"), Dst: netip.MustParseAddr("192.0.2.255"), SrcPort: 1000, DstPort: 80, Protocol: flow.TCP}
	for name, c := range map[string]struct {
		change func(*flow.Flow)
		want   bool
	}{
		"first port":                        {func(*flow.Flow) {}, true},
		"another port of the source":        {func(f *flow.Flow) { f.SrcPort = 2000 }, false},
		"last port of the source":           {func(f *flow.Flow) { f.SrcPort = 1999 }, true},
		"port of the source before":         {func(f *flow.Flow) { f.SrcPort = 999 }, false},
		"another destination":               {func(f *flow.Flow) { f.Dst = netip.MustParseAddr("192.0.3.0") }, false},
		"a destination of the other family": {func(f *flow.Flow) { f.Dst = netip.MustParseAddr("::c000:201") }, false},
		"no destination":                    {func(f *flow.Flow) { f.Dst = netip.Addr{} }, false},
		"last port":                         {func(f *flow.Flow) { f.DstPort = 90 }, true},
		"port before":                       {func(f *flow.Flow) { f.DstPort = 79 }, false},
		"port after":                        {func(f *flow.Flow) { f.DstPort = 91 }, false},
		"other protocol":                    {func(f *flow.Flow) { f.Protocol = flow.UDP }, false},
		"source outside":                    {func(f *flow.Flow) { f.Src = netip.MustParseAddr("11.0.0.0") }, false},
		"no source at all":                  {func(f *flow.Flow) { f.Src = netip.Addr{} }, false},
	} {
		x := f
		c.change(&x)
		if got := r.Matches(x); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestWhatSharesALimit(t *testing.T) {
	for src, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32",
		"2001:db8::1": "2001:db8::/64", "fe80::1%eth0": "fe80::/64",
	} {
		if got := (flow.Flow{Src: netip.MustParseAddr(src)}).Source(); got != prefix(want) {
			t.Errorf("%s: %v", src, got)
		}
	}
	if got := (flow.Flow{}).Source(); got.IsValid() {
		t.Errorf("no address: %v", got)
	}
}
