package builder

import (
	"bytes"
	"context"
	"debug/elf"
	"debug/gosym"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
)

// A Linked is what is in a Go program, as the program itself tells: not what it was asked
// to be built from.
type Linked struct {
	GoVersion string
	Modules   []string // "golang.org/x/crypto v0.45.0", other than the application's and the image's own
	// Packages are those that code, or inlined code, is from, and something that tells so:
	// a function, a variable or a file.
	Packages map[string]string
}

// ReadLinked reads the build information of an ELF program, the functions and files that
// the Go runtime keeps the names of even where it is stripped, and its variables where it
// is not.
func ReadLinked(name string) (*Linked, error) {
	fail := func(err error) (*Linked, error) { return nil, fmt.Errorf("builder: %s: %w", name, err) }
	data, err := os.ReadFile(name)
	if err != nil {
		return fail(err)
	}
	info, err := buildInfo(data)
	if err != nil {
		return fail(err)
	}
	l := &Linked{GoVersion: info.GoVersion, Packages: map[string]string{}}
	for _, d := range info.Deps {
		l.Modules = append(l.Modules, strings.TrimSpace(d.Path+" "+d.Version))
	}
	table, files, err := tables(data)
	if err != nil {
		return fail(err)
	}
	for _, f := range files {
		l.add(packageOfFile(f), f)
	}
	// A function is of the package that it is named after, unless its source is elsewhere:
	// the runtime has functions under the names of packages that use them.
	functions, err := gosym.NewTable(nil, gosym.NewLineTable(table, 0))
	if err != nil {
		return fail(err)
	}
	for i := range functions.Funcs {
		x := &functions.Funcs[i]
		if file, _, _ := functions.PCToLine(x.Entry); packageOfFile(file) == "" {
			l.add(packageOfSymbol(x.Name), x.Name)
		}
	}
	list, err := symbols(data)
	if err != nil {
		return fail(err)
	}
	for _, s := range list {
		if elf.ST_TYPE(s.Info) == elf.STT_OBJECT {
			l.add(packageOfSymbol(s.Name), s.Name)
		}
	}
	return l, nil
}

// symbols returns those of an ELF file; one that a machine boots has none, and no sections.
func symbols(program []byte) ([]elf.Symbol, error) {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return nil, err
	}
	list, err := f.Symbols()
	if errors.Is(err, elf.ErrNoSymbols) {
		return nil, nil
	}
	return list, err
}

// buildInfo reads what the go command has the linker write into every program, wherever in
// it that is: package debug/buildinfo wants sections.
func buildInfo(program []byte) (*debug.BuildInfo, error) {
	const header, inline, guard = 32, 2, 16 // bytes; a flag; bytes around the text
	magic := []byte("\xff Go buildinf:")
	for at := program; ; {
		_, after, ok := bytes.Cut(at, magic)
		if !ok {
			return nil, errors.New("it has no build information")
		}
		at = after // a program may speak of it before it has it
		if len(at) < header-len(magic) || at[1]&inline == 0 {
			continue
		}
		rest := at[header-len(magic):]
		text := func() (s []byte) {
			n, size := binary.Uvarint(rest)
			if size <= 0 || n > uint64(len(rest)-size) {
				return nil
			}
			s, rest = rest[size:size+int(n)], rest[size+int(n):]
			return s
		}
		version, mod := text(), text()
		if len(mod) <= 2*guard {
			continue
		}
		if info, err := debug.ParseBuildInfo(string(mod[guard : len(mod)-guard])); err == nil && info.Path != "" {
			info.GoVersion = string(version)
			return info, nil
		}
	}
}

func (l *Linked) add(pkg, from string) {
	if _, known := l.Packages[pkg]; !known && pkg != "" {
		l.Packages[pkg] = from
	}
}

// How the table of functions begins: a magic number of Go 1.20 and later, two zeros, and
// the sizes of instructions and pointers of amd64. See internal/abi and runtime/symtab.go.
var tableMagic = []byte{0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8}

// tables returns the table of functions and what it has of names of source files, those
// that inlined functions are from included.
func tables(program []byte) (table []byte, files []string, err error) {
	const fields = 8 // words of 8 bytes: functions, files, text, and where five tables begin
	for at := 0; ; at++ {
		i := bytes.Index(program[at:], tableMagic)
		if i < 0 {
			return nil, nil, errors.New("it has no table of functions that is known here")
		}
		at += i
		table = program[at:]
		if len(table) < 8+8*fields {
			continue
		}
		word := func(i int) uint64 { return binary.LittleEndian.Uint64(table[8+8*i:]) }
		names, units, paths, counters, lines := word(3), word(4), word(5), word(6), word(7)
		if 8+8*fields <= names && names < units && units <= paths && paths < counters && counters < lines && lines < uint64(len(table)) {
			return table, texts(table[paths:counters]), nil
		}
	}
}

func texts(table []byte) (list []string) {
	for t := range bytes.SplitSeq(table, []byte{0}) {
		if len(t) > 0 {
			list = append(list, string(t))
		}
	}
	return list
}

// packageOfSymbol returns the import path in the name of a function or variable; empty for
// what belongs to no package, as what the linker makes, or assembly without a package.
func packageOfSymbol(name string) string {
	if strings.HasPrefix(name, "go:") || strings.HasPrefix(name, "type:") || strings.HasPrefix(name, "$") {
		return ""
	}
	name, _, _ = strings.Cut(name, "[") // type arguments have import paths of their own
	last := strings.LastIndexByte(name, '/') + 1
	base, _, ok := strings.Cut(name[last:], ".")
	if !ok || base == "" {
		return ""
	}
	pkg := name[:last] + base
	if plain, err := url.PathUnescape(pkg); err == nil { // dots in the last element are escaped
		return plain
	}
	return pkg
}

// packageOfFile returns the import path of a source file as a build with -trimpath writes
// it: "golang.org/x/crypto@v0.45.0/argon2/argon2.go".
func packageOfFile(name string) string {
	dir := path.Dir(name)
	if dir == "." || strings.HasPrefix(name, "<") {
		return ""
	}
	module, rest, versioned := strings.Cut(dir, "@")
	if !versioned {
		return dir
	}
	_, rest, _ = strings.Cut(rest, "/")
	return path.Join(module, rest)
}

// A Closure is all that may be in an image: what its modules and its application import,
// and what that imports.
type Closure struct {
	Packages map[string]bool
	Modules  map[string]bool // that they are from, by path
}

// Closure asks the Go tool, in the folder that the image was built in. The generated main
// is not asked: it may import what no module does.
func (p *Plan) Closure(ctx context.Context, dir string) (*Closure, error) {
	b := p.in(dir)
	args := []string{"list", "-deps", "-f", "{{.ImportPath}} {{with .Module}}{{.Path}}{{end}}", "runtime"}
	for _, m := range p.Modules {
		args = append(args, importPath(m))
	}
	if p.app.pkg != "" {
		args = append(args, p.app.pkg)
	}
	if p.app.static {
		args = append(args, "embed")
	}
	out, err := p.tools.run(ctx, b.dir, p.tools.environment(b.tmp), args...)
	if err != nil {
		return nil, fmt.Errorf("builder: %w", err)
	}
	c := &Closure{Packages: map[string]bool{"main": true, imageModule: true}, Modules: map[string]bool{}}
	for line := range strings.Lines(string(out)) {
		pkg, module, _ := strings.Cut(strings.TrimSpace(line), " ")
		c.Packages[pkg] = true
		if module != "" {
			c.Modules[module] = true
		}
	}
	return c, nil
}

// Outside returns what of a program is not in the closure, with what tells so.
func (c *Closure) Outside(l *Linked) (list []string) {
	for _, pkg := range slices.Sorted(maps.Keys(l.Packages)) {
		if !c.Packages[pkg] {
			list = append(list, fmt.Sprintf("package %s (%s)", pkg, l.Packages[pkg]))
		}
	}
	for _, m := range l.Modules {
		if module, _, _ := strings.Cut(m, " "); !c.Modules[module] {
			list = append(list, "module "+m)
		}
	}
	return list
}

// in returns a build of the plan in a folder of the caller's.
func (p *Plan) in(dir string) *build {
	return &build{plan: p, dir: filepath.Join(dir, "source"), tmp: filepath.Join(dir, "go"), progress: func(Step) {}}
}

// BuildIn builds the image of a plan in a folder that the caller removes. The store does not
// learn of it.
func (p *Plan) BuildIn(ctx context.Context, dir string, progress func(Step)) (*Image, error) {
	b := p.in(dir)
	if progress != nil {
		b.progress = progress
	}
	img, err := b.run(ctx)
	if err != nil {
		return nil, err
	}
	if img.Path = b.image(); !p.bare {
		img.Debug = b.debug()
	}
	return img, os.Chmod(img.Path, 0o500)
}
