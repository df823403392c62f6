package lock_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"lorica.dev/lorica/catalog/lock"
)

var (
	sha   = "sha256:" + strings.Repeat("0a", 32)
	one   = lock.Module{Source: "./guard", ID: "example.com/guard", Version: "1", Digest: "h1:" + strings.Repeat("A", 43) + "="}
	two   = lock.Module{Source: "example.com/two@v1.2.3", ID: "example.com/two", Version: "1.0-rc+x", Digest: "h1:" + strings.Repeat("b", 43) + "="}
	whole = lock.File{Catalog: sha, Modules: []lock.Module{one, two}}
)

const text = `# Written by "lorica plan": what the images of the workloads here are made of, beside the workloads.
# "lorica build" and "lorica up" refuse what differs; "lorica plan --update" accepts it.
version: 1
catalog: sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a
modules:
- source: "./guard"
  id: example.com/guard
  version: "1"
  digest: h1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
- source: "example.com/two@v1.2.3"
  id: example.com/two
  version: "1.0-rc+x"
  digest: h1:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb=
`

func TestALockIsWrittenAsItIsRead(t *testing.T) {
	turned := lock.File{Catalog: sha, Modules: []lock.Module{two, one}}
	if got := string(turned.Encode()); got != text {
		t.Errorf("written as\n%s", got)
	}
	if turned.Modules[0] != two {
		t.Error("Encode has put the modules of its caller in order")
	}
	for _, s := range []string{text, strings.ReplaceAll(text, "\n", "\r\n"), strings.Replace(text, "modules:", "\n# mine\nmodules:", 1)} {
		if got, err := lock.Parse("lorica.lock", []byte(s)); err != nil || !reflect.DeepEqual(*got, whole) {
			t.Errorf("%v, %+v", err, got)
		}
	}
	odd := lock.File{Catalog: sha, Modules: []lock.Module{{Source: "./a \"b\"\\\n#ü", ID: one.ID, Version: "1", Digest: one.Digest}}}
	if got, err := lock.Parse("lorica.lock", odd.Encode()); err != nil || !reflect.DeepEqual(*got, odd) {
		t.Errorf("%v, %+v", err, got)
	}
}

func TestAMalformedLockIsRefusedWithItsLine(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"nothing", text, "", "lorica.lock:1: the file ends where \"version: \" should be"},
		{"another version", "version: 1\n", "version: 2\n", `lorica.lock:3: version "2" of the file is unknown`},
		{"no version", "version: 1\n", "", `lorica.lock:3: want "version: "`},
		{"no catalog", "catalog: sha256", "catalogue: sha256", `lorica.lock:4: want "catalog: "`},
		{"another hash", "sha256:0a", "sha512:0a", "lorica.lock:4: "},
		{"a short hash", "sha256:0a", "sha256:", "lorica.lock:4: "},
		{"a conflict of versions", "modules:\n", "<<<<<<< ours\nmodules:\n", `lorica.lock:5: want "modules:", and the line is "<<<<<<< ours"`},
		{"modules in one line", "modules:\n", "modules: []\n", "lorica.lock:5: "},
		{"no quotes", `"./guard"`, "./guard", "lorica.lock:6: ./guard is not quoted text"},
		{"other quotes", `"./guard"`, "'./guard'", "lorica.lock:6: './guard' is not quoted text"},
		{"two spellings", `"./guard"`, `"\x2e/guard"`, "lorica.lock:6: "},
		{"no source", `"./guard"`, `""`, "lorica.lock:6: "},
		{"a field less", "  id: example.com/guard\n", "", `lorica.lock:7: want "  id: "`},
		{"another indent", "  id: example.com/guard", "   id: example.com/guard", "lorica.lock:7: "},
		{"an id with a space", "id: example.com/guard", "id: example.com /guard", "lorica.lock:7: "},
		{"another digest", "h1:AAAA", "h2:AAAA", "lorica.lock:9: "},
		{"a digest cut off", "AAAA=", "AAA=", "lorica.lock:9: "},
		{"cut off", "  digest: h1:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb=\n", "", `lorica.lock:12: the file ends where "  digest: " should be`},
		{"the same twice", `"example.com/two@v1.2.3"`, `"./guard"`, "lorica.lock:13: the module ./guard is there twice"},
		{"another order", `"example.com/two@v1.2.3"`, `"./a"`, "lorica.lock:13: the module ./a is there twice, or not in the order"},
		{"more after the end", "bbbb=\n", "bbbb=\nextra: 1\n", `lorica.lock:14: want "- source: "`},
		{"too long", text, strings.Repeat("#", lock.MaxSize+1), "lorica.lock:1: 1048577 bytes"},
	} {
		if !strings.Contains(text, c.old) {
			t.Errorf("%s: the case changes nothing", c.name)
		}
		f, err := lock.Parse("lorica.lock", []byte(strings.Replace(text, c.old, c.new, 1)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %+v, %v\nwant %s", c.name, f, err, c.want)
			continue
		}
		if _, ok := err.(*lock.Error); !ok {
			t.Errorf("%s: a %T", c.name, err)
		}
	}
}

func TestWhatDiffers(t *testing.T) {
	other := one
	other.Digest = two.Digest
	catalog := "sha256:" + strings.Repeat("0b", 32)
	for _, c := range []struct {
		name     string
		was, now *lock.File
		changed  []string
		new, old []lock.Module
	}{
		{"nothing", &whole, &whole, nil, nil, nil},
		{"no lock", nil, &whole, nil, []lock.Module{one, two}, nil},
		{"neither", nil, nil, nil, nil, nil},
		{"another module", &lock.File{Catalog: sha, Modules: []lock.Module{one}}, &whole, nil, []lock.Module{two}, nil},
		{"a module less", &whole, &lock.File{Catalog: sha, Modules: []lock.Module{two}}, nil, nil, []lock.Module{one}},
		{"other files", &whole, &lock.File{Catalog: sha, Modules: []lock.Module{other, two}},
			[]string{"module example.com/guard (./guard) has changed: its digest is " + two.Digest + ", and " + one.Digest + " was accepted"}, nil, nil},
		{"another catalog", &whole, &lock.File{Catalog: catalog, Modules: whole.Modules}, []string{"the modules of Lorica itself are others"}, nil, nil},
	} {
		d := c.was.Against(c.now)
		if !reflect.DeepEqual(d.New, c.new) || !reflect.DeepEqual(d.Gone, c.old) || len(d.Changed) != len(c.changed) {
			t.Errorf("%s: %+v", c.name, d)
			continue
		}
		for i, want := range c.changed {
			if !strings.HasPrefix(d.Changed[i], want) {
				t.Errorf("%s: %s\nwant %s", c.name, d.Changed[i], want)
			}
		}
	}
}

// What is new is added, and nothing that was accepted is replaced but by an update.
func TestWhatIsAccepted(t *testing.T) {
	other := one
	other.Digest = two.Digest
	was := &lock.File{Catalog: sha, Modules: []lock.Module{one}}
	now := &lock.File{Catalog: "sha256:" + strings.Repeat("0b", 32), Modules: []lock.Module{two, other}}
	if got := was.Accept(now, false); !reflect.DeepEqual(*got, whole) {
		t.Errorf("added: %+v", got)
	}
	if got := was.Accept(now, true); !reflect.DeepEqual(*got, lock.File{Catalog: now.Catalog, Modules: []lock.Module{other, two}}) {
		t.Errorf("updated: %+v", got)
	}
	if got := (*lock.File)(nil).Accept(&whole, false); !reflect.DeepEqual(*got, whole) {
		t.Errorf("the first: %+v", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(text))
	f.Add([]byte("version: 1\ncatalog: x\nmodules:\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := lock.Parse("l", b)
		if (file == nil) == (err == nil) {
			t.Fatalf("%v and %v", file, err)
		}
		if err != nil {
			return
		}
		again, err := lock.Parse("l", file.Encode())
		if err != nil || !reflect.DeepEqual(again, file) {
			t.Fatalf("%v\n%+v\nis written as\n%s", err, file, file.Encode())
		}
		if !bytes.Equal(again.Encode(), file.Encode()) {
			t.Fatal("two texts of one content")
		}
	})
}
