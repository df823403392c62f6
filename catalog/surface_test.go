package catalog

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestTheSurfaceOfModules(t *testing.T) {
	bound := []Condition{{Kind: Self}}
	for _, c := range []struct {
		name string
		m    Module
		want Breakdown
	}{
		{"nothing", Module{}, Breakdown{}},
		{"code", Module{Code: 12}, Breakdown{Code: 12}},
		{"a call of its own", Module{Syscalls: []Syscall{{Name: "futex"}}}, Breakdown{Syscalls: 1}},
		{"a call on what it holds", Module{Syscalls: []Syscall{{Name: "read"}}}, Breakdown{Syscalls: 4}},
		{"a call that brings something in", Module{Syscalls: []Syscall{{Name: "accept4"}}}, Breakdown{Syscalls: 16}},
		{"a call that nobody has", Module{Syscalls: []Syscall{{Name: "openat"}}}, Breakdown{Syscalls: 64}},
		{"bound arguments are half", Module{Syscalls: []Syscall{{Name: "accept4", When: bound}, {Name: "tgkill", When: bound}}}, Breakdown{Syscalls: 9}},
		{"alternatives count once, the widest", Module{Syscalls: []Syscall{{Name: "accept4", When: bound}, {Name: "accept4"}}}, Breakdown{Syscalls: 16}},
		{"a call with a capability counts", Module{Syscalls: []Syscall{{Name: "close", With: "net/socket"}}}, Breakdown{Syscalls: 4}},
		{"devices", Module{Devices: []string{"a", "b"}}, Breakdown{Devices: 32}},
		{"state from anyone", Module{Inputs: []string{"tls/server"}}, Breakdown{Inputs: 128}},
		{"state from who was chosen", Module{Inputs: []string{"tls/client"}}, Breakdown{Inputs: 64}},
		{"state from the host", Module{Inputs: []string{"control"}}, Breakdown{Inputs: 32}},
		{"a grammar from anyone", Module{Inputs: []string{"path"}}, Breakdown{Inputs: 64}},
		{"a fixed form from the host", Module{Inputs: []string{"virtio"}}, Breakdown{Inputs: 8}},
		{"all of it", Module{Code: 3, Syscalls: []Syscall{{Name: "read"}}, Devices: []string{"a"}, Inputs: []string{"path", "basic"}}, Breakdown{3, 4, 16, 96}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.m.Breakdown()
			if got != c.want || got.Total() != c.want.Code+c.want.Syscalls+c.want.Devices+c.want.Inputs {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// docs/catalog.md lists every input and every system call's points, and its manifest is one.
func TestTheDocsOfTheCatalogue(t *testing.T) {
	data, err := os.ReadFile("../docs/catalog.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(data)
	rows := 0
	for _, in := range Inputs() {
		row := fmt.Sprintf("| `%s` | %s | %s | %s | %d |\n", in.Name, in.Summary, in.Form, in.From, in.Points())
		if !strings.Contains(doc, row) {
			t.Errorf("no row %s", row)
		}
	}
	for line := range strings.Lines(doc) {
		if regexp.MustCompile("^\\| `[^`]+` \\|.*\\| (fixed|grammar|state) \\|").MatchString(line) {
			rows++
		}
	}
	if rows != len(Inputs()) {
		t.Errorf("%d rows of inputs; there are %d", rows, len(Inputs()))
	}
	example := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(doc)
	if example == nil {
		t.Fatal("no manifest")
	}
	m, err := Parse("example.yaml", []byte(example[1]))
	if err != nil {
		t.Fatal(err)
	}
	for i := range strings.Lines(example[1]) {
		if field, _, ok := strings.Cut(i, ":"); ok && i[0] != ' ' && !strings.Contains(doc, "\n| `"+field+"` |") {
			t.Errorf("the field %s is not explained", field)
		}
	}
	if len(m.Config) == 0 || len(m.Inputs) == 0 || len(m.Devices) == 0 || len(m.Requires) != 2 {
		t.Errorf("the example lacks fields: %+v", m)
	}
}
