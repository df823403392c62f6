package lorica_test

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"testing"

	lorica "lorica.dev/lorica"
)

// imageFolders are what images are made of.
var imageFolders = append([]string{"abi"}, imageHalf...)

func TestTheImageSideIsEmbeddedWhole(t *testing.T) {
	files, manifests := 0, 0
	for _, folder := range imageFolders {
		err := fs.WalkDir(os.DirFS("."), folder, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !lorica.InImage(name) && path.Base(name) != "module.yaml" {
				return err
			}
			disk, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			embedded, err := fs.ReadFile(lorica.Source(), name)
			if err != nil || !bytes.Equal(disk, embedded) {
				t.Errorf("%s is not embedded as it is: %v", name, err)
			}
			if lorica.InImage(name) {
				files++
			} else {
				manifests++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 20 || manifests < 5 {
		t.Errorf("only %d files and %d manifests were compared", files, manifests)
	}
}

func TestWhatIsCompiledIntoImages(t *testing.T) {
	for _, c := range []struct {
		name string
		want bool
	}{
		{"pep/firewall/firewall.go", true},
		{"unikernel/main.go", true},
		{"kernel/entry_amd64.s", true},
		{"pep/firewall/firewall_test.go", false},
		{"pep/firewall/module.yaml", false},
		{"pep/firewall/testdata/x.go", false},
		{"testdata/x.go", false},
		{"image/x.go", false},
		{"image/go.mod.txt", false},
		{"pep/README.md", false},
	} {
		if got := lorica.InImage(c.name); got != c.want {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
}

// required reads the requirements of a go.mod.
func required(t *testing.T, data []byte) (goVersion string, versions map[string]string) {
	t.Helper()
	versions = map[string]string{}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(strings.TrimPrefix(line, "require "))
		switch {
		case len(f) == 2 && f[0] == "go":
			goVersion = f[1]
		case len(f) >= 2 && strings.HasPrefix(f[1], "v"):
			versions[f[0]] = f[1]
		}
	}
	return goVersion, versions
}

func TestImagesAreBuiltWithTheVersionsThatAreTestedHere(t *testing.T) {
	read := func(name string) []byte {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	hereGo, here := required(t, read("go.mod"))
	imageGo, image := required(t, read(lorica.GoMod))
	if imageGo != hereGo {
		t.Errorf("%s says go %s, go.mod says go %s", lorica.GoMod, imageGo, hereGo)
	}
	if len(image) == 0 {
		t.Errorf("%s requires nothing", lorica.GoMod)
	}
	sum, imageSum := string(read("go.sum")), string(read(lorica.GoSum))
	for module, version := range image {
		if here[module] != version {
			t.Errorf("%s pins %s %s; go.mod has %q", lorica.GoMod, module, version, here[module])
		}
		for _, line := range []string{module + " " + version + " h1:", module + " " + version + "/go.mod h1:"} {
			if !strings.Contains(imageSum, line) {
				t.Errorf("%s lacks %q", lorica.GoSum, line)
			}
		}
	}
	for line := range strings.Lines(imageSum) {
		if !strings.Contains(sum, line) {
			t.Errorf("%s has a line that go.sum lacks: %s", lorica.GoSum, line)
		}
		if f := strings.Fields(line); len(f) != 3 || image[f[0]] == "" {
			t.Errorf("%s has a line for nothing: %s", lorica.GoSum, line)
		}
	}
}

func TestImagesImportOnlyWhatIsPinned(t *testing.T) {
	mod, err := fs.ReadFile(lorica.Source(), lorica.GoMod)
	if err != nil {
		t.Fatal(err)
	}
	_, pinned := required(t, mod)
	err = walkGo(lorica.Source(), func(name string, src []byte) error {
		if !lorica.InImage(name) {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			pkg, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			first, _, _ := strings.Cut(pkg, "/")
			known := !strings.Contains(first, ".") || within(pkg, ourModule)
			for module := range pinned {
				known = known || within(pkg, module)
			}
			if !known {
				t.Errorf("%s imports %s, which %s does not pin", name, pkg, lorica.GoMod)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
