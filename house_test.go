package lorica_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

// maxLines bounds a file: a longer one has more than one subject.
const maxLines = 800

var todo = regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b(\(#\d+\))?`)

// houseRules checks the rules that a parser can check: every package says what it
// is for, files are short, nothing runs by being imported, nothing is promised
// without an issue, tests run.
func houseRules(tree fs.FS) (list []string, err error) {
	documented := map[string]bool{}
	report := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	err = walkGo(tree, func(name string, src []byte) error {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, src, parser.ParseComments)
		if err != nil {
			return err
		}
		dir, test := path.Dir(name), strings.HasSuffix(name, "_test.go")
		if !test {
			documented[dir] = documented[dir] || f.Doc != nil && strings.TrimSpace(f.Doc.Text()) != ""
		}
		if lines := bytes.Count(src, []byte("\n")); lines > maxLines {
			report("%s: %d lines; the limit is %d", name, lines, maxLines)
		}
		switch f.Name.Name {
		case "util", "utils", "common", "helper", "helpers", "misc":
			report("%s: package %s says nothing about what it is for", name, f.Name.Name)
		}
		for _, group := range f.Comments {
			for _, m := range todo.FindAllStringSubmatch(group.Text(), -1) {
				if m[2] == "" {
					report("%s: a %s without an issue: write %s(#123)", fset.Position(group.Pos()), m[1], m[1])
				}
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Recv == nil && n.Name.Name == "init" {
					report("%s: init runs by being imported; call a function from main", fset.Position(n.Pos()))
				}
			case *ast.CallExpr:
				if s, ok := n.Fun.(*ast.SelectorExpr); ok && test && (s.Sel.Name == "Skip" || s.Sel.Name == "Skipf" || s.Sel.Name == "SkipNow") {
					report("%s: a test that is skipped shows nothing; fail, or write to $LORICA_NOT_RUN", fset.Position(n.Pos()))
				}
			}
			return true
		})
		return nil
	})
	for dir, ok := range documented {
		if !ok {
			report("%s: no file has a package comment", dir)
		}
	}
	return list, err
}

func TestTheTreeKeepsTheHouseRules(t *testing.T) {
	list, err := houseRules(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range list {
		t.Error(v)
	}
}

func TestBrokenHouseRulesAreFound(t *testing.T) {
	for _, c := range []struct {
		name, file, src string
		want            bool
	}{
		{"a documented package", "x.go", "// Package x is here.\npackage x\n", false},
		{"no package comment", "x.go", "package x\n", true},
		{"a comment that is set apart", "x.go", "// Package x is here.\n\npackage x\n", true},
		{"a long file", "x.go", "// Package x is long.\npackage x\n" + strings.Repeat("\n", maxLines), true},
		{"init", "x.go", "// Package x is here.\npackage x\nfunc init() {}\n", true},
		{"a method called init", "x.go", "// Package x is here.\npackage x\ntype T int\nfunc (T) init() {}\n", false},
		{"a bare promise", "x.go", "// Package x is here.\npackage x\n// TODO: later\n", true},
		{"a promise with its issue", "x.go", "// Package x is here.\npackage x\n// TODO(#12): later\n", false},
		{"a package without a subject", "x.go", "// Package util is here.\npackage util\n", true},
		{"a skipped test", "x_test.go", "package x\nimport \"testing\"\nfunc TestX(t *testing.T) { t.Skip() }\n", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			list, err := houseRules(fstest.MapFS{c.file: {Data: []byte(c.src)}})
			if err != nil {
				t.Fatal(err)
			}
			if (len(list) > 0) != c.want {
				t.Errorf("got %q", list)
			}
		})
	}
}
