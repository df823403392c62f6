// Package verify reads programs a second time: it shares no code with the compiler
// that wrote them and the image that runs them, and was written from
// docs/program-format.md alone, so that a mistake has to be made twice to be missed.
package verify

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"unicode/utf8"
)

const (
	none    = 0xffffffff
	largest = 16 << 20
)

// A Report says what is in a program.
type Report struct {
	Digest   string    `json:"digest"`
	Plan     string    `json:"plan"`
	Revision uint64    `json:"revision"`
	Tenant   string    `json:"tenant"`
	Workload string    `json:"workload"`
	Policy   string    `json:"policy"`
	Levels   []string  `json:"levels"`
	Signed   bool      `json:"signed"` // the signature was checked
	Sections []Section `json:"sections"`
	Authz    *Authz    `json:"authz,omitempty"`
}

// A Section of a program. The page specifies the bytes of some only: the others are
// data to this package.
type Section struct {
	Name   string `json:"name"`
	Offset int    `json:"offset"`
	Size   int    `json:"size"`
	Inside bool   `json:"inside"` // what is in it was verified
}

// An Error says what is wrong with a program, and at which of its bytes.
type Error struct {
	Offset  int
	Section string // "" outside of sections
	Problem string
}

func (e *Error) Error() string {
	where := ""
	if e.Section != "" {
		where = ", in section " + e.Section
	}
	return fmt.Sprintf("byte %d%s: %s", e.Offset, where, e.Problem)
}

// Sections that an image can take.
var names = map[string]bool{
	"firewall": true, "tls": true, "obligations": true, "filter": true, "limit-source": true, "authn-jwt": true, "authn-basic": true,
	"authn-mtls": true, "authn": true, "limit-principal": true, "authz": true, "egress": true, "audit": true,
}

// Check verifies all of a program that the page specifies, against the public key, or
// without its signature where that is nil. What it refuses, it refuses with an *Error.
func Check(program []byte, key ed25519.PublicKey) (rep Report, err error) {
	r := &reader{b: program}
	defer func() {
		if e := recover(); e != nil {
			refused, ours := e.(*Error)
			if !ours {
				panic(e)
			}
			rep, err = Report{}, refused
		}
	}()
	if len(program) > largest {
		r.fail(largest, "a program has at most %d bytes", largest)
	}
	if len(program) < ed25519.SignatureSize {
		r.fail(0, "%d bytes do not hold a signature", len(program))
	}
	body := program[:len(program)-ed25519.SignatureSize]
	if key != nil && (len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, append([]byte("lorica program v1\x00"), body...), program[len(body):])) {
		r.fail(len(body), "the signature is not by this key over these bytes")
	}
	r.b = body
	if string(r.bytes(8)) != "LORICAP1" {
		r.fail(0, "not a program of version 1")
	}
	digest := sha256.Sum256(program)
	rep = Report{Digest: "sha256:" + hex.EncodeToString(digest[:]), Signed: key != nil}
	rep.Plan = hex.EncodeToString(r.bytes(32))
	rep.Revision = binary.LittleEndian.Uint64(r.bytes(8))
	rep.Tenant, rep.Workload, rep.Policy = r.text(), r.text(), r.text()
	for range r.count(4) {
		rep.Levels = append(rep.Levels, r.text())
	}
	if len(rep.Levels) == 0 {
		r.fail(r.at, "no level is named")
	}
	seen := map[string]bool{}
	for range r.count(8) {
		at := r.at
		s := Section{Name: r.text(), Offset: r.at + 4}
		if !names[s.Name] {
			r.fail(at, "no image takes a section %q", s.Name)
		}
		if seen[s.Name] {
			r.fail(at, "a second section %q", s.Name)
		}
		seen[s.Name] = true
		data := r.blob()
		s.Size = len(data)
		inside := &reader{b: program[:s.Offset+s.Size], at: s.Offset, section: s.Name}
		switch s.Name {
		case "authz":
			rep.Authz, s.Inside = authorization(inside), true
		}
		rep.Sections = append(rep.Sections, s)
	}
	r.end()
	return rep, nil
}

// A reader goes through bytes and knows where it is in the program. What it cannot
// read, it fails: a panic with an *Error, which Check catches.
type reader struct {
	b       []byte // from the beginning of the program to the end of what is read
	at      int
	section string
}

func (r *reader) fail(at int, format string, args ...any) {
	panic(&Error{at, r.section, fmt.Sprintf(format, args...)})
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.b)-r.at {
		r.fail(r.at, "%d bytes are wanted, and %d are left", n, len(r.b)-r.at)
	}
	r.at += n
	return r.b[r.at-n : r.at]
}

func (r *reader) byte() byte   { return r.bytes(1)[0] }
func (r *reader) word() uint32 { return binary.LittleEndian.Uint32(r.bytes(4)) }

// count reads how many elements follow, of at least so many bytes each.
func (r *reader) count(least int) int {
	at, n := r.at, r.word()
	if int64(n)*int64(least) > int64(len(r.b)-r.at) {
		r.fail(at, "%d elements are more than the remaining bytes hold", n)
	}
	return int(n)
}

func (r *reader) blob() []byte { return r.bytes(r.count(1)) }

func (r *reader) text() string {
	at, b := r.at, r.blob()
	if !utf8.Valid(b) {
		r.fail(at, "a string that is not UTF-8")
	}
	return string(b)
}

func (r *reader) truth() bool { return r.within(0, 1) == 1 }

// within reads a byte from least to most.
func (r *reader) within(least, most byte) byte {
	b := r.byte()
	if b < least || b > most {
		r.fail(r.at-1, "%d is not from %d to %d", b, least, most)
	}
	return b
}

func (r *reader) end() {
	if r.at != len(r.b) {
		r.fail(r.at, "%d bytes are left over", len(r.b)-r.at)
	}
}

// A table is a list of records of words, where it lies in the program.
type table struct {
	r     *reader
	name  string
	at    int // where record 0 begins
	n     int
	width int // words of a record
}

func (r *reader) table(name string, width int) table {
	t := table{r: r, name: name, n: r.count(4 * width), width: width}
	t.at = r.at
	r.bytes(4 * width * t.n)
	return t
}

func (t table) word(i, col int) uint32 {
	return binary.LittleEndian.Uint32(t.r.b[t.at+4*(i*t.width+col):])
}

func (t table) fail(i, col int, format string, args ...any) {
	t.r.fail(t.at+4*(i*t.width+col), "%s %d: %s", t.name, i, fmt.Sprintf(format, args...))
}

// index returns a word that names an element of a table.
func (t table) index(i, col int, of table) int {
	w := t.word(i, col)
	if int64(w) >= int64(of.n) {
		t.fail(i, col, "there is no %s %d", of.name, w)
	}
	return int(w)
}

// optional is index, or -1 for None.
func (t table) optional(i, col int, of table) int {
	if t.word(i, col) == none {
		return -1
	}
	return t.index(i, col, of)
}

// span returns the first element of a table and how many, which two words name.
func (t table) span(i, col int, of table) (first, n int) {
	a, b := t.word(i, col), t.word(i, col+1)
	if int64(a)+int64(b) > int64(of.n) {
		t.fail(i, col, "there are no %d of %s from %d on", b, of.name, a)
	}
	return int(a), int(b)
}

// zero holds a word that says nothing to 0.
func (t table) zero(i int, cols ...int) {
	for _, col := range cols {
		if w := t.word(i, col); w != 0 {
			t.fail(i, col, "%d where 0 is to be", w)
		}
	}
}
