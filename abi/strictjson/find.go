// Package strictjson reads single values out of a JSON document (RFC 8259) that
// every reader must understand alike.
//
// It refuses what parsers are known to disagree about: members with one name
// twice, a member whose name differs from a wanted one only in case (Go's
// encoding/json would take it for the same), invalid UTF-8, unpaired
// surrogates, a byte order mark, anything after the document. Depth and the
// number of names held at once are bounded, and the work is linear in the
// document but for the sorting of names.
package strictjson

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Bounds of a document.
const (
	MaxDepth = 64   // of nesting
	MaxNames = 4096 // of members, in all the objects open at one point
)

// A Kind says what a value is. The zero Kind says that there is none.
type Kind uint8

const (
	Missing Kind = iota
	Null
	False
	True
	Number
	String
	Array
	Object
)

// A Value is a value that was found. Text is the literal of a number or a truth
// value, the decoded content of a string, or the source of an array or an object;
// it may alias the document.
type Value struct {
	Kind Kind
	Text []byte
	At   int // where it begins in the document
}

// A Pointer is a parsed JSON Pointer (RFC 6901).
type Pointer []string

// ParsePointer reads "" or "/a/b~1c/0".
func ParsePointer(s string) (Pointer, error) {
	if s == "" {
		return Pointer{}, nil
	}
	if s[0] != '/' {
		return nil, fmt.Errorf("strictjson: pointer %q does not start with \"/\"", s)
	}
	p := strings.Split(s[1:], "/")
	if len(p) > MaxDepth {
		return nil, fmt.Errorf("strictjson: pointer of %d steps; the limit is %d", len(p), MaxDepth)
	}
	for i, t := range p {
		if rest := strings.NewReplacer("~0", "", "~1", "").Replace(t); strings.Contains(rest, "~") {
			return nil, fmt.Errorf("strictjson: pointer %q: \"~\" must be followed by 0 or 1", s)
		}
		p[i] = strings.ReplaceAll(strings.ReplaceAll(t, "~1", "/"), "~0", "~")
	}
	return p, nil
}

// An Error says what is wrong with a document, and where. It may name members,
// and never shows a value.
type Error struct {
	Message string
	At      int // byte, from 0
}

func (e *Error) Error() string { return fmt.Sprintf("%s, at byte %d", e.Message, e.At) }

// Find checks the whole document and stores what each pointer names in the
// element of out with the same index; len(out) must be len(want). After an
// error nothing is found.
func Find(doc []byte, want []Pointer, out []Value) error {
	clear(out)
	f := finder{doc: doc, want: want, out: out, at: make([]int, len(want))}
	err := f.value(0)
	if f.next(); err == nil && f.pos != len(doc) {
		err = f.syntax("something follows the document")
	}
	if err != nil {
		clear(out)
	}
	return err
}

// Elements calls each for every element of an array that Find found, in order,
// until it returns an error. Places are those in the document of the array.
func Elements(array Value, each func(Value) error) error {
	f := finder{doc: array.Text}
	if array.Kind != Array || f.next() != '[' {
		return &Error{"not an array", array.At}
	}
	want := [...]Pointer{{}}
	out, at := [1]Value{}, [1]int{}
	f.want, f.out, f.at = want[:], out[:], at[:]
	for f.pos++; f.next() != ']'; {
		if err := f.value(0); err != nil {
			return err // cannot be in what Find has read
		}
		out[0].At += array.At
		if err := each(out[0]); err != nil {
			return err
		}
		if f.next() == ',' {
			f.pos++
		}
	}
	return nil
}

type finder struct {
	doc   []byte
	pos   int
	want  []Pointer
	at    []int // how many steps of each pointer led here
	out   []Value
	names [][]byte // members of the open objects
}

func (f *finder) syntax(what string) error { return f.fail("not well-formed JSON: %s", what) }

func (f *finder) fail(format string, args ...any) error {
	return &Error{fmt.Sprintf(format, args...), f.pos}
}

func (f *finder) space() {
	for f.pos < len(f.doc) {
		switch f.doc[f.pos] {
		case ' ', '\t', '\n', '\r':
			f.pos++
		default:
			return
		}
	}
}

// next skips space and returns the next byte without taking it; 0 at the end.
func (f *finder) next() byte {
	f.space()
	if f.pos == len(f.doc) {
		return 0
	}
	return f.doc[f.pos]
}

// value reads the value that lies depth steps below the root.
func (f *finder) value(depth int) error {
	if depth > MaxDepth {
		return f.fail("nested deeper than %d", MaxDepth)
	}
	var v Value
	var err error
	c := f.next()
	start := f.pos
	switch {
	case c == '{':
		v.Kind = Object
		err = f.object(depth)
	case c == '[':
		v.Kind = Array
		err = f.array(depth)
	case c == '"':
		v.Kind = String
		v.Text, err = f.text()
	case c == '-' || '0' <= c && c <= '9':
		v.Kind = Number
		v.Text, err = f.number()
	default:
		v, err = f.word()
	}
	if err != nil {
		return err
	}
	if v.At = start; v.Kind == Array || v.Kind == Object {
		v.Text = f.doc[start:f.pos]
	}
	for i, p := range f.want {
		if f.at[i] == depth && len(p) == depth {
			f.out[i] = v
		}
	}
	return nil
}

func (f *finder) word() (Value, error) {
	for _, w := range [...]struct {
		text string
		kind Kind
	}{{"null", Null}, {"true", True}, {"false", False}} {
		if bytes.HasPrefix(f.doc[f.pos:], []byte(w.text)) {
			f.pos += len(w.text)
			return Value{Kind: w.kind, Text: f.doc[f.pos-len(w.text) : f.pos]}, nil
		}
	}
	return Value{}, f.syntax("a value is expected")
}

// enter follows one step, the same for all pointers that lead here.
func (f *finder) enter(depth int, step func(token string) bool) {
	for i, p := range f.want {
		if f.at[i] == depth && len(p) > depth && step(p[depth]) {
			f.at[i] = depth + 1
		}
	}
}

func (f *finder) leave(depth int) {
	for i := range f.at {
		f.at[i] = min(f.at[i], depth)
	}
}

func (f *finder) object(depth int) error {
	f.pos++
	first := len(f.names)
	if f.next() == '}' {
		f.pos++
		return nil
	}
	for {
		if f.next() != '"' {
			return f.syntax("a name is expected")
		}
		name, err := f.text()
		if err != nil {
			return err
		}
		if len(f.names) == MaxNames {
			return f.fail("more than %d members at once", MaxNames)
		}
		f.names = append(f.names, name)
		if err := f.distinct(depth, name); err != nil {
			return err
		}
		if f.next() != ':' {
			return f.syntax("\":\" is expected")
		}
		f.pos++
		f.enter(depth, func(t string) bool { return t == string(name) })
		if err := f.value(depth + 1); err != nil {
			return err
		}
		f.leave(depth)
		switch f.next() {
		case ',':
			f.pos++
		case '}':
			f.pos++
			return f.unique(first)
		default:
			return f.syntax("\",\" or \"}\" is expected")
		}
	}
}

// distinct refuses a name that could be taken for a wanted one.
func (f *finder) distinct(depth int, name []byte) error {
	for i, p := range f.want {
		if f.at[i] == depth && len(p) > depth && p[depth] != string(name) && strings.EqualFold(p[depth], string(name)) {
			return f.fail("a member that could be taken for %q", p[depth])
		}
	}
	return nil
}

// unique checks the names of an object that ends, and forgets them.
func (f *finder) unique(first int) error {
	names := f.names[first:]
	slices.SortFunc(names, bytes.Compare)
	for i := 1; i < len(names); i++ {
		if bytes.Equal(names[i-1], names[i]) {
			return f.fail("%s twice", f.member(names[i]))
		}
	}
	f.names = f.names[:first]
	return nil
}

// member names a member of an object where it is one that was asked for: errors are recorded,
// and hold nothing of a document besides.
func (f *finder) member(name []byte) string {
	for _, p := range f.want {
		if slices.Contains(p, string(name)) {
			return "a member " + strconv.Quote(string(name))
		}
	}
	return "a member"
}

func (f *finder) array(depth int) error {
	f.pos++
	if f.next() == ']' {
		f.pos++
		return nil
	}
	for n := 0; ; n++ {
		f.enter(depth, func(t string) bool { return isIndex(t, n) })
		if err := f.value(depth + 1); err != nil {
			return err
		}
		f.leave(depth)
		switch f.next() {
		case ',':
			f.pos++
		case ']':
			f.pos++
			return nil
		default:
			return f.syntax("\",\" or \"]\" is expected")
		}
	}
}

// isIndex reports whether a token is the array index n, written without
// leading zeros.
func isIndex(token string, n int) bool {
	if token == "" || len(token) > 9 || len(token) > 1 && token[0] == '0' {
		return false
	}
	v := 0
	for _, c := range []byte(token) {
		if c < '0' || c > '9' {
			return false
		}
		v = 10*v + int(c-'0')
	}
	return v == n
}
