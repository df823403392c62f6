package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	lorica "lorica.dev/lorica"
	"lorica.dev/lorica/api"
)

func TestAStaticFolderIsReadWithoutHiddenFiles(t *testing.T) {
	dir := tree(t, map[string]string{
		"public/index.html":     "<p>",
		"public/css/site.css":   "p{}",
		"public/.env":           "PASSWORD=1",
		"public/.git/config":    "[core]",
		"public/css/.hidden.db": "",
		"policy.yaml":           "",
	})
	if err := os.Symlink("index.html", filepath.Join(dir, "public", "home.html")); err != nil {
		t.Fatal(err)
	}
	app, err := readApplication(nil, siteIn(dir))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range app.files {
		got = append(got, f.name+"="+string(f.data))
	}
	if want := "content/css/site.css=p{} content/home.html=<p> content/index.html=<p>"; strings.Join(got, " ") != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestAStaticFolderThatCannotBeServedIsRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, public string) error // public exists
		want string
	}{
		{"an empty folder", func(t *testing.T, public string) error { return nil }, "no files to serve"},
		{"no folder", func(t *testing.T, public string) error { return os.Remove(public) }, "does not exist"},
		{"a file", func(t *testing.T, public string) error {
			return errors.Join(os.Remove(public), os.WriteFile(public, nil, 0o644))
		}, "is not a folder"},
		{"a link out of the folder", func(t *testing.T, public string) error {
			return os.Symlink("/etc/hostname", filepath.Join(public, "x"))
		}, "x leaves the folder"},
		{"a relative link out of the folder", func(t *testing.T, public string) error {
			return os.Symlink("../secret", filepath.Join(public, "x"))
		}, "x leaves the folder"},
		{"a link to nothing", func(t *testing.T, public string) error {
			return os.Symlink("nothing", filepath.Join(public, "x"))
		}, "x does not exist"},
		{"a link to a folder", func(t *testing.T, public string) error {
			return errors.Join(os.Mkdir(filepath.Join(public, "a"), 0o755), os.Symlink("a", filepath.Join(public, "x")))
		}, "x is not a regular file"},
		{"a pipe", func(t *testing.T, public string) error {
			return syscall.Mkfifo(filepath.Join(public, "x"), 0o644)
		}, "x is not a regular file"},
		{"a socket", func(t *testing.T, public string) error {
			fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			t.Cleanup(func() { syscall.Close(fd) })
			t.Chdir(public)
			return syscall.Bind(fd, &syscall.SockaddrUnix{Name: "x"})
		}, "x is not a regular file"},
		{"too many bytes", func(t *testing.T, public string) error {
			for i := range 2 {
				name := filepath.Join(public, fmt.Sprint("x", i))
				if err := errors.Join(os.WriteFile(name, nil, 0o644), os.Truncate(name, maxBytes/2+1)); err != nil {
					return err
				}
			}
			return nil
		}, "at x1 the application exceeds"},
		{"too many files", func(t *testing.T, public string) error {
			for i := range maxFiles + 1 {
				if err := os.WriteFile(filepath.Join(public, fmt.Sprintf("%05d", i)), nil, 0o644); err != nil {
					return err
				}
			}
			return nil
		}, "exceeds 10000 files"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := tree(t, map[string]string{"secret": "s"})
			public := filepath.Join(dir, "public")
			if err := errors.Join(os.Mkdir(public, 0o755), c.make(t, public)); err != nil {
				t.Fatal(err)
			}
			app, err := readApplication(nil, siteIn(dir))
			refused(t, app, err, "workload.yaml:7:5: app.static ./public: ", c.want)
		})
	}
}

// refused checks that an error is a *SourceError that begins and goes on as it
// should.
func refused(t *testing.T, got any, err error, prefix, want string) {
	t.Helper()
	var source *SourceError
	if !errors.As(err, &source) {
		t.Fatalf("got %+v, %T: %v", got, err, err)
	}
	if !strings.HasPrefix(err.Error(), prefix) || !strings.Contains(err.Error(), want) {
		t.Errorf("got  %s\nwant %s...%s", err, prefix, want)
	}
}

func TestAHandlerModuleThatCannotBeBuiltIsRefused(t *testing.T) {
	const require = "module example.com/shop\n\ngo 1.26\n\n"
	for _, c := range []struct {
		name   string
		files  map[string]string
		change func(h *api.HandlerApp)
		want   string
	}{
		{"no folder", nil, func(h *api.HandlerApp) { h.Module = "./store" }, "store does not exist"},
		{"no go.mod", nil, func(h *api.HandlerApp) { h.Module = "." }, "has no go.mod: run \"go mod init"},
		{"a go.mod that is none", map[string]string{"shop/go.mod": "modul x\n"}, nil, "go.mod:1: unknown directive: modul"},
		{"a go.mod without a name", map[string]string{"shop/go.mod": "go 1.26\n"}, nil, "names no module"},
		{"the name of the image", map[string]string{"shop/go.mod": "module lorica.dev/image\n"}, nil, "the name belongs to the image itself"},
		{"the name of Lorica", map[string]string{"shop/go.mod": "module lorica.dev/lorica/pep\n"}, nil, "the name belongs to the image itself"},
		{"a name above Lorica's", map[string]string{"shop/go.mod": "module lorica.dev\n"}, nil, "the name belongs to the image itself"},
		{"the name of what is pinned", map[string]string{"shop/go.mod": "module golang.org/x/crypto\n"}, nil, "module golang.org/x/crypto: a module of that name is pinned"},
		{"it requires Lorica", map[string]string{"shop/go.mod": require + "require lorica.dev/lorica v1.0.0\n"}, nil, "requires lorica.dev/lorica"},
		{"it replaces Lorica", map[string]string{"shop/go.mod": require + "replace lorica.dev/lorica => example.com/x v1.0.0\n"}, nil, "replaces lorica.dev/lorica"},
		{"it replaces by a folder outside", map[string]string{"shop/go.mod": require + "replace example.com/x => ../x\n"}, nil,
			"replaces example.com/x by the folder ../x, which is not part of the module"},
		{"it replaces what is pinned", map[string]string{"shop/go.mod": require + "replace golang.org/x/crypto => example.com/weak v1.0.0\n"}, nil,
			"module example.com/shop replaces golang.org/x/crypto, which is pinned for images"},
		{"it raises what is pinned", map[string]string{"shop/go.mod": require + "require golang.org/x/crypto v0.99.0\n"}, nil,
			"module example.com/shop requires golang.org/x/crypto v0.99.0; images are built with v0."},
		{"a later Go", map[string]string{"shop/go.mod": "module example.com/shop\n\ngo 1.99\n"}, nil, "go.mod requires go >= 1.99"},
		{"a program", map[string]string{"shop/shop.go": "package main\n\nfunc main() {}\n"}, nil, "is a program"},
		{"no package there", nil, func(h *api.HandlerApp) { h.Package = "./sub" }, "DIR/shop/sub"},
		{"a folder without Go files", map[string]string{"shop/sub/x.txt": ""}, func(h *api.HandlerApp) { h.Package = "./sub" }, "no Go files in DIR/shop/sub"},
		{"files for another system only", map[string]string{"shop/shop.go": "//go:build windows\n\npackage shop\n"}, nil, "build constraints exclude all Go files in DIR/shop"},
		{"a package above the module", nil, func(h *api.HandlerApp) { h.Package = "../other" }, `package "../other" is not a folder of the module`},
		{"a package by an absolute path", nil, func(h *api.HandlerApp) { h.Package = "/etc" }, `package "/etc" is not a folder of the module`},
		{"every package", nil, func(h *api.HandlerApp) { h.Package = "./..." }, `package "./..." is not a folder of the module`},
		{"a function that is not exported", nil, func(h *api.HandlerApp) { h.Func = "new" }, `func "new" is not the name of an exported function`},
		{"a function that is an expression", nil, func(h *api.HandlerApp) { h.Func = "New(nil), (" }, "is not the name of an exported function"},
		{"a name that is code", map[string]string{"shop/go.mod": "module \"example.com/shop\\n\\nreplace golang.org/x/sys => ./evil\"\n"}, nil, ""},
		{"a package that is code", map[string]string{"shop/a\";evil/x.go": "package x\n"}, func(h *api.HandlerApp) { h.Package = `./a";evil` }, "is not an import path"},
		{"a replacement by an absolute folder", map[string]string{"shop/go.mod": require + "replace example.com/x => /opt/x\n"}, nil, "by the folder /opt/x"},
		{"object code", map[string]string{"shop/x_linux_amd64.syso": "\x7fELF"}, nil, "brings object code (x_linux_amd64.syso)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := tree(t, shop(c.files))
			w := handlerIn(dir)
			if c.change != nil {
				c.change(w.App.Handler)
			}
			p, err := new(Planner).Plan(context.Background(), selection(t, smallNeeds), w)
			if err != nil && strings.Contains(err.Error(), dir) {
				err = &SourceError{Message: strings.ReplaceAll(err.Error(), dir, "DIR")}
			}
			refused(t, p, err, "workload.yaml:7:5: ", c.want)
		})
	}
}

func TestALinkOutOfTheModuleIsRefused(t *testing.T) {
	dir := tree(t, shop(map[string]string{"secret.go": "package shop\n"}))
	if err := os.Symlink("../secret.go", filepath.Join(dir, "shop", "more.go")); err != nil {
		t.Fatal(err)
	}
	p, err := new(Planner).Plan(context.Background(), selection(t, smallNeeds), handlerIn(dir))
	refused(t, p, err, "workload.yaml:7:5: app.handler ./shop: ", "more.go leaves the folder")
}

func TestAWorkloadWithoutAnApplicationIsRefused(t *testing.T) {
	if p, err := new(Planner).Plan(context.Background(), selection(t, smallNeeds), &api.Workload{}); !errors.Is(err, errNoApp) {
		t.Errorf("got %v, %v", p, err)
	}
}

func TestAnApplicationGivesNoChecksumForWhatIsPinned(t *testing.T) {
	_, pinned, err := pins(lorica.Source(), nil)
	if err != nil {
		t.Fatal(err)
	}
	have := pinned[0].Path + " " + pinned[0].Version
	app := &application{pkg: "example.com/shop", function: "New",
		sum: []byte("example.com/dep v1.0.0 h1:ours=\n" + have + " h1:evil=\n" + have + "/go.mod h1:evil=\n" + pinned[0].Path + " v0.1.0/go.mod h1:old=\n")}
	app.module.Module.Path = "example.com/shop"
	_, sum, err := buildModule(lorica.Source(), nil, (&Plan{app: app}).parts())
	if err != nil {
		t.Fatal(err)
	}
	if s := string(sum); strings.Contains(s, "evil") || !strings.Contains(s, "h1:ours=") || !strings.Contains(s, "h1:old=") || !strings.Contains(s, have+" h1:") {
		t.Errorf("got\n%s", s)
	}
}

func TestNewer(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"v0.58.0", "v0.58.0", false},
		{"v0.59.0", "v0.58.0", true},
		{"v0.9.0", "v0.58.0", false},
		{"v0.100.0", "v0.58.0", true},
		{"v1.0.0", "v0.58.0", true},
		{"v0.58.1", "v0.58.0", true},
		{"v0.58.0-rc.1", "v0.58.0", false},
		{"v0.58.1-0.20260101000000-aaaaaaaaaaaa", "v0.58.0", true},
		{"v0.0.0-20260101000000-aaaaaaaaaaaa", "v0.58.0", false},
		{"v0.58.0", "v0.58.0-rc.1", true},
		{"latest", "v0.58.0", true},
	} {
		if got := newer(c.a, c.b); got != c.want {
			t.Errorf("newer(%s, %s) = %v", c.a, c.b, got)
		}
	}
}
