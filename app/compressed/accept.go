package compressed

import "strings"

// A coding is what a client gets.
type coding int

const (
	neither coding = iota // it accepts none of the two
	identity
	gzip
)

// unsaid stands for a weight that no member gives.
const unsaid = -1

// wanted returns the coding that the fields Accept-Encoding prefer (RFC 9110,
// 12.5.3); of equals, the smaller one. What is not there, and what cannot be read,
// asks for nothing: the files as they are.
func wanted(fields []string) coding {
	packed, plain, others := unsaid, unsaid, unsaid
	for _, f := range fields {
		for member := range strings.SplitSeq(f, ",") {
			name, q, ok := parseMember(member)
			if !ok {
				continue
			}
			switch name {
			case "gzip", "x-gzip": // equivalent (8.4.1.3)
				packed = least(packed, q)
			case "identity":
				plain = least(plain, q)
			case "*":
				others = least(others, q)
			}
		}
	}
	if packed == unsaid {
		packed = max(0, others)
	}
	if plain == unsaid && others == 0 {
		plain = 0
	}
	switch {
	case packed > 0 && packed >= plain:
		return gzip
	case plain != 0:
		return identity
	}
	return neither
}

// least is of two weights for one coding the lower one: who contradicts itself gets
// what it asked for least.
func least(before, q int) int {
	if before == unsaid {
		return q
	}
	return min(before, q)
}

// parseMember reads a coding and its weight in thousandths.
func parseMember(s string) (name string, q int, ok bool) {
	name, weight, weighted := strings.Cut(s, ";")
	name = strings.ToLower(strings.Trim(name, " \t"))
	if !weighted {
		return name, 1000, name != ""
	}
	weight = strings.Trim(weight, " \t")
	if len(weight) < 3 || len(weight) > 7 || weight[0]|0x20 != 'q' || weight[1] != '=' {
		return "", 0, false
	}
	digits, ok := weight[2:], true
	if digits[0] != '0' && digits[0] != '1' || len(digits) > 1 && digits[1] != '.' {
		return "", 0, false
	}
	q = int(digits[0]-'0') * 1000
	for i, unit := 2, 100; i < len(digits); i, unit = i+1, unit/10 {
		if digits[i] < '0' || digits[i] > '9' {
			return "", 0, false
		}
		q += int(digits[i]-'0') * unit
	}
	return name, q, q <= 1000 && name != ""
}
