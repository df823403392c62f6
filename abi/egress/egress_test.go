package egress

import (
	"bytes"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"lorica.dev/lorica/abi"
)

func cidrs(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func ruled(id string, v abi.Verdict, lo, hi uint16, nets []netip.Prefix, names ...string) Rule {
	return Rule{Rule: abi.Rule{ID: id, Line: "policy.yaml:1"}, Verdict: v, CIDRs: nets, Names: names, Ports: []Ports{{lo, hi}}}
}

func section() *Section {
	none := abi.Rule{ID: abi.RuleEgress, Line: "policy.yaml:9"}
	return &Section{Lists: []List{
		{Level: "normal", Rule: none, Rules: []Rule{
			ruled("metadata", abi.Deny, 1, 65535, cidrs("10.9.0.0/16")),
			ruled("legacy", abi.Allow, 9000, 9001, cidrs("127.0.0.1/32", "::1/128")),
			ruled("everything-v4", abi.Allow, 443, 443, cidrs("10.0.0.0/8", "0.0.0.0/0")),
			ruled("idp", abi.Allow, 443, 443, nil, "api.acme.internal"),
			ruled("local", abi.Allow, 9000, 9001, nil, "legacy.internal"),
		}},
		{Level: "elevated", Rule: none, Rules: []Rule{
			ruled("legacy", abi.Allow, 9000, 9000, cidrs("127.0.0.1/32")),
			ruled("web", abi.Allow, 443, 443, cidrs("0.0.0.0/0"), "api.acme.internal", "legacy.internal"),
			ruled("local", abi.Allow, 9000, 9000, nil, "legacy.internal"),
		}},
	}}
}

func TestDecide(t *testing.T) {
	s := section()
	for _, c := range []struct {
		name, host, addr string
		port             uint16
		want             abi.Verdict
		rule             string
	}{
		{"an address that is listed", "", "127.0.0.1", 9000, abi.Allow, "legacy"},
		{"another port", "", "127.0.0.1", 9002, abi.Deny, abi.RuleEgress},
		{"a port that a higher level takes away", "", "127.0.0.1", 9001, abi.Deny, abi.RuleEgress},
		{"IPv4-mapped is IPv4", "", "::ffff:127.0.0.1", 9000, abi.Allow, "legacy"},
		{"IPv4-mapped dodges no denial", "", "::ffff:10.9.1.1", 443, abi.Deny, "metadata"},
		{"an earlier denial wins", "", "10.9.1.1", 443, abi.Deny, "metadata"},
		{"an address of another family", "", "2001:db8::1", 443, abi.Deny, abi.RuleEgress},
		{"the unspecified address is this machine", "", "0.0.0.0", 443, abi.Deny, "web"},
		{"multicast", "", "224.0.0.1", 443, abi.Deny, "web"},
		{"a name, before it is resolved", "api.acme.internal", "", 443, abi.Allow, "web"},
		{"a name at another port", "api.acme.internal", "", 80, abi.Deny, abi.RuleEgress},
		{"a name that no rule lists, at an address that is allowed", "evil.example", "10.1.1.1", 443, abi.Deny, abi.RuleEgress},
		{"a name and its address", "api.acme.internal", "10.1.1.1", 443, abi.Allow, "web"},
		{"a name that resolves to a denied network", "api.acme.internal", "10.9.1.1", 443, abi.Deny, "metadata"},
		{"a name rebound to this machine", "legacy.internal", "::1", 9000, abi.Deny, abi.RuleEgress},
		{"a name of this machine, whose address is allowed", "legacy.internal", "127.0.0.1", 9000, abi.Allow, "local"},
		{"a name rebound to a link-local address that is not listed", "api.acme.internal", "fe80::1", 443, abi.Deny, abi.RuleEgress},
		{"a name rebound to the unspecified address", "api.acme.internal", "0.0.0.0", 443, abi.Deny, "web"},
		{"a name rebound to multicast", "api.acme.internal", "ff02::1", 443, abi.Deny, "web"},
	} {
		tg := Target{Name: c.host, Port: c.port}
		if c.addr != "" {
			tg.Addr = netip.MustParseAddr(c.addr)
		}
		if got := s.Decide(tg); got.Verdict != c.want || got.Rule.ID != c.rule {
			t.Errorf("%s: %+v, want %v by %s", c.name, got, c.want, c.rule)
		}
	}
}

func TestNothingAllowsNothing(t *testing.T) {
	for _, tg := range []Target{{}, {Name: "a"}, {Addr: netip.MustParseAddr("127.0.0.1"), Port: 80}} {
		if got := (&Section{}).Decide(tg); got.Verdict != abi.Deny {
			t.Errorf("%v: %+v", tg, got)
		}
		if got := section().Decide(Target{Name: tg.Name, Addr: tg.Addr}); got.Verdict != abi.Deny {
			t.Errorf("port 0 of %v: %+v", tg, got)
		}
	}
	for _, b := range [][]byte{nil, {}, {1}} {
		if s, err := Decode(b); err == nil || len(s.Lists) != 0 {
			t.Errorf("%x decodes to %+v", b, s)
		}
	}
}

func TestTargets(t *testing.T) {
	for host, want := range map[string]string{
		"127.0.0.1": "127.0.0.1:80", "::1": "[::1]:80", "::ffff:1.2.3.4": "1.2.3.4:80", "api.acme.internal": "api.acme.internal:80",
		"": "", "API.acme": "", "a..b": "", "a.": "", "-a": "", "127.1": "", "2130706433": "", "0x7f.1": "", "fe80::1%eth0": "", "a b": "",
		"a\x00b": "", "[::1]": "", "a:80": "", "*.acme": "", strings.Repeat("a.", 127) + "aa": "", strings.Repeat("a", 64): "",
	} {
		got := ""
		if tg, err := ParseTarget(host, 80); err == nil {
			got = tg.String()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", host, got, want)
		}
	}
	if _, err := ParseTarget("127.0.0.1", 0); err == nil {
		t.Error("port 0 is a target")
	}
}

func TestSectionsAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Rule){
		"a verdict that is none":  func(r *Rule) { r.Verdict = 2 },
		"no destination":          func(r *Rule) { r.CIDRs = nil },
		"no port":                 func(r *Rule) { r.Ports = nil },
		"port 0":                  func(r *Rule) { r.Ports = []Ports{{0, 1}} },
		"ports backwards":         func(r *Rule) { r.Ports = []Ports{{2, 1}} },
		"host bits":               func(r *Rule) { r.CIDRs = cidrs("10.0.0.1/8") },
		"an IPv4-mapped network":  func(r *Rule) { r.CIDRs = cidrs("::ffff:10.0.0.0/104") },
		"a name in another case":  func(r *Rule) { r.Names = []string{"A"} },
		"a name that is a number": func(r *Rule) { r.Names = []string{"1.2"} },
	} {
		r := ruled("x", abi.Allow, 1, 2, cidrs("10.0.0.0/8"))
		change(&r)
		s := Section{Lists: []List{{Rules: []Rule{r}}}}
		if got, err := Decode(s.Encode()); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestMessagesSurviveTheSocket(t *testing.T) {
	for _, m := range []interface{ Encode() []byte }{Dial{7, "api.acme.internal", 443}, Close{7}} {
		if got, err := FromImage(m.Encode()); err != nil || got != m {
			t.Errorf("%+v: %+v, %v", m, got, err)
		}
		if got, err := FromTender(m.Encode()); err == nil {
			t.Errorf("a tender says %+v", got)
		}
	}
	for _, m := range []interface{ Encode() []byte }{Opened{7}, Refused{7, Busy, "why"}} {
		if got, err := FromTender(m.Encode()); err != nil || got != m {
			t.Errorf("%+v: %+v, %v", m, got, err)
		}
		if got, err := FromImage(m.Encode()); err == nil {
			t.Errorf("an image says %+v", got)
		}
	}
	if b := (Refused{1, Denied, strings.Repeat("x", 1000)}).Encode(); len(b) > MaxMessage {
		t.Errorf("%d bytes", len(b))
	} else if _, err := FromTender(b); err != nil {
		t.Error(err)
	}
	if _, err := FromImage(Dial{1, strings.Repeat("x", 254), 1}.Encode()); err == nil {
		t.Error("a long host is taken")
	}
	if _, err := FromImage(append(Close{1}.Encode(), make([]byte, MaxMessage)...)); err == nil {
		t.Error("a long message is taken")
	}
}

func FuzzSection(f *testing.F) {
	f.Add(section().Encode())
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{255}, 64))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Decode(data)
		if err != nil {
			if !reflect.DeepEqual(s, Section{}) {
				t.Errorf("an error and %+v", s)
			}
			return
		}
		if !bytes.Equal(s.Encode(), data) {
			t.Error("two encodings")
		}
		for _, a := range []string{"0.0.0.0", "::", "224.0.0.1"} {
			if got := s.Decide(Target{Addr: netip.MustParseAddr(a), Port: 80}); got.Verdict != abi.Deny {
				t.Errorf("%s is allowed", a)
			}
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add(Dial{1, "a", 2}.Encode())
	f.Add(Close{1}.Encode())
	f.Add(Opened{1}.Encode())
	f.Add(Refused{1, Late, "x"}.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, read := range []func([]byte) (any, error){FromImage, FromTender} {
			m, err := read(data)
			if err != nil {
				continue
			}
			if again := m.(interface{ Encode() []byte }).Encode(); !bytes.Equal(again, data) || len(again) > MaxMessage {
				t.Errorf("two encodings: %x, %x", data, again)
			}
		}
	})
}

func FuzzTarget(f *testing.F) {
	f.Add("api.acme.internal", uint16(443))
	f.Add("::ffff:127.0.0.1", uint16(1))
	f.Fuzz(func(t *testing.T, host string, port uint16) {
		tg, err := ParseTarget(host, port)
		if err == nil && (tg.Port == 0 || (tg.Name == "") != tg.Addr.IsValid() || tg.Addr.Is4In6() || tg.Addr.Zone() != "") {
			t.Errorf("%q: %+v", host, tg)
		}
	})
}
