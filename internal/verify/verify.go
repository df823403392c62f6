// Package verify reads programs a second time: it shares no code with the compiler
// that wrote them and the images that run them, and was written from
// docs/program-format.md alone, so that a mistake has to be made twice to be missed.
package verify

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

const none, largest = 0xffffffff, 16 << 20

// known are the sections that an image can take. The page says what is in two of them;
// the others are data to this package.
const known = "dryrun firewall firewall.dryrun tls obligations obligations.dryrun filter limit-source limit-source.dryrun authn-jwt authn-basic authn-mtls authn limit-principal limit-principal.dryrun authz authz.dryrun egress audit audit-syslog audit-otlp audit-channel"

// A Report says what is in a program.
type Report struct {
	Digest, Plan, Tenant, Workload, Policy string
	Revision                               uint64
	Levels                                 []string
	Signed                                 bool // the signature was checked
	Sections                               []Section
}

// A Section of a program, and how many of each part are in it; nil where what is in it
// was not verified.
type Section struct {
	Name         string
	Offset, Size int
	Parts        map[string]int
}

// An Error says what is wrong with a program, and at which of its bytes.
type Error struct {
	Offset  int
	Section string // "" outside of sections
	Problem string
}

func (e *Error) Error() string {
	return strings.Replace(fmt.Sprintf("byte %d, in section %s: %s", e.Offset, e.Section, e.Problem), ", in section :", ":", 1)
}

// Check verifies all of a program that the page specifies, against the public key, or
// without its signature where that is nil. What it refuses, it refuses with an *Error.
func Check(program []byte, key ed25519.PublicKey) (rep Report, err error) {
	defer func() {
		caught := recover()
		if refused, ours := caught.(*Error); ours {
			rep, err = Report{}, refused
		} else if caught != nil {
			panic(caught)
		}
	}()
	r := &reader{}
	r.want(len(program) <= largest, largest, "a program has at most %d bytes", largest)
	end := len(program) - ed25519.SignatureSize
	r.want(end >= 0, 0, "%d bytes do not hold a signature", len(program))
	r.b = program[:end]
	signed := append([]byte("lorica program v1\x00"), r.b...)
	r.want(key == nil || len(key) == ed25519.PublicKeySize && slices.Max(key) > 0 && ed25519.Verify(key, signed, program[end:]), end, "the signature is not by this key over these bytes")
	r.want(string(r.bytes(8)) == "LORICAP1", 0, "not a program of version 1")
	rep = Report{Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(program)), Signed: key != nil, Plan: fmt.Sprintf("%x", r.bytes(32)),
		Revision: binary.LittleEndian.Uint64(r.bytes(8)), Tenant: string(r.blob()), Workload: string(r.blob()), Policy: string(r.blob())}
	for range r.count(4) {
		rep.Levels = append(rep.Levels, string(r.blob()))
	}
	for range r.count(8) {
		name, data := string(r.blob()), r.blob()
		s := Section{name, r.at - len(data), len(data), nil}
		dot, slash := strings.Index(name, "."), strings.Index(name, "/") // of a module of the user's own, which is in this order
		r.want(slices.Contains(strings.Fields(known), name) || dot >= 0 && dot < slash && slash < len(name)-1, s.Offset-8-len(name), "no image takes a section %q", name)
		r.want(!has(rep, name), s.Offset-8-len(name), "a second section %q", name)
		if inside := map[string]func(*reader) map[string]int{"authz": authorization, "firewall": firewall, "dryrun": whole}[strings.TrimSuffix(name, ".dryrun")]; inside != nil {
			s.Parts = inside(&reader{program[:s.Offset+s.Size], s.Offset, name})
		}
		rep.Sections = append(rep.Sections, s)
	}
	r.end()
	for _, s := range rep.Sections {
		beside, tried := strings.CutSuffix(s.Name, ".dryrun")
		r.want(!tried || has(rep, beside) && !has(rep, "dryrun"), s.Offset-8-len(s.Name), "section %q is tried beside none, or beside a policy that is tried as a whole", s.Name)
	}
	return rep, nil
}

func has(rep Report, name string) bool {
	return slices.ContainsFunc(rep.Sections, func(s Section) bool { return s.Name == name })
}

// whole reads the section that has the whole policy tried.
func whole(r *reader) map[string]int {
	r.want(string(r.bytes(8)) == "DRYRUN01", r.at-8, "it does not say that the policy is a dry run")
	r.blob()
	r.end()
	return map[string]int{}
}

// A reader goes through bytes and knows where it is in the program. What is not as it is
// wanted ends the reading: a panic with an *Error, which Check catches.
type reader struct {
	b       []byte // from the beginning of the program to the end of what is read
	at      int
	section string
}

func (r *reader) want(ok bool, at int, format string, args ...any) {
	if !ok {
		panic(&Error{at, r.section, fmt.Sprintf(format, args...)})
	}
}

func (r *reader) bytes(n int) []byte {
	r.want(n <= len(r.b)-r.at, r.at, "%d bytes are wanted, and %d are left", n, len(r.b)-r.at)
	r.at += n
	return r.b[r.at-n : r.at]
}

// count reads how many elements follow, of at least so many bytes each.
func (r *reader) count(least int) int {
	n := binary.LittleEndian.Uint32(r.bytes(4))
	r.want(int64(n)*int64(least) <= int64(len(r.b)-r.at), r.at-4, "%d elements are more than the remaining bytes hold", n)
	return int(n)
}

func (r *reader) blob() []byte { return r.bytes(r.count(1)) }

// within reads a byte from least to most.
func (r *reader) within(least, most byte) {
	b := r.bytes(1)[0]
	r.want(b >= least && b <= most, r.at-1, "%d is not from %d to %d", b, least, most)
}

func (r *reader) end() { r.want(r.at == len(r.b), r.at, "%d bytes are left over", len(r.b)-r.at) }

// A table is a list of records of words, where it lies in the program.
type table struct {
	r            *reader
	name         string
	at, n, width int // where record 0 begins, how many, words of each
}

// upTo stands for the table of a word that is at most n, and an index of nothing.
func upTo(n int) table { return table{name: "value", n: n + 1} }

func (r *reader) table(name string, width int) table {
	return r.records(name, width, r.count(4*width))
}

func (r *reader) records(name string, width, n int) table {
	r.bytes(4 * width * n)
	return table{r, name, r.at - 4*width*n, n, width}
}

func (t table) word(i, col int) uint32 {
	return binary.LittleEndian.Uint32(t.r.b[t.at+4*(i*t.width+col):])
}

func (t table) want(ok bool, i, col int, format string, args ...any) {
	if !ok {
		t.r.want(false, t.at+4*(i*t.width+col), "%s %d: %s", t.name, i, fmt.Sprintf(format, args...))
	}
}

// indices holds words from a column on to being below the lengths of tables.
func (t table) indices(i, col int, of ...table) {
	for k, o := range of {
		t.want(int64(t.word(i, col+k)) < int64(o.n), i, col+k, "there is no %s %d", o.name, t.word(i, col+k))
	}
}

// span returns the first element of a table and the one behind the last, as two words say.
func (t table) span(i, col int, of table) (first, end int) {
	a, n := int64(t.word(i, col)), int64(t.word(i, col+1))
	t.want(a+n <= int64(of.n), i, col, "there are no %d of %s from %d on", n, of.name, a)
	return int(a), int(a + n)
}

// less compares two records by the words of two columns, or twice of one.
func (t table) less(i, j, high, low int) bool {
	a, b := t.word(i, high), t.word(j, high)
	return a < b || a == b && t.word(i, low) < t.word(j, low)
}
