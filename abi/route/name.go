package route

import "strings"

// PlainName is the name of a header as servers see it that make variables of
// headers: to them a letter is a letter, and every sign is the same one
// (RFC 3875, section 4.1.18, and what is looser than it).
func PlainName(name string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case 'A' <= c && c <= 'Z':
			return c + 'a' - 'A'
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			return c
		}
		return '-'
	}, name)
}

// OddName reports whether a header's name has another sign than the hyphen: its
// PlainName may be that of another header.
func OddName(name string) bool {
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return true
		}
	}
	return false
}
