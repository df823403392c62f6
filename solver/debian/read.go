package debian

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"lorica.dev/lorica/api"
)

// Add reads a file into the repository: plain, or compressed by gzip. Its error, if
// any, is a *SyntaxError, that of the reader, or that of the context.
func (r *Repository) Add(ctx context.Context, in io.Reader, name string) error {
	r.Grow(0)
	plain, err := unpacked(in, name)
	if err != nil {
		return cmp.Or(ctx.Err(), err)
	}
	s := &stanzas{repository: r, scanner: newScanner(plain, name), first: len(r.Packages)}
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		switch err := s.one(); {
		case err == nil:
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, new(*SyntaxError)) || ctx.Err() != nil:
			return cmp.Or(ctx.Err(), err)
		default:
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

// packed is how files begin that are compressed otherwise than we read, with what
// unpacks them.
var packed = []struct{ magic, name, command string }{
	{"\xfd7zXZ\x00", "xz", "xz -dc"},
	{"BZh", "bzip2", "bzip2 -dc"},
	{"\x28\xb5\x2f\xfd", "zstd", "zstd -dc"},
	{"\x04\x22\x4d\x18", "lz4", "lz4 -dc"},
	{"!<arch>\n", "", ""},
}

// unpacked returns what is in a file that may be compressed by gzip.
func unpacked(in io.Reader, name string) (io.Reader, error) {
	b := bufio.NewReader(in)
	head, err := b.Peek(8) // less where there is less
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, p := range packed {
		switch {
		case !bytes.HasPrefix(head, []byte(p.magic)):
		case p.name == "":
			return nil, fmt.Errorf("%s: this is a package, not a Packages file: dpkg-scanpackages makes one of a folder of packages", name)
		default:
			return nil, fmt.Errorf("%s: compressed by %s, which is not read: %s %s | lorica solve --debian -", name, p.name, p.command, name)
		}
	}
	if !bytes.HasPrefix(head, []byte{0x1f, 0x8b}) {
		return b, nil
	}
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return z, nil
}

// stanzas reads packages from one file.
type stanzas struct {
	*scanner
	repository *Repository
	first      int // package of the file
	values     [fieldCount]value
	have       [fieldCount]bool
}

// The fields that are asked for.
const (
	fieldPackage = iota
	fieldVersion
	fieldArchitecture
	fieldMultiArch
	fieldEssential
	fieldInstalledSize
	fieldSize
	fieldPreDepends
	fieldDepends
	fieldConflicts
	fieldBreaks
	fieldProvides
	fieldCount
)

// fieldNames are written as Debian does.
var fieldNames = [fieldCount]string{"Package", "Version", "Architecture", "Multi-Arch", "Essential", "Installed-Size", "Size",
	"Pre-Depends", "Depends", "Conflicts", "Breaks", "Provides"}

// one reads a package.
func (s *stanzas) one() error {
	s.have = [fieldCount]bool{}
	begin := 0
	err := s.stanza(func(name []byte) (*value, error) {
		if begin == 0 {
			begin = s.line
		}
		for f, known := range fieldNames {
			if len(name) != len(known) || !strings.EqualFold(string(name), known) {
				continue
			}
			if s.have[f] {
				return nil, s.fail(s.line, 1, "leave one", "a second field %s in one package", known)
			}
			s.have[f] = true
			return &s.values[f], nil
		}
		return nil, nil
	})
	if err != nil {
		return err
	}
	for _, f := range []int{fieldPackage, fieldVersion, fieldArchitecture} {
		if !s.have[f] {
			return s.fail(begin, 1, "", "the package that begins here has no field %s", fieldNames[f])
		}
	}
	if len(s.repository.Packages) == maxPackages {
		return s.fail(begin, 1, "", "more than %d packages", maxPackages)
	}
	p := Package{Pos: api.Pos{File: s.file, Line: begin, Column: 1}}
	if err := s.fill(&p); err != nil {
		return err
	}
	r := s.repository
	if r.kept += len(p.Name) + len(p.Version) + len(p.Arch); r.kept > maxText {
		return s.fail(begin, 1, "", "different relations, names and versions take more than %d bytes in all", maxText)
	}
	n := &r.named[p.name]
	if r.said += len(n.real); r.said > maxEdges {
		return s.fail(begin, 1, "", "too many packages of one name")
	}
	for _, k := range n.real {
		if q := &r.Packages[k]; q.Version != p.Version || q.Arch != p.Arch {
			continue
		}
		if int(k) >= s.first {
			return s.fail(begin, 1, "leave one", "%s %s of %s is at line %d already", p.Name, p.Version, p.Arch, r.Packages[k].Pos.Line)
		}
		return nil // several files may have a package in common
	}
	n.real = append(n.real, int32(len(r.Packages)))
	r.Packages = append(r.Packages, p)
	return nil
}

// fill reads the fields of a package.
func (s *stanzas) fill(p *Package) error {
	for f := range fieldNames {
		if !s.have[f] {
			continue
		}
		v := &s.values[f]
		if err := s.read(p, f, v.text); err != nil {
			at, fix := 0, ""
			var y *syntax
			if errors.As(err, &y) {
				at, fix = y.at, y.fix
			}
			line, column := v.at(at)
			return s.fail(line, column, fix, "%s: %v", fieldNames[f], err)
		}
	}
	return nil
}

// read reads one field of a package.
func (s *stanzas) read(p *Package, field int, text []byte) (err error) {
	switch field {
	case fieldPackage:
		p.name = s.repository.name(text)
		p.Name = s.repository.named[p.name].name
		err = checkName(p.Name)
	case fieldVersion:
		p.Version = string(text)
		err = CheckVersion(p.Version)
	case fieldArchitecture:
		p.Arch = s.arch(text)
		err = checkArch(p.Arch)
	case fieldMultiArch:
		p.MultiArch, err = multiArch(string(text))
	case fieldEssential:
		p.Essential, err = yes(string(text))
	case fieldInstalledSize:
		p.Installed, err = size(string(text))
	case fieldSize:
		p.Size, err = size(string(text))
	case fieldPreDepends:
		p.preDepends, err = s.relations(text, field)
	case fieldDepends:
		p.depends, err = s.relations(text, field)
	case fieldConflicts:
		p.conflicts, err = s.relations(text, field)
	case fieldBreaks:
		p.breaks, err = s.relations(text, field)
	case fieldProvides:
		p.provides, err = s.relations(text, field)
	}
	return err
}

// arch keeps one copy of an architecture, however often it is said.
func (s *stanzas) arch(t []byte) string {
	a, ok := s.repository.archs[string(t)]
	if !ok {
		a = string(t)
		s.repository.archs[a] = a
	}
	return a
}

// relationBytes is what a relation takes besides its text, by and large.
const relationBytes = 128

// relations reads a field of them. What many packages say is parsed once.
func (s *stanzas) relations(t []byte, field int) ([]int32, error) {
	r := s.repository
	list := make([]int32, 0, bytes.Count(t, []byte(","))+1)
	err := clauses(t, func(at int, text []byte) error {
		id, ok := r.read[string(text)]
		if !ok {
			// A byte and a bar make a relation: what that takes is bounded before it is made.
			if r.kept += len(text) + relationBytes*(1+bytes.Count(text, []byte("|"))); r.kept > maxText {
				return wrong(at, "", "different relations, names and versions take more than %d bytes in all", maxText)
			}
			c, err := parseClause(string(text))
			if err != nil {
				var y *syntax
				if errors.As(err, &y) {
					y.at += at
				}
				return err
			}
			for i := range c.Any {
				c.Any[i].id = 1 + r.name([]byte(c.Any[i].Name))
			}
			id = int32(len(r.clauses))
			r.clauses = append(r.clauses, c)
			r.read[c.Text] = id
		}
		if any := r.clauses[id].Any; field >= fieldConflicts {
			switch {
			case len(any) > 1:
				return wrong(at, "set the relations apart with commas", "alternatives cannot be here")
			case field == fieldProvides && any[0].Op != "" && any[0].Op != "=":
				return wrong(at, "write = before the version", "a package provides one version, not those that are %s", any[0].Op)
			}
		}
		if r.said++; r.said > maxEdges {
			return wrong(at, "", "more than %d relations in all", maxEdges)
		}
		list = append(list, id)
		return nil
	})
	return list, err
}

func checkArch(a string) error {
	if a == "" || span(a, archByte) != len(a) || a == "any" || a == "source" {
		return fmt.Errorf("%q is no architecture of a package", a)
	}
	return nil
}

func multiArch(text string) (MultiArch, error) {
	for i, known := range []string{"no", "same", "foreign", "allowed"} {
		if strings.EqualFold(text, known) {
			return MultiArch(i), nil
		}
	}
	return 0, wrong(0, "write no, same, foreign or allowed", "%q is not known", text)
}

func yes(text string) (bool, error) {
	if strings.EqualFold(text, "yes") || strings.EqualFold(text, "no") {
		return len(text) == 3, nil
	}
	return false, wrong(0, "write yes or no", "%q is neither", text)
}

// size reads one of at most 4 TiB, or of so many KiB: a million of them have a sum.
func size(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > 1<<42 {
		return 0, wrong(0, "", "%q is no size", text)
	}
	return n, nil
}
