package verify

import (
	"bytes"
	"encoding/binary"
	"errors"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

// A reader that shares code is no second one, and nobody reads one that is long: what reads
// authorization has less than 500 lines, all counted, and the firewall less than 250 more.
func TestItIsSmallAndAlone(t *testing.T) {
	for name, most := range map[string]int{"verify.go": 190, "authz.go": 310, "firewall.go": 250} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if lines := bytes.Count(b, []byte{'\n'}); lines >= most {
			t.Errorf("%s has %d lines", name, lines)
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, b, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			if strings.Contains(i.Path.Value, ".") {
				t.Errorf("%s imports %s, which is not of the standard library", name, i.Path.Value)
			}
		}
	}
	if others, err := os.ReadDir("."); err != nil || len(others) != 4 {
		t.Errorf("files that are not counted: %v %v", others, err)
	}
}

// program puts sections into one, with a signature of zeros.
func program(sections ...string) []byte {
	b := append([]byte("LORICAP1"), make([]byte, 32+8)...)
	blob := func(s string) {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	blob("tenant")
	blob("workload")
	blob("")
	b = binary.LittleEndian.AppendUint32(b, 1)
	blob("normal")
	b = binary.LittleEndian.AppendUint32(b, uint32(len(sections)/2))
	for _, s := range sections {
		blob(s)
	}
	return append(b, make([]byte, 64)...)
}

// What is refused is refused at its place.
func TestErrorsSayWhere(t *testing.T) {
	whole := program("tls", "secret")
	rep, err := Check(whole, nil)
	if err != nil || rep.Tenant != "tenant" || rep.Workload != "workload" || rep.Signed || len(rep.Sections) != 1 || string(whole[rep.Sections[0].Offset:][:rep.Sections[0].Size]) != "secret" {
		t.Fatalf("%+v %v", rep, err)
	}
	if _, err := Check(program("example.com/guard", "x", "a.b/c.d/e", ""), nil); err != nil {
		t.Errorf("sections of modules of users: %v", err)
	}
	name := bytes.Index(whole, []byte("tls")) - 4
	body := len(whole) - 64
	for what, c := range map[string]struct {
		b   []byte
		key []byte
		at  int
		say string
	}{
		"nothing":                        {nil, nil, 0, "do not hold a signature"},
		"a signature alone":              {make([]byte, 64), nil, 0, "8 bytes are wanted, and 0 are left"},
		"another version":                {append([]byte("LORICAP2"), whole[8:]...), nil, 0, "not a program of version 1"},
		"an unknown section":             {program("tlz", "secret"), nil, name, `no image takes a section "tlz"`},
		"a host alone":                   {program("example.com", "x"), nil, name, "no image takes"},
		"a host with nothing behind it":  {program("example.com/", "x"), nil, name, "no image takes"},
		"a dot in the second word":       {program("pep/x.y", "x"), nil, name, "no image takes"},
		"a dry run that is none":         {program("dryrun", "DRYRUN00\x00\x00\x00\x00"), nil, name + 14, "it does not say"},
		"a dry run of zeros":             {program("dryrun", strings.Repeat("\x00", 12)), nil, name + 14, "it does not say"},
		"a dry run with more in it":      {program("dryrun", "DRYRUN01\x00\x00\x00\x00x"), nil, name + 14 + 12, "left over"},
		"tried beside nothing":           {program("obligations.dryrun", "x"), nil, name, "is tried beside none"},
		"tried beside all":               {program("obligations", "", "obligations.dryrun", "x", "dryrun", "DRYRUN01\x00\x00\x00\x00"), nil, name + 11 + 4 + 4, "tried as a whole"},
		"tried of what cannot be":        {program("tls.dryrun", "x"), nil, name, "no image takes"},
		"a firewall that is tried badly": {program("firewall", strings.Repeat("\x00", 28), "firewall.dryrun", "\xff"), nil, name + 44 + 23, "in section firewall.dryrun: 4 bytes are wanted"},
		"a section twice":                {program("tls", "secret", "tls", ""), nil, body, `a second section "tls"`},
		"bytes left over":                {append(bytes.Clone(whole), 0), nil, body, "1 bytes are left over"},
		"a count too high":               {program("authz", "\xff\xff\xff\xff"), nil, name + 13, "more than the remaining bytes hold"},
		"too large":                      {append(bytes.Clone(whole), make([]byte, largest)...), nil, largest, "at most"},
		"not signed":                     {whole, bytes.Repeat([]byte{1}, 32), body, "signature"},
		"a key that is no key":           {whole, []byte{1}, body, "signature"},
		"a key that nobody set":          {whole, make([]byte, 32), body, "signature"},
	} {
		_, err := Check(c.b, c.key)
		var e *Error
		if !errors.As(err, &e) || e.Offset != c.at || !strings.Contains(e.Error(), c.say) {
			t.Errorf("%s: %v, want %q at %d", what, err, c.say, c.at)
		}
	}
	most := program("tls", strings.Repeat("s", largest-len(program("tls", ""))))
	if _, err := Check(most, nil); err != nil || len(most) != largest {
		t.Errorf("%d bytes: %v", len(most), err)
	}
	if _, err := Check(program("authz", "\xff\xff\xff\xff"), nil); !strings.HasSuffix(err.Error(), "in section authz: 4294967295 elements are more than the remaining bytes hold") {
		t.Errorf("an error in a section: %v", err)
	}
}
