// Package settings is the section of a module of the user's own: the settings that
// its workload gives it, by name, checked against the module's manifest before they
// become part of a program.
package settings

import (
	"fmt"
	"slices"
	"strings"

	"lorica.dev/lorica/abi/wire"
)

// Bounds of a section, and of a value in bytes and elements.
const (
	MaxValues = 64
	MaxText   = 4096
	MaxList   = 256
)

// A Kind says which field of a Value counts.
type Kind uint8

const (
	Text Kind = iota + 1
	Number
	Flag
	List
)

// A Value is one setting.
type Value struct {
	Name   string
	Kind   Kind
	Text   string
	Number int64
	Flag   bool
	List   []string
}

// A Section holds the settings of a module, by name. What is not set, has the zero
// value.
type Section struct {
	Line   string // where the module is named, for the rules of its decisions: "workload.yaml:9"
	Values []Value
}

// Text, Number, Flag and List return what is set under a name.
func (s *Section) Text(name string) string   { return s.value(name, Text).Text }
func (s *Section) Number(name string) int64  { return s.value(name, Number).Number }
func (s *Section) Flag(name string) bool     { return s.value(name, Flag).Flag }
func (s *Section) List(name string) []string { return s.value(name, List).List }

// Has reports whether something is set under a name.
func (s *Section) Has(name string) bool {
	return slices.ContainsFunc(s.Values, func(v Value) bool { return v.Name == name })
}

func (s *Section) value(name string, kind Kind) Value {
	for _, v := range s.Values {
		if v.Name == name && v.Kind == kind {
			return v
		}
	}
	return Value{}
}

// OfUser reports whether a section of that name is one of these: modules of the
// user's own are called by their Go module path, whose first word is the name of a
// host. No other section has a dot in its first word and a slash after it.
func OfUser(section string) bool {
	host, rest, ok := strings.Cut(section, "/")
	return ok && rest != "" && strings.Contains(host, ".")
}

// form is the first byte. Without it, zero bytes would read as nothing set.
const form = 1

// Encode returns the section's bytes: equal settings have equal ones, in whatever
// order they were written.
func (s *Section) Encode() []byte {
	values := slices.Clone(s.Values)
	slices.SortFunc(values, func(a, b Value) int { return strings.Compare(a.Name, b.Name) })
	var w wire.Writer
	w.U8(form)
	w.String(s.Line)
	w.U32(uint32(len(values)))
	for _, v := range values {
		w.String(v.Name)
		w.U8(uint8(v.Kind))
		switch v.Kind {
		case Text:
			w.String(v.Text)
		case Number:
			w.I64(v.Number)
		case Flag:
			w.Bool(v.Flag)
		case List:
			w.Strings(v.List)
		}
	}
	return w.Bytes()
}

// Decode reads a section. What it returns without an error is within the bounds.
func Decode(b []byte) (Section, error) {
	r := wire.NewReader(b)
	if v := r.U8(); v != form {
		r.Fail(fmt.Errorf("form %d is unknown", v))
	}
	s := Section{Line: r.String()}
	n := r.Count(6)
	if n > MaxValues {
		r.Fail(fmt.Errorf("%d settings; at most %d", n, MaxValues))
	}
	before := ""
	for range n {
		v := Value{Name: r.String(), Kind: Kind(r.U8())}
		switch v.Kind {
		case Text:
			v.Text = r.String()
		case Number:
			v.Number = r.I64()
		case Flag:
			v.Flag = r.Bool()
		case List:
			v.List = r.Strings()
		default:
			r.Fail(fmt.Errorf("kind %d is unknown", v.Kind))
		}
		if v.Name <= before {
			r.Fail(fmt.Errorf("the setting %q is not after %q", v.Name, before))
		}
		if err := v.Check(); err != nil {
			r.Fail(fmt.Errorf("setting %q: %w", v.Name, err))
		}
		if r.Err() != nil {
			break
		}
		before = v.Name
		s.Values = append(s.Values, v)
	}
	if err := r.Close(); err != nil {
		return Section{}, fmt.Errorf("settings: %w", err)
	}
	return s, nil
}

// Check says what of a value is beyond the bounds.
func (v *Value) Check() error {
	if len(v.Text) > MaxText {
		return fmt.Errorf("%d bytes; at most %d", len(v.Text), MaxText)
	}
	if len(v.List) > MaxList {
		return fmt.Errorf("%d elements; at most %d", len(v.List), MaxList)
	}
	for _, e := range v.List {
		if len(e) > MaxText {
			return fmt.Errorf("an element of %d bytes; at most %d", len(e), MaxText)
		}
	}
	return nil
}
