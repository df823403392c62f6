package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"lorica.dev/lorica/api"
)

// appFolder holds the handler module, in the build folder.
const appFolder = "app"

// A goModule is a go.mod as `go mod edit -json` prints it.
type goModule struct {
	Module  struct{ Path string }
	Go      string
	Require []moduleVersion
	Replace []moduleReplace
}

type moduleVersion struct{ Path, Version string }

type moduleReplace struct{ Old, New moduleVersion }

// A goPackage is a package as `go list -json` prints it.
type goPackage struct {
	Dir, ImportPath, Name string
	DepOnly               bool // not the package that was asked for
	Module                *struct{ Main bool }
	Error                 *struct{ Pos, Err string }

	GoFiles, InvalidGoFiles, SFiles, HFiles, EmbedFiles, SysoFiles []string
}

// readHandler reads the files of a Go module that an image needs: go.mod, go.sum,
// and of its packages what the compiler reads on the target. So tests, other
// packages and whatever else lies in the folder do not decide the image.
func readHandler(ctx context.Context, tools *toolchain, base string, app *api.HandlerApp) (*application, error) {
	a := &application{pos: app.Pos, dir: resolve(base, app.Module), function: app.Func}
	if err := a.readModule(ctx, tools, app); err != nil {
		var source *SourceError
		if errors.As(err, &source) {
			return nil, err
		}
		return nil, &SourceError{Pos: app.Pos, Message: fmt.Sprintf("app.handler %s: %s", app.Module, err)}
	}
	return a, nil
}

func (a *application) readModule(ctx context.Context, tools *toolchain, app *api.HandlerApp) error {
	if !token.IsIdentifier(app.Func) || !token.IsExported(app.Func) {
		return fmt.Errorf("func %q is not the name of an exported function", app.Func)
	}
	pattern := path.Clean(filepath.ToSlash(app.Package))
	if path.IsAbs(pattern) || pattern == ".." || strings.HasPrefix(pattern, "../") || strings.Contains(pattern, "...") {
		return fmt.Errorf("package %q is not a folder of the module", app.Package)
	}
	dir, err := filepath.Abs(a.dir)
	if err != nil {
		return err
	}
	r, err := openFolder(dir)
	if err != nil {
		return err
	}
	defer r.close()
	mod, err := r.read("go.mod")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s has no go.mod: run \"go mod init example.com/NAME\" in it", a.dir)
	case err != nil:
		return err
	}
	if a.sum, err = r.read("go.sum"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	a.files = append(a.files, file{appFolder + "/go.mod", mod})
	env := tools.environment(os.TempDir())
	out, err := tools.run(ctx, dir, env, "mod", "edit", "-json")
	if err != nil {
		return a.toolError(err, dir)
	}
	if err := json.Unmarshal(out, &a.module); err != nil {
		return err
	}
	if err := a.checkModule(); err != nil {
		return err
	}
	if a.pkg = path.Join(a.module.Module.Path, pattern); !plain.MatchString(a.pkg) {
		return fmt.Errorf("package %q is not an import path", app.Package)
	}
	out, err = tools.run(ctx, dir, env, "list", "-e", "-deps",
		"-json=Dir,ImportPath,Name,DepOnly,Module,Error,GoFiles,InvalidGoFiles,SFiles,HFiles,EmbedFiles,SysoFiles", "./"+pattern)
	if err != nil {
		return a.toolError(err, dir)
	}
	return a.readPackages(r, dir, out)
}

// readPackages reads the files of the packages that lie in the folder.
func (a *application) readPackages(r *reader, dir string, list []byte) error {
	for dec := json.NewDecoder(bytes.NewReader(list)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("go list: %w", err)
		}
		names := slices.Concat(p.GoFiles, p.InvalidGoFiles, p.SFiles, p.HFiles, p.EmbedFiles)
		ours := p.Module != nil && p.Module.Main
		switch {
		case !p.DepOnly && len(names) == 0 && p.Error != nil:
			return errors.New(firstLine(strings.ReplaceAll(p.Error.Err, dir, a.dir)))
		case !p.DepOnly && (!ours || len(names) == 0):
			return fmt.Errorf("there is no package %s in the module", p.ImportPath)
		case !p.DepOnly && p.Name == "main":
			return fmt.Errorf("package %s is a program; a handler is a package that can be imported: give it another name than main", p.ImportPath)
		case !ours:
			continue
		case len(p.SysoFiles) > 0:
			return fmt.Errorf("package %s brings object code (%s); images are built from source", p.ImportPath, p.SysoFiles[0])
		}
		rel, err := filepath.Rel(dir, p.Dir)
		if err != nil {
			return err
		}
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			name = path.Join(filepath.ToSlash(rel), filepath.ToSlash(name))
			data, err := r.read(name)
			if err != nil {
				return err
			}
			a.files = append(a.files, file{path.Join(appFolder, name), data})
		}
	}
}

// plain is the form of module paths, package paths and versions: they become text
// of the generated main and of its go.mod.
var plain = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._~/+-]*$`)

// checkModule refuses what would change the image's own part.
func (a *application) checkModule() error {
	m := &a.module
	for _, r := range m.Require {
		if isOurs(r.Path) {
			return fmt.Errorf("go.mod requires %s; an image brings its own, and a handler is plain net/http", r.Path)
		}
	}
	for _, r := range m.Replace {
		switch {
		case isOurs(r.Old.Path):
			return fmt.Errorf("go.mod replaces %s", r.Old.Path)
		case r.New.Version == "":
			return fmt.Errorf("go.mod replaces %s by the folder %s, which is not part of the module; publish it, or move its packages into the module", r.Old.Path, r.New.Path)
		}
	}
	return m.check()
}

// check refuses names that are for the image itself, and what is none.
func (m *goModule) check() error {
	if m.Module.Path == "" {
		return errors.New("go.mod names no module")
	}
	if isOurs(m.Module.Path) {
		return fmt.Errorf("module %s: the name belongs to the image itself", m.Module.Path)
	}
	words := []string{m.Module.Path}
	for _, r := range m.Require {
		words = append(words, r.Path, r.Version)
	}
	for _, r := range m.Replace {
		words = append(words, r.Old.Path, r.New.Path, "0"+r.Old.Version, "0"+r.New.Version)
	}
	for _, word := range words {
		if !plain.MatchString(word) || strings.Contains(word, "//") { // which begins a comment
			return fmt.Errorf("go.mod: %q is not a path or a version", word)
		}
	}
	return nil
}

// isOurs reports whether a module path is for Lorica and its images to use.
func isOurs(module string) bool {
	return module == "lorica.dev" || strings.HasPrefix(module, "lorica.dev/")
}

// toolError turns a failure of the go command in the user's module into the
// first line it said, with the paths as the user names them.
func (a *application) toolError(err error, dir string) error {
	var failed *goError
	if !errors.As(err, &failed) {
		return err
	}
	return &SourceError{Pos: a.pos, Message: firstLine(strings.ReplaceAll(failed.output, dir, a.dir)), Output: failed.output}
}
