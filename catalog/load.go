package catalog

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"lorica.dev/lorica/api"
)

// manifestName is the file that makes a folder a module.
const manifestName = "module.yaml"

// A Catalog is what modules there are. It does not change and is safe for
// concurrent use.
type Catalog struct {
	Modules   []*Module // by id; of one id, the newest version first
	providers map[string][]*Module
}

// New returns a catalog of the given modules. Of one id there may be several versions,
// which exclude each other; no version may be there twice.
func New(modules ...*Module) (*Catalog, error) {
	c := &Catalog{Modules: slices.Clone(modules), providers: map[string][]*Module{}}
	slices.SortFunc(c.Modules, byID)
	for i, m := range c.Modules {
		if i > 0 && c.Modules[i-1].ID == m.ID && c.Modules[i-1].Version == m.Version {
			return nil, fmt.Errorf("catalog: version %s of %s is there twice", m.Version, m.ID)
		}
		c.providers[m.ID] = append(c.providers[m.ID], m)
		for _, capability := range m.Provides {
			if capability != m.ID {
				c.providers[capability] = append(c.providers[capability], m)
			}
		}
	}
	return c, nil
}

// maxErrors bounds how many wrong manifests Load lists.
const maxErrors = 20

// Errors is what is wrong with the manifests of a tree, in the order of the files.
type Errors []*Error

func (e Errors) Error() string {
	var list []string
	for _, x := range e {
		list = append(list, x.Error())
	}
	return strings.Join(list, "\n")
}

// Load reads every module.yaml below the root of fsys, except in folders named
// testdata, in hidden ones, and in Go modules nested in it. A module's id is its folder,
// behind which a version may stand: several versions of pep/x lie in pep/x@1 and pep/x@2.
// What is wrong with manifests is an Errors, of the first twenty.
func Load(fsys fs.FS) (*Catalog, error) { return LoadContext(context.Background(), fsys) }

// LoadContext is Load for a tree that may be large: it ends with the context.
func LoadContext(ctx context.Context, fsys fs.FS) (*Catalog, error) {
	var modules []*Module
	var wrong Errors
	files := map[string]string{} // by id and version
	err := manifests(ctx, fsys, func(name string, d fs.DirEntry) error {
		switch {
		case len(wrong) == maxErrors:
			return fs.SkipAll
		case !d.Type().IsRegular():
			wrong = append(wrong, at(name, "not a regular file"))
			return nil
		}
		data, err := read(fsys, name)
		if err != nil {
			return err
		}
		m, err := Parse(name, data)
		if err != nil {
			wrong = append(wrong, err.(*Error))
			return nil
		}
		key := m.Name()
		if dir := path.Dir(name); dir != m.ID && dir != key {
			wrong = append(wrong, at(name, "the id is %q; the folder says %q", m.ID, dir))
			return nil
		}
		if other, twice := files[key]; twice {
			wrong = append(wrong, at(name, "version %s of %s is in %s as well", m.Version, m.ID, other))
			return nil
		}
		files[key], m.File = name, name
		modules = append(modules, m)
		return nil
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("catalog: %w", err)
	case len(wrong) > 0:
		return nil, wrong
	case len(modules) == 0:
		return nil, fmt.Errorf("catalog: no %s found", manifestName)
	}
	return New(modules...)
}

func at(file, format string, args ...any) *Error {
	return &Error{Pos: api.Pos{File: file, Line: 1, Column: 1}, Message: fmt.Sprintf(format, args...)}
}

// read reads one byte more than a manifest may have, of a file of any size.
func read(fsys fs.FS, name string) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxManifest+1))
}

// manifests calls f for each module.yaml that counts, by name.
func manifests(ctx context.Context, fsys fs.FS, f func(name string, d fs.DirEntry) error) error {
	return fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case d.IsDir() && (d.Name() == "testdata" || len(d.Name()) > 1 && strings.HasPrefix(d.Name(), ".")):
			return fs.SkipDir
		case d.IsDir():
			if _, err := fs.Stat(fsys, path.Join(name, "go.mod")); err == nil && name != "." {
				return fs.SkipDir // another Go module, as those of users are
			}
			return nil
		case d.Name() != manifestName:
			return nil
		}
		return f(name, d)
	})
}

// Providers returns the modules that provide a capability, in the order of Modules.
func (c *Catalog) Providers(capability string) []*Module { return c.providers[capability] }

// Meeting returns the modules that meet a clause, in the order of Modules.
func (c *Catalog) Meeting(any Clause) []*Module {
	if len(any) == 1 {
		return c.providers[any[0]]
	}
	var list []*Module
	for _, capability := range any {
		list = append(list, c.providers[capability]...)
	}
	slices.SortFunc(list, byID)
	return slices.Compact(list)
}

// Pairs counts how often a module requires or excludes another, by its id or by what it
// provides: what a look at all of that takes. Capabilities that many provide and many
// ask for make it the square of a catalog.
func (c *Catalog) Pairs() int {
	n := 0
	for _, m := range c.Modules {
		for _, clause := range m.Requires {
			for _, word := range clause {
				n += len(c.providers[word])
			}
		}
		for _, word := range m.Conflicts {
			n += len(c.providers[word])
		}
	}
	return n
}

// byID is the order of a catalog: by id, the newest version first.
func byID(a, b *Module) int {
	return cmp.Or(cmp.Compare(a.ID, b.ID), CompareVersions(b.Version, a.Version))
}

// Module returns the newest module with the given id, or nil.
func (c *Catalog) Module(id string) *Module {
	i, ok := c.newest(id)
	if !ok {
		return nil
	}
	return c.Modules[i]
}

// Name is what a module is called: its id, and the version where the catalog has several.
func (c *Catalog) Name(m *Module) string {
	i, ok := c.newest(m.ID)
	if ok && i+1 < len(c.Modules) && c.Modules[i+1].ID == m.ID {
		return m.Name()
	}
	return m.ID
}

// newest returns the place of the newest module with an id.
func (c *Catalog) newest(id string) (int, bool) {
	return slices.BinarySearchFunc(c.Modules, id, func(m *Module, id string) int { return cmp.Compare(m.ID, id) })
}

// classes are in chain order.
var classes = [...]Class{ClassMachine, ClassCore, ClassPlatform, ClassNet, ClassPart, ClassGate, ClassTLS, ClassGuard, ClassVerifier, ClassAudit, ClassSink, ClassEgress, ClassApp}

// Rank returns the place of c in the chain, from 0, or -1 for an unknown class.
func (c Class) Rank() int { return slices.Index(classes[:], c) }

// Single reports whether an image has one place for modules of the class, so that those
// of them that fit one target must exclude each other.
func (c Class) Single() bool {
	switch c {
	case ClassCore, ClassPlatform, ClassNet, ClassTLS, ClassAudit, ClassEgress, ClassApp:
		return true
	}
	return false
}

// Fits reports whether m can be part of an image for target.
func (m *Module) Fits(target string) bool {
	return len(m.Targets) == 0 || slices.Contains(m.Targets, target)
}

// ConflictsWith reports whether m and o exclude each other: one names the other,
// or a capability that the other provides, or they are versions of one module. A module never excludes itself, so
// "provides x, conflicts with x" means the only provider of x.
func (m *Module) ConflictsWith(o *Module) bool {
	return m != o && (m.ID == o.ID || m.excludes(o) || o.excludes(m))
}

func (m *Module) excludes(o *Module) bool {
	return slices.ContainsFunc(m.Conflicts, o.Offers)
}

// Chain orders modules as they stand in an image: by class, order and id.
func Chain(a, b *Module) int {
	return cmp.Or(cmp.Compare(a.Class.Rank(), b.Class.Rank()), cmp.Compare(a.Order, b.Order), cmp.Compare(a.ID, b.ID), CompareVersions(b.Version, a.Version))
}
