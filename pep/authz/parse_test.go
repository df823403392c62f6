package authz

import (
	"math"
	"math/big"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/pep"
)

func TestParseLong(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "7": 7, "-7": -7, "10": 10, "9223372036854775807": math.MaxInt64, "-9223372036854775808": math.MinInt64} {
		if n, ok := parseLong([]byte(s)); !ok || n != want {
			t.Errorf("%q: %d %v", s, n, ok)
		}
	}
	for _, s := range []string{"", "-", "+7", "007", "-0", "-07", " 7", "7 ", "7.0", "7e0", "0x7", "7_0", "٧", "9223372036854775808", "-9223372036854775809", "18446744073709551616", "99999999999999999999"} {
		if n, ok := parseLong([]byte(s)); ok {
			t.Errorf("%q is read as %d", s, n)
		}
	}
}

func TestParseDecimal(t *testing.T) {
	for s, want := range map[string]int64{"0.0": 0, "1.5": 15000, "-1.5": -15000, "-0.0001": -1, "12.3400": 123400,
		"922337203685477.5807": math.MaxInt64, "-922337203685477.5808": math.MinInt64} {
		if n, ok := parseDecimal([]byte(s)); !ok || n != want {
			t.Errorf("%q: %d %v", s, n, ok)
		}
	}
	for _, s := range []string{"", "1", "1.", ".5", "-.5", "+1.5", "01.5", "1.00000", "1.5e1", "1.-5", "1.5.0", "--1.5", "1,5",
		"922337203685477.5808", "-922337203685477.5809", "1000000000000000.0"} {
		if n, ok := parseDecimal([]byte(s)); ok {
			t.Errorf("%q is read as %d", s, n)
		}
	}
}

func TestParseIP(t *testing.T) {
	for _, s := range []string{"10.1.2.3", "10.0.0.0/8", "10.1.2.3/8", "::1", "2001:db8::/32", "::ffff:a01:203"} {
		if _, ok := parseIP(s); !ok {
			t.Errorf("%q is refused", s)
		}
	}
	for _, s := range []string{"", "10.1.2", "010.1.2.3", "10.1.2.3/33", "10.1.2.3/08", "fe80::1%eth0", "::ffff:10.1.2.3", "::10.1.2.3", "example.org"} {
		if p, ok := parseIP(s); ok {
			t.Errorf("%q is read as %v", s, p)
		}
	}
}

func FuzzLike(f *testing.F) {
	f.Add("secret-7-plan", "secret-*-plan")
	f.Add("a*b", `a\*b`)
	f.Add("aaaaab", "*a*a*b*")
	f.Add("", "**")
	f.Add(`x\`, `*\`)
	f.Fuzz(func(t *testing.T, s, pattern string) {
		var re strings.Builder
		for i := 0; i < len(pattern); i++ {
			switch c := pattern[i]; {
			case c == '*':
				re.WriteString(`[\x00-\x{10FFFF}]*`)
				continue
			case c == '\\' && i+1 < len(pattern):
				i++
			}
			re.WriteString(regexp.QuoteMeta(latin(pattern[i : i+1])))
		}
		want, err := regexp.MatchString(`^(?:`+re.String()+`)$`, latin(s))
		if err != nil {
			return // too long for a regular expression
		}
		if got := like([]byte(s), []byte(pattern)); got != want {
			t.Errorf("%q like %q: %v", s, pattern, got)
		}
	})
}

// latin gives each byte a character of its own.
func latin(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		b.WriteRune(rune(c))
	}
	return b.String()
}

// FuzzJudge evaluates whatever opens: nothing may panic, and what is denied has
// a reason.
func FuzzJudge(f *testing.F) {
	attrs := []authz.Attribute{
		{Name: "level", Type: authz.TypeString, Source: authz.Source{Kind: authz.SourceLevel}},
		{Name: "n", Type: authz.TypeLong, Optional: true, Source: authz.Source{Kind: authz.SourceQuery, Arg: "n"}},
		{Name: "peer", Type: authz.TypeIP, Source: authz.Source{Kind: authz.SourcePeer}},
	}
	f.Add(section(attrs, nil, authz.Node{Op: authz.OpAttr}, authz.Node{Op: authz.OpLike, A: 0, B: str("a*")}).Encode(), "n=7", "")
	for op := authz.OpFail; op <= authz.OpDecimalGe; op++ {
		// Most operations over two operands: malformed for some, which is fine.
		f.Add(section(attrs, nil, authz.Node{Op: authz.OpAttr, A: 1}, authz.Node{Op: authz.OpAttr, A: 2}, authz.Node{Op: op, A: 0, B: 1}).Encode(), "n=7", "{}")
		f.Add(section(attrs, nil, authz.Node{Op: authz.OpSet}, authz.Node{Op: authz.OpPrincipal}, authz.Node{Op: op, A: 1, B: 0}).Encode(), "", "")
	}
	f.Fuzz(func(t *testing.T, b []byte, query, body string) {
		s, err := New().Prepare(&pep.Input{Levels: []string{"normal", "elevated"}, Section: b})
		if err != nil {
			return
		}
		x := ask("POST", "/", body, "Content-Type", "application/json")
		x.Request.URL.RawQuery = query
		for _, name := range []string{"r", "call", ""} {
			x.Route.Name = name
			first := s.Judge(x)
			if (first.Verdict == abi.Deny) != (first.Reason != "") {
				t.Fatalf("%+v", first)
			}
			for range 2 {
				if d := s.Judge(x); d != first {
					t.Fatalf("%+v, and then %+v", first, d)
				}
			}
		}
	})
}

// Values are read as the packages of Go read them that read more, and written the
// same again: nothing is repaired.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"0", "-7", "007", "9223372036854775807", "9223372036854775808", "1.5", "-0.0001", "922337203685477.5807", "true", "10.0.0.0/8", "::ffff:1.2.3.4", "fe80::1%eth0"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := string(raw)
		n, err := strconv.ParseInt(s, 10, 64)
		if v, failed := parse(authz.TypeLong, raw); (failed == nil) != (err == nil && strconv.FormatInt(n, 10) == s) || failed == nil && v.n != n {
			t.Errorf("long %q is %+v (%v)", s, v, failed)
		}
		r, isRat := new(big.Rat).SetString(s)
		if v, failed := parse(authz.TypeDecimal, raw); failed == nil && (!isRat || r.Cmp(big.NewRat(v.n, 10_000)) != 0) {
			t.Errorf("decimal %q is %+v", s, v)
		}
		if v, failed := parse(authz.TypeBool, raw); failed == nil && strconv.FormatBool(v.n != 0) != s {
			t.Errorf("bool %q is %+v", s, v)
		}
		if v, failed := parse(authz.TypeIP, raw); failed == nil {
			a, ok := netip.AddrFromSlice(v.s)
			p := netip.PrefixFrom(a, int(v.n))
			host, _, _ := strings.Cut(s, "/")
			if want, err := netip.ParseAddr(host); !ok || !p.IsValid() || err != nil || want != a || a.Zone() != "" {
				t.Errorf("ip %q is %v", s, p)
			}
		}
	})
}

// A parameter that is found has the value that net/url finds, once.
func FuzzQuery(f *testing.F) {
	for _, s := range []string{"", "n=7", "n=7&n=8", "%6e=%37", "a=1&&n=&b", "n;m=1", "n=%zz", "m=%zz&n=1", "n"} {
		f.Add(s, "n")
	}
	f.Fuzz(func(t *testing.T, raw, name string) {
		val, found, err := query(raw, name)
		all, failed := url.ParseQuery(raw)
		switch {
		case err != nil && (found || val != ""):
			t.Fatalf("%q: %q and %v", raw, val, err)
		case err == nil && found != (len(all[name]) == 1), err == nil && !found && len(all[name]) > 0:
			t.Fatalf("%q: found %v, net/url has %q (%v)", raw, found, all[name], failed)
		case err == nil && found && val != all[name][0]:
			t.Fatalf("%q: %q, net/url has %q", raw, val, all[name])
		}
	})
}
