package policy

import "strings"

// A statement is one Cedar policy and where in its block it begins.
type statement struct {
	text  string
	begin spot
}

// at maps a place in the statement to the block.
func (s statement) at(line, col int) spot {
	if line <= 1 {
		return spot{s.begin.line, s.begin.col + col - 1}
	}
	return spot{s.begin.line + line - 1, col}
}

// statements splits Cedar text after each semicolon outside strings and
// comments. What remains and is not blank is a statement too, for the parser to
// complain about.
func statements(text string) []statement {
	var out []statement
	start, here := 0, spot{1, 1}
	begin, solid := here, false
	scan(text, func(i int, c rune, code bool) {
		next := spot{here.line, here.col + 1}
		if c == '\n' {
			next = spot{here.line + 1, 1}
		}
		here = next
		if !code {
			return
		}
		if c == ';' {
			out = append(out, statement{text[start : i+1], begin})
			start, begin, solid = i+1, next, false
		} else if !strings.ContainsRune(" \t\r\n", c) {
			solid = true
		}
	})
	if solid {
		out = append(out, statement{text[start:], begin})
	}
	return out
}

// brackets reports the place where too many brackets are open.
func brackets(text string) (spot, bool) {
	open, here := 0, spot{1, 1}
	var at spot
	scan(text, func(_ int, c rune, code bool) {
		if code && at.line == 0 {
			switch c {
			case '(', '[', '{':
				if open++; open > maxBrackets {
					at = here
				}
			case ')', ']', '}':
				open--
			}
		}
		here.col++
		if c == '\n' {
			here = spot{here.line + 1, 1}
		}
	})
	return at, at.line > 0
}

// scan calls f for each character of Cedar text, and says whether it is code:
// outside strings (quotes are code) and comments.
func scan(text string, f func(i int, c rune, code bool)) {
	const (
		code = iota
		str
		escape
		comment
	)
	mode := code
	for i, c := range text {
		was := mode
		switch mode {
		case code:
			if c == '"' {
				mode = str
			} else if strings.HasPrefix(text[i:], "//") {
				mode, was = comment, comment
			}
		case str:
			switch c {
			case '\\':
				mode = escape
			case '"':
				mode, was = code, code
			}
		case escape:
			mode = str
		case comment:
			if c == '\n' {
				mode, was = code, code
			}
		}
		f(i, c, was == code)
	}
}
