package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	lorica "lorica.dev/lorica"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/solver"
)

const guardSource = `package guard

import "lorica.dev/lorica/pep"

func New() pep.Guard { return nil }
`

const guardManifest = `id: example.com/guard
version: "1"
summary: refuses what the test refuses
class: guard
order: 50
`

// guard is the smallest module of a user's, with the given files instead of or beside
// its own; nil takes one away.
func guard(more map[string]any) map[string]string {
	files := map[string]string{
		"guard/go.mod":      "module example.com/guard\n\ngo 1.26.3\n\nrequire lorica.dev/lorica v0.0.0\n\nreplace lorica.dev/lorica => ../nowhere\n",
		"guard/module.yaml": guardManifest,
		"guard/guard.go":    guardSource,
	}
	for name, text := range more {
		if delete(files, name); text != nil {
			files[name] = text.(string)
		}
	}
	return files
}

func guardIn(dir string) api.Module {
	return api.Module{Pos: api.Pos{File: "workload.yaml", Line: 9, Column: 7}, Dir: dir, Path: "./guard"}
}

func readGuard(t *testing.T, files map[string]string) (*Own, string, error) {
	t.Helper()
	dir := tree(t, files)
	list, err := new(Planner).Own(t.Context(), []api.Module{guardIn(dir)})
	if err != nil {
		return nil, dir, err
	}
	return list[0], dir, nil
}

// with returns the selection of some needs and of modules of the user's own.
func with(t *testing.T, needs []string, own ...*Own) *solver.Selection {
	t.Helper()
	c, err := catalog.Load(lorica.Source())
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range own {
		needs = append(needs[:len(needs):len(needs)], o.ID)
		if c, err = c.With(o.Module); err != nil {
			t.Fatal(err)
		}
	}
	var reqs []catalog.Requirement
	for _, n := range needs {
		reqs = append(reqs, catalog.Requirement{Any: catalog.Clause{n}})
	}
	sel, err := solver.Solve(t.Context(), c, solver.Request{Requirements: reqs, Target: api.TargetProcess})
	if err != nil {
		t.Fatal(err)
	}
	return sel
}

func TestWhatIsAModuleOfOnesOwn(t *testing.T) {
	o, _, err := readGuard(t, guard(nil))
	if err != nil {
		t.Fatal(err)
	}
	if o.ID != "example.com/guard" || o.Section != "example.com/guard" || o.Class != catalog.ClassGuard || !o.Own() {
		t.Errorf("read as %+v", o.Module)
	}
	if big, _, err := readGuard(t, guard(map[string]any{"guard/more.go": "package guard\n" + strings.Repeat("// more\n", 512), "guard/more_test.go": strings.Repeat("\n", 9000)})); err != nil || o.Surface != 1 || big.Surface != 5 {
		t.Errorf("%d points; with four KiB more, %+v, %v", o.Surface, big, err)
	}
	if l := o.Lock(); l.Source != "./guard" || l.ID != o.ID || l.Version != "1" || l.Digest != o.Digest {
		t.Errorf("accepted as %+v", l)
	}
	for _, c := range []struct {
		name, file string
		text       any
		changes    bool
	}{
		{"its source", "guard/guard.go", guardSource + "// more\n", true},
		{"its manifest", "guard/module.yaml", guardManifest + "provides: []\n", true},
		{"its requirements", "guard/go.mod", "module example.com/guard\n\ngo 1.26.3\n", true},
		{"a package of it", "guard/more/more.go", "package more\n", true},
		{"a test", "guard/guard_test.go", "package guard\n", true},
		{"what describes it", "guard/README.md", "about\n", true},
		{"what is hidden", "guard/.git/config", "x\n", false},
		{"a copy of an editor", "guard/.guard.go.swp", "x\n", false},
		{"what is vendored", "guard/vendor/example.com/a/a.go", "package a\n", false},
		{"a module in it", "guard/other/go.mod", "module example.com/other\n", false},
		{"a file beside it", "other.go", "package other\n", false},
	} {
		x, _, err := readGuard(t, guard(map[string]any{c.file: c.text}))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if (x.Digest != o.Digest) != c.changes {
			t.Errorf("%s: the digest is %s, was %s", c.name, x.Digest, o.Digest)
		}
		for _, f := range x.files {
			if strings.HasSuffix(f.name, "_test.go") || strings.HasPrefix(f.name, ".") || strings.HasPrefix(f.name, "vendor") {
				t.Errorf("%s: %s becomes part of the image", c.name, f.name)
			}
		}
	}
}

func TestHostileModules(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]any
		want  string // of the error; DIR is the user's folder
	}{
		{"no folder", map[string]any{"guard/go.mod": nil, "guard/module.yaml": nil, "guard/guard.go": nil}, "workload.yaml:9:7: module ./guard: the folder does not exist"},
		{"no go.mod", map[string]any{"guard/go.mod": nil}, "DIR/guard has no go.mod"},
		{"no manifest", map[string]any{"guard/module.yaml": nil}, "DIR/guard has no module.yaml"},
		{"no package", map[string]any{"guard/guard.go": nil}, "DIR/guard has no package"},
		{"a package in a folder alone", map[string]any{"guard/guard.go": nil, "guard/in/guard.go": guardSource}, "DIR/guard has no package"},
		{"a package for another system", map[string]any{"guard/guard.go": "//go:build windows\n\n" + guardSource}, "DIR/guard has no package"},
		{"a program", map[string]any{"guard/guard.go": "package main\n"}, "DIR/guard/guard.go:1:1: package main is a program"},
		{"a go.mod that is none", map[string]any{"guard/go.mod": "modul x\n"}, "workload.yaml:9:7: module ./guard: "},
		{"no language", map[string]any{"guard/go.mod": "module example.com/guard\n"}, "go.mod has no go line"},
		{"a name of Lorica's", map[string]any{"guard/go.mod": "module lorica.dev/lorica/pep/guard\n\ngo 1.26\n"}, "module lorica.dev/lorica/pep/guard: the name belongs to the image itself"},
		{"a part of Lorica", map[string]any{"guard/go.mod": "module example.com/guard\n\ngo 1.26\n\nrequire lorica.dev/image v0.0.0\n"}, "go.mod requires lorica.dev/image"},
		{"another one's module", map[string]any{"guard/go.mod": "module example.com/guard\n\ngo 1.26\n\nreplace golang.org/x/sys => ../sys\n"}, "go.mod replaces golang.org/x/sys"},
		{"an id of Lorica's", map[string]any{"guard/go.mod": "module pep/authz\n\ngo 1.26\n", "guard/module.yaml": strings.Replace(guardManifest, "example.com/guard", "pep/authz", 1)},
			`DIR/guard/module.yaml:1:5: "pep/authz" begins with no host`},
		{"another id", map[string]any{"guard/module.yaml": strings.Replace(guardManifest, "example.com/guard", "example.com/other", 1)},
			`DIR/guard/module.yaml:1:5: the id is "example.com/other", and the go.mod says "example.com/guard"`},
		{"what Lorica provides", map[string]any{"guard/module.yaml": guardManifest + "provides: [authz/cedar]\n"}, `DIR/guard/module.yaml:6:12: "authz/cedar" begins with no host`},
		{"another class", map[string]any{"guard/module.yaml": strings.Replace(guardManifest, "class: guard", "class: audit", 1)}, `DIR/guard/module.yaml:4:8: class "audit"`},
		{"a shell", map[string]any{"guard/module.yaml": guardManifest + "syscalls:\n- {name: uname}\n- {name: execve}\n"}, "DIR/guard/module.yaml:8:3: a module of your own must not make the call execve"},
		{"ptrace under a condition", map[string]any{"guard/module.yaml": guardManifest + "syscalls: [{name: ptrace, when: [\"arg0 == 0\"]}]\n"}, "DIR/guard/module.yaml:6:12: a module of your own must not make the call ptrace"},
		{"sockets", map[string]any{"guard/module.yaml": guardManifest + "syscalls: [{name: socket}]\n"}, "DIR/guard/module.yaml:6:12: "},
		{"a section of Lorica's", map[string]any{"guard/module.yaml": guardManifest + "section: authz\n"}, "DIR/guard/module.yaml:6:10: "},
		{"a weight of its own", map[string]any{"guard/module.yaml": guardManifest + "code: 0\n"}, "DIR/guard/module.yaml:6:7: "},
		{"a device", map[string]any{"guard/module.yaml": guardManifest + "devices: [virtio-net]\n"}, "DIR/guard/module.yaml:6:10: "},
		{"a huge manifest", map[string]any{"guard/module.yaml": guardManifest + strings.Repeat("#", 65<<10)}, "DIR/guard/module.yaml:1:1: longer than"},
		{"a huge file", map[string]any{"guard/data.bin": strings.Repeat("x", maxOwnBytes+1)}, "module ./guard: at data.bin it exceeds 8 MiB"},
		{"cgo", map[string]any{"guard/c.go": "package guard\n\nimport \"C\"\n"}, "DIR/guard/c.go:3:8: cgo: images are built without it"},
		{"cgo by a constraint", map[string]any{"guard/c.go": "//go:build cgo\n\npackage guard\n\nimport \"C\"\n"}, "DIR/guard/c.go:5:8: cgo"},
		{"object code", map[string]any{"guard/x.syso": "x"}, "x.syso is object code"},
		{"what runs by being imported", map[string]any{"guard/i.go": "package guard\n\nfunc init() { go func() {}() }\n"}, "DIR/guard/i.go:3:1: func init runs before"},
		{"and in a package below", map[string]any{"guard/in/i.go": "package in\n\nfunc init() {}\n"}, "DIR/guard/in/i.go:3:1: func init runs before"},
		{"the inside of an image", map[string]any{"guard/x.go": "package guard\n\nimport _ \"lorica.dev/lorica/unikernel/linux\"\n"},
			"DIR/guard/x.go:3:8: imports lorica.dev/lorica/unikernel/linux: of Lorica a module may import lorica.dev/lorica/pep and what is below lorica.dev/lorica/abi"},
		{"another module", map[string]any{"guard/x.go": "package guard\n\nimport _ \"lorica.dev/lorica/pep/authz\"\n"}, "DIR/guard/x.go:3:8: imports lorica.dev/lorica/pep/authz"},
		{"a name that only begins alike", map[string]any{"guard/x.go": "package guard\n\nimport _ \"lorica.dev/lorica/abix\"\n"}, "DIR/guard/x.go:3:8: "},
	} {
		files := guard(c.files)
		if len(files) == 0 {
			files = map[string]string{"x": ""}
		}
		o, dir, err := readGuard(t, files)
		if err == nil {
			t.Errorf("%s: read as %+v", c.name, o.Module)
			continue
		}
		if got := strings.ReplaceAll(err.Error(), dir, "DIR"); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s\nwant %s", c.name, got, c.want)
		}
		var source *SourceError
		var manifest *catalog.Error
		if !errors.As(err, &source) && !errors.As(err, &manifest) {
			t.Errorf("%s: a %T", c.name, err)
		}
	}
	for name, spoil := range map[string]func(dir string) error{
		"a manifest from elsewhere":   func(dir string) error { return relink(dir, "module.yaml", "../elsewhere.yaml") },
		"a source from elsewhere":     func(dir string) error { return relink(dir, "more.go", "/etc/passwd") },
		"a link within the folder":    func(dir string) error { return relink(dir, "more.go", "guard.go") },
		"a folder from elsewhere":     func(dir string) error { return relink(dir, "more", "/etc") },
		"a pipe in the place of code": func(dir string) error { return exec.Command("mkfifo", filepath.Join(dir, "guard", "more.go")).Run() },
	} {
		dir := tree(t, guard(nil))
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "elsewhere.yaml"), []byte(guardManifest), 0o600), spoil(dir)); err != nil {
			t.Fatal(err)
		}
		if _, err := new(Planner).Own(t.Context(), []api.Module{guardIn(dir)}); err == nil || !strings.Contains(err.Error(), "is not a regular file") {
			t.Errorf("%s: %v", name, err)
		}
	}
	many := guard(nil)
	for i := range maxOwnFiles {
		many[fmt.Sprintf("guard/f%d.txt", i)] = ""
	}
	if _, _, err := readGuard(t, many); err == nil || !strings.Contains(err.Error(), "it exceeds 1000 files") {
		t.Errorf("many files: %v", err)
	}
}

func relink(dir, name, to string) error {
	name = filepath.Join(dir, "guard", name)
	os.Remove(name)
	return os.Symlink(to, name)
}

// The digest of a module from the cache is the one that the go command has for it.
func TestAModuleFromTheCache(t *testing.T) {
	r := newRegistry(t)
	files := map[string]string{}
	for name, text := range guard(map[string]any{"guard/testdata/x": "y", "guard/guard_test.go": "package guard\n", "guard/.hidden": "z"}) {
		files[strings.TrimPrefix(name, "guard/")] = text
	}
	r.publish(t, "example.com/guard", "v1.2.3", files["go.mod"], files)
	m := api.Module{Pos: api.Pos{File: "workload.yaml", Line: 9, Column: 7}, Module: "example.com/guard", Version: "v1.2.3"}
	if _, err := new(Planner).Own(t.Context(), []api.Module{m}); err == nil || !strings.Contains(err.Error(), `workload.yaml:9:7: module example.com/guard@v1.2.3: it is not in the module cache: run "go mod download example.com/guard@v1.2.3"`) {
		t.Errorf("before it is there: %v", err)
	}
	cmd := exec.Command("go", "mod", "download", "-json", m.Source())
	cmd.Dir = t.TempDir()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var got struct{ Sum string }
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	list, err := new(Planner).Own(t.Context(), []api.Module{m})
	if err != nil {
		t.Fatal(err)
	}
	if o := list[0]; o.Digest != got.Sum || o.Lock().Source != "example.com/guard@v1.2.3" {
		t.Errorf("read as %+v; the go command says %s", o.Lock(), got.Sum)
	}
	m.Module = "example.com/../../guard"
	if _, err := new(Planner).Own(t.Context(), []api.Module{m}); err == nil || !strings.Contains(err.Error(), "is not the path of a Go module") {
		t.Errorf("a path that leads out: %v", err)
	}
	if got := escaped("github.com/Azure/x"); got != "github.com/!azure/x" {
		t.Errorf("upper case is %s in the cache", got)
	}
}

func TestTheMainOfAnImageWithModulesOfTheUsers(t *testing.T) {
	one, _, err := readGuard(t, guard(nil))
	if err != nil {
		t.Fatal(err)
	}
	// Its package is called as one of Lorica's is.
	files := map[string]string{}
	for name, text := range guard(map[string]any{"guard/module.yaml": strings.Replace(strings.Replace(guardManifest, "class: guard", "class: gate", 1), "example.com/guard", "example.com/firewall", 1)}) {
		files[name] = strings.ReplaceAll(text, "module example.com/guard", "module example.com/firewall")
	}
	two, _, err := readGuard(t, files)
	if err != nil {
		t.Fatal(err)
	}
	sel := with(t, siteNeeds, one, two)
	main, err := generate(sel.Modules, &application{static: true}, program.PlanID{0xab, 31: 0xcd})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "main-own.go.txt", string(main))
}

// A plan is that of the very files that were read, and of the modules that others have
// accepted.
func TestPlansKnowModulesOfTheUsers(t *testing.T) {
	dir := tree(t, shop(nil))
	planOf := func(files map[string]string) *Plan {
		t.Helper()
		o, _, err := readGuard(t, files)
		if err != nil {
			t.Fatal(err)
		}
		p, err := new(Planner).Plan(t.Context(), with(t, smallNeeds, o), handlerIn(dir), o)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	one, same := planOf(guard(nil)), planOf(guard(nil))
	if one.ID != same.ID {
		t.Error("equal modules give two plans")
	}
	for name, files := range map[string]map[string]any{
		"code": {"guard/guard.go": guardSource + "// x\n"}, "a test": {"guard/x_test.go": "package guard\n"}, "a manifest": {"guard/module.yaml": guardManifest + "# x\n"},
	} {
		if planOf(guard(files)).ID == one.ID {
			t.Errorf("%s: the plan does not show it", name)
		}
	}
	o, _, err := readGuard(t, guard(nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := new(Planner).Plan(t.Context(), with(t, smallNeeds, o), handlerIn(dir)); err == nil || !strings.Contains(err.Error(), "nobody has read the module example.com/guard") {
		t.Errorf("a module without its files: %v", err)
	}
	if !strings.HasPrefix(one.Catalog, "sha256:") {
		t.Errorf("the catalog is %q", one.Catalog)
	}
}

func TestAMistakeInAModuleIsShownWhereItIs(t *testing.T) {
	s := store(t)
	for _, c := range []struct {
		name  string
		files map[string]any
		want  string // of the error; DIR is the user's folder
	}{
		{"a type error", map[string]any{"guard/guard.go": guardSource + "\nvar x int = \"a\"\n"}, "DIR/guard/guard.go:7:13: cannot use \"a\""},
		{"in a package of it", map[string]any{"guard/guard.go": guardSource + "\nvar _ = in.X\n", "guard/in/in.go": "package in\n\nvar X = missing\n"}, "DIR/guard/guard.go:7:9: undefined: in"},
		{"an import that is nowhere", map[string]any{"guard/x.go": "package guard\n\nimport _ \"example.com/guard/nowhere\"\n"}, "DIR/guard/x.go:3:8: the module has no package example.com/guard/nowhere"},
		{"an import of a module that go.mod does not name", map[string]any{"guard/x.go": "package guard\n\nimport _ \"example.com/other\"\n"},
			"DIR/guard/x.go:3:8: no module of go.mod has package example.com/other: run \"go get example.com/other\" in DIR/guard"},
		{"no constructor", map[string]any{"guard/guard.go": "package guard\n"}, "workload.yaml:9:7: package example.com/guard has no function New: want func New() pep.Guard"},
		{"another constructor", map[string]any{"guard/guard.go": "package guard\n\nfunc New() int { return 0 }\n"}, "workload.yaml:9:7: example.com/guard.New returns int: want func New() pep.Guard (int does not implement pep.Guard (missing method Prepare))"},
		{"one with parameters", map[string]any{"guard/guard.go": "package guard\n\nfunc New(x int) any { return 0 }\n"}, "workload.yaml:9:7: example.com/guard.New cannot construct the module: want func New() pep.Guard"},
		{"a gate that is a guard", map[string]any{"guard/module.yaml": strings.Replace(guardManifest, "class: guard", "class: gate", 1)}, "workload.yaml:9:7: example.com/guard.New returns pep.Guard: want func New() pep.Gate (pep.Guard does not implement pep.Gate"},
		{"what is pinned", map[string]any{"guard/go.mod": "module example.com/guard\n\ngo 1.26.3\n\nrequire golang.org/x/crypto v0.999.0\n"}, "workload.yaml:9:7: module example.com/guard requires golang.org/x/crypto v0.999.0; images are built with"},
		{"the name of a pin", map[string]any{"guard/go.mod": "module golang.org/x/crypto\n\ngo 1.26.3\n", "guard/module.yaml": strings.Replace(guardManifest, "example.com/guard", "golang.org/x/crypto", 1)},
			"workload.yaml:9:7: module golang.org/x/crypto: a module of that name is pinned for images"},
		{"the name of the application", map[string]any{"guard/go.mod": "module example.com/shop\n\ngo 1.26.3\n", "guard/module.yaml": strings.Replace(guardManifest, "example.com/guard", "example.com/shop", 1)},
			"workload.yaml:9:7: module example.com/shop is part of the image already, from"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, dir, err := readGuard(t, guard(c.files))
			if err == nil {
				var p *Plan
				if p, err = new(Planner).Plan(t.Context(), with(t, smallNeeds, o), handlerIn(tree(t, shop(nil))), o); err == nil {
					_, err = s.Build(context.Background(), p, nil)
				}
			}
			var source *SourceError
			if !errors.As(err, &source) {
				t.Fatalf("got %T: %v", err, err)
			}
			if got := strings.ReplaceAll(err.Error(), dir, "DIR"); !strings.HasPrefix(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if strings.Contains(err.Error()+source.Output, s.dir) {
				t.Errorf("the build folder shows: %s\n%s", err, source.Output)
			}
		})
	}
}
