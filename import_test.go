package lorica_test

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// The law of imports is the table in docs/architecture.md; what a folder may use
// from outside the repository is below. Files are parsed rather than listed by
// the go command: its test cache would hide a change.

const ourModule = "lorica.dev/lorica"

// imageHalf is linked into what runs. The rest is the host and the language.
var imageHalf = []string{"pep", "netstack", "app", "unikernel", "kernel", "virtio"}

// outside lists what folders may import from other modules, and why. Subfolders
// are covered. What is not listed is banned.
var outside = []struct {
	module  string
	folders []string
	reason  string
}{
	{"github.com/cedar-policy/cedar-go", []string{"policy", "compiler", "test/conform"}, "parser, validator and oracle; images run compiled policies"},
	{"go.yaml.in/yaml/v3", []string{"policy", "catalog", "internal/try"}, "documents are read there; everything else takes Go values"},
	{"github.com/spf13/cobra", []string{"cmd"}, "the command line is a skin"},
	{"golang.org/x/term", []string{"cmd"}, "passwords are asked for without echo"},
	{"golang.org/x/crypto", []string{"pep/authn/basic", "cmd", "test/bench"}, "argon2id and bcrypt, to verify and to make verifiers"},
	{"golang.org/x/sys", []string{"tender", "unikernel/linux", "run", "cmd", "builder", "test/redteam", "test/kernels", "test/bench/guests", "test/boot", "test/wire"}, "system calls; images make theirs in one package"},
	{"gvisor.dev/gvisor", []string{"netstack/direct", "netstack/ip6", "tender/usernet"}, "the TCP stack of an image that has one, and of its tender"},
	{"github.com/santhosh-tekuri/jsonschema/v6", []string{"policy"}, "a second opinion on the schema of documents"},
	{"github.com/rogpeppe/go-internal", []string{"cmd", "test"}, "testscript"},
}

// inTestsOnly are those of them that nothing is built with.
var inTestsOnly = []string{"github.com/santhosh-tekuri/jsonschema/v6", "github.com/rogpeppe/go-internal"}

// banned lists packages of the standard library that folders must not use.
var banned = []struct {
	pkg     string
	except  []string // folders that may
	only    []string // folders that the ban is for; empty: everywhere
	reason  string
	inTests bool
}{
	{"reflect", nil, []string{"abi"}, "decoders are written out, and small", false},
	{"encoding/json", nil, []string{"abi"}, "decoders are written out, and small", false},
	{"encoding/gob", nil, nil, "nothing here may decode into any type it is told", true},
	{"unsafe", []string{"unikernel/linux", "kernel", "virtio", "tender", "test/redteam", "run/selftest/app"}, nil, "memory and system calls have few places", true},
	{"plugin", nil, nil, "images are static", true},
	{"os/exec", nil, append([]string{"abi", "api", "policy", "catalog", "compiler", "solver"}, imageHalf...), "the language is pure, and images start nothing", false},
	{"time/tzdata", nil, nil, "enforcement counts in UTC", true},
}

// A law is the table of docs/architecture.md: folder to the folders it may import.
type law map[string][]string

var (
	row  = regexp.MustCompile("(?m)^\\| `([^`]+)`[^|]*\\|[^|]*\\|([^|]*)\\|$")
	word = regexp.MustCompile("`([^`]+)`")
)

func parseLaw(doc string) (law, error) {
	l := law{}
	rows := row.FindAllStringSubmatch(doc, -1)
	var all []string
	for _, r := range rows {
		folder := strings.TrimSuffix(r[1], "/")
		if _, twice := l[folder]; twice {
			return nil, fmt.Errorf("two rows for %s", folder)
		}
		l[folder] = nil
		all = append(all, folder)
	}
	for _, r := range rows {
		folder, may := strings.TrimSuffix(r[1], "/"), strings.TrimSpace(r[2])
		switch {
		case may == "nothing":
		case may == "all of the host and the language":
			l[folder] = slices.DeleteFunc(slices.Clone(all), func(f string) bool { return slices.Contains(imageHalf, f) || within(f, "test") })
		case strings.HasPrefix(may, "both halves"):
			l[folder] = all
		case word.MatchString(may):
			for _, w := range word.FindAllStringSubmatch(may, -1) {
				if _, known := l[w[1]]; !known {
					return nil, fmt.Errorf("%s may import %s, which has no row", folder, w[1])
				}
				l[folder] = append(l[folder], w[1])
			}
		default:
			return nil, fmt.Errorf("%s may import %q: not understood", folder, may)
		}
	}
	return l, nil
}

// within reports whether dir is folder or below it.
func within(dir, folder string) bool { return dir == folder || strings.HasPrefix(dir, folder+"/") }

// home returns the row that dir belongs to.
func (l law) home(dir string) (string, bool) {
	best, ok := "", false
	for folder := range l {
		if within(dir, folder) && (!ok || len(folder) > len(best)) {
			best, ok = folder, true
		}
	}
	return best, ok
}

// violations checks every Go file of the tree.
func (l law) violations(tree fs.FS) (list []string, files int, err error) {
	err = walkGo(tree, func(name string, src []byte) error {
		files++
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir := path.Dir(name)
		home, ok := l.home(dir)
		if !ok {
			list = append(list, name+": the folder is not in the table of docs/architecture.md")
		}
		for _, spec := range f.Imports {
			pkg, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if why := l.judge(home, dir, pkg, strings.HasSuffix(name, "_test.go")); why != "" {
				list = append(list, fmt.Sprintf("%s imports %s: %s", name, pkg, why))
			}
		}
		return nil
	})
	return list, files, err
}

// judge returns why a file in dir must not import pkg, or "".
func (l law) judge(home, dir, pkg string, test bool) string {
	if to, ours := strings.CutPrefix(pkg, ourModule); ours && (to == "" || to[0] == '/') {
		to = strings.TrimPrefix(to, "/")
		if to == "" {
			to = "."
		}
		target, _ := l.home(to)
		if target == home || slices.ContainsFunc(l[home], func(f string) bool { return within(to, f) }) {
			return ""
		}
		return fmt.Sprintf("%s may import %v of Lorica", home, l[home])
	}
	if first, _, _ := strings.Cut(pkg, "/"); strings.Contains(first, ".") {
		for _, o := range outside {
			if within(pkg, o.module) {
				if slices.Contains(inTestsOnly, o.module) && !test {
					return "only tests may"
				}
				if slices.ContainsFunc(o.folders, func(f string) bool { return within(dir, f) }) {
					return ""
				}
				return fmt.Sprintf("only %v may (%s)", o.folders, o.reason)
			}
		}
		return "the module is in no allow-list"
	}
	if pkg == "C" {
		return "images and tools are built without cgo"
	}
	for _, b := range banned {
		covered := len(b.only) == 0 || slices.ContainsFunc(b.only, func(f string) bool { return within(dir, f) })
		excepted := slices.ContainsFunc(b.except, func(f string) bool { return within(dir, f) })
		if pkg == b.pkg && covered && !excepted && (b.inTests || !test) {
			return b.reason
		}
	}
	return ""
}

// walkGo calls f for every Go file of the module: not for hidden folders, test
// data, or modules nested in it.
func walkGo(tree fs.FS, f func(name string, src []byte) error) error {
	return fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			_, nested := fs.Stat(tree, path.Join(name, "go.mod"))
			if name != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || nested == nil) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		src, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		return f(name, src)
	})
}

func readLaw(t *testing.T) law {
	t.Helper()
	doc, err := os.ReadFile("docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	l, err := parseLaw(string(doc))
	if err != nil {
		t.Fatalf("docs/architecture.md: %v", err)
	}
	return l
}

func TestTheTreeKeepsTheLawOfImports(t *testing.T) {
	l := readLaw(t)
	list, files, err := l.violations(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	if files < 50 {
		t.Fatalf("only %d files were checked", files)
	}
	for _, v := range list {
		t.Error(v)
	}
}

func TestEveryRowOfTheLawIsAFolder(t *testing.T) {
	for folder := range readLaw(t) {
		if info, err := os.Stat(folder); err != nil || !info.IsDir() {
			t.Errorf("docs/architecture.md has a row for %s, which is not a folder", folder)
		}
	}
}

func TestTheHalvesMeetOnlyInTheContract(t *testing.T) {
	for folder, may := range readLaw(t) {
		image := slices.Contains(imageHalf, folder)
		for _, to := range may {
			if folder != "test/conform" && folder != "test/bench/guests" && to != "abi" && image != slices.Contains(imageHalf, to) {
				t.Errorf("the table lets %s import %s", folder, to)
			}
		}
	}
}

func TestViolationsAreFound(t *testing.T) {
	l := readLaw(t)
	for _, c := range []struct {
		name, file, src string
		want            bool
	}{
		{"the contract imports itself", "abi/flow/x.go", `import "lorica.dev/lorica/abi"`, false},
		{"a module imports its contract", "pep/firewall/x.go", `import "lorica.dev/lorica/abi/flow"`, false},
		{"the contract imports a module", "abi/x.go", `import "lorica.dev/lorica/pep"`, true},
		{"the image imports the language", "pep/authz/x.go", `import "lorica.dev/lorica/policy"`, true},
		{"a name that only begins alike", "pep/x.go", `import "lorica.dev/lorica/abix"`, true},
		{"the host imports the image", "tender/process/x.go", `import "lorica.dev/lorica/unikernel/linux"`, true},
		{"the command imports the image", "cmd/lorica/x.go", `import "lorica.dev/lorica/pep/authn"`, true},
		{"the command imports the host", "cmd/lorica/x.go", `import "lorica.dev/lorica/run"`, false},
		{"a test is held to it too", "tender/x_test.go", `import "lorica.dev/lorica/pep"`, true},
		{"conformance imports both", "test/conform/x_test.go", "import (\n\"lorica.dev/lorica/pep/authz\"\n\"lorica.dev/lorica/policy\"\n)", false},
		{"an aliased import", "abi/x.go", `import j "encoding/json"`, true},
		{"a blank import", "abi/x.go", `import _ "reflect"`, true},
		{"reflect in a test of the contract", "abi/x_test.go", `import "reflect"`, false},
		{"unsafe out of place", "pep/authz/x.go", `import "unsafe"`, true},
		{"unsafe in its place", "unikernel/linux/x.go", `import "unsafe"`, false},
		{"an image that starts processes", "app/static/x.go", `import "os/exec"`, true},
		{"cgo", "tender/x.go", `import "C"`, true},
		{"cedar in an image", "pep/authz/x.go", `import "github.com/cedar-policy/cedar-go"`, true},
		{"cedar in the compiler", "compiler/x.go", `import "github.com/cedar-policy/cedar-go/types"`, false},
		{"a dependency of tests in a test", "policy/x_test.go", `import "github.com/santhosh-tekuri/jsonschema/v6"`, false},
		{"a dependency of tests", "policy/x.go", `import "github.com/santhosh-tekuri/jsonschema/v6"`, true},
		{"an unknown module", "run/x.go", `import "github.com/sirupsen/logrus"`, true},
		{"a folder without a row", "helpers/x.go", ``, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			list, files, err := l.violations(fstest.MapFS{c.file: {Data: []byte("package x\n" + c.src)}})
			if err != nil || files != 1 {
				t.Fatalf("%d files, %v", files, err)
			}
			if (len(list) > 0) != c.want {
				t.Errorf("got %q", list)
			}
		})
	}
}
