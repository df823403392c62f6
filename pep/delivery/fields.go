package delivery

import (
	"encoding/hex"
	"strconv"
	"time"

	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/flow"
)

// A Field is a part of a record as collectors get it. Names are those of `lorica logs
// --decisions -o json`; what is a list there comes once for each element.
type Field struct {
	Name   string
	Text   string // printable
	Number uint64 // with Numeric
	Is     Kind
}

// A Kind says what a Field holds.
type Kind uint8

const (
	Text Kind = iota
	Numeric
)

// Several reports whether there may be more than one field of a name.
func Several(name string) bool {
	return name == "group" || name == "fact" || name == "absent" || name == "partial"
}

// Value returns it as text.
func (f *Field) Value() string {
	if f.Is == Numeric {
		return strconv.FormatUint(f.Number, 10)
	}
	return f.Text
}

// Fields returns what is to be said of an entry; lost is how many records were lost up to
// now. Every text is bounded as abi/audit bounds it.
func Fields(e *Entry, lost uint64) []Field {
	list := make([]Field, 0, 32)
	number := func(name string, n uint64) { list = append(list, Field{Name: name, Number: n, Is: Numeric}) }
	text := func(name, s string, limit int) {
		if s != "" {
			list = append(list, Field{Name: name, Text: audit.Printable(audit.Cut(s, limit))})
		}
	}
	short := func(name, s string) { text(name, s, audit.MaxField) }
	some := func(name string, n uint64) {
		if n != 0 {
			number(name, n)
		}
	}
	r := &e.Record
	number("seq", e.Number)
	some("lost", lost)
	short("id", r.ID)
	short("decision", r.Verdict.String())
	short("stage", r.Stage)
	short("rule", r.Rule.ID)
	short("line", r.Rule.Line)
	short("reason", r.Reason)
	some("status", uint64(r.Status))
	short("principal", r.Principal)
	short("source", r.Source)
	short("protocol", flow.Protocol(r.Protocol).Text())
	some("port", uint64(r.Port))
	short("method", r.Method)
	short("route", r.Route)
	text("path", r.Path, audit.MaxPath)
	short("level", r.Level)
	number("revision", r.Revision)
	short("program", "sha256:"+hex.EncodeToString(r.Program[:]))
	groups, facts, partial := r.Bounded()
	for _, g := range groups {
		short("group", g)
	}
	for i := range facts {
		f := &facts[i]
		switch f.State {
		case audit.FactAbsent:
			short("absent", f.Name)
			continue
		case audit.FactUnread:
		default:
			text("fact", f.Name+"="+f.Value, 2*audit.MaxField+1)
		}
		if f.State != audit.FactWhole {
			short("partial", audit.FieldAttribute+f.Name)
		}
	}
	for _, name := range partial.Fields() {
		short("partial", name)
	}
	if w := r.DryRun; w != nil {
		short("dryRun.decision", w.Verdict.String())
		short("dryRun.stage", w.Stage)
		short("dryRun.rule", w.Rule.ID)
		short("dryRun.line", w.Rule.Line)
		short("dryRun.reason", w.Reason)
	}
	return list
}

// Sentence says in words what was decided, for people: on one line.
func Sentence(r *audit.Record) string {
	s := r.Verdict.String()
	if r.Method != "" {
		s += " " + r.Method
	}
	if r.Path != "" {
		s += " " + audit.Cut(r.Path, audit.MaxPath)
	}
	if r.Source != "" {
		s += " from " + r.Source
	}
	s += " by " + r.Rule.ID
	if r.Rule.Line != "" {
		s += " (" + r.Rule.Line + ")"
	}
	if r.Reason != "" {
		s += ": " + r.Reason
	}
	return audit.Printable(audit.Cut(s, 2*audit.MaxPath))
}

// When returns the time of a record.
func (e *Entry) When() time.Time { return time.Unix(0, e.Record.Time).UTC() }
