package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	gobuild "go/build"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	lorica "lorica.dev/lorica"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/catalog/lock"
)

// ownFolder holds the modules of the user's own, in the build folder.
const ownFolder = "own"

// Bounds of a module of the user's own.
const (
	maxOwnFiles = 1000
	maxOwnBytes = 8 << 20
)

// An Own is a module of the user's own, read into memory: what its digest is of is
// what is compiled.
type Own struct {
	*catalog.Module
	Named  api.Module
	Digest string // "h1:" and so on, as go.sum has it for a module in the cache

	dir    string // as the user names it, for messages
	files  []file // by their names in the module; those that images are built from
	module goModule
	sum    []byte // its go.sum
}

// Lock returns what is accepted with this module.
func (o *Own) Lock() lock.Module {
	return lock.Module{Source: o.Named.Source(), ID: o.ID, Version: o.Version, Digest: o.Digest}
}

// Own reads modules of the user's own. It runs the Go tool to read their go.mod, and
// changes nothing. An error about one of them is a *SourceError or a *catalog.Error.
func (p *Planner) Own(ctx context.Context, list []api.Module) ([]*Own, error) {
	if len(list) == 0 {
		return nil, nil
	}
	p.mu.Lock()
	err := p.find(ctx)
	tools := p.tools
	p.mu.Unlock()
	if err != nil {
		return nil, err
	}
	var all []*Own
	for _, m := range list {
		o, err := readOwn(ctx, tools, m)
		if err != nil {
			var source *SourceError
			var manifest *catalog.Error
			if ctx.Err() != nil || errors.As(err, &source) || errors.As(err, &manifest) {
				return nil, err
			}
			return nil, &SourceError{Pos: m.Pos, Message: fmt.Sprintf("module %s: %s", m.Source(), err)}
		}
		all = append(all, o)
	}
	return all, nil
}

var moduleLine = regexp.MustCompile(`(?m)^module[ \t]+"?([^\s"]+)`)

// Manifest reads the manifest of a module in a folder, without the Go tool and the rest
// of its files: for who checks documents, and plans nothing. Its error is a *SourceError
// or a *catalog.Error.
func Manifest(m api.Module) (*catalog.Module, error) {
	dir := resolve(m.Dir, m.Path)
	wrong := func(err error) error {
		return &SourceError{Pos: m.Pos, Message: fmt.Sprintf("module %s: %s", m.Source(), err)}
	}
	r, err := openFolder(dir)
	if err != nil {
		return nil, wrong(err)
	}
	defer r.close()
	mod, err := r.read("go.mod")
	if err != nil {
		return nil, wrong(err)
	}
	text, err := r.read(catalog.ManifestName)
	if err != nil {
		return nil, wrong(err)
	}
	name := moduleLine.FindSubmatch(mod)
	if name == nil {
		return nil, wrong(errors.New("go.mod names no module"))
	}
	return catalog.ParseOwn(filepath.Join(dir, catalog.ManifestName), text, string(name[1]))
}

func readOwn(ctx context.Context, tools *toolchain, m api.Module) (*Own, error) {
	o := &Own{Named: m, dir: resolve(m.Dir, m.Path)}
	if m.Module != "" {
		if path.Clean(m.Module) != m.Module || !filepath.IsLocal(m.Module) {
			return nil, fmt.Errorf("%q is not the path of a Go module", m.Module)
		}
		cache, err := tools.cached(m.Module, m.Version)
		if err != nil {
			return nil, err
		}
		o.dir = cache
	}
	all, err := readTree(o.dir, m.Module == "")
	if errors.Is(err, errNoFolder) && m.Module != "" {
		return nil, fmt.Errorf("it is not in the module cache: run \"go mod download %s\"", m.Source())
	}
	if err != nil {
		return nil, err
	}
	mod, manifest := content(all, "go.mod"), content(all, catalog.ManifestName)
	switch {
	case mod == nil:
		return nil, fmt.Errorf("%s has no go.mod: run \"go mod init example.com/NAME\" in it", o.dir)
	case manifest == nil:
		return nil, fmt.Errorf("%s has no %s, which says what the module is to Lorica", o.dir, catalog.ManifestName)
	}
	o.sum = content(all, "go.sum")
	if err := o.readGoMod(ctx, tools, mod); err != nil {
		return nil, err
	}
	version := "local"
	if m.Module != "" {
		version = m.Version
		if o.module.Module.Path != m.Module {
			return nil, fmt.Errorf("its go.mod says that it is %s", o.module.Module.Path)
		}
	}
	if o.Module, err = catalog.ParseOwn(filepath.Join(o.dir, catalog.ManifestName), manifest, o.module.Module.Path); err != nil {
		return nil, err
	}
	o.Digest = hashFiles(all, o.module.Module.Path+"@"+version)
	if err := o.readSource(all); err != nil {
		return nil, err
	}
	o.Code = o.code()
	o.Surface = o.Breakdown().Total()
	return o, nil
}

// code is what stands for the machine code of the module, which is not there yet: its
// source, in KiB. What it requires of others is not counted.
func (o *Own) code() int {
	bytes := 0
	for _, f := range o.files {
		if strings.HasSuffix(f.name, ".go") || strings.HasSuffix(f.name, ".s") {
			bytes += len(f.data)
		}
	}
	return (bytes + 1023) / 1024
}

var errNoFolder = errors.New("the folder does not exist")

// readTree reads the files of a Go module as they count for its checksum: not what
// lies in modules nested in it, in vendor folders, or, in a folder of the user's, what
// is hidden. It follows no link: what is one is refused.
func readTree(dir string, work bool) (files []file, err error) {
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errNoFolder
	case err == nil && !info.IsDir():
		return nil, errors.New("it is not a folder")
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("the folder cannot be read: %w", err)
	}
	defer root.Close()
	size := 0
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fmt.Errorf("%s cannot be read: %w", name, err)
		case work && name != "." && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			if name == "." {
				return nil
			}
			if _, err := root.Lstat(path.Join(name, "go.mod")); err == nil || d.Name() == "vendor" {
				return fs.SkipDir
			}
			return nil
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is not a regular file (%s): a module has no links, and nothing that leads out of its folder", name, d.Type())
		case len(files) == maxOwnFiles:
			return fmt.Errorf("at %s it exceeds %d files", name, maxOwnFiles)
		}
		f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe keeps nobody waiting
		if err != nil {
			return fmt.Errorf("%s cannot be read: %w", name, err)
		}
		defer f.Close()
		// What was opened is looked at: the name may lead elsewhere by now.
		if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not a regular file", name)
		}
		data, err := io.ReadAll(io.LimitReader(f, int64(maxOwnBytes-size+1)))
		if err != nil {
			return fmt.Errorf("%s cannot be read: %w", name, err)
		}
		if size += len(data); size > maxOwnBytes {
			return fmt.Errorf("at %s it exceeds %d MiB", name, maxOwnBytes>>20)
		}
		files = append(files, file{name, data})
		return nil
	})
	return files, err
}

func content(files []file, name string) []byte {
	i := slices.IndexFunc(files, func(f file) bool { return f.name == name })
	if i < 0 {
		return nil
	}
	return append([]byte{}, files[i].data...)
}

// readGoMod has the Go tool read a go.mod, in a folder where there is nothing else.
func (o *Own) readGoMod(ctx context.Context, tools *toolchain, text []byte) error {
	dir, err := os.MkdirTemp("", "lorica-mod-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), text, 0o600); err != nil {
		return err
	}
	out, err := tools.run(ctx, dir, tools.environment(os.TempDir()), "mod", "edit", "-json")
	var failed *goError
	if errors.As(err, &failed) {
		return errors.New(firstLine(strings.ReplaceAll(failed.output, dir, o.dir)))
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, &o.module); err != nil {
		return err
	}
	return o.checkGoMod()
}

// checkGoMod refuses what would change the image's own part. The user's editor needs a
// requirement of Lorica's module, and perhaps where it lies; an image brings its own.
func (o *Own) checkGoMod() error {
	m := &o.module
	ours := func(p string) bool { return p == lorica.ModulePath }
	m.Require = slices.DeleteFunc(m.Require, func(r moduleVersion) bool { return ours(r.Path) })
	m.Replace = slices.DeleteFunc(m.Replace, func(r moduleReplace) bool { return ours(r.Old.Path) })
	if len(m.Replace) > 0 {
		return fmt.Errorf("go.mod replaces %s: a module is built with what it requires", m.Replace[0].Old.Path)
	}
	for _, r := range m.Require {
		if isOurs(r.Path) {
			return fmt.Errorf("go.mod requires %s: of Lorica there is %s alone", r.Path, lorica.ModulePath)
		}
	}
	if m.Go == "" {
		return errors.New("go.mod has no go line: run \"go mod tidy\"")
	}
	return m.check()
}

// contract are the packages of Lorica's that modules of users may import.
func contract(pkg string) bool {
	return pkg == lorica.ModulePath+"/pep" || pkg == lorica.ModulePath+"/abi" || strings.HasPrefix(pkg, lorica.ModulePath+"/abi/")
}

// readSource keeps the files that images are built from, and looks at those in Go for
// what no image may have. What it does not know of Go, the compiler says later.
func (o *Own) readSource(all []file) error {
	root := false
	for _, f := range all {
		dir, name := path.Split(f.name)
		if slices.Contains(strings.Split(dir, "/"), "testdata") || strings.HasSuffix(name, "_test.go") || dir == "" && (name == "go.mod" || name == "go.sum") {
			continue
		}
		o.files = append(o.files, f)
		if strings.HasSuffix(name, ".syso") {
			return fmt.Errorf("%s is object code; images are built from source", f.name)
		}
		if !strings.HasSuffix(name, ".go") || !compiled(f) {
			continue
		}
		pkg, err := o.readGo(f)
		if err != nil {
			return err
		}
		if dir == "" && pkg == "main" {
			return o.at(f.name, 1, 1, "package main is a program; a module is a package that can be imported: give it another name")
		}
		root = root || dir == ""
	}
	if !root {
		return fmt.Errorf("%s has no package: its constructor is func New in the folder of the go.mod", o.dir)
	}
	return nil
}

// compiled reports whether a Go file is part of an image by its name and its
// constraints. One with cgo would be, if images had that.
func compiled(f file) bool {
	ctx := gobuild.Default
	ctx.GOOS, ctx.GOARCH, ctx.CgoEnabled = "linux", "amd64", true
	ctx.OpenFile = func(string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(f.data))), nil }
	match, err := ctx.MatchFile(path.Dir(f.name), path.Base(f.name))
	return match || err != nil // which the compiler says better
}

// readGo looks at one file and returns the name of its package.
func (o *Own) readGo(f file) (string, error) {
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, f.name, f.data, parser.SkipObjectResolution)
	if parsed == nil || err != nil {
		return "", nil // the compiler says it better
	}
	place := func(at token.Pos) (string, int, int) {
		p := set.Position(at)
		return f.name, p.Line, p.Column
	}
	for _, spec := range parsed.Imports {
		name, line, column := place(spec.Pos())
		pkg, _ := strconv.Unquote(spec.Path.Value)
		switch {
		case pkg == "C":
			return "", o.at(name, line, column, "cgo: images are built without it")
		case isOurs(pkg) && !contract(pkg):
			return "", o.at(name, line, column, fmt.Sprintf("imports %s: of Lorica a module may import %s/pep and what is below %[2]s/abi", pkg, lorica.ModulePath))
		}
	}
	for _, d := range parsed.Decls {
		if d, ok := d.(*ast.FuncDecl); ok && d.Recv == nil && d.Name.Name == "init" {
			name, line, column := place(d.Pos())
			return "", o.at(name, line, column, "func init runs before the image has checked anything: do its work in New")
		}
	}
	return parsed.Name.Name, nil
}

func (o *Own) at(name string, line, column int, message string) error {
	return &SourceError{File: fmt.Sprintf("%s:%d:%d", filepath.Join(o.dir, name), line, column), Message: message}
}

// build returns the files of the module in the build folder, and the module as a part
// of the image.
func (o *Own) build(folder string) []file {
	files := []file{{path.Join(folder, "go.mod"), o.goMod()}}
	for _, f := range o.files {
		files = append(files, file{path.Join(folder, f.name), f.data})
	}
	return files
}

// goMod returns the go.mod that the module is built with.
func (o *Own) goMod() []byte {
	text := fmt.Sprintf("module %s\n\ngo %s\n", o.module.Module.Path, o.module.Go)
	for _, r := range o.module.Require {
		text += fmt.Sprintf("\nrequire %s %s\n", r.Path, r.Version)
	}
	return []byte(text)
}

// cached returns the folder of a module in the cache.
func (t *toolchain) cached(module, version string) (string, error) {
	for _, f := range t.folders {
		if cache, ok := strings.CutPrefix(f, "GOMODCACHE="); ok {
			return filepath.Join(cache, filepath.FromSlash(escaped(module)+"@"+escaped(version))), nil
		}
	}
	return "", errors.New("go env GOMODCACHE says nothing")
}

// escaped is a path as the module cache has it: where upper case tells nothing, in
// lower case behind an exclamation mark.
func escaped(s string) string {
	var b strings.Builder
	for _, r := range s {
		if 'A' <= r && r <= 'Z' {
			b.WriteByte('!')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}
