package catalog

import (
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

const goodOwn = `id: example.com/guard
version: "1.2"
summary: refuses what it is told to
class: guard
order: 12
provides: [example.com/guard/strict]
requires: [filter, "example.com/lists | audit"]
conflicts: [pep/egress]
available: [process]
syscalls: [{name: sysinfo}, {name: uname, with: net/socket}]
inputs: [body]
config:
  - {name: names, kind: texts, summary: whom, default: "a, b", oneOf: [a, b, c], most: 2}
  - {name: most, kind: number, summary: how many, required: true, least: -5, most: 5}
`

func TestAManifestOfTheUsersIsReadAsWritten(t *testing.T) {
	m, err := ParseOwn("guard/module.yaml", []byte(goodOwn), "example.com/guard")
	if err != nil {
		t.Fatal(err)
	}
	if !m.Own() || m.Section != m.ID || m.Class != ClassGuard || m.Order != 12 || !m.Offers("example.com/guard/strict") || !m.Offers("example.com/guard") || m.Surface != 192 ||
		!slices.EqualFunc(m.Requires, []Clause{{"filter"}, {"example.com/lists", "audit"}}, slices.Equal) || len(m.Syscalls) != 2 || len(m.Config) != 2 {
		t.Errorf("got %+v", m)
	}
	if _, err := Parse("guard/module.yaml", []byte(strings.Replace(goodOwn, "order: 12", "code: 12", 1))); err == nil {
		t.Error("it passes for one of Lorica's")
	}
}

func TestWhatAManifestOfTheUsersMustNotSay(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"another id", "id: example.com/guard", "id: example.com/guards", `m.yaml:1:5: the id is "example.com/guards", and the go.mod says "example.com/guard"`},
		{"an id of Lorica's form", "id: example.com/guard", "id: guard", "m.yaml:1:5: the id is"},
		{"a place in a path", "id: example.com/guard", "id: example.com/../guard", "m.yaml:1:5: "},
		{"an id of two lines", "id: example.com/guard", `id: "example.com/guard\nx"`, "m.yaml:1:5: "},
		{"a module that opens a network", "class: guard", "class: net", "m.yaml:4:8: class"},
		{"a name of Lorica's", "[example.com/guard/strict]", "[example.com/x, filter]", `m.yaml:6:27: "filter" begins with no host`},
		{"a host alone", "[example.com/guard/strict]", "[example.com]", "m.yaml:6:12: "},
		{"a call that is not harmless", "{name: sysinfo}", "{name: openat}", "m.yaml:10:12: a module of your own must not make the call openat: those that it may make are clock_getres"},
		{"a call that reaches others", "{name: sysinfo}", "{name: kill}", "m.yaml:10:12: "},
		{"memory", "{name: sysinfo}", "{name: mprotect}", "m.yaml:10:12: "},
		{"a weight of its own", "order: 12", "code: 1", "m.yaml:5:7: code is counted in the module itself"},
		{"a section", "order: 12", "section: authz", "m.yaml:5:10: "},
		{"no section", "order: 12", `section: ""`, "m.yaml:5:10: "},
		{"devices", "order: 12", "devices: []", "m.yaml:5:10: "},
		{"no version", "version: \"1.2\"\n", "", `the field "version" is missing`},
		{"bounds of a switch", "kind: number, summary: how many, required: true, least: -5, most: 5", "kind: switch, summary: x, most: 5", `m.yaml:14:5: the option "most": a switch has no bounds`},
		{"bounds that exclude each other", "least: -5", "least: 6", `m.yaml:14:5: the option "most": least is 6, and most is 5`},
		{"a bound that is no number", "least: -5", "least: low", "m.yaml:14:74: "},
		{"words of a number", "least: -5", "oneOf: [a]", `m.yaml:14:5: the option "most": oneOf is not for the kind number`},
		{"a default that is not allowed", `default: "a, b"`, `default: "a, d"`, `m.yaml:13:5: the option "names": its default: "d" is none of a, b, c`},
		{"a default that is too long", `default: "a, b"`, `default: "a, b, c"`, `m.yaml:13:5: the option "names": its default: want a list of text, from 0 to 2 elements`},
		{"a default of another kind", "required: true, ", `default: "x", `, `m.yaml:14:5: the option "most": its default: `},
	} {
		if !strings.Contains(goodOwn, c.old) {
			t.Errorf("%s: the case changes nothing", c.name)
		}
		m, err := ParseOwn("m.yaml", []byte(strings.Replace(goodOwn, c.old, c.new, 1)), "example.com/guard")
		if err == nil || !strings.HasPrefix(err.Error(), "m.yaml:") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v\nwant %s", c.name, m, err, c.want)
		}
	}
	const tried = "example.com/guard.dryrun"
	if _, err := ParseOwn("m.yaml", []byte(strings.Replace(goodOwn, "example.com/guard", tried, 1)), tried); err == nil || !strings.Contains(err.Error(), "m.yaml:1:5: ") {
		t.Errorf("a module whose section passes for what is tried beside another: %v", err)
	}
	if _, err := ParseOwn("m.yaml", []byte(strings.Replace(goodOwn, "example.com/guard", "pep/authz", 1)), "pep/authz"); err == nil || !strings.Contains(err.Error(), "begins with no host") {
		t.Errorf("a Go module of Lorica's names: %v", err)
	}
}

func TestNamesAreLoricasOrTheUsers(t *testing.T) {
	c, err := Load(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range c.Modules {
		for _, name := range append([]string{m.ID, m.Section}, m.Provides...) {
			if OwnName(name) {
				t.Errorf("%s of %s reads as a name of the user's", name, m.ID)
			}
		}
	}
	for name, want := range map[string]bool{"example.com/guard": true, "EXAMPLE.com/Azure/x.y": true, "localhost/guard": false, "example.com": false, "example.com/": false,
		".com/guard": false, "example./guard": false, "a.b/../c": false, "a.b//c": false, "a.b/c d": false, "pep/authz": false} {
		if OwnName(name) != want {
			t.Errorf("%q: %t", name, !want)
		}
	}
}

func TestACatalogWithModulesOfTheUsers(t *testing.T) {
	c, err := Load(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseOwn("m.yaml", []byte(goodOwn), "example.com/guard")
	if err != nil {
		t.Fatal(err)
	}
	more, err := c.With(m)
	if err != nil {
		t.Fatal(err)
	}
	if len(more.Modules) != len(c.Modules)+1 || more.Module(m.ID) != m || c.Module(m.ID) != nil || len(more.Providers("example.com/guard/strict")) != 1 {
		t.Error("it is not in the catalog, or has changed the other")
	}
	if _, err := c.With(m, m); err == nil {
		t.Error("the same is there twice")
	}
	if same, err := c.With(); same != c || err != nil {
		t.Errorf("nothing makes another catalog: %v", err)
	}
}

func TestDigestOfACatalog(t *testing.T) {
	tree := func() fstest.MapFS {
		return fstest.MapFS{"a/module.yaml": {Data: []byte("a")}, "b/module.yaml": {Data: []byte("b")}, "b/b.go": {Data: []byte("b")}, "b/testdata/module.yaml": {Data: []byte("c")},
			"n/go.mod": {Data: []byte("n")}, "n/module.yaml": {Data: []byte("n")}}
	}
	of := func(change func(fstest.MapFS)) string {
		x := tree()
		change(x)
		d, err := Digest(x)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	base := of(func(fstest.MapFS) {})
	for name, c := range map[string]struct {
		change func(fstest.MapFS)
		want   bool
	}{
		"nothing":                     {func(fstest.MapFS) {}, false},
		"code":                        {func(x fstest.MapFS) { x["b/b.go"].Data = nil }, false},
		"a manifest of a test":        {func(x fstest.MapFS) { delete(x, "b/testdata/module.yaml") }, false},
		"another Go module":           {func(x fstest.MapFS) { x["n/module.yaml"].Data = []byte("m") }, false},
		"a manifest":                  {func(x fstest.MapFS) { x["b/module.yaml"].Data = []byte("c") }, true},
		"a module less":               {func(x fstest.MapFS) { delete(x, "a/module.yaml") }, true},
		"a module more":               {func(x fstest.MapFS) { x["c/module.yaml"] = &fstest.MapFile{} }, true},
		"the same in another place":   {func(x fstest.MapFS) { x["c/module.yaml"] = x["b/module.yaml"]; delete(x, "b/module.yaml") }, true},
		"two that change their place": {func(x fstest.MapFS) { x["a/module.yaml"], x["b/module.yaml"] = x["b/module.yaml"], x["a/module.yaml"] }, true},
	} {
		if (of(c.change) != base) != c.want {
			t.Errorf("%s: changes it: %t", name, !c.want)
		}
	}
}

func FuzzParseOwn(f *testing.F) {
	f.Add([]byte(goodOwn))
	data, err := os.ReadFile("../examples/module/override/module.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, module := range []string{"example.com/guard", "example.com/override"} {
			m, err := ParseOwn("m.yaml", data, module)
			if (m == nil) == (err == nil) {
				t.Fatalf("module %v and error %v", m, err)
			}
			if err != nil {
				continue
			}
			if m.ID != module || !m.Own() || m.Section != module || len(m.Devices) > 0 || m.Code != 0 || m.Class != ClassGate && m.Class != ClassGuard {
				t.Errorf("accepted %+v", m)
			}
			for _, p := range m.Provides {
				if !OwnName(p) {
					t.Errorf("provides %s", p)
				}
			}
			for _, s := range m.Syscalls {
				if !slices.Contains(ownCalls, s.Name) {
					t.Errorf("makes %s", s)
				}
			}
		}
	})
}
