package authz

import (
	"errors"
	"math"
	"net/netip"
	"strings"

	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/strictjson"
)

// parse reads a value of a type other than String from text. What one parser
// refuses and another repairs, such as "+7" or "007", is refused here.
func parse(t authz.Type, raw []byte) (value, error) {
	switch t {
	case authz.TypeLong:
		n, ok := parseLong(raw)
		if !ok {
			return value{}, errors.New("it is not a whole number in range")
		}
		return value{k: long, n: n}, nil
	case authz.TypeBool:
		switch string(raw) {
		case "true":
			return truth(true), nil
		case "false":
			return truth(false), nil
		}
		return value{}, errors.New("it is neither true nor false")
	case authz.TypeDecimal:
		n, ok := parseDecimal(raw)
		if !ok {
			return value{}, errors.New("it is not a decimal number with one to four places")
		}
		return value{k: decimal, n: n}, nil
	case authz.TypeIP:
		p, ok := parseIP(string(raw))
		if !ok {
			return value{}, errors.New("it is not an address or a range of addresses")
		}
		return value{k: ip, n: int64(p.Bits()), s: p.Addr().AsSlice()}, nil
	}
	return value{}, errors.New("its type is unknown")
}

// parseLong reads "0", "-7", "42": no sign but minus, no leading zeros.
func parseLong(b []byte) (int64, bool) {
	neg := len(b) > 0 && b[0] == '-'
	if neg {
		b = b[1:]
	}
	if len(b) == 0 || len(b) > 19 || b[0] == '0' && (neg || len(b) > 1) {
		return 0, false
	}
	n := uint64(0) // 19 digits fit
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + uint64(c-'0')
	}
	switch {
	case neg && n <= -math.MinInt64:
		return -int64(n), true
	case !neg && n <= math.MaxInt64:
		return int64(n), true
	}
	return 0, false
}

// parseDecimal reads Cedar's decimal, "12.5", as ten-thousandths.
func parseDecimal(b []byte) (int64, bool) {
	whole, places, ok := strings.Cut(string(b), ".")
	if !ok || len(places) == 0 || len(places) > 4 {
		return 0, false
	}
	neg := strings.HasPrefix(whole, "-")
	digits := strings.TrimPrefix(whole, "-")
	if digits == "" || len(digits) > 15 || digits[0] == '0' && len(digits) > 1 {
		return 0, false
	}
	n := uint64(0) // 19 digits fit
	for _, c := range []byte(digits + places + "0000"[len(places):]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + uint64(c-'0')
	}
	switch {
	case neg && n <= -math.MinInt64:
		return -int64(n), true
	case !neg && n <= math.MaxInt64:
		return int64(n), true
	}
	return 0, false
}

// parseIP reads an address or a prefix as Cedar does: no zone, and no IPv4 in
// dots inside IPv6.
func parseIP(s string) (netip.Prefix, bool) {
	if strings.Contains(s, ":") && strings.Contains(s, ".") {
		return netip.Prefix{}, false
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return p, true
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, a.BitLen()), true
}

// fits refuses a JSON value that an attribute of this type cannot have. Null is
// no way to be absent.
func fits(t authz.Type, k strictjson.Kind) error {
	var ok bool
	switch k {
	case strictjson.Missing:
		return nil
	case strictjson.String:
		ok = t == authz.TypeString || t == authz.TypeIP || t == authz.TypeDecimal
	case strictjson.Number:
		ok = t == authz.TypeLong || t == authz.TypeDecimal
	case strictjson.True, strictjson.False:
		ok = t == authz.TypeBool
	}
	if !ok {
		return errors.New("it has the wrong JSON type")
	}
	return nil
}
