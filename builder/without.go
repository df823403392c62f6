package builder

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"path"
	"slices"
	"strconv"
	"strings"

	lorica "lorica.dev/lorica"
	"lorica.dev/lorica/abi/program"
	"lorica.dev/lorica/catalog"
)

// Without returns the plan of an image that lacks one module and is otherwise the same:
// the generated main does not name it, and its package is not there to import. Whether that
// builds, and what it does then, shows what the module is good for. Such an image is built to
// be looked at, and has no twin for debuggers.
func (p *Plan) Without(m *catalog.Module) (*Plan, error) {
	i := slices.Index(p.Modules, m)
	if i < 0 {
		return nil, fmt.Errorf("builder: %s is not in the image", m.ID)
	}
	q := *p
	q.bare = true
	q.Modules = slices.Delete(slices.Clone(p.Modules), i, i+1)
	q.files = slices.DeleteFunc(slices.Clone(p.files), func(f file) bool { return path.Dir(f.name) == path.Join("lorica", m.ID) })
	id := func(id program.PlanID) string { return hex.EncodeToString(id[:]) }
	main := []byte(strings.Replace(p.Main, id(p.ID), id(program.PlanID{}), 1))
	switch m.Class {
	case catalog.ClassCore, catalog.ClassMachine:
		// All of main is a call of the core; and what a machine is made of is not in it.
	default:
		var err error
		if main, err = leaveOut(main, importPath(m), m.Class == catalog.ClassNet); err != nil {
			return nil, fmt.Errorf("builder: the main without %s: %w", m.ID, err)
		}
	}
	q.ID = q.hash(main)
	q.Main = strings.Replace(string(main), id(program.PlanID{}), id(q.ID), 1)
	return &q, nil
}

// importPath returns the package of a module: modules from elsewhere are called as theirs is.
func importPath(m *catalog.Module) string {
	if first, _, _ := strings.Cut(m.ID, "/"); strings.Contains(first, ".") {
		return m.ID
	}
	return lorica.ModulePath + "/" + m.ID
}

// leaveOut removes from a generated main what calls a package: an argument, a field, an
// element of a list with its section, or a statement; and imports that nothing needs then.
// A network that others are given stays as a variable, without a value.
func leaveOut(main []byte, pkg string, net bool) ([]byte, error) {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, "main.go", main, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	name := ""
	for _, s := range f.Imports {
		if s.Path.Value == strconv.Quote(pkg) {
			name = localName(s)
		}
	}
	if name == "" {
		return nil, fmt.Errorf("%s is not imported", pkg)
	}
	var cuts []cut
	ast.PreorderStack(f, nil, func(n ast.Node, stack []ast.Node) bool {
		if selects(n) != name {
			return true
		}
		e := element(n, stack)
		c := cut{set.Position(e.Pos()).Offset, set.Position(e.End()).Offset, ""}
		if a, ok := e.(*ast.AssignStmt); ok && net {
			c.instead = "var " + a.Lhs[0].(*ast.Ident).Name + " unikernel.Net"
		} else if !ok {
			c.comma(main)
		}
		cuts = append(cuts, c)
		return true
	})
	if main, err = unused(apply(main, cuts)); err != nil {
		return nil, err
	}
	return format.Source(main)
}

// localName is how a file calls what it imports.
func localName(s *ast.ImportSpec) string {
	if s.Name != nil {
		return s.Name.Name
	}
	p, _ := strconv.Unquote(s.Path.Value)
	return path.Base(p)
}

// selects returns x where n is x.y.
func selects(n ast.Node) string {
	if s, ok := n.(*ast.SelectorExpr); ok {
		if x, ok := s.X.(*ast.Ident); ok {
			return x.Name
		}
	}
	return ""
}

// element returns the smallest part around n that can be left out. What has a section is
// left out with it.
func element(n ast.Node, stack []ast.Node) ast.Node {
	for i := len(stack) - 1; i >= 0; i-- {
		switch p := stack[i].(type) {
		case *ast.CompositeLit:
			if slices.ContainsFunc(p.Elts, func(e ast.Expr) bool { return e == n }) && !sectioned(p) {
				return n
			}
		case *ast.CallExpr:
			if slices.ContainsFunc(p.Args, func(e ast.Expr) bool { return e == n }) {
				return n
			}
		case *ast.BlockStmt:
			return n
		}
		n = stack[i]
	}
	return n
}

func sectioned(l *ast.CompositeLit) bool {
	return slices.ContainsFunc(l.Elts, func(e ast.Expr) bool {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			return false
		}
		key, ok := kv.Key.(*ast.Ident)
		return ok && key.Name == "Section"
	})
}

// A cut is a piece of a file that is replaced.
type cut struct {
	from, to int
	instead  string
}

// comma has the cut of an element take the comma that follows it, or else the one before.
func (c *cut) comma(text []byte) {
	const space = " \t\n"
	if rest := bytes.TrimLeft(text[c.to:], space); bytes.HasPrefix(rest, []byte(",")) {
		c.to = len(text) - len(rest) + 1
	} else if head := bytes.TrimRight(text[:c.from], space); bytes.HasSuffix(head, []byte(",")) {
		c.from = len(head) - 1
	}
}

// apply makes cuts. One within another is a part of it.
func apply(text []byte, cuts []cut) []byte {
	slices.SortFunc(cuts, func(a, b cut) int { return a.from - b.from })
	var out []byte
	at := 0
	for _, c := range cuts {
		if c.from < at {
			continue
		}
		out = append(append(out, text[at:c.from]...), c.instead...)
		at = c.to
	}
	return append(out, text[at:]...)
}

// unused removes imports that are not used.
func unused(main []byte) ([]byte, error) {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, "main.go", main, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{"_": true}
	ast.Inspect(f, func(n ast.Node) bool {
		used[selects(n)] = true
		return true
	})
	var cuts []cut
	for _, s := range f.Imports {
		if !used[localName(s)] {
			cuts = append(cuts, cut{set.Position(s.Pos()).Offset, set.Position(s.End()).Offset, ""})
		}
	}
	return apply(main, cuts), nil
}
