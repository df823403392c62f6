package kernel

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"
)

// outside are the files whose code runs in goroutines, as any Go.
var outside = []string{"kernel.go"}

// TestTheKernelIsPlainGo: what runs with interrupts off can neither grow its stack
// nor allocate, nor have the collector's help.
func TestTheKernelIsPlainGo(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	functions := 0
	for _, e := range entries {
		name := e.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || slices.Contains(outside, name) {
			continue
		}
		n, list := unruly(t, name)
		functions += n
		for _, v := range list {
			t.Error(v)
		}
	}
	if functions < 100 {
		t.Errorf("only %d functions were read", functions)
	}
}

func unruly(t *testing.T, name string) (functions int, list []string) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	report := func(n ast.Node, what string) { list = append(list, fset.Position(n.Pos()).String()+": "+what) }
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		functions++
		if fn.Doc == nil || !slices.ContainsFunc(fn.Doc.List, func(c *ast.Comment) bool { return c.Text == "//go:nosplit" }) {
			report(fn, fn.Name.Name+" is not nosplit")
		}
		ast.Inspect(fn.Body, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt, *ast.DeferStmt, *ast.FuncLit, *ast.SelectStmt, *ast.SendStmt, *ast.TypeAssertExpr:
				report(n, "not in the kernel")
			case *ast.CallExpr:
				if id, ok := n.Fun.(*ast.Ident); ok && slices.Contains([]string{"append", "make", "new", "panic", "recover", "print", "println", "string"}, id.Name) {
					report(n, id.Name+" in the kernel")
				}
			case *ast.BinaryExpr:
				if lit, ok := n.X.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					report(n, "strings are put together in the kernel")
				}
			}
			return true
		})
	}
	return functions, list
}
