package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"lorica.dev/lorica/api"
)

// An Error is one thing that is wrong, where it is written, and what to write
// instead.
type Error struct {
	Pos     api.Pos `json:"position"`
	Text    string  `json:"text,omitempty"` // the source line, without its end; cut when very long
	Message string  `json:"message"`
	Fix     string  `json:"fix,omitempty"`
}

// Error returns "file:line:column: message (fix)".
func (e *Error) Error() string {
	s := e.Message
	if e.Fix != "" {
		s += " (" + e.Fix + ")"
	}
	switch {
	case e.Pos.File == "":
		return s
	case e.Pos.Line == 0:
		return e.Pos.File + ": " + s
	}
	return e.Pos.String() + ": " + s
}

// Errors is everything that is wrong, ordered by position.
type Errors []*Error

func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// maxErrors bounds a report: beyond it nobody reads, and a hostile file could
// otherwise make one error for each of its bytes.
const maxErrors = 500

// report collects errors; it belongs to one call of Parse.
type report struct {
	errs     Errors
	warnings Errors
	dropped  int
}

func (r *report) add(f *source, pos api.Pos, fix, format string, args ...any) {
	if len(r.errs) >= maxErrors {
		r.dropped++
		return
	}
	r.errs = append(r.errs, &Error{Pos: pos, Text: f.line(pos.Line), Message: fmt.Sprintf(format, args...), Fix: fix})
}

func (r *report) warn(f *source, pos api.Pos, fix, format string, args ...any) {
	if len(r.warnings) < maxErrors {
		r.warnings = append(r.warnings, &Error{Pos: pos, Text: f.line(pos.Line), Message: fmt.Sprintf(format, args...), Fix: fix})
	}
}

// count is how many errors were found, shown or not.
func (r *report) count() int { return len(r.errs) + r.dropped }

// sorted returns what was collected by position, each finding once, or nil.
func (r *report) sorted() Errors {
	es := inOrder(r.errs)
	if r.dropped > 0 {
		es = append(es, &Error{Message: fmt.Sprintf("%d more errors are not shown", r.dropped), Fix: "mend the ones above first"})
	}
	return es
}

func inOrder(es Errors) Errors {
	slices.SortStableFunc(es, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Pos.File, b.Pos.File), cmp.Compare(a.Pos.Line, b.Pos.Line),
			cmp.Compare(a.Pos.Column, b.Pos.Column), cmp.Compare(a.Message, b.Message))
	})
	return slices.CompactFunc(es, func(a, b *Error) bool { return a.Pos == b.Pos && a.Message == b.Message })
}

// maxLine bounds the source text that an error carries, in bytes.
const maxLine = 240

// A source is the text of one file.
type source struct {
	name  string // as positions show it
	dir   string // where relative paths start
	lines []string
}

func newSource(f File) *source {
	return &source{name: f.Name, dir: f.Dir, lines: strings.Split(string(f.Data), "\n")}
}

// fullLine returns line n, counted from one, or "".
func (s *source) fullLine(n int) string {
	if s == nil || n < 1 || n > len(s.lines) {
		return ""
	}
	return s.lines[n-1]
}

// line returns line n, counted from one, or "".
func (s *source) line(n int) string {
	if s == nil || n < 1 || n > len(s.lines) {
		return ""
	}
	t := strings.ToValidUTF8(strings.TrimRight(s.lines[n-1], "\r"), "?")
	if len(t) > maxLine {
		t = strings.ToValidUTF8(t[:maxLine], "") + "..."
	}
	return t
}
