package builder

import (
	"bytes"
	"context"
	"debug/elf"
	"debug/gosym"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	lorica "lorica.dev/lorica"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/solver"
)

// A Bench builds images that are measured and never run, in one folder: of any set of
// modules, also one that could not start.
type Bench struct {
	modules []*catalog.Module
	build   *build
	imports map[string][]string
}

// A Function is machine code in an image.
type Function struct {
	Package string // "lorica.dev/lorica/pep/filter"; empty for what the compiler made by itself
	Size    int    // in bytes
}

// NewBench lays out the source of some modules in a folder that the caller removes.
func NewBench(ctx context.Context, dir string, modules []*catalog.Module) (*Bench, error) {
	tools, err := findToolchain(ctx)
	if err != nil {
		return nil, err
	}
	// A static application stands for none: it brings no Go code.
	sel := &solver.Selection{Target: api.TargetProcess, Modules: modules}
	p := &Plan{Target: sel.Target, Modules: modules, Toolchain: tools.version, app: &application{static: true}, tools: tools}
	source := lorica.Source()
	if p.files, err = imageSource(source, sel); err != nil {
		return nil, fmt.Errorf("builder: embedded source: %w", err)
	}
	mod, sum, err := buildModule(source, modules, p.parts())
	if err != nil {
		return nil, err
	}
	p.files = append(p.files, file{"go.mod", mod}, file{"go.sum", sum}, file{contentFolder + "/index.html", nil},
		file{"app/app.go", []byte("package app\n\nimport \"net/http\"\n\nfunc New() (http.Handler, error) { return http.NewServeMux(), nil }\n")})
	b := &Bench{modules: modules, build: &build{plan: p, dir: filepath.Join(dir, "source"), tmp: filepath.Join(dir, "go"), progress: func(Step) {}}}
	if err := b.build.lay(p.files); err != nil {
		return nil, fmt.Errorf("builder: %w", err)
	}
	return b, b.list(ctx)
}

// list learns what each package imports, of the modules' and what they are made of.
func (b *Bench) list(ctx context.Context) error {
	if err := b.write("package main\n\nfunc main() {}\n"); err != nil {
		return err
	}
	args := []string{"list", "-deps", "-json=ImportPath,Imports"}
	for _, m := range b.modules {
		args = append(args, lorica.ModulePath+"/"+m.ID)
	}
	out, err := b.build.plan.tools.run(ctx, b.build.dir, b.environment(), args...)
	if err != nil {
		return fmt.Errorf("builder: %w", err)
	}
	b.imports = map[string][]string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("builder: go list: %w", err)
		}
		b.imports[p.ImportPath] = p.Imports
	}
}

// environment lets modules come from the cache alone, as a build does.
func (b *Bench) environment() []string { return b.build.plan.tools.environment(b.build.tmp) }

func (b *Bench) write(main string) error {
	return os.WriteFile(filepath.Join(b.build.dir, "main.go"), []byte(main), 0o600)
}

// Toolchain is the Go that the bench builds with.
func (b *Bench) Toolchain() string { return b.build.plan.Toolchain }

// Packages adds to a set the package of a module and all that it imports, and they.
func (b *Bench) Packages(m *catalog.Module, into map[string]bool) {
	var add func(pkg string)
	add = func(pkg string) {
		if into[pkg] {
			return
		}
		into[pkg] = true
		for _, p := range b.imports[pkg] {
			add(p)
		}
	}
	add(lorica.ModulePath + "/" + m.ID)
}

// Functions builds the image of a set of modules and returns its code by symbol. No
// modules at all are the smallest Go program that there is.
func (b *Bench) Functions(ctx context.Context, modules []*catalog.Module) (map[string]Function, error) {
	modules = slices.SortedFunc(slices.Values(modules), catalog.Chain)
	main := []byte("package main\n\nfunc main() {}\n")
	if len(modules) > 0 {
		var err error
		if main, err = render(modules, applicationOf(modules), program.PlanID{}); err != nil {
			return nil, err
		}
	}
	if err := b.write(string(main)); err != nil {
		return nil, fmt.Errorf("builder: %w", err)
	}
	if err := b.build.compile(ctx, debugFlags, b.build.debug()); err != nil {
		return nil, err
	}
	return functions(b.build.debug())
}

// applicationOf stands for what a user would bring to an image of these modules.
func applicationOf(modules []*catalog.Module) *application {
	for _, m := range modules {
		switch m.ID {
		case "app/static", compresses:
			return &application{static: true}
		case "app/proxy":
			return &application{proxy: `proxy.Config{Host: "localhost", TLS: true, ConnectTimeout: time.Second}`}
		case "app/handler":
			return &application{pkg: imageModule + "/" + appFolder, function: "New"}
		}
	}
	return &application{}
}

func functions(name string) (map[string]Function, error) {
	f, err := elf.Open(name)
	if err != nil {
		return nil, fmt.Errorf("builder: %w", err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		return nil, fmt.Errorf("builder: %w", err)
	}
	all := map[string]Function{}
	for _, s := range symbols {
		if elf.ST_TYPE(s.Info) != elf.STT_FUNC {
			continue
		}
		// Comparisons and hashes of a type, which the compiler makes, are the type's.
		name := s.Name
		for _, made := range []string{"type:.eq.", "type:.hash."} {
			name = strings.TrimPrefix(name, made)
		}
		sym := gosym.Sym{Name: name}
		// The last element of an import path is escaped in symbols: gopkg%2ein.
		pkg := strings.ReplaceAll(sym.PackageName(), "%2e", ".")
		all[s.Name] = Function{Package: pkg, Size: all[s.Name].Size + int(s.Size)}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("builder: %s has no functions", name)
	}
	return all, nil
}
