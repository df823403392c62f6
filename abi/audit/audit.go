// Package audit is the audit section of a program and the record of one
// decision, as it goes from the image to its tender.
package audit

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/wire"
)

// Name of the section.
const Name = "audit"

// Million is the sampling rate that keeps every allowed request.
const Million = 1_000_000

// Fields that a policy may ask to redact.
const (
	FieldPrincipal  = "principal"
	FieldSource     = "source"
	FieldPath       = "path"
	FieldGroups     = "groups"
	FieldAttributes = "attributes" // all of them
	FieldAttribute  = "attribute." // and the name of one
)

// A Section says which decisions are recorded. Denials always are.
type Section struct {
	AllowedPerMillion uint32   // sampling of allowed requests, 0 to Million
	Redact            []string // fields; those that repeat another are named as well
}

// Encode returns the section's bytes.
func (s *Section) Encode() []byte {
	var w wire.Writer
	w.U32(s.AllowedPerMillion)
	w.Strings(s.Redact)
	return w.Bytes()
}

// Decode reads a section.
func Decode(b []byte) (Section, error) {
	if len(b) == 0 {
		return Section{}, errors.New("audit: no section")
	}
	r := wire.NewReader(b)
	s := Section{AllowedPerMillion: r.U32(), Redact: r.Strings()}
	if s.AllowedPerMillion > Million {
		r.Fail(errors.New("sampling above one"))
	}
	if err := r.Close(); err != nil {
		return Section{}, fmt.Errorf("audit: %w", err)
	}
	return s, nil
}

// Bounds of a record's text fields, in bytes. Longer values are cut, with an
// ellipsis, before they are encoded: what a client sends is never unbounded.
const (
	MaxField  = 256
	MaxPath   = 1024
	MaxRecord = 8192
)

// MinRecord is the size of an encoded record without any text.
const MinRecord = 8 + 1 + 2 + 8 + 32 + 1 + 2 + 1 + 1 + 11*4 + 4 + 4

// A Record is one decision. Path is canonical, never the raw request target.
type Record struct {
	Time      int64  // Unix nanoseconds
	ID        string // random; the only part a client sees
	Verdict   abi.Verdict
	Stage     string // which module decided
	Rule      abi.Rule
	Reason    string // in words, for a denial
	Status    uint16 // HTTP status of a denial; 0 for a connection or an allow
	Principal string
	Source    string
	Protocol  uint8  // of the connection, as IP numbers it
	Port      uint16 // that it is for
	Method    string
	Route     string
	Path      string
	Level     string
	Revision  uint64
	Program   [32]byte

	Groups  []string // of the principal
	Facts   []Fact   // that authorization judged by; none where it was not asked
	Partial Partial

	DryRun *Would // nil: with the rules that are tried it would have been the same
}

// Append encodes r at the end of w, cutting long fields.
func (r *Record) Append(w *wire.Writer) {
	w.I64(r.Time)
	w.U8(uint8(r.Verdict))
	w.U16(r.Status)
	w.U64(r.Revision)
	w.Fixed(r.Program[:])
	w.U8(r.Protocol)
	w.U16(r.Port)
	groups, facts, partial := r.Bounded()
	w.U8(uint8(partial))
	w.U8(r.DryRun.kind())
	for _, s := range r.texts() {
		w.String(Cut(*s, MaxField))
	}
	w.String(Cut(r.Path, MaxPath))
	w.Strings(groups)
	appendFacts(w, facts)
	r.DryRun.append(w)
}

// Size returns how many bytes Append may write for r, at most.
func (r *Record) Size() int {
	n := MinRecord + min(len(r.Path), MaxPath)
	for _, s := range r.texts() {
		n += min(len(*s), MaxField)
	}
	if r.DryRun != nil {
		for _, s := range r.DryRun.texts() {
			n += 4 + min(len(*s), MaxField)
		}
	}
	groups, facts := 0, 0
	for _, g := range r.Groups {
		groups += groupCost + len(g)
	}
	for i := range r.Facts {
		facts += factCost + len(r.Facts[i].Name) + len(r.Facts[i].Value)
	}
	return n + min(groups, MaxGroupBytes) + min(facts, MaxFactBytes)
}

// Own returns r as it would be encoded, in memory of its own. A word of a request is part
// of all that its client has sent before the body, and what keeps the one keeps the other.
func (r *Record) Own() Record {
	o := *r
	o.Groups, o.Facts, o.Partial = r.Bounded()
	o.Groups, o.Facts = slices.Clone(o.Groups), slices.Clone(o.Facts)
	for i := range o.Groups {
		o.Groups[i] = strings.Clone(o.Groups[i])
	}
	for i := range o.Facts {
		o.Facts[i].Value = strings.Clone(o.Facts[i].Value)
	}
	texts := o.texts()
	if r.DryRun != nil {
		w := *r.DryRun
		o.DryRun = &w
		texts = append(texts, w.texts()...)
	}
	for _, s := range texts {
		*s = strings.Clone(Cut(*s, MaxField))
	}
	o.Path = strings.Clone(Cut(o.Path, MaxPath))
	return o
}

func (r *Record) texts() []*string {
	return []*string{&r.ID, &r.Stage, &r.Rule.ID, &r.Rule.Line, &r.Reason, &r.Principal, &r.Source, &r.Method, &r.Route, &r.Level}
}

// Read decodes one record.
func Read(rd *wire.Reader) Record {
	var r Record
	r.Time = rd.I64()
	v := rd.U8()
	if v > uint8(abi.Allow) {
		rd.Fail(fmt.Errorf("audit: verdict %d is unknown", v))
	}
	r.Verdict, r.Status, r.Revision = abi.Verdict(v), rd.U16(), rd.U64()
	copy(r.Program[:], rd.Fixed(len(r.Program)))
	r.Protocol, r.Port, r.Partial = rd.U8(), rd.U16(), Partial(rd.U8())
	if r.Partial > partialAll {
		rd.Fail(fmt.Errorf("audit: what is partial, %#x, is unknown", uint8(r.Partial)))
	}
	would := rd.U8()
	for _, s := range r.texts() {
		*s = text(rd, MaxField)
	}
	r.Path = text(rd, MaxPath)
	r.Groups = readGroups(rd)
	r.Facts = readFacts(rd)
	r.DryRun = readWould(rd, would)
	if rd.Err() != nil {
		return Record{}
	}
	return r
}

func text(rd *wire.Reader, limit int) string {
	b := rd.Blob()
	if len(b) > limit {
		rd.Fail(fmt.Errorf("audit: field of %d bytes; the limit is %d", len(b), limit))
	}
	return string(b)
}

// Cut bounds s to limit bytes, at least three, marking what was cut. It never
// splits a character.
func Cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	n := limit - 3
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}
