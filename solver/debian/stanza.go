package debian

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"lorica.dev/lorica/api"
)

// A scanner reads stanzas, line by line. Of a field that nobody asks for it keeps
// nothing.
type scanner struct {
	r    *bufio.Reader
	file string
	line int    // of the last line that was read; from 1
	text []byte // that line, without its end; good until the next
}

func newScanner(r io.Reader, file string) *scanner {
	return &scanner{r: bufio.NewReaderSize(r, maxLine), file: file}
}

// A part is one line of a value: what begins at its offset is written there.
type part struct{ offset, line, column int }

// A value is what a field says, its lines joined by newlines, and where they were.
type value struct {
	text  []byte
	parts []part
}

// fail returns an error about a byte of a line. What is cited of the line is cut.
func (s *scanner) fail(line, column int, fix, format string, args ...any) error {
	e := &SyntaxError{Pos: api.Pos{File: s.file, Line: line, Column: column}, Message: fmt.Sprintf(format, args...), Fix: fix}
	if line == s.line && column <= 200 {
		e.Text = string(s.text[:min(len(s.text), 240)])
	}
	return e
}

// at returns where byte i of a value is written.
func (v *value) at(i int) (line, column int) {
	for k := len(v.parts) - 1; k > 0; k-- {
		if p := v.parts[k]; i >= p.offset {
			return p.line, p.column + i - p.offset
		}
	}
	return v.parts[0].line, v.parts[0].column + i - v.parts[0].offset
}

// next reads a line; io.EOF where there is none.
func (s *scanner) next() error {
	b, err := s.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return s.fail(s.line+1, 1, "is this a Packages file?", "a line longer than %d bytes", maxLine)
	}
	if err != nil && (!errors.Is(err, io.EOF) || len(b) == 0) {
		return err
	}
	s.line++
	s.text = bytes.TrimSuffix(b, []byte("\n"))
	if bytes.HasSuffix(s.text, []byte("\r")) {
		return s.fail(s.line, len(s.text), "lines end with a line feed alone: tr -d '\\r'", "a carriage return at the end of the line")
	}
	return nil
}

// stanza reads one, and calls field for each field with its name; field returns where
// its value is to be kept, or nil. It returns io.EOF where there is none left.
func (s *scanner) stanza(field func(name []byte) (*value, error)) error {
	var v *value // of the field whose lines are read
	fields := 0
	for {
		err := s.next()
		if errors.Is(err, io.EOF) && fields > 0 {
			return nil
		}
		if err != nil {
			return err
		}
		switch t := s.text; {
		case len(t) == 0:
			if fields > 0 {
				return nil
			}
		case t[0] == '#':
		case t[0] == ' ' || t[0] == '\t':
			if fields == 0 {
				return s.fail(s.line, 1, "a package begins with a field: Package: NAME", "a line that continues nothing")
			}
			if len(bytes.TrimLeft(t, " \t")) == 0 {
				return s.fail(s.line, 1, "an empty line ends a package; within a value write a blank and a dot", "a line of blanks alone")
			}
			if err := s.more(v, t, 1); err != nil {
				return err
			}
		default:
			name, after, err := s.name(t)
			if err != nil {
				return err
			}
			fields++
			if v, err = field(name); err != nil {
				return err
			}
			if v != nil {
				v.text, v.parts = v.text[:0], v.parts[:0]
			}
			if err := s.more(v, after, len(t)-len(after)+1); err != nil {
				return err
			}
		}
	}
}

// name cuts a line into the name of a field and what follows.
func (s *scanner) name(t []byte) (name, after []byte, err error) {
	i := bytes.IndexByte(t, ':')
	if i <= 0 || t[0] == '-' {
		return nil, nil, s.fail(s.line, 1, "write Field: value; begin lines that continue a value with a blank", "a line without the name of a field")
	}
	for k, c := range t[:i] {
		if !graphic(c) {
			return nil, nil, s.fail(s.line, k+1, "", "%q cannot be in the name of a field", c)
		}
	}
	return t[:i], t[i+1:], nil
}

// more adds a line to a value; column is where it begins.
func (s *scanner) more(v *value, t []byte, column int) error {
	if v == nil {
		return nil
	}
	trimmed := bytes.TrimLeft(t, " \t")
	column += len(t) - len(trimmed)
	trimmed = bytes.TrimRight(trimmed, " \t")
	if len(v.text)+len(trimmed) > maxField {
		return s.fail(s.line, 1, "is this a Packages file?", "a field longer than %d bytes", maxField)
	}
	if len(v.parts) > 0 {
		v.text = append(v.text, '\n')
	}
	v.parts = append(v.parts, part{len(v.text), s.line, column})
	v.text = append(v.text, trimmed...)
	return nil
}
