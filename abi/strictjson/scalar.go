package strictjson

import (
	"unicode/utf16"
	"unicode/utf8"
)

// number reads a number and returns its literal.
func (f *finder) number() ([]byte, error) {
	start := f.pos
	if f.peek() == '-' {
		f.pos++
	}
	switch c := f.peek(); {
	case c == '0':
		f.pos++
	case '1' <= c && c <= '9':
		f.digits()
	default:
		return nil, f.syntax("a digit is expected")
	}
	if f.peek() == '.' {
		f.pos++
		if f.digits() == 0 {
			return nil, f.syntax("a digit is expected")
		}
	}
	if c := f.peek(); c == 'e' || c == 'E' {
		f.pos++
		if c := f.peek(); c == '+' || c == '-' {
			f.pos++
		}
		if f.digits() == 0 {
			return nil, f.syntax("a digit is expected")
		}
	}
	return f.doc[start:f.pos], nil
}

func (f *finder) digits() (n int) {
	for c := f.peek(); '0' <= c && c <= '9'; c = f.peek() {
		f.pos++
		n++
	}
	return n
}

func (f *finder) peek() byte {
	if f.pos == len(f.doc) {
		return 0
	}
	return f.doc[f.pos]
}

// text reads a string and returns its content, aliasing the document where it
// holds no escapes.
func (f *finder) text() ([]byte, error) {
	f.pos++ // the quote
	start := f.pos
	for f.pos < len(f.doc) {
		switch c := f.doc[f.pos]; {
		case c == '"':
			f.pos++
			return f.doc[start : f.pos-1 : f.pos-1], nil
		case c == '\\':
			return f.escaped(append([]byte(nil), f.doc[start:f.pos]...))
		default:
			if err := f.plain(); err != nil {
				return nil, err
			}
		}
	}
	return nil, f.syntax("a string does not end")
}

// plain takes one character that stands for itself.
func (f *finder) plain() error {
	c := f.doc[f.pos]
	if c < ' ' {
		return f.syntax("a control character in a string")
	}
	if c < utf8.RuneSelf {
		f.pos++
		return nil
	}
	r, n := utf8.DecodeRune(f.doc[f.pos:])
	if r == utf8.RuneError && n == 1 {
		return f.syntax("invalid UTF-8")
	}
	f.pos += n
	return nil
}

// escaped goes on with a string from its first escape.
func (f *finder) escaped(b []byte) ([]byte, error) {
	for f.pos < len(f.doc) {
		switch f.doc[f.pos] {
		case '"':
			f.pos++
			return b, nil
		case '\\':
			r, err := f.escape()
			if err != nil {
				return nil, err
			}
			b = utf8.AppendRune(b, r)
		default:
			start := f.pos
			if err := f.plain(); err != nil {
				return nil, err
			}
			b = append(b, f.doc[start:f.pos]...)
		}
	}
	return nil, f.syntax("a string does not end")
}

func (f *finder) escape() (rune, error) {
	f.pos++
	c := f.peek()
	f.pos++
	switch c {
	case '"', '\\', '/':
		return rune(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
		return f.unicode()
	}
	f.pos = min(f.pos, len(f.doc))
	return 0, f.syntax("unknown escape")
}

// unicode reads what follows \u; surrogates must come in pairs.
func (f *finder) unicode() (rune, error) {
	hi, ok := f.hex()
	if !ok {
		return 0, f.syntax("four hexadecimal digits are expected")
	}
	if !utf16.IsSurrogate(hi) {
		return hi, nil
	}
	if f.pos+2 <= len(f.doc) && f.doc[f.pos] == '\\' && f.doc[f.pos+1] == 'u' {
		f.pos += 2
		if lo, ok := f.hex(); ok {
			if r := utf16.DecodeRune(hi, lo); r != utf8.RuneError {
				return r, nil
			}
		}
	}
	return 0, f.syntax("unpaired surrogate")
}

func (f *finder) hex() (rune, bool) {
	if f.pos+4 > len(f.doc) {
		return 0, false
	}
	var r rune
	for _, c := range f.doc[f.pos : f.pos+4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	f.pos += 4
	return r, true
}
