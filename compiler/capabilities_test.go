package compiler

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"lorica.dev/lorica/catalog"
)

// Each capability that the source asks for is in the list, and each in the list is asked
// for; a word that the source completes stands for all that begin with it. And a module
// provides it: nothing is asked for that nobody has.
func TestCapabilitiesAreWhatTheCompilerAsksFor(t *testing.T) {
	list := Capabilities()
	if !slices.IsSorted(list) {
		t.Error("not sorted")
	}
	words := asked(t)
	if len(words) < 20 {
		t.Fatalf("%d words in the source: the test reads too little", len(words))
	}
	for word, begins := range words {
		if !slices.ContainsFunc(list, func(c string) bool { return c == word || begins && strings.HasPrefix(c, word) }) {
			t.Errorf("the source asks for %q, and the list does not have it", word)
		}
	}
	c, err := catalog.Load(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, capability := range list {
		found := false
		for word, begins := range words {
			found = found || capability == word || begins && strings.HasPrefix(capability, word)
		}
		if !found {
			t.Errorf("%q is in the list, and nothing asks for it", capability)
		}
		if len(c.Providers(capability)) == 0 {
			t.Errorf("no module provides %q", capability)
		}
	}
}

// asked returns the words in clauses of the source, in fields called capability, and in
// the methods of authentication; true for those that are completed.
func asked(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	words := map[string]bool{}
	take := func(e ast.Expr) {
		begins := false
		if sum, ok := e.(*ast.BinaryExpr); ok {
			e, begins = sum.X, true
		}
		if lit, ok := e.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			word, _ := strconv.Unquote(lit.Value)
			words[word] = begins
		}
	}
	for _, name := range append(files, "../policy/authentication.go") {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				sel, ok := n.Type.(*ast.SelectorExpr)
				clause := ok && sel.Sel.Name == "Clause"
				kind, ok := n.Type.(*ast.Ident)
				limit := ok && kind.Name == "limitKind"
				for i, e := range n.Elts {
					if clause || limit && i == 1 {
						take(e)
					}
				}
			case *ast.BasicLit:
				if strings.HasPrefix(name, "../") && strings.HasPrefix(n.Value, `"authn/`) {
					take(n)
				}
			}
			return true
		})
	}
	return words
}
