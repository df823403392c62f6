package policy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"lorica.dev/lorica/abi/settings"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/policy"
)

// with returns a workload with modules, and its policy.
func with(modules string) string {
	return strings.Replace(onTap, "network: NETWORK", "modules: "+modules, 1)
}

func TestModulesAreReadAsWritten(t *testing.T) {
	b, err := parse("", with(`[{path: ./guard, settings: {header: X-Debug, most: -7, strict: true, names: [a, "1"], empty: "", digits: "12"}}, {module: example.com/a/v2@v2.0.1-rc.1, optional: true}]`))
	if err != nil {
		t.Fatal(err)
	}
	got := b.Deployments[0].Workload.Modules
	if len(got) != 2 {
		t.Fatalf("%+v", got)
	}
	var values []settings.Value
	for _, s := range got[0].Settings {
		values = append(values, s.Value)
	}
	want := []settings.Value{
		{Name: "header", Kind: settings.Text, Text: "X-Debug"}, {Name: "most", Kind: settings.Number, Number: -7}, {Name: "strict", Kind: settings.Flag, Flag: true},
		{Name: "names", Kind: settings.List, List: []string{"a", "1"}}, {Name: "empty", Kind: settings.Text}, {Name: "digits", Kind: settings.Text, Text: "12"},
	}
	if !reflect.DeepEqual(values, want) {
		t.Errorf("settings %+v", values)
	}
	if got[0].Path != "./guard" || got[0].Optional || got[0].Source() != "./guard" || got[0].Pos.Line != 7 || got[0].Settings[0].Pos != (api.Pos{File: "shop.yaml", Line: 7, Column: 48}) {
		t.Errorf("the first is %+v", got[0])
	}
	if got[1].Module != "example.com/a/v2" || got[1].Version != "v2.0.1-rc.1" || !got[1].Optional || got[1].Source() != "example.com/a/v2@v2.0.1-rc.1" {
		t.Errorf("the second is %+v", got[1])
	}
}

func TestMistakesOfModules(t *testing.T) {
	many := "["
	for i := range 65 {
		many += fmt.Sprintf("{path: ./m%d}, ", i)
	}
	many += "]"
	for _, c := range []struct{ name, modules, want string }{
		{"no list", "{path: ./guard}", "shop.yaml:7:12: spec.modules must be a list"},
		{"a word", "[./guard]", "shop.yaml:7:13: spec.modules must be a mapping"},
		{"neither", "[{optional: true}]", "shop.yaml:7:13: a module of spec.modules must have exactly one of path and module"},
		{"both", "[{path: ./a, module: a.b/c@v1.0.0}]", "shop.yaml:7:13: a module of spec.modules must have exactly one of path and module"},
		{"another field", "[{path: ./a, with: {}}]", "shop.yaml:7:25: spec.modules.with is unknown"},
		{"no path", `[{path: ""}]`, "shop.yaml:7:20: spec.modules.path is empty"},
		{"no version", "[{module: example.com/guard}]", "shop.yaml:7:22: spec.modules.module cannot be"},
		{"the newest version", "[{module: example.com/guard@latest}]", "shop.yaml:7:22: spec.modules.module cannot be"},
		{"flags in a version", `[{module: "example.com/guard@v1 -x"}]`, "shop.yaml:7:22: spec.modules.module cannot be"},
		{"twice", "[{path: ./a}, {path: ./a}]", "shop.yaml:7:26: spec.modules names ./a twice"},
		{"a fraction", "[{path: ./a, settings: {x: 1.5}}]", "shop.yaml:7:39: spec.modules.settings.x cannot be the number 1.5"},
		{"a number too long", "[{path: ./a, settings: {x: 9223372036854775808}}]", "shop.yaml:7:39: spec.modules.settings.x cannot be"},
		{"octal", "[{path: ./a, settings: {x: 010}}]", "shop.yaml:7:39: spec.modules.settings.x cannot be"},
		{"a date", "[{path: ./a, settings: {x: 2026-01-01}}]", "shop.yaml:7:39: spec.modules.settings.x cannot be the date"},
		{"a mapping", "[{path: ./a, settings: {x: {}}}]", "shop.yaml:7:39: spec.modules.settings.x cannot be a mapping"},
		{"a list of numbers", "[{path: ./a, settings: {x: [1]}}]", "shop.yaml:7:40: spec.modules.settings.x must be text"},
		{"a name with a dash", "[{path: ./a, settings: {x-y: 1}}]", `shop.yaml:7:36: spec.modules.settings.x-y: the name of a setting cannot be "x-y"`},
		{"long text", "[{path: ./a, settings: {x: " + strings.Repeat("y", settings.MaxText+1) + "}}]", "at most 4096"},
		{"many", many, "spec.modules has more than 64 modules"},
	} {
		if _, err := parse("", with(c.modules)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v\nwant %s", c.name, err, c.want)
		}
	}
}

func TestConfigModules(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	if list, err := policy.ConfigModules(file); list != nil || err != nil {
		t.Errorf("no file: %v, %v", list, err)
	}
	for _, c := range []struct{ text, want string }{
		{"", ""}, {"# nothing yet\n", ""},
		{"modules: []\n", ""},
		{"modules:\n- path: guards/one\n- {module: example.com/two@v1.0.0, settings: {a: 1}}\n", ""},
		{"modules:\n- {path: x, optional: false}\n", "config.yaml:2:13: modules.optional is unknown"},
		{"module: []\n", "config.yaml:1:1: module is unknown"},
		{"modules: []\n---\nmodules: []\n", "config.yaml:3:1: a configuration is one document"},
		{"- a\n", "config.yaml:1:1: a resource must be a mapping"},
		{"modules: [\n", "config.yaml:"},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		list, err := policy.ConfigModules(file)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %s", c.text, err, c.want)
		}
		for _, m := range list {
			if !m.Optional || m.Dir != dir {
				t.Errorf("%q: %+v", c.text, m)
			}
		}
	}
}
