package builder

import (
	"bytes"
	"fmt"
	"go/version"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	lorica "lorica.dev/lorica"
	"lorica.dev/lorica/catalog"
)

// imageModule is the module path of the generated main.
const imageModule = "lorica.dev/image"

// imageMod returns the go.mod of the image-side source for an image of some modules:
// lines that name another module at their end, which needs them, are left out.
func imageMod(source fs.FS, modules []*catalog.Module) ([]byte, error) {
	data, err := fs.ReadFile(source, lorica.GoMod)
	if err != nil {
		return nil, err
	}
	var kept []byte
	for line := range strings.Lines(string(data)) {
		text, only, limited := strings.Cut(strings.TrimRight(line, "\n"), " // ")
		if !limited || slices.ContainsFunc(modules, func(m *catalog.Module) bool { return m.ID == only }) {
			kept = append(append(kept, text...), '\n')
		}
	}
	return kept, nil
}

// pins returns the modules and versions that the image's go.mod requires.
func pins(source fs.FS, modules []*catalog.Module) (goVersion string, list []moduleVersion, err error) {
	data, err := imageMod(source, modules)
	if err != nil {
		return "", nil, err
	}
	for line := range strings.Lines(string(data)) {
		switch f := strings.Fields(line); {
		case len(f) == 2 && f[0] == "go":
			goVersion = f[1]
		case len(f) == 2 && strings.HasPrefix(f[1], "v"):
			list = append(list, moduleVersion{f[0], f[1]})
		}
	}
	if goVersion == "" || len(list) == 0 {
		return "", nil, fmt.Errorf("builder: %s pins nothing", lorica.GoMod)
	}
	return goVersion, list, nil
}

// buildModule returns the go.mod and go.sum of the build folder: the image's pins
// and the requirements of the application, each with the checksums that it came
// with.
func buildModule(source fs.FS, modules []*catalog.Module, app *application) (mod, sum []byte, err error) {
	goVersion, pinned, err := pins(source, modules)
	if err != nil {
		return nil, nil, err
	}
	if slices.ContainsFunc(pinned, func(p moduleVersion) bool { return p.Path == app.module.Module.Path }) {
		return nil, nil, &SourceError{Pos: app.pos, Message: fmt.Sprintf("module %s: a module of that name is pinned for images", app.module.Module.Path)}
	}
	if sum, err = fs.ReadFile(source, lorica.GoSum); err != nil {
		return nil, nil, err
	}
	if version.Compare("go"+app.module.Go, "go"+goVersion) > 0 {
		goVersion = app.module.Go
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "module %s\n\ngo %s\n\nrequire (\n\t%s v0.0.0\n", imageModule, goVersion, lorica.ModulePath)
	for _, p := range pinned {
		fmt.Fprintf(&b, "\t%s %s\n", p.Path, p.Version)
	}
	if app.kind() == "handler" {
		fmt.Fprintf(&b, "\t%s v0.0.0\n", app.module.Module.Path)
	}
	for _, r := range app.module.Require {
		if i := slices.IndexFunc(pinned, func(p moduleVersion) bool { return p.Path == r.Path }); i >= 0 {
			if newer(r.Version, pinned[i].Version) {
				return nil, nil, &SourceError{Pos: app.pos, Message: raises(app, r, pinned[i])}
			}
			continue
		}
		fmt.Fprintf(&b, "\t%s %s\n", r.Path, r.Version)
	}
	fmt.Fprintf(&b, ")\n\nreplace %s => ./lorica\n", lorica.ModulePath)
	if app.kind() == "handler" {
		fmt.Fprintf(&b, "\nreplace %s => ./%s\n", app.module.Module.Path, appFolder)
	}
	for _, r := range app.module.Replace {
		if slices.ContainsFunc(pinned, func(p moduleVersion) bool { return p.Path == r.Old.Path }) {
			return nil, nil, &SourceError{Pos: app.pos, Message: fmt.Sprintf("module %s replaces %s, which is pinned for images: take the replace line out of its go.mod", app.module.Module.Path, r.Old.Path)}
		}
		fmt.Fprintf(&b, "\nreplace %s => %s %s\n", strings.TrimSpace(r.Old.Path+" "+r.Old.Version), r.New.Path, r.New.Version)
	}
	for line := range strings.Lines(string(app.sum)) {
		// What is pinned has one checksum, and it is not the application's to give.
		if !slices.ContainsFunc(pinned, func(p moduleVersion) bool {
			rest, ours := strings.CutPrefix(line, p.Path+" "+p.Version)
			return ours && (strings.HasPrefix(rest, " ") || strings.HasPrefix(rest, "/go.mod "))
		}) {
			sum = append(sum, line...)
		}
	}
	return b.Bytes(), sum, nil
}

// newer reports whether version a is above b, by the precedence of semver.org.
func newer(a, b string) bool {
	abase, apre, _ := strings.Cut(strings.TrimPrefix(a, "v"), "-")
	bbase, bpre, _ := strings.Cut(strings.TrimPrefix(b, "v"), "-")
	an, bn := strings.Split(abase, "."), strings.Split(bbase, ".")
	for i := range min(len(an), len(bn)) {
		x, errX := strconv.ParseUint(an[i], 10, 64)
		y, errY := strconv.ParseUint(bn[i], 10, 64)
		if errX != nil || errY != nil {
			return true // not a version: refused like one that is too new
		}
		if x != y {
			return x > y
		}
	}
	if apre == "" || bpre == "" {
		return apre == "" && bpre != ""
	}
	return apre > bpre
}

func raises(app *application, want, have moduleVersion) string {
	return fmt.Sprintf("module %s requires %s %s; images are built with %s: lower it with \"go get %s@%s\" in %s",
		app.module.Module.Path, want.Path, want.Version, have.Version, have.Path, have.Version, app.dir)
}
