package debian

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
)

// Compare returns -1, 0 or +1 as version a is earlier than, equal to or later than
// b: the order of deb-version(7). It is total over all strings, so that no input can
// confuse a sort; CheckVersion says which of them are versions.
func Compare(a, b string) int {
	if a == b {
		return 0
	}
	ea, ua, ra := split(a)
	eb, ub, rb := split(b)
	return cmp.Or(compareDigits(ea, eb), comparePart(ua, ub), comparePart(ra, rb))
}

// split cuts a version to epoch, upstream version and revision. What is before a
// colon and is no number is no epoch.
func split(v string) (epoch, upstream, revision string) {
	if i := strings.IndexByte(v, ':'); i >= 0 && span(v[:i], digit) == i {
		epoch, v = v[:i], v[i+1:]
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return epoch, v[:i], v[i+1:]
	}
	return epoch, v, ""
}

// comparePart compares by turns what are no digits, byte by byte, and digits, as
// numbers.
func comparePart(a, b string) int {
	for a != "" || b != "" {
		i, j := span(a, other), span(b, other)
		for k := range max(i, j) {
			if c := cmp.Compare(weight(a[:i], k), weight(b[:j], k)); c != 0 {
				return c
			}
		}
		a, b = a[i:], b[j:]
		i, j = span(a, digit), span(b, digit)
		if c := compareDigits(a[:i], b[:j]); c != 0 {
			return c
		}
		a, b = a[i:], b[j:]
	}
	return 0
}

// weight places byte k of s: a tilde before the end, the end before letters, letters
// before all others.
func weight(s string, k int) int {
	switch {
	case k >= len(s):
		return 0
	case s[k] == '~':
		return -1
	case letter(s[k]):
		return int(s[k])
	}
	return 256 + int(s[k])
}

// compareDigits compares numbers of any length; no digits are zero.
func compareDigits(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

// span returns the length of the head of s of which every byte is one of a class.
func span(s string, class func(byte) bool) int {
	for i := range len(s) {
		if !class(s[i]) {
			return i
		}
	}
	return len(s)
}

func digit(c byte) bool  { return '0' <= c && c <= '9' }
func other(c byte) bool  { return !digit(c) }
func letter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

// CheckVersion says what is wrong with a version, or nil. It refuses what dpkg refuses,
// and what does not print; what dpkg warns of only is ordered as any other.
func CheckVersion(v string) error {
	rest := v
	epoch, after, ok := strings.Cut(v, ":")
	switch {
	case v == "":
		return errors.New("a version is empty")
	case span(v, graphic) != len(v):
		return fmt.Errorf("version %q: %q cannot be in a version", v, v[span(v, graphic)])
	case !ok:
	case epoch == "" || span(epoch, digit) != len(epoch):
		return fmt.Errorf("version %q: what is before the first colon is no number", v)
	case compareDigits(epoch, "2147483647") > 0:
		return fmt.Errorf("version %q: the epoch is too large", v)
	case after == "":
		return fmt.Errorf("version %q: nothing follows the epoch", v)
	default:
		rest = after
	}
	switch i := strings.LastIndexByte(rest, '-'); {
	case i == 0:
		return fmt.Errorf("version %q: nothing is before the revision", v)
	case i == len(rest)-1:
		return fmt.Errorf("version %q: nothing follows the last hyphen", v)
	}
	return nil
}

func graphic(c byte) bool { return '!' <= c && c <= '~' }
