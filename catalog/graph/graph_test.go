package graph

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"lorica.dev/lorica/catalog"
)

func catalogOf(t *testing.T, modules ...*catalog.Module) *catalog.Catalog {
	t.Helper()
	c, err := catalog.New(modules...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func requires(words ...string) (list []catalog.Clause) {
	for _, w := range words {
		list = append(list, strings.Split(w, "|"))
	}
	return list
}

// small has a choice, a conflict, a cycle, two versions and what a drawing must escape.
func small(t *testing.T) *catalog.Catalog {
	return catalogOf(t,
		&catalog.Module{ID: "a", Version: "1", Class: catalog.ClassApp, Summary: `<b> & "quotes" \`, Surface: 7, Requires: requires("b", "x|y")},
		&catalog.Module{ID: "b", Version: "1", Class: catalog.ClassGuard, Requires: requires("c"), Conflicts: []string{"x"}},
		&catalog.Module{ID: "c", Version: "1", Class: catalog.ClassGuard, Requires: requires("b")},
		&catalog.Module{ID: "d", Version: "1", Class: catalog.ClassNet, Provides: []string{"x", "y"}},
		&catalog.Module{ID: "d", Version: "2", Class: catalog.ClassNet, Provides: []string{"x"}, Conflicts: []string{"b"}},
		&catalog.Module{ID: "e", Version: "1", Class: "new"},
	)
}

func TestDOT(t *testing.T) {
	var b bytes.Buffer
	if err := New(small(t), nil).DOT(&b); err != nil {
		t.Fatal(err)
	}
	want := `digraph catalog {
	rankdir=TB;
	node [shape=box, style="rounded,filled", fontname="sans-serif"];
	"a" [label="a\n7 points", fillcolor="#f8bbd0", tooltip="<b> & \"quotes\" \\"];
	"b" [label="b\n0 points", fillcolor="#fff9c4", tooltip=""];
	"c" [label="c\n0 points", fillcolor="#fff9c4", tooltip=""];
	"d@2" [label="d@2\n0 points", fillcolor="#bbdefb", tooltip=""];
	"d@1" [label="d@1\n0 points", fillcolor="#bbdefb", tooltip=""];
	"e" [label="e\n0 points", fillcolor="#ffffff", tooltip=""];
	"a" -> "b";
	"a" -> "d@2" [style=dashed];
	"a" -> "d@1" [style=dashed];
	"b" -> "c";
	"c" -> "b";
	"b" -> "d@2" [dir=none, color="#c0392b", constraint=false];
	"b" -> "d@1" [dir=none, color="#c0392b", constraint=false];
}
`
	if b.String() != want {
		t.Errorf("got\n%s", b.String())
	}
}

func TestEveryClassHasAColour(t *testing.T) {
	all, err := catalog.Load(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all.Modules {
		if _, ok := colours[m.Class]; !ok {
			t.Errorf("%s has none: %s is drawn as nothing", m.Class, m.ID)
		}
	}
}

func TestAround(t *testing.T) {
	c := small(t)
	for _, x := range []struct{ of, want string }{{"a", "a b c d d"}, {"b", "a b c"}, {"d", "a d"}, {"e", "e"}} {
		var got []string
		for _, m := range Around(c, c.Module(x.of)) {
			got = append(got, m.ID)
		}
		if strings.Join(got, " ") != x.want {
			t.Errorf("%s: %v", x.of, got)
		}
	}
}

// What is required stands below what requires it, but for a line that closes a cycle.
func TestLayers(t *testing.T) {
	real, err := catalog.Load(os.DirFS("../.."))
	if err != nil {
		t.Fatal(err)
	}
	for name, g := range map[string]*Graph{"small": New(small(t), nil), "real": New(real, nil)} {
		layer := map[int]int{}
		n := 0
		for l, row := range g.layers() {
			for _, i := range row {
				layer[i] = l
				n++
			}
		}
		if n != g.Len() || len(layer) != n {
			t.Errorf("%s: %d of %d modules in layers", name, n, g.Len())
		}
		up := 0
		for _, e := range g.edges {
			if layer[e.to] <= layer[e.from] {
				up++
			}
		}
		// The real one: records over the network need egress, which records.
		if want := map[string]int{"small": 1, "real": 1}[name]; up != want {
			t.Errorf("%s: %d lines lead up", name, up)
		}
	}
}

func TestSVG(t *testing.T) {
	c := small(t)
	var b, again bytes.Buffer
	if err := errors.Join(New(c, nil).SVG(&b), New(c, nil).SVG(&again)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Error("two drawings differ")
	}
	var texts []string
	count := map[string]int{}
	for d := xml.NewDecoder(&b); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			count[token.Name.Local]++
		case xml.CharData:
			texts = append(texts, string(token))
		}
	}
	if count["rect"] != 1+6 || count["path"] != 1+5+2 {
		t.Errorf("%v", count)
	}
	for _, want := range []string{`<b> & "quotes" \`, "d@1", "b and d@2 exclude each other", "a requires d@1", "7 points"} {
		if !slices.Contains(texts, want) {
			t.Errorf("no %q in %q", want, texts)
		}
	}
}

func TestLargeGraphs(t *testing.T) {
	var modules []*catalog.Module
	for i := range 50_000 {
		m := &catalog.Module{ID: fmt.Sprintf("m%05d", i), Version: "1"}
		if i > 0 {
			m.Requires = requires(fmt.Sprintf("m%05d", i-1))
		}
		modules = append(modules, m)
	}
	c := catalogOf(t, modules...)
	g := New(c, nil)
	if err := g.SVG(io.Discard); err == nil || !strings.Contains(err.Error(), "50000 modules") {
		t.Errorf("got %v", err)
	}
	if err := g.DOT(io.Discard); err != nil {
		t.Error(err)
	}
	if rows := g.layers(); len(rows) != 50_000 { // deep, and not by recursion
		t.Errorf("%d layers", len(rows))
	}
	if n := len(Around(c, c.Module("m00100"))); n != 50_000 {
		t.Errorf("%d around", n)
	}
}
