package cedar

import (
	"errors"
	"math"
	"net/netip"
	"strconv"
	"strings"

	"lorica.dev/lorica/abi/authz"
	"lorica.dev/lorica/abi/strictjson"
)

// Parse reads a value of a type other than String from text. What one parser
// refuses and another repairs, such as "+7" or "007", is refused here.
func Parse(t authz.Type, raw []byte) (Value, error) {
	switch t {
	case authz.TypeLong:
		if n, ok := parseLong(raw); ok {
			return Long(n), nil
		}
		return Value{}, errors.New("it is not a whole number in range")
	case authz.TypeBool:
		switch string(raw) {
		case "true":
			return Bool(true), nil
		case "false":
			return Bool(false), nil
		}
		return Value{}, errors.New("it is neither true nor false")
	case authz.TypeDecimal:
		if n, ok := parseDecimal(raw); ok {
			return Decimal(n), nil
		}
		return Value{}, errors.New("it is not a decimal number with one to four places")
	}
	if v, ok := construct(t, string(raw)); ok {
		return v, nil
	}
	switch t {
	case authz.TypeIP:
		return Value{}, errors.New("it is not an address or a range of addresses")
	case authz.TypeDatetime:
		return Value{}, errors.New("it is not a time such as 2026-01-31 or 2026-01-31T12:00:00Z")
	case authz.TypeDuration:
		return Value{}, errors.New("it is not a duration such as 1d2h30m")
	}
	return Value{}, errors.New("its type is unknown")
}

// construct is an extension function of Cedar that reads a string.
func construct(t authz.Type, s string) (Value, bool) {
	switch t {
	case authz.TypeDecimal:
		n, ok := cedarDecimal(s)
		return Decimal(n), ok
	case authz.TypeIP:
		p, ok := parseIP(s)
		if !ok {
			return Value{}, false
		}
		return IP(p.Addr().AsSlice(), p.Bits()), true
	case authz.TypeDatetime:
		n, ok := parseDatetime(s)
		return Datetime(n), ok
	case authz.TypeDuration:
		n, ok := parseDuration(s)
		return Duration(n), ok
	}
	return Value{}, false
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
	return number(neg, b)
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
	return number(neg, []byte(digits+places+"0000"[len(places):]))
}

// number reads digits, 19 at most.
func number(neg bool, digits []byte) (int64, bool) {
	n := uint64(0) // 19 digits fit
	for _, c := range digits {
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

// cedarDecimal reads what decimal() does: signs and zeros in front are taken as well.
func cedarDecimal(s string) (int64, bool) {
	whole, places, ok := strings.Cut(s, ".")
	n, err := strconv.ParseInt(whole, 10, 64)
	if !ok || err != nil || len(places) == 0 || len(places) > 4 {
		return 0, false
	}
	part := int64(0)
	for _, c := range []byte(places + "0000"[len(places):]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		part = 10*part + int64(c-'0')
	}
	if whole[0] == '-' {
		part = -part
	}
	const most, least = math.MaxInt64 / 10_000, math.MinInt64 / 10_000
	if n > most || n == most && part > math.MaxInt64%10_000 || n < least || n == least && part < math.MinInt64%10_000 {
		return 0, false
	}
	return 10_000*n + part, true
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

// Fits refuses a JSON value that an attribute of this type cannot have. Null is
// no way to be absent.
func Fits(t authz.Type, k strictjson.Kind) error {
	var ok bool
	switch k {
	case strictjson.Missing:
		return nil
	case strictjson.String:
		ok = t != authz.TypeLong && t != authz.TypeBool
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
