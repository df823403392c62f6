package catalog

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

const good = `id: pep/firewall
version: "1"
summary: judges connections by source, protocol and port
class: gate
order: 10
code: 12
provides: [firewall]
requires: [audit, "net/socket | net/direct"]
conflicts: []
available: [process]
section: firewall
syscalls:
  - {name: futex}
  - {name: clone, when: ["arg0 == 0xd0f00"]}
  - {name: mmap, when: ["arg2 & 0x4 == 0", "arg0+arg1 outside program"]}
  - {name: tgkill, when: ["arg0 == self"]}
inputs: [http/1.1]
config:
  - {name: attempts, kind: number, summary: how often, required: false, default: "3"}
  - {name: realm, kind: text, summary: what it is called, required: true}
`

func TestAManifestIsReadAsWritten(t *testing.T) {
	m, err := Parse("pep/firewall/module.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if m.ID != "pep/firewall" || m.Version != "1" || m.Class != ClassGate || m.Order != 10 || m.Code != 12 || m.Surface != 12+4+64 || m.Section != "firewall" ||
		!slices.Equal(m.Provides, []string{"firewall"}) || !slices.EqualFunc(m.Requires, []Clause{{"audit"}, {"net/socket", "net/direct"}}, slices.Equal) ||
		!slices.Equal(m.Targets, []string{"process"}) || len(m.Conflicts) != 0 {
		t.Errorf("got %+v", m)
	}
	if !slices.Equal(m.Inputs, []string{"http/1.1"}) || !reflect.DeepEqual(m.Config, []Option{
		{Name: "attempts", Kind: Number, Summary: "how often", Default: "3"},
		{Name: "realm", Kind: Text, Summary: "what it is called", Required: true},
	}) {
		t.Errorf("got %+v", m)
	}
	want := []Syscall{
		{Name: "futex"},
		{Name: "clone", When: []Condition{{Kind: Equal, Value: 0xd0f00}}},
		{Name: "mmap", When: []Condition{{Kind: Masked, Arg: 2, Mask: 4}, {Kind: Outside, Length: 1}}},
		{Name: "tgkill", When: []Condition{{Kind: Self}}},
	}
	if !slices.EqualFunc(m.Syscalls, want, Syscall.Equal) {
		t.Errorf("got %v", m.Syscalls)
	}
}

func TestAWrongManifestIsRefusedWithItsPlace(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"an unknown field", "order: 10", "ordre: 10", `m.yaml:5:1: unknown field "ordre"`},
		{"a field twice", "order: 10", "version: \"2\"", `m.yaml:5:1: the field "version" is there twice`},
		{"no id", "id: pep/firewall\n", "", `the field "id" is missing`},
		{"no class", "class: gate\n", "", `the field "class" is missing`},
		{"a class of its own", "class: gate", "class: door", `m.yaml:4:8: class "door"`},
		{"a version that is a number", `version: "1"`, "version: 1", `m.yaml:2:10: "1": want a string`},
		{"an id with two dots", "pep/firewall\n", "pep/../firewall\n", "m.yaml:1:5:"},
		{"an id that is a path", "id: pep/firewall\n", "id: /etc/passwd\n", "m.yaml:1:5:"},
		{"a summary of two lines", "summary: judges", "summary: |\n  a\n  b\nx: judges", "m.yaml:3:10: want one line"},
		{"a terminal sequence in the summary", "summary: judges connections by source, protocol and port", `summary: "a\e[2Jb"`, "want one line"},
		{"negative code", "code: 12", "code: -1", "m.yaml:6:7:"},
		{"code that is no number", "code: 12", "code: heavy", "m.yaml:6:7:"},
		{"code that overflows", "code: 12", "code: 99999999999999999999", "m.yaml:6:7:"},
		{"a number in words of yaml", "code: 12", "code: 0x10", "m.yaml:6:7:"},
		{"a capability twice", "provides: [firewall]", "provides: [a, a]", `m.yaml:7:15: "a" is there twice`},
		{"a list that is a word", "requires: [audit, ", "requires: audit #", "m.yaml:8:11: want a list"},
		{"an alias", "conflicts: []", "conflicts: &x [a]\ninputs: *x", "m.yaml:10:9: want a list"},
		{"a clause of nothing", "net/socket | net/direct", "net/socket |", "m.yaml:8:19:"},
		{"a clause that repeats itself", "net/socket | net/direct", "net|net", `m.yaml:8:19: "net|net": "net" is there twice`},
		{"a clause twice", "net/socket | net/direct", "audit", `m.yaml:8:19: "audit" is there twice`},
		{"a clause that is a list", `"net/socket | net/direct"`, "[net]", "m.yaml:8:19: "},
		{"an input in capitals", "inputs: [http/1.1]", "inputs: [HTTP]", "m.yaml:17:10:"},
		{"an input that nobody has thought about", "inputs: [http/1.1]", "inputs: [http/1.1, gopher]", `m.yaml:17:20: input "gopher": want basic, body,`},
		{"an option without a kind", "kind: number, ", "", "m.yaml:19:5: an option has a name, a kind and a summary"},
		{"an option of a kind of its own", "kind: number", "kind: float", `m.yaml:19:28: kind "float"`},
		{"a required option with a default", "required: false", "required: true", `m.yaml:19:5: the option "attempts" is required`},
		{"an option that is perhaps required", "required: false", "required: no", `want true or false`},
		{"an option twice", "name: realm", "name: attempts", `m.yaml:20:5: the option "attempts" is there twice`},
		{"its own id among what it provides", "provides: [firewall]", "provides: [x, pep/firewall]", "m.yaml:7:15: every module provides its own id"},
		{"a conflict with itself", "conflicts: []", "conflicts: [a, pep/firewall]", "m.yaml:9:16: a module that conflicts with itself"},
		{"a requirement that it meets itself", "net/socket | net/direct", "net | firewall", `m.yaml:8:19: the module itself provides what meets "net | firewall"`},
		{"a merge", "order: 10", "<<: {order: 10}", `unknown field "<<"`},
		{"a syscall without a name", "{name: futex}", "{when: []}", "m.yaml:13:5: a system call without a name"},
		{"a syscall with an unknown field", "{name: futex}", "{name: futex, unless: []}", `unknown field "unless"`},
		{"a syscall twice", "{name: futex}", "{name: tgkill, when: [\"arg0 == self\"]}", "is there twice"},
		{"a syscall for no capability", "{name: futex}", "{name: futex, with: Net}", "m.yaml:13:25:"},
		{"a syscall in capitals", "{name: futex}", "{name: FUTEX}", "m.yaml:13:12:"},
		{"a condition of another kind", "arg0 == self", "arg0 != self", "m.yaml:16:27: condition"},
		{"a condition that is a list", `["arg0 == self"]`, `[[]]`, "want a condition"},
		{"two documents", "section: firewall\n", "section: firewall\n---\n", "one document"},
		{"not yaml", "id: pep/firewall", "id: [", "m.yaml:2:1: did not find"},
		{"a list at the top", good, "- a\n", "want fields"},
		{"not yaml further down", "order: 10", "order: \"10", "m.yaml:7:1: did not find"},
		{"nothing", good, "", "m.yaml:1:1: there is no manifest in it"},
		{"only a comment", good, "# nothing\n", "m.yaml:1:1:"},
		{"null", good, "null\n", "want fields"},
		{"too long", good, strings.Repeat("#", maxManifest+1), "longer than the 65536 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(good, c.old) {
				t.Fatalf("the case changes nothing: %q", c.old)
			}
			m, err := Parse("m.yaml", []byte(strings.Replace(good, c.old, c.new, 1)))
			if err == nil {
				t.Fatalf("accepted: %+v", m)
			}
			if _, ok := err.(*Error); !ok {
				t.Errorf("a %T", err)
			}
			if !strings.HasPrefix(err.Error(), "m.yaml:") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %s\nwant %s", err, c.want)
			}
		})
	}
}

func TestTheCodeOfAManifestIsWritten(t *testing.T) {
	out, err := SetCode("m.yaml", []byte(good), 345)
	if err != nil || string(out) != strings.Replace(good, "code: 12\n", "code: 345\n", 1) {
		t.Errorf("%v\n%s", err, out)
	}
	for _, c := range []struct{ name, old, new, want string }{
		{"a wrong manifest", "class: gate", "class: door", "m.yaml:4:8:"},
		{"a key in quotes", "code: 12", `"code": 12`, "m.yaml:1:1: no line"},
		{"in flow form", good, `{id: a, version: "1", summary: s, class: gate, code: 1}`, "m.yaml:1:1: no line"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := strings.Replace(good, c.old, c.new, 1)
			if out, err := SetCode("m.yaml", []byte(in), 345); err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("id: a\nprovides: &a [b, *a]\n"))
	f.Add([]byte("? [a]\n: b\n"))
	modules, err := Load(os.DirFS(".."))
	if err != nil {
		f.Fatal(err)
	}
	for _, m := range modules.Modules {
		data, err := os.ReadFile("../" + m.ID + "/" + manifestName)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse("m.yaml", data)
		if (m == nil) == (err == nil) {
			t.Fatalf("module %v and error %v", m, err)
		}
		if err != nil {
			return
		}
		if out, err := SetCode("m.yaml", data, 77); err == nil {
			again, err := Parse("m.yaml", out)
			if err != nil || again.Code != 77 || again.ID != m.ID || len(again.Syscalls) != len(m.Syscalls) || again.Surface-again.Code != m.Surface-m.Code {
				t.Errorf("written as\n%s\nwhich is %+v, %v", out, again, err)
			}
		}
		if m.ConflictsWith(m) || slices.ContainsFunc(m.Inputs, func(in string) bool { return FindInput(in) == nil }) || m.Surface < m.Code {
			t.Errorf("accepted %+v", m)
		}
		if m.Class.Rank() < 0 || m.Surface < 0 || strings.Contains(m.ID, "..") {
			t.Errorf("accepted %+v", m)
		}
		for _, s := range m.Syscalls {
			for _, c := range s.When {
				if again, err := ParseCondition(c.String()); err != nil || again != c {
					t.Errorf("%v is read as %v, %v", c, again, err)
				}
			}
		}
	})
}
