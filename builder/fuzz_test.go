package builder

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"go/version"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	lorica "lorica.dev/lorica"
	"lorica.dev/lorica/api"
)

// A manifest in the store is about the image in whose folder it lies, or an error;
// what is read of it can be written and read again.
func FuzzManifest(f *testing.F) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	whole, err := json.Marshal(Image{Digest: digest, Plan: "plan:x", Target: "process", Modules: []Module{{ID: "pep/audit", Version: "1"}}, Packages: []string{"runtime"}, Size: 7, GoVersion: "go1.26"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(digest, whole)
	f.Add(digest, append(bytes.Clone(whole), " {}"...))
	f.Add(digest, bytes.Replace(whole, []byte(`"syscalls":null`), []byte(`"syscalls":[{"name":"read","when":["arg0 == 1"]}]`), 1))
	f.Add(digest, bytes.Replace(whole, []byte("0a"), []byte("0b"), 1))
	f.Add(strings.ToUpper(digest), whole)
	f.Add("sha256:../../etc", whole)
	s, err := OpenStore(filepath.Join(f.TempDir(), "store"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, digest string, data []byte) {
		name, err := digestName(digest)
		if err != nil {
			if img, err := s.Open(digest); err == nil || img != nil {
				t.Fatalf("%q is opened", digest)
			}
			return
		}
		if len(name) != 64 || filepath.Base(name) != name {
			t.Fatalf("%q names the folder %q", digest, name)
		}
		img, err := readManifest(data)
		if err != nil {
			return
		}
		if !json.Valid(data) {
			t.Fatalf("%q is read", data)
		}
		again, err := json.Marshal(img)
		if err != nil {
			t.Fatalf("%+v: %v", img, err)
		}
		if twice, err := readManifest(again); err != nil || !reflect.DeepEqual(twice, img) {
			t.Fatalf("%+v became %+v (%v)", img, twice, err)
		}
		dir := s.path("images", name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		if err := os.WriteFile(filepath.Join(dir, "manifest.json"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := s.describe(digest)
		if (err == nil) != (img.Digest == digest) {
			t.Fatalf("%q in the folder of %q: %+v, %v", img.Digest, digest, got, err)
		}
	})
}

// The go.mod of an application becomes lines of the image's, each of which says one
// thing: nothing that is pinned is replaced, raised or required twice.
func FuzzModule(f *testing.F) {
	source := lorica.Source()
	_, pinned, err := pins(source, nil)
	if err != nil {
		f.Fatal(err)
	}
	add := func(m string, sum string) { f.Add([]byte(m), sum) }
	require := func(path, version string) string {
		return fmt.Sprintf(`{"Module":{"Path":"example.com/shop"},"Go":"1.26","Require":[{"Path":%q,"Version":%q}]}`, path, version)
	}
	p := pinned[0]
	add(require("example.com/a", "v1.2.3"), "example.com/a v1.2.3 h1:x=\n")
	add(require(p.Path, "v0.0.1"), p.Path+" v0.0.1 h1:x=\n")
	add(require(p.Path, p.Version), p.Path+" "+p.Version+" h1:x=\n"+p.Path+" "+p.Version+"/go.mod h1:x=")
	add(require(p.Path, "v99.0.0"), "")
	add(require("x", "v1\nreplace y => z"), "")
	add(require("a//b", "v1"), "")
	add(fmt.Sprintf(`{"Module":{"Path":"example.com/shop"},"Replace":[{"Old":{"Path":"a.b/c"},"New":{"Path":"d.e/f","Version":"v1.0.0"}},{"Old":{"Path":%q},"New":{"Path":"d.e/f","Version":"v1.0.0"}}]}`, p.Path), "")
	add(`{"Module":{"Path":"lorica.dev/lorica"}}`, "")
	own, err := fs.ReadFile(source, lorica.GoSum)
	if err != nil {
		f.Fatal(err)
	}
	line := regexp.MustCompile(`^(module \S+|go \S+|require \(|\t\S+ v?\S+|\)|replace \S+( \S+)? => \S+( \S+)?|)$`)
	f.Fuzz(func(t *testing.T, mod []byte, sum string) {
		a := &application{pkg: "x", sum: []byte(sum)}
		if json.Unmarshal(mod, &a.module) != nil || a.checkModule() != nil {
			return
		}
		text, sums, err := buildModule(source, nil, (&Plan{app: a}).parts())
		if err != nil {
			return
		}
		// The pins, the image's source and the application; its own requirements.
		required := map[string]int{}
		for l := range strings.Lines(string(text)) {
			l = strings.TrimSuffix(l, "\n")
			if !line.MatchString(l) || strings.Contains(l, "//") || strings.Contains(l, "/*") {
				t.Fatalf("the line %q", l)
			}
			f := strings.Fields(l)
			switch {
			case strings.HasPrefix(l, "go ") && !version.IsValid("go"+f[1]):
				t.Fatalf("the line %q", l)
			case strings.HasPrefix(l, "\t"):
				required[f[0]]++
			case strings.HasPrefix(l, "replace "):
				for _, p := range pinned {
					if f[1] == p.Path {
						t.Fatalf("the line %q replaces what is pinned", l)
					}
				}
			}
		}
		for _, p := range pinned {
			if n := required[p.Path]; n != 1 || !strings.Contains(string(text), "\t"+p.Path+" "+p.Version+"\n") {
				t.Fatalf("%s %s is required %d times:\n%s", p.Path, p.Version, n, text)
			}
			for l := range strings.Lines(string(sums)) {
				rest, of := strings.CutPrefix(l, p.Path+" "+p.Version)
				if of && (rest[0] == ' ' || strings.HasPrefix(rest, "/go.mod ")) && !bytes.Contains(own, []byte(l)) {
					t.Fatalf("a checksum of the application's: %q", l)
				}
			}
		}
	})
}

// Whatever the go command says, the user gets one line of it, in their own terms.
func FuzzSourceError(f *testing.F) {
	for _, s := range []string{
		"app/shop.go:5:43: cannot use 7 (constant of type int) as http.Handler value in return statement\n",
		"./main.go:9:2: cannot use app.New (value of type func() http.Handler) as func() (http.Handler, error) value in argument to handler.New\n",
		"# example.com/shop\n/tmp/build/app/x.go:1:1: undefined: app.New\n",
		"main.go:7:1: undefined: app.New", "go: downloading x v1\n", "app/a.go:1:2: cannot find module providing package example.com/shop/db: import lookup disabled by -mod=readonly",
		"", "\xff:\n:1:2: \n", "go:\n", "# example.com/shop\nwrite $WORK/b001/_pkg_.a: no space left on device\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, output string) {
		b := &build{dir: "/tmp/build", plan: &Plan{app: &application{pos: api.Pos{File: "w.yaml", Line: 1}, dir: "./shop", pkg: "example.com/shop", function: "New"}}}
		b.plan.app.module.Module.Path = "example.com/shop"
		e, ok := b.sourceError(&goError{output: output}).(*SourceError)
		if !ok || strings.TrimSpace(e.Message) == "" || strings.Contains(strings.TrimSpace(e.Message), "\n") {
			t.Fatalf("%q gives %+v", output, e)
		}
		if strings.Contains(output, "/tmp/build/app/") && !strings.Contains(e.Output, "./shop/") {
			t.Fatalf("%q gives %+v", output, e)
		}
	})
}

// Of a file of certificates only certificates become part of an image.
func FuzzCertificates(f *testing.F) {
	ca, err := os.ReadFile("testdata/ca.pem")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ca)
	f.Add(append(bytes.Clone(ca), ca...))
	f.Add(append([]byte("secret words\n"), ca...))
	f.Add(append(bytes.Clone(ca), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")})...))
	f.Add(bytes.Replace(ca, []byte("CERTIFICATE-----\n"), []byte("CERTIFICATE-----\nNote: secret\n\n"), 1))
	f.Add(bytes.ReplaceAll(ca, []byte("CERTIFICATE"), []byte("PRIVATE KEY")))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		text, err := certificates(b)
		if err != nil {
			if text != "" {
				t.Fatalf("%q and %v", text, err)
			}
			return
		}
		again, err := certificates([]byte(text))
		if err != nil || again != text {
			t.Fatalf("%q became %q (%v)", text, again, err)
		}
		for rest := []byte(text); len(rest) > 0; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
				t.Fatalf("%q holds more than certificates", text)
			}
		}
	})
}
