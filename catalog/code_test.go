package catalog

import (
	"go/ast"
	goparser "go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const ours = "lorica.dev/lorica/"

// A folder is what the files of one package say, tests aside.
type folder struct {
	imports []string
	exports []string          // functions
	names   map[string]string // constants called Name, and what they are
}

// source reads packages of the tree, each once.
type source map[string]*folder

func (s source) read(t *testing.T, dir string) *folder {
	t.Helper()
	if f := s[dir]; f != nil {
		return f
	}
	f := &folder{names: map[string]string{}}
	s[dir] = f
	files, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := goparser.ParseFile(token.NewFileSet(), name, nil, goparser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range file.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			f.imports = append(f.imports, path)
		}
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.IsExported() {
					f.exports = append(f.exports, d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					v, ok := spec.(*ast.ValueSpec)
					if !ok || len(v.Values) != len(v.Names) {
						continue
					}
					for i, n := range v.Names {
						switch x := v.Values[i].(type) {
						case *ast.BasicLit:
							f.names[n.Name], _ = strconv.Unquote(x.Value)
						case *ast.SelectorExpr:
							f.names[n.Name] = "." + x.Sel.Name // abi.StageFilter
						}
					}
				}
			}
		}
	}
	return f
}

// reached returns what a module imports: own, what its folder and those below it do, and
// others, the modules that these and what they share lead to.
func (s source) reached(t *testing.T, c *Catalog, of *Module) (own, others map[string]bool) {
	t.Helper()
	own, others = map[string]bool{}, map[string]bool{}
	seen := map[string]bool{}
	for queue := []string{of.ID}; len(queue) > 0; {
		dir := queue[0]
		queue = queue[1:]
		for _, path := range s.read(t, dir).imports {
			if dir == of.ID || strings.HasPrefix(dir, of.ID+"/") {
				own[path] = true
			}
			if seen[path] {
				continue
			}
			seen[path] = true
			within, local := strings.CutPrefix(path, ours)
			switch {
			case local && c.Module(within) != nil:
				others[within] = true
			case local:
				queue = append(queue, within)
			}
		}
	}
	return own, others
}

func tree(t *testing.T) *Catalog {
	t.Helper()
	c, err := Load(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What a module imports of another is compiled into the same image, so it must require
// it; an image without it would not build.
func TestAModuleRequiresWhatItImports(t *testing.T) {
	c, s, seen := tree(t), source{}, 0
	for _, m := range c.Modules {
		_, others := s.reached(t, c, m)
		for o := range others {
			seen++
			if !leads(c, m, o, map[*Module]bool{}) {
				t.Errorf("%s imports %s, and nothing that it requires always brings that", m.ID, o)
			}
		}
	}
	if seen < 5 {
		t.Errorf("%d imports of one module by another: the test sees too little", seen)
	}
}

// leads reports that whatever meets some requirement of m is a module, or leads to it.
func leads(c *Catalog, m *Module, id string, on map[*Module]bool) bool {
	if on[m] {
		return false
	}
	on[m] = true
	defer delete(on, m)
	return slices.ContainsFunc(m.Requires, func(clause Clause) bool {
		meeting := c.Meeting(clause)
		return len(meeting) > 0 && !slices.ContainsFunc(meeting, func(p *Module) bool { return p.ID != id && !leads(c, p, id, on) })
	})
}

// parsers are packages that read what others send, and the inputs that a module which
// imports them must name one of. What has no inputs in the table needs any.
var parsers = map[string][]string{
	"crypto/tls":                      {"tls/client", "tls/server"},
	"crypto/x509":                     {"tls/client", "tls/server"},
	"encoding/base64":                 {"basic"},
	"net/http/httputil":               {"response"},
	ours + "abi/strictjson":           {"jwt", "claims"},
	ours + "abi/jwt":                  {"jwt"},
	ours + "abi/mtls":                 {"certificate"},
	ours + "unikernel/http1":          {"http/1.1"},
	ours + "pep/delivery":             {"tls/client", "response"},
	ours + "kernel":                   nil,
	ours + "virtio":                   nil,
	"gvisor.dev/gvisor/pkg/tcpip":     {"packets"},
	"encoding/json":                   nil,
	"encoding/xml":                    nil,
	"encoding/asn1":                   nil,
	"encoding/pem":                    nil,
	"encoding/csv":                    nil,
	"compress/gzip":                   nil,
	"compress/flate":                  nil,
	"mime/multipart":                  nil,
	"net/mail":                        nil,
	"net/textproto":                   nil,
	"golang.org/x/net/dns/dnsmessage": nil,
}

// given is what a module gets its hands on by the module that it imports, which names it.
var given = map[string][]string{
	"unikernel/microvm": {ours + "kernel", ours + "virtio"},
	"netstack/card":     {ours + "kernel", ours + "virtio"},
	"virtio":            {ours + "kernel"},
}

// What reads what others send says so, and what says so does.
func TestInputsAreWhatTheCodeReads(t *testing.T) {
	c, s := tree(t), source{}
	named := map[string]int{}
	for _, m := range c.Modules {
		own, _ := s.reached(t, c, m)
		for pkg, inputs := range parsers {
			if !own[pkg] || slices.Contains(given[m.ID], pkg) {
				continue
			}
			ok := inputs == nil && len(m.Inputs) > 0 || slices.ContainsFunc(m.Inputs, func(in string) bool { return slices.Contains(inputs, in) })
			if !ok {
				t.Errorf("%s imports %s, and its inputs are %v: want one of %v", m.ID, pkg, m.Inputs, inputs)
			}
		}
		for _, in := range m.Inputs {
			named[in]++
			reads, known := false, false
			for pkg, inputs := range parsers {
				known = known || slices.Contains(inputs, in)
				reads = reads || slices.Contains(inputs, in) && own[pkg]
			}
			if known && !reads {
				t.Errorf("%s names the input %s, and imports nothing that reads it", m.ID, in)
			}
		}
	}
	for _, in := range []string{"http/1.1", "http/2", "control", "tls/server", "packets", "jwt"} {
		if named[in] == 0 {
			t.Errorf("no module reads %s: the test sees too little", in)
		}
	}
}

func TestInputsAreInOrder(t *testing.T) {
	if !slices.IsSortedFunc(Inputs(), func(a, b Input) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("they are not sorted")
	}
	for _, in := range Inputs() {
		if in.Points() < inputPoints/4 || in.Points() > 4*inputPoints || in.Summary == "" {
			t.Errorf("%+v has %d points", in, in.Points())
		}
	}
}

// A section belongs to a package of abi that the module decodes it with.
func TestSectionsAreOfTheContract(t *testing.T) {
	c, s := tree(t), source{}
	stages := s.read(t, "abi").names
	taken := map[string]string{}
	for _, m := range c.Modules {
		if m.Section == "" {
			continue
		}
		if other := taken[m.Section]; other != "" {
			t.Errorf("%s and %s take the section %s", other, m.ID, m.Section)
		}
		taken[m.Section] = m.ID
		own, _ := s.reached(t, c, m)
		found := false
		for pkg := range own {
			dir, local := strings.CutPrefix(pkg, ours)
			if !local || !strings.HasPrefix(dir, "abi/") {
				continue
			}
			for _, name := range s.read(t, dir).names {
				if stage, of := strings.CutPrefix(name, "."); of {
					name = stages[stage]
				}
				found = found || name == m.Section
			}
		}
		if !found {
			t.Errorf("%s takes the section %s, and imports no package of abi with that name", m.ID, m.Section)
		}
	}
	if len(taken) < 10 {
		t.Errorf("%d sections: the test sees too little", len(taken))
	}
}

// The generated main calls New of what is not linked through others.
func TestModulesHaveConstructors(t *testing.T) {
	c, s := tree(t), source{}
	for _, m := range c.Modules {
		if m.Class == ClassMachine || m.Class == ClassCore {
			continue
		}
		if !slices.Contains(s.read(t, m.ID).exports, "New") {
			t.Errorf("%s has no function New", m.ID)
		}
	}
}

// The tender gives a machine the devices that manifests name, and knows no others.
func TestDevicesAreOfTheTender(t *testing.T) {
	c, s := tree(t), source{}
	known := map[string]bool{}
	for name, word := range s.read(t, "tender/qemu").names {
		if strings.HasPrefix(name, "Device") {
			known[word] = true
		}
	}
	used := map[string]bool{}
	for _, m := range c.Modules {
		for _, d := range m.Devices {
			used[d] = true
			if !known[d] {
				t.Errorf("%s needs the device %s, which the tender does not know", m.ID, d)
			}
		}
	}
	if len(used) != len(known) || len(used) == 0 {
		t.Errorf("manifests need %v; the tender knows %v", used, known)
	}
}
