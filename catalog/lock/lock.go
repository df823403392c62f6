// Package lock reads and writes lorica.lock, which pins what the image of a workload
// is made of beyond the workload itself: the modules of the user's own, and the
// catalog of Lorica's. It lies beside the workload, "lorica plan" writes it, and what
// builds obeys it.
package lock

import (
	"bytes"
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"lorica.dev/lorica/api"
)

// Name is the name of the file, in the folder of the workload.
const Name = "lorica.lock"

// MaxSize and MaxModules bound what is read.
const (
	MaxSize    = 1 << 20
	MaxModules = 1024
)

// A File is what was accepted.
type File struct {
	Catalog string   // digest of the manifests of Lorica's own modules
	Modules []Module // by source
}

// A Module is one module of the user's own.
type Module struct {
	Source  string `json:"source"` // as the workload or the configuration names it
	ID      string `json:"id"`
	Version string `json:"version"`
	Digest  string `json:"digest"` // "h1:" and that of its files, as go.sum has it
}

// An Error is what is wrong with a file, and where.
type Error struct {
	Pos     api.Pos
	Message string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d: %s (\"lorica plan --update\" writes it anew)", e.Pos.File, e.Pos.Line, e.Message)
}

const head = `# Written by "lorica plan": what the images of the workloads here are made of, beside the workloads.
# "lorica build" and "lorica up" refuse what differs; "lorica plan --update" accepts it.
version: 1
`

// Encode returns the text of f: one text for one content.
func (f *File) Encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%scatalog: %s\nmodules:\n", head, f.Catalog)
	for _, m := range f.sorted() {
		fmt.Fprintf(&b, "- source: %q\n  id: %s\n  version: %q\n  digest: %s\n", m.Source, m.ID, m.Version, m.Digest)
	}
	return b.Bytes()
}

func (f *File) sorted() []Module {
	list := slices.Clone(f.Modules)
	slices.SortFunc(list, func(a, b Module) int { return cmp.Compare(a.Source, b.Source) })
	return list
}

// Forms of values.
var (
	catalogForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	digestForm  = regexp.MustCompile(`^h1:[A-Za-z0-9+/]{43}=$`)
	idForm      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._~/-]{0,199}$`)
	anyForm     = regexp.MustCompile(`^.+$`)
)

// Parse reads the text of a file: the lines that Encode writes, in their order, with
// comments and empty lines between them. What is there twice, missing or of another
// form is an error. The name stands in positions. Its error, if any, is an *Error.
func Parse(name string, data []byte) (*File, error) {
	p := &parser{name: name}
	if len(data) > MaxSize {
		p.fail("%d bytes; at most %d", len(data), MaxSize)
		return nil, p.err
	}
	for i, line := range strings.Split(string(data), "\n") {
		if line = strings.TrimRight(line, " \r"); line != "" && line[0] != '#' {
			p.lines = append(p.lines, numbered{i + 1, line})
		}
	}
	f := &File{}
	if version := p.value("version: ", anyForm); p.err == nil && version != "1" {
		p.fail("version %s of the file is unknown: it was written by another version of Lorica", strconv.Quote(version))
	}
	f.Catalog = p.value("catalog: ", catalogForm)
	p.value("modules:", nil)
	for p.err == nil && p.next < len(p.lines) {
		m := Module{Source: p.quoted("- source: "), ID: p.value("  id: ", idForm), Version: p.quoted("  version: "), Digest: p.value("  digest: ", digestForm)}
		switch last := len(f.Modules) - 1; {
		case p.err != nil:
		case last >= 0 && m.Source <= f.Modules[last].Source:
			p.fail("the module %s is there twice, or not in the order of the sources", m.Source)
		case len(f.Modules) == MaxModules:
			p.fail("more than %d modules", MaxModules)
		}
		f.Modules = append(f.Modules, m)
	}
	if p.err != nil {
		return nil, p.err
	}
	return f, nil
}

// A parser takes lines, in their order, and keeps the first error.
type parser struct {
	name  string
	lines []numbered
	next  int // of lines
	err   error
}

type numbered struct {
	number int
	text   string
}

// fail reports the line that was taken last.
func (p *parser) fail(format string, args ...any) {
	if p.err != nil {
		return
	}
	at := api.Pos{File: p.name, Line: 1}
	if p.next > 0 {
		at.Line = p.lines[p.next-1].number
	}
	p.err = &Error{at, fmt.Sprintf(format, args...)}
}

// value takes a line that begins so and returns the rest; with no form there is none.
func (p *parser) value(begin string, form *regexp.Regexp) string {
	if p.err != nil {
		return ""
	}
	if p.next == len(p.lines) {
		p.fail("the file ends where %q should be", begin)
		return ""
	}
	line := p.lines[p.next].text
	p.next++
	rest, ok := strings.CutPrefix(line, begin)
	switch {
	case !ok:
		p.fail("want %q, and the line is %q", begin, clip(line))
	case form == nil && rest != "" || form != nil && !form.MatchString(rest):
		p.fail("%q cannot be a value of %s", clip(rest), strings.Trim(begin, "- :"))
	default:
		return rest
	}
	return ""
}

func (p *parser) quoted(begin string) string {
	text := p.value(begin, anyForm)
	if p.err != nil {
		return ""
	}
	value, err := strconv.Unquote(text)
	if err != nil || strconv.Quote(value) != text || value == "" {
		p.fail("%s is not quoted text", clip(text))
	}
	return value
}

func clip(s string) string {
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "..."
	}
	return s
}
