package builder

import (
	"context"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	lorica "lorica.dev/lorica"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/solver"
)

func TestTheGeneratedMain(t *testing.T) {
	id := program.PlanID{0xab, 31: 0xcd}
	front, err := readProxy("testdata", frontIn("testdata").App.Proxy)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		golden string
		needs  []string
		app    *application
	}{
		{"main-accounts.go.txt", accountsNeeds, &application{pkg: "example.com/accounts", function: "New"}},
		{"main-site.go.txt", siteNeeds, &application{static: true}},
		{"main-front.go.txt", frontNeeds, front},
		{"main-machine.go.txt", machineNeeds, front},
		{"main-direct.go.txt", directNeeds, front},
		{"main-leased.go.txt", leasedNeeds, &application{static: true}},
		{"main-secured.go.txt", securedNeeds, &application{static: true}},
		{"main-chosen.go.txt", chosenNeeds, &application{static: true, packed: true}},
		{"main-incompressible.go.txt", []string{"image/process", "net", "filter", "audit", "app/files/compressed"}, &application{static: true}},
		{"main-recorded.go.txt", recordedNeeds, &application{static: true}},
	} {
		t.Run(c.golden, func(t *testing.T) {
			sel := selection(t, c.needs)
			main, err := generate(sel.Modules, c.app, id)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, c.golden, string(main))
		})
	}
}

func TestASetThatMakesNoImageIsRefused(t *testing.T) {
	app := &application{pkg: "example.com/shop", function: "New"}
	without := func(class catalog.Class) []*catalog.Module {
		return slices.DeleteFunc(slices.Clone(selection(t, accountsNeeds).Modules), func(m *catalog.Module) bool { return m.Class == class })
	}
	for _, c := range []struct {
		name    string
		modules []*catalog.Module
		app     *application
		want    string
	}{
		{"no core", without(catalog.ClassCore), app, "one module of class core; the set has 0"},
		{"no net", without(catalog.ClassNet), app, "one module of class net; the set has 0"},
		{"no audit", without(catalog.ClassAudit), app, "one module of class audit; the set has 0"},
		{"two applications", append(without(""), &catalog.Module{ID: "app/static", Class: catalog.ClassApp}), app, "class app; the set has 2"},
		{"the other kind of application", without(""), &application{static: true}, "the set has app/handler; the workload is a static application"},
		{"two packages of one name", append(without(""), &catalog.Module{ID: "other/filter", Class: catalog.ClassGuard}), app, "pep/filter and other/filter have packages of the same name"},
		{"another core", append(without(catalog.ClassCore), &catalog.Module{ID: "kernel", Class: catalog.ClassCore}), app, "not unikernel"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if main, err := generate(c.modules, c.app, program.PlanID{}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\n%s", err, main)
			}
		})
	}
}

// copySource returns the embedded source as a tree that can be changed.
func copySource(t *testing.T) fstest.MapFS {
	t.Helper()
	m := fstest.MapFS{}
	err := fs.WalkDir(lorica.Source(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(lorica.Source(), name)
		m[name] = &fstest.MapFile{Data: data}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestThePlanIDChangesWithWhatDecidesTheImage(t *testing.T) {
	// A plan from parts, each of which a case may change.
	type parts struct {
		tools  toolchain
		sel    *solver.Selection
		app    application
		source fstest.MapFS
	}
	fresh := func() *parts {
		p := &parts{
			tools:  toolchain{version: "go1.26.8"},
			sel:    selection(t, smallNeeds),
			source: copySource(t),
			app: application{
				dir: "./shop", pkg: "example.com/shop", function: "New",
				files: []file{{"app/go.mod", []byte("module example.com/shop\n")}, {"app/shop.go", []byte("package shop\n")}},
				sum:   []byte("a\n"),
			},
		}
		p.app.module.Module.Path = "example.com/shop"
		return p
	}
	id := func(t *testing.T, p *parts) program.PlanID {
		t.Helper()
		plan, err := newPlan(&p.tools, p.sel, &p.app, p.source)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(plan.Main, hex.EncodeToString(plan.ID[:])) {
			t.Error("the main does not hold the plan id")
		}
		return plan.ID
	}
	base := id(t, fresh())
	alter := func(p *parts, i int, f func(m *catalog.Module)) {
		m := *p.sel.Modules[i]
		f(&m)
		p.sel.Modules = slices.Clone(p.sel.Modules)
		p.sel.Modules[i] = &m
	}
	for _, c := range []struct {
		name    string
		change  func(p *parts)
		changes bool
	}{
		{"nothing", func(p *parts) {}, false},
		{"where the application lies", func(p *parts) { p.app.dir = "/elsewhere" }, false},
		{"where the workload says so", func(p *parts) { p.app.pos.Line = 9 }, false},
		{"the folders of the toolchain", func(p *parts) { p.tools.goroot, p.tools.folders = "/opt/go", []string{"HOME=/home/eve"} }, false},
		{"the source of a module that was left out", func(p *parts) { p.source["pep/firewall/firewall.go"].Data = []byte("package firewall\n") }, false},
		{"a test of a module", func(p *parts) { p.source["pep/filter/new_test.go"] = &fstest.MapFile{Data: []byte("package filter\n")} }, false},
		{"the summary of a module", func(p *parts) { alter(p, 0, func(m *catalog.Module) { m.Summary = "x" }) }, false},

		{"the toolchain", func(p *parts) { p.tools.version = "go1.26.9" }, true},
		{"the target", func(p *parts) { s := *p.sel; s.Target = "microvm"; p.sel = &s }, true},
		{"the version of a module", func(p *parts) { alter(p, 0, func(m *catalog.Module) { m.Version = "9" }) }, true},
		{"a system call of a module", func(p *parts) {
			alter(p, 0, func(m *catalog.Module) {
				m.Syscalls = append(slices.Clone(m.Syscalls), catalog.Syscall{Name: "openat"})
			})
		}, true},
		{"the section of a module", func(p *parts) { alter(p, 3, func(m *catalog.Module) { m.Section = "x" }) }, true},
		{"the order of modules", func(p *parts) { p.sel.Modules = slices.Clone(p.sel.Modules); slices.Reverse(p.sel.Modules) }, true},
		{"the source of a chosen module", func(p *parts) { p.source["pep/filter/filter.go"].Data = []byte("package filter\n") }, true},
		{"a new file of a chosen module", func(p *parts) { p.source["pep/filter/new.go"] = &fstest.MapFile{Data: []byte("package filter\n")} }, true},
		{"the source that modules share", func(p *parts) { p.source["abi/abi.go"].Data = []byte("package abi\n") }, true},
		{"a pinned version", func(p *parts) {
			p.source[lorica.GoMod].Data = []byte("module lorica.dev/lorica\n\ngo 1.26.0\n\nrequire (\n\tgolang.org/x/sys v9.0.0\n)\n")
		}, true},
		{"a pinned checksum", func(p *parts) { p.source[lorica.GoSum].Data = []byte("x\n") }, true},
		{"a file of the application", func(p *parts) { p.app.files[1].data = []byte("package shop // 2\n") }, true},
		{"the name of a file of the application", func(p *parts) { p.app.files[1].name = "app/store.go" }, true},
		{"a new file of the application", func(p *parts) { p.app.files = append(p.app.files, file{"app/x.go", nil}) }, true},
		{"a checksum of the application", func(p *parts) { p.app.sum = []byte("b\n") }, true},
		{"a requirement of the application", func(p *parts) { p.app.module.Require = []moduleVersion{{"example.com/x", "v1.0.0"}} }, true},
		{"the package of the application", func(p *parts) { p.app.pkg = "example.com/shop/v2" }, true},
		{"the constructor", func(p *parts) { p.app.function = "Make" }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := fresh()
			c.change(p)
			if got := id(t, p); (got != base) != c.changes {
				t.Errorf("changed: %v, want %v", got != base, c.changes)
			}
		})
	}
}

func TestWhatTheCompilerDoesNotReadDoesNotDecideTheImage(t *testing.T) {
	base := plan(t, smallNeeds, handlerIn(tree(t, shop(nil)))).ID
	for _, c := range []struct {
		name    string
		files   map[string]string
		changes bool
	}{
		{"another folder", nil, false},
		{"a test", map[string]string{"shop/shop_test.go": "package shop\n"}, false},
		{"a policy beside the code", map[string]string{"shop/policy.yaml": "kind: SecurityPolicy\n"}, false},
		{"a secret beside the code", map[string]string{"shop/users.txt": "eve\n"}, false},
		{"a package that is not imported", map[string]string{"shop/tool/main.go": "package main\n"}, false},
		{"a file for another system", map[string]string{"shop/shop_windows.go": "package shop\n"}, false},
		{"a file for cgo", map[string]string{"shop/c.go": "package shop\n\nimport \"C\"\n"}, false},
		{"a workspace around it", map[string]string{"go.work": "go 1.26\n\nuse ./shop\n"}, false},
		{"a vendor folder", map[string]string{"shop/vendor/modules.txt": "# x\n"}, false},
		{"a new file", map[string]string{"shop/more.go": "package shop\n"}, true},
		{"a comment", map[string]string{"shop/shop.go": "package shop\n\nimport \"net/http\"\n\n// New makes it.\nfunc New() (http.Handler, error) { return http.NewServeMux(), nil }\n"}, true},
		{"an embedded file", map[string]string{"shop/more.go": "package shop\n\nimport _ \"embed\"\n\n//go:embed x.txt\nvar X string\n", "shop/x.txt": "1"}, true},
		{"go.mod", map[string]string{"shop/go.mod": "module example.com/shop\n\ngo 1.26.0\n"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := plan(t, smallNeeds, handlerIn(tree(t, shop(c.files))))
			if (p.ID != base) != c.changes {
				t.Errorf("changed: %v, want %v", p.ID != base, c.changes)
			}
		})
	}
}

// An embedded file decides by its content.
func TestTheContentOfAnEmbeddedFileDecides(t *testing.T) {
	id := func(content string) program.PlanID {
		return plan(t, smallNeeds, handlerIn(tree(t, shop(map[string]string{
			"shop/more.go":    "package shop\n\nimport _ \"embed\"\n\n//go:embed sub/x.txt\nvar X string\n",
			"shop/sub/x.txt":  content,
			"shop/sub/y.html": content + "not embedded",
		})))).ID
	}
	if id("1") == id("2") {
		t.Error("the same plan for other content")
	}
}

func TestThePlanIsTheSameFromARelativeFolder(t *testing.T) {
	dir := tree(t, shop(nil))
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	rel, err := filepath.Rel(wd, dir)
	if err != nil {
		t.Fatal(err)
	}
	if plan(t, smallNeeds, handlerIn(dir)).ID != plan(t, smallNeeds, handlerIn(rel)).ID {
		t.Error("two plans")
	}
}

// A Planner that is asked again answers as one that was never asked: after a
// change of the application, and after none.
func TestAPlannerForgetsWhatChanged(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("go.mod", "module example.com/app\n\ngo 1.26\n")
	source := "package app\n\nimport \"net/http\"\n\nfunc New() (http.Handler, error) { return http.NotFoundHandler(), nil }\n"
	put("app.go", source)
	w := handlerIn(dir)
	w.App.Handler.Module = "."
	var p Planner
	id := func(p *Planner) program.PlanID {
		t.Helper()
		got, err := p.Plan(context.Background(), selection(t, accountsNeeds), w)
		if err != nil {
			t.Fatal(err)
		}
		return got.ID
	}
	first := id(&p)
	if again := id(&p); again != first || again != id(new(Planner)) {
		t.Error("asked twice, it plans two images")
	}
	put("app.go", source+"\n// another text\n")
	if second := id(&p); second == first || second != id(new(Planner)) {
		t.Error("a change of the application is not in the plan")
	}
	put("more.go", "package app\n")
	if third := id(&p); third != id(new(Planner)) {
		t.Error("a new file is not in the plan")
	}
	put("go.mod", "module lorica.dev/lorica\n\ngo 1.26\n")
	if _, err := p.Plan(context.Background(), selection(t, accountsNeeds), w); err == nil {
		t.Error("a module that takes Lorica's name was planned")
	}
}

// A module that is reached by a link, or whose files claim the time of those
// before them, is another one all the same.
func TestAPlannerKnowsFilesFromLinks(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	source := "package app\n\nimport \"net/http\"\n\nfunc New() (http.Handler, error) { return http.NotFoundHandler(), nil }\n"
	put("real/go.mod", "module example.com/app\n\ngo 1.26\n")
	put("real/app.go", source+"\n// a\n")
	put("real/shared/part.txt", "package app\n\n// a\n")
	if err := os.Symlink("shared/part.txt", filepath.Join(dir, "real", "part.go")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	w := handlerIn(dir)
	var p Planner
	check := func(what string) {
		t.Helper()
		for _, module := range []string{"real", "link"} {
			w.App.Handler.Module = module
			fresh, err := new(Planner).Plan(context.Background(), selection(t, accountsNeeds), w)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := p.Plan(context.Background(), selection(t, accountsNeeds), w); err != nil || again.ID != fresh.ID {
				t.Errorf("%s, %s: an old plan, %v", what, module, err)
			}
		}
	}
	check("at first")
	info, err := os.Stat(filepath.Join(dir, "real", "app.go"))
	if err != nil {
		t.Fatal(err)
	}
	put("real/app.go", source+"\n// bcdef\n")
	check("another size")
	put("real/app.go", source+"\n// ghijk\n")
	if err := os.Chtimes(filepath.Join(dir, "real", "app.go"), info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	check("another time")
	put("real/app.go", source+"\n// lmnop\n")
	if err := os.Chtimes(filepath.Join(dir, "real", "app.go"), info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	check("the same size and time")
	put("real/shared/part.txt", "package app\n\n// bcd\n")
	check("a file behind a link")
}

// A call for a capability that nobody has is one that no image may make.
func TestCallsAreForCapabilitiesThatThereAre(t *testing.T) {
	c, err := catalog.Load(lorica.Source())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range c.Modules {
		for _, s := range m.Syscalls {
			if s.With != "" && len(c.Providers(s.With)) == 0 {
				t.Errorf("%s: nothing provides %q, which it calls %s with", m.ID, s.With, s.Name)
			}
		}
	}
}
