package builder

import (
	"bytes"
	"fmt"
	"go/version"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	lorica "lorica.dev/lorica"
	"lorica.dev/lorica/api"
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

// A part is Go source of the user's in the build folder, a module of its own: a
// handler, or a module that enforces.
type part struct {
	folder string // in the build folder
	dir    string // as the user names it
	pos    api.Pos
	goModule
	sum []byte
}

// parts returns the user's own source in an image.
func (p *Plan) parts() []part {
	var list []part
	if p.app.kind() == "handler" {
		list = append(list, part{appFolder, p.app.dir, p.app.pos, p.app.module, p.app.sum})
	}
	for i, o := range p.own {
		list = append(list, part{ownFolder + "/" + strconv.Itoa(i+1), o.dir, o.Named.Pos, o.module, o.sum})
	}
	return list
}

// buildModule returns the go.mod and go.sum of the build folder: the image's pins
// and the requirements of the user's own source, each with the checksums that it came
// with.
func buildModule(source fs.FS, modules []*catalog.Module, parts []part) (mod, sum []byte, err error) {
	goVersion, pinned, err := pins(source, modules)
	if err != nil {
		return nil, nil, err
	}
	if sum, err = fs.ReadFile(source, lorica.GoSum); err != nil {
		return nil, nil, err
	}
	var b, replaced bytes.Buffer
	required := map[string]string{} // what is not pinned, by path
	for i := range parts {
		p := &parts[i]
		if version.Compare("go"+p.Go, "go"+goVersion) > 0 {
			goVersion = p.Go
		}
		if err := p.requires(pinned, parts, required); err != nil {
			return nil, nil, err
		}
		fmt.Fprintf(&replaced, "\nreplace %s => ./%s\n", p.Module.Path, p.folder)
		for _, r := range p.Replace {
			if slices.ContainsFunc(pinned, func(p moduleVersion) bool { return p.Path == r.Old.Path }) {
				return nil, nil, &SourceError{Pos: p.pos, Message: fmt.Sprintf("module %s replaces %s, which is pinned for images: take the replace line out of its go.mod", p.Module.Path, r.Old.Path)}
			}
			fmt.Fprintf(&replaced, "\nreplace %s => %s %s\n", strings.TrimSpace(r.Old.Path+" "+r.Old.Version), r.New.Path, r.New.Version)
		}
		sum = append(sum, p.sums(pinned)...)
	}
	fmt.Fprintf(&b, "module %s\n\ngo %s\n\nrequire (\n\t%s v0.0.0\n", imageModule, goVersion, lorica.ModulePath)
	for _, p := range pinned {
		fmt.Fprintf(&b, "\t%s %s\n", p.Path, p.Version)
	}
	for _, p := range parts {
		fmt.Fprintf(&b, "\t%s v0.0.0\n", p.Module.Path)
	}
	for _, path := range slices.Sorted(maps.Keys(required)) {
		fmt.Fprintf(&b, "\t%s %s\n", path, required[path])
	}
	fmt.Fprintf(&b, ")\n\nreplace %s => ./lorica\n%s", lorica.ModulePath, replaced.Bytes())
	return b.Bytes(), sum, nil
}

// requires adds what a part requires to what others do: of two versions the newer
// one, as the go command does.
func (p *part) requires(pinned []moduleVersion, parts []part, required map[string]string) error {
	if slices.ContainsFunc(pinned, func(x moduleVersion) bool { return x.Path == p.Module.Path }) {
		return &SourceError{Pos: p.pos, Message: fmt.Sprintf("module %s: a module of that name is pinned for images", p.Module.Path)}
	}
	same := func(x part) bool { return x.Module.Path == p.Module.Path }
	if i := slices.IndexFunc(parts, same); parts[i].folder != p.folder {
		return &SourceError{Pos: p.pos, Message: fmt.Sprintf("module %s is part of the image already, from %s", p.Module.Path, parts[i].dir)}
	}
	for _, r := range p.Require {
		if i := slices.IndexFunc(pinned, func(p moduleVersion) bool { return p.Path == r.Path }); i >= 0 {
			if newer(r.Version, pinned[i].Version) {
				return &SourceError{Pos: p.pos, Message: p.raises(r, pinned[i])}
			}
			continue
		}
		if slices.ContainsFunc(parts, func(x part) bool { return x.Module.Path == r.Path }) {
			return &SourceError{Pos: p.pos, Message: fmt.Sprintf("module %s requires %s, which is a module of the image itself: neither may be part of the other", p.Module.Path, r.Path)}
		}
		if have, ok := required[r.Path]; !ok || newer(r.Version, have) {
			required[r.Path] = r.Version
		}
	}
	return nil
}

// sums are the checksums that a part brings: what is pinned has one, and it is not the
// user's to give.
func (p *part) sums(pinned []moduleVersion) (kept []byte) {
	for line := range strings.Lines(string(p.sum)) {
		if !slices.ContainsFunc(pinned, func(p moduleVersion) bool {
			rest, ours := strings.CutPrefix(line, p.Path+" "+p.Version)
			return ours && (strings.HasPrefix(rest, " ") || strings.HasPrefix(rest, "/go.mod "))
		}) {
			kept = append(kept, line...)
		}
	}
	if len(kept) > 0 && kept[len(kept)-1] != '\n' {
		kept = append(kept, '\n')
	}
	return kept
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

func (p *part) raises(want, have moduleVersion) string {
	return fmt.Sprintf("module %s requires %s %s; images are built with %s: lower it with \"go get %s@%s\" in %s",
		p.Module.Path, want.Path, want.Version, have.Version, have.Path, have.Version, p.dir)
}
