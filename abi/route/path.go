package route

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Path is the one form of a request's path that everything after the request
// filter sees: routes, authorization, audit and the application. Explanations
// made outside an image start from the same form.
type Path struct {
	// Canonical is the path with every byte that may stand for itself in a
	// segment (RFC 3986: unreserved, sub-delims, ":" and "@") unescaped and
	// every other one escaped with capital digits. Equal canonical paths and
	// equal decoded paths are the same thing except for an escaped slash,
	// which is data within its segment.
	Canonical string
	// Decoded is Canonical with its escapes resolved, what applications find
	// in URL.Path.
	Decoded string
}

var (
	errForm    = errors.New("the target is not an absolute path")
	errByte    = errors.New("the path holds a byte that must be escaped")
	errEscape  = errors.New("the path holds an invalid escape")
	errSlash   = errors.New("the path holds an escaped slash")
	errControl = errors.New("the path holds a control character or a backslash")
	errUTF8    = errors.New("the path is not valid UTF-8")
	errDots    = errors.New("the path holds a dot segment")
	errEmpty   = errors.New("the path holds an empty segment")
)

// Normalize returns the canonical form of the path of a request target, that is
// of the target without its query. It refuses rather than repairs: nothing that
// two programs could read as two paths gets through.
//
// Escapes are resolved once, so "%252e" is the three characters "%2e". Refused
// are: targets that do not start with one slash, raw bytes that RFC 3986 wants
// escaped, invalid escapes, control characters, NUL and backslash in any
// spelling, invalid UTF-8 (overlong forms included), "." and ".." segments in
// any spelling (also before ";", which some servers cut off, and within an
// escaped slash), empty segments except the last, and with rejectSlash every
// escaped slash.
func Normalize(raw string, rejectSlash bool) (Path, error) {
	if raw == "" || raw[0] != '/' {
		return Path{}, errForm
	}
	p := Path{Canonical: raw, Decoded: raw} // most need no change
	if !isCanonical(raw) {
		var err error
		if p, err = resolve(raw, rejectSlash); err != nil {
			return Path{}, err
		}
		if err := checkText(p.Decoded); err != nil {
			return Path{}, err
		}
	}
	if err := checkSegments(p.Decoded); err != nil {
		return Path{}, err
	}
	return p, nil
}

// Segments appends the parts of Canonical between slashes to into, without the
// first, empty one: none for "/", "a" and "" for "/a/".
func (p *Path) Segments(into []string) []string {
	if p.Canonical == "/" {
		return into
	}
	from := 1
	for i := 1; i < len(p.Canonical); i++ {
		if p.Canonical[i] == '/' {
			into = append(into, p.Canonical[from:i])
			from = i + 1
		}
	}
	return append(into, p.Canonical[from:])
}

// Bare reports whether nothing in p could be escaped in a URL, by the ways of
// net/url.
func (p *Path) Bare() bool {
	for i := range len(p.Canonical) {
		switch c := p.Canonical[i]; {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '/' <= c && c <= '9' || c == '-' || c == '_' || c == '.' || c == '~':
		default:
			return false
		}
	}
	return true
}

// resolve decodes every escape once and escapes again what must be.
func resolve(raw string, rejectSlash bool) (Path, error) {
	const digits = "0123456789ABCDEF"
	canonical, decoded := make([]byte, 0, len(raw)), make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		c, escaped := raw[i], false
		if c == '%' {
			if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
				return Path{}, errEscape
			}
			c, escaped = unhex(raw[i+1])<<4|unhex(raw[i+2]), true
			i += 2
		}
		switch {
		case isPlain(c) || c == '/' && !escaped:
			canonical = append(canonical, c)
		case !escaped:
			return Path{}, errByte
		case c == '/' && rejectSlash:
			return Path{}, errSlash
		default:
			canonical = append(canonical, '%', digits[c>>4], digits[c&15])
		}
		decoded = append(decoded, c)
	}
	return Path{Canonical: string(canonical), Decoded: string(decoded)}, nil
}

// isCanonical reports whether a path needs no escape and has none: it is text then.
func isCanonical(s string) bool {
	for i := range len(s) {
		if s[i] != '/' && !isPlain(s[i]) {
			return false
		}
	}
	return true
}

// checkText judges the characters of a decoded path.
func checkText(s string) error {
	if !utf8.ValidString(s) {
		return errUTF8
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r == '\\' || unicode.IsControl(r) }) {
		return errControl
	}
	return nil
}

// checkSegments judges the segments of a decoded path, which starts with a slash.
func checkSegments(s string) error {
	from := 1 // where the segment begins
	for i := 1; i <= len(s); i++ {
		if i < len(s) && s[i] != '/' {
			continue
		}
		if i == from {
			if i < len(s) {
				return errEmpty
			}
			return nil
		}
		if s[from] == '.' {
			if name, _, _ := strings.Cut(s[from:i], ";"); name == "." || name == ".." {
				return errDots
			}
		}
		from = i + 1
	}
	return nil
}

// CheckQuery refuses queries that servers read differently: invalid escapes,
// semicolons (a separator for some), and raw bytes that are not printable ASCII
// or delimit something in HTTP or HTML.
func CheckQuery(q string) error {
	for i := 0; i < len(q); i++ {
		switch c := q[i]; {
		case c == '%':
			if i+2 >= len(q) || !isHex(q[i+1]) || !isHex(q[i+2]) {
				return errors.New("the query holds an invalid escape")
			}
			i += 2
		case c <= ' ' || c >= 0x7f || strings.IndexByte(`;#"<>\`, c) >= 0:
			return fmt.Errorf("the query holds the byte %#02x", c)
		}
	}
	return nil
}

// Unescape resolves the escapes of a canonical path or of a part of one.
func Unescape(s string) string {
	if strings.IndexByte(s, '%') < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			b.WriteByte(unhex(s[i+1])<<4 | unhex(s[i+2]))
			i += 2
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// isPlain reports whether c may stand for itself in a segment (pchar).
func isPlain(c byte) bool {
	const (
		letters = 1<<26 - 1
		low     = (1<<10-1)<<'0' | 1<<'-' | 1<<'.' | 1<<'!' | 1<<'$' | 1<<'&' | 1<<'\'' | 1<<'(' | 1<<')' | 1<<'*' | 1<<'+' | 1<<',' | 1<<';' | 1<<'=' | 1<<':'
		high    = letters<<('A'-64) | letters<<('a'-64) | 1<<('_'-64) | 1<<('~'-64) | 1<<('@'-64)
	)
	switch {
	case c < 64:
		return uint64(low)>>c&1 != 0
	case c < 128:
		return uint64(high)>>(c-64)&1 != 0
	}
	return false
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c >= 'a':
		return c - 'a' + 10
	case c >= 'A':
		return c - 'A' + 10
	}
	return c - '0'
}
