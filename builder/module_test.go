package builder

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	lorica "lorica.dev/lorica"
	"lorica.dev/lorica/catalog"
)

// A registry is a Go module proxy in a folder, with the module cache of the test
// beside it, which starts empty.
type registry struct {
	dir, cache string
}

// newRegistry makes the environment of the test that of a user who has downloaded
// nothing and whose proxy is the registry. The image's own modules are served
// from the module cache of this machine.
func newRegistry(t *testing.T) *registry {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	r := &registry{dir: t.TempDir(), cache: t.TempDir()}
	t.Setenv("GOMODCACHE", r.cache)
	t.Setenv("GOPROXY", "file://"+r.dir+",file://"+strings.TrimSpace(string(out))+"/cache/download")
	t.Setenv("GOSUMDB", "off")
	t.Cleanup(func() {
		// The go command makes what it caches read-only.
		if out, err := exec.Command("go", "clean", "-modcache").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return r
}

// publish puts a version of a module into the registry.
func (r *registry) publish(t *testing.T, module, version, gomod string, files map[string]string) {
	t.Helper()
	files["go.mod"] = gomod
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, text := range files {
		f, err := w.Create(module + "@" + version + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(r.dir, module, "@v", version)
	if err := os.MkdirAll(filepath.Dir(base), 0o755); err != nil {
		t.Fatal(err)
	}
	for suffix, data := range map[string][]byte{
		".info": []byte(fmt.Sprintf(`{"Version":%q,"Time":"2026-01-01T00:00:00Z"}`, version)),
		".mod":  []byte(gomod),
		".zip":  b.Bytes(),
	} {
		if err := os.WriteFile(base+suffix, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// sums returns the go.sum lines of a version, and empties the cache again.
func (r *registry) sums(t *testing.T, module, version string) string {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", module+"@"+version)
	cmd.Dir = t.TempDir()
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var got struct{ Sum, GoModSum string }
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "clean", "-modcache").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return fmt.Sprintf("%s %s %s\n%s %s/go.mod %s\n", module, version, got.Sum, module, version, got.GoModSum)
}

// dependent is a handler module that imports example.com/dep.
func dependent(version, sum string) map[string]string {
	return shop(map[string]string{
		"shop/go.mod": "module example.com/shop\n\ngo 1.26\n\nrequire example.com/dep " + version + "\n",
		"shop/go.sum": sum,
		"shop/shop.go": `package shop

import (
	"net/http"

	"example.com/dep"
)

func New() (http.Handler, error) { return dep.Handler(), nil }
`,
	})
}

const depSource = `package dep

import "net/http"

func Handler() http.Handler { return http.NewServeMux() }
`

func TestMissingModulesAreDownloadedAndThatIsSaid(t *testing.T) {
	r := newRegistry(t)
	r.publish(t, "example.com/dep", "v1.0.0", "module example.com/dep\n\ngo 1.26\n", map[string]string{"dep.go": depSource})
	dir := tree(t, dependent("v1.0.0", r.sums(t, "example.com/dep", "v1.0.0")))

	count := func(s *Store) (img *Image, downloads int) {
		t.Helper()
		img, err := s.Build(t.Context(), plan(t, smallNeeds, handlerIn(dir)), func(step Step) {
			if step.Name == StepDownload {
				downloads++
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return img, downloads
	}
	first, downloads := count(store(t))
	if downloads == 0 {
		t.Error("nobody said that modules were downloaded")
	}
	if !slices.Contains(first.Packages, "example.com/dep") {
		t.Errorf("the dependency is not linked: %v", first.Packages)
	}
	t.Setenv("GOPROXY", "off")
	again, downloads := count(store(t))
	if downloads != 0 || again.Digest != first.Digest {
		t.Errorf("from the cache: %d downloads, %s after %s", downloads, again.Digest, first.Digest)
	}
}

// golang.org/x/crypto, which is pinned, requires a later golang.org/x/net than the
// application does. That is the image's doing, so the image settles it.
func TestWhatThePinsRequireIsRaised(t *testing.T) {
	r := newRegistry(t)
	for _, v := range []string{"v0.1.0", "v0.60.0"} {
		r.publish(t, "golang.org/x/net", v, "module golang.org/x/net\n\ngo 1.26\n", map[string]string{"mux/mux.go": strings.Replace(depSource, "package dep", "package mux", 1)})
	}
	files := dependent("", r.sums(t, "golang.org/x/net", "v0.1.0"))
	files["shop/go.mod"] = "module example.com/shop\n\ngo 1.26\n\nrequire golang.org/x/net v0.1.0\n"
	files["shop/shop.go"] = strings.NewReplacer("example.com/dep", "golang.org/x/net/mux", "dep.", "mux.").Replace(files["shop/shop.go"])
	downloads := 0
	img, err := store(t).Build(t.Context(), plan(t, smallNeeds, handlerIn(tree(t, files))), func(step Step) {
		if step.Name == StepDownload {
			downloads++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if downloads == 0 || !slices.Contains(img.Packages, "golang.org/x/net/mux") {
		t.Errorf("%d downloads, packages %v", downloads, img.Packages)
	}
}

func TestWhatModulesBringIsChecked(t *testing.T) {
	r := newRegistry(t)
	r.publish(t, "example.com/dep", "v1.0.0", "module example.com/dep\n\ngo 1.26\n", map[string]string{"dep.go": depSource})
	r.publish(t, "example.com/dep", "v1.1.0", "module example.com/dep\n\ngo 1.26\n\nrequire golang.org/x/crypto v0.99.0\n", map[string]string{"dep.go": depSource})
	r.publish(t, "golang.org/x/crypto", "v0.99.0", "module golang.org/x/crypto\n\ngo 1.26\n", map[string]string{"crypto.go": "package crypto\n"})
	sum := r.sums(t, "example.com/dep", "v1.0.0")
	other := strings.Replace(sum, "h1:", "h1:AAAA", 1)[:len(sum)]
	newer := r.sums(t, "example.com/dep", "v1.1.0")

	s := store(t)
	before := snapshot(t, s.dir)
	for _, c := range []struct{ name, version, sum, proxy, want string }{
		{"no checksum", "v1.0.0", "", "", `go.sum lacks checksums of what the module needs: run "go mod tidy" in DIR/shop (DIR/shop/shop.go:6:2: missing go.sum entry`},
		{"another checksum", "v1.0.0", strings.Replace(other, "\n", "=\n", 1), "", "cannot be downloaded: verifying example.com/dep@v1.0.0: checksum mismatch"},
		{"a dependency that raises what is pinned", "v1.1.0", newer, "", "module example.com/shop requires golang.org/x/crypto v0.99.0; images are built with v0."},
		{"no network", "v1.0.0", sum, "off", "modules are missing and cannot be downloaded: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			if out, err := exec.Command("go", "clean", "-modcache").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if c.proxy != "" {
				t.Setenv("GOPROXY", c.proxy)
			}
			dir := tree(t, dependent(c.version, c.sum))
			img, err := s.Build(t.Context(), plan(t, smallNeeds, handlerIn(dir)), nil)
			if err == nil {
				t.Fatalf("built %v", img)
			}
			if got := strings.ReplaceAll(err.Error(), dir, "DIR"); !strings.Contains(got, c.want) {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
	if after := snapshot(t, s.dir); after != before {
		t.Errorf("the store changed from\n%sto\n%s", before, after)
	}
}

// What only images with a network of their own are linked with does not bind the
// applications of others.
func TestPinsAreOfModules(t *testing.T) {
	for id, want := range map[string]bool{"netstack/socket": false, "netstack/direct": true} {
		_, list, err := pins(lorica.Source(), []*catalog.Module{{ID: "unikernel"}, {ID: id}})
		if err != nil {
			t.Fatal(err)
		}
		got := slices.ContainsFunc(list, func(m moduleVersion) bool { return m.Path == "gvisor.dev/gvisor" })
		if got != want || !slices.ContainsFunc(list, func(m moduleVersion) bool { return m.Path == "golang.org/x/sys" }) {
			t.Errorf("%s: %v", id, list)
		}
	}
}
