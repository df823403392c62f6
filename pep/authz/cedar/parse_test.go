package cedar

import (
	"math"
	"math/big"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/authz"
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

// Values are read as the packages of Go read them that read more, and written the
// same again: nothing is repaired.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"0", "-7", "007", "9223372036854775807", "9223372036854775808", "1.5", "-0.0001", "922337203685477.5807", "true", "10.0.0.0/8", "::ffff:1.2.3.4", "fe80::1%eth0"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := string(raw)
		n, err := strconv.ParseInt(s, 10, 64)
		if v, failed := Parse(authz.TypeLong, raw); (failed == nil) != (err == nil && strconv.FormatInt(n, 10) == s) || failed == nil && v.n != n {
			t.Errorf("long %q is %+v (%v)", s, v, failed)
		}
		r, isRat := new(big.Rat).SetString(s)
		if v, failed := Parse(authz.TypeDecimal, raw); failed == nil && (!isRat || r.Cmp(big.NewRat(v.n, 10_000)) != 0) {
			t.Errorf("decimal %q is %+v", s, v)
		}
		if v, failed := Parse(authz.TypeBool, raw); failed == nil && strconv.FormatBool(v.n != 0) != s {
			t.Errorf("bool %q is %+v", s, v)
		}
		if v, failed := Parse(authz.TypeIP, raw); failed == nil {
			p := v.prefix()
			host, _, _ := strings.Cut(s, "/")
			if want, err := netip.ParseAddr(host); !p.IsValid() || err != nil || want != p.Addr() {
				t.Errorf("ip %q is %v", s, p)
			}
		}
	})
}
