// Package builder turns a module set and an application into an image: it
// generates a main that calls the modules' constructors in chain order, compiles
// it with the stock Go toolchain in an environment of its own, and keeps the
// result in a store under its digest.
//
// An image is a function of its plan. What decides it (toolchain, target,
// modules, generated main, image-side source, application) is read into memory
// once, hashed into the plan id, and built from there, so that what was hashed is
// what is compiled. Image packages are named as strings; none is imported.
package builder

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	lorica "lorica.dev/lorica"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/abi/wire"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/solver"
)

// A Plan is what an image is built from. It does not change.
type Plan struct {
	ID        program.PlanID
	Target    string
	Modules   []*catalog.Module // in chain order
	Catalog   string            // digest of the manifests of Lorica's own modules
	Toolchain string            // "go1.26.8"
	Main      string            // the generated main

	app   *application
	own   []*Own // those of Modules that are the user's own, in their order
	files []file // of the build folder, by name
	tools *toolchain
	bare  bool // built to be looked at: see Without
}

// Syscalls returns the calls that the image may make of the host's kernel once it
// is sealed: the union over its modules. A microVM has none to call.
func (p *Plan) Syscalls() []catalog.Syscall {
	if p.Target != api.TargetProcess {
		return nil
	}
	return catalog.Syscalls(p.Modules)
}

// Devices returns the devices of a microVM, all others are absent.
func (p *Plan) Devices() []string {
	if p.Target != api.TargetMicroVM {
		return nil
	}
	return catalog.Devices(p.Modules)
}

// A file of the build folder. Names are slash-separated and relative.
type file struct {
	name string
	data []byte
}

func newPlan(tools *toolchain, sel *solver.Selection, app *application, source fs.FS, own ...*Own) (*Plan, error) {
	p := &Plan{Target: sel.Target, Modules: sel.Modules, Toolchain: tools.version, app: app, tools: tools}
	for _, m := range sel.Modules {
		if i := slices.IndexFunc(own, func(o *Own) bool { return o.Module == m }); i >= 0 {
			p.own = append(p.own, own[i])
		} else if m.Own() {
			return nil, fmt.Errorf("builder: nobody has read the module %s", m.ID)
		}
	}
	var err error
	if p.files, err = imageSource(source, sel); err != nil {
		return nil, fmt.Errorf("builder: embedded source: %w", err)
	}
	if p.Catalog, err = catalog.Digest(source); err != nil {
		return nil, fmt.Errorf("builder: embedded source: %w", err)
	}
	parts := p.parts()
	mod, sum, err := buildModule(source, sel.Modules, parts)
	if err != nil {
		return nil, err
	}
	p.files = append(p.files, file{"go.mod", mod}, file{"go.sum", sum})
	p.files = append(p.files, app.files...)
	for i, o := range p.own {
		p.files = append(p.files, o.build(parts[len(parts)-len(p.own)+i].folder)...)
	}
	slices.SortFunc(p.files, func(a, b file) int { return strings.Compare(a.name, b.name) })

	// The id is compiled in, so it is the hash over the main without it.
	main, err := generate(p.Modules, app, program.PlanID{})
	if err != nil {
		return nil, err
	}
	p.ID = p.hash(main)
	if main, err = generate(p.Modules, app, p.ID); err != nil {
		return nil, err
	}
	p.Main = string(main)
	return p, nil
}

// hash covers everything that decides the image, each part with its length.
func (p *Plan) hash(main []byte) program.PlanID {
	var w wire.Writer
	w.String("lorica plan v2")
	w.String(p.Target)
	w.String(p.Toolchain)
	w.Strings(pinned)
	w.Strings(imageFlags)
	w.U32(uint32(len(p.Modules)))
	for _, m := range p.Modules {
		w.String(m.ID)
		w.String(m.Version)
	}
	w.String(p.Catalog)
	w.U32(uint32(len(p.own)))
	for _, o := range p.own {
		w.String(o.Digest)
	}
	w.U32(uint32(len(p.Syscalls())))
	for _, s := range p.Syscalls() {
		w.String(s.String())
	}
	w.Strings(p.Devices())
	w.Blob(main)
	w.U32(uint32(len(p.files)))
	for _, f := range p.files {
		sum := sha256.Sum256(f.data)
		w.String(f.name)
		w.Fixed(sum[:])
	}
	return sha256.Sum256(w.Bytes())
}

// imageSource returns the embedded source of the chosen modules and of what they
// share. A folder that belongs to a module which was not chosen is not there at
// all: an import of it fails to compile.
func imageSource(source fs.FS, sel *solver.Selection) ([]file, error) {
	left := map[string]bool{}
	for _, m := range sel.LeftOut {
		left[m.ID] = true
	}
	var files []file
	err := fs.WalkDir(source, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && left[name]:
			return fs.SkipDir
		case d.IsDir() || !lorica.InImage(name):
			return nil
		}
		data, err := fs.ReadFile(source, name)
		files = append(files, file{path.Join("lorica", name), data})
		return err
	})
	if err != nil {
		return nil, err
	}
	mod, err := imageMod(source, sel.Modules)
	if err != nil {
		return nil, err
	}
	return append(files, file{"lorica/go.mod", mod}), nil
}

// A SourceError is what is wrong with the user's application.
type SourceError struct {
	Pos     api.Pos // in the workload document; zero where File says it better
	File    string  // in the user's folder, "file:line:column"; may be empty
	Message string
	Output  string // all that the compiler said; may be empty
}

func (e *SourceError) Error() string {
	switch {
	case e.File != "":
		return e.File + ": " + e.Message
	case e.Pos.Line > 0:
		return e.Pos.String() + ": " + e.Message
	}
	return e.Message
}

var errNoApp = errors.New("builder: the workload has no application")
