package debian

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"lorica.dev/lorica/api"
)

// read reads files, named F1, F2, ...
func read(files ...string) (*Repository, error) {
	var r Repository
	for i, f := range files {
		if err := r.Add(context.Background(), strings.NewReader(f), fmt.Sprintf("F%d", i+1)); err != nil {
			return nil, err
		}
	}
	return &r, nil
}

// written is a package as a stanza: what was read of it, and nothing else.
func (r *Repository) written(p *Package) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Package: %s\nVersion: %s\nArchitecture: %s\n", p.Name, p.Version, p.Arch)
	fmt.Fprintf(&b, "Multi-Arch: %s\n", []string{"no", "same", "foreign", "allowed"}[p.MultiArch])
	if p.Essential {
		b.WriteString("Essential: yes\n")
	}
	fmt.Fprintf(&b, "Installed-Size: %d\nSize: %d\n", p.Installed, p.Size)
	for _, f := range []struct {
		name string
		list []int32
	}{{"Pre-Depends", p.preDepends}, {"Depends", p.depends}, {"Conflicts", p.conflicts}, {"Breaks", p.breaks}, {"Provides", p.provides}} {
		for i, id := range f.list {
			if i == 0 {
				b.WriteString(f.name + ":")
			}
			for k, rel := range r.clauses[id].Any {
				b.WriteString([]string{" ", " | "}[min(k, 1)] + rel.Name)
				if rel.Arch != "" {
					b.WriteString(":" + rel.Arch)
				}
				if rel.Op != "" {
					b.WriteString(" (" + rel.Op + " " + rel.Version + ")")
				}
				if rel.Archs != nil {
					b.WriteString(" [" + strings.Join(rel.Archs, " ") + "]")
				}
			}
			b.WriteString([]string{",\n", "\n"}[min(1, (i+1)/len(f.list))])
		}
	}
	return b.String()
}

const head = "Package: a\nVersion: 1\nArchitecture: amd64\n"

func TestWhatIsRead(t *testing.T) {
	for _, c := range []struct{ name, file, want string }{
		{"what is not asked for is passed over", "Package: a\nTag: x::y,\n z: 1\n -w\nVersion: 1:2-3\nArchitecture: all\nDescription: it's\n .\n", "Package: a\nVersion: 1:2-3\nArchitecture: all\n"},
		{"fields in any case", "PACKAGE: a\nversion:1\narchiTECTURE:\tamd64 \nmulti-arch: SAME\nessential: Yes\n", head + "Multi-Arch: same\nEssential: yes\n"},
		{"lines that continue", head + "Depends: b,\n c |\n\td (<<\n 2) ,e\n", head + "Depends: b,\n c | d (<< 2),\n e\n"},
		{"comments, between lines that continue too", "# x\n" + head + "# y: z\nDepends: b,\n# Depends: q\n c\n", head + "Depends: b,\n c\n"},
		{"operators, the old ones too", head + "Depends: b (<<1), c(<=1), d ( = 1 ), e (>= 1), f (>> 1), g (< 1), h (> 1)\n", head + "Depends: b (<< 1), c (<= 1), d (= 1), e (>= 1), f (>> 1), g (<= 1), h (>= 1)\n"},
		{"architectures", head + "Depends: b:any, c:native (>= 1), d:i386 | e [i386 armhf], f (= 1) [!i386]\nConflicts: g:i386\n", head + "Depends: b:any, c:native (>= 1), d:i386 | e [i386 armhf], f (= 1) [!i386]\nConflicts: g:i386\n"},
		{"a comma at the end", head + "Depends: b, c, \nConflicts:\n", head + "Depends: b, c\n"},
		{"provides", head + "Provides: b, c (= 1:2)\nBreaks: d (<< 1)\nPre-Depends: e\n", head + "Pre-Depends: e\nBreaks: d (<< 1)\nProvides: b, c (= 1:2)\n"},
		{"empty lines, and no end", "\n\n" + head + "\n\n\n" + strings.Replace(strings.TrimSpace(head), "Version: 1", "Version: 2", 1), head + "\n" + strings.Replace(head, "Version: 1", "Version: 2", 1)},
		{"sizes", head + "Installed-Size: 10\nSize: 2000000\n", head + "Installed-Size: 10\nSize: 2000000\n"},
		{"nothing", "", ""},
		{"comments alone", "# x\n\n#\n", ""},
	} {
		got, err := read(c.file)
		want, wantErr := read(c.want)
		if err != nil || wantErr != nil {
			t.Errorf("%s: %v, %v", c.name, err, wantErr)
			continue
		}
		if got, want := got.all(), want.all(); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, want)
		}
	}
}

func (r *Repository) all() string {
	var b strings.Builder
	for i := range r.Packages {
		b.WriteString(r.written(&r.Packages[i]) + "\n")
	}
	return b.String()
}

func TestPackagesKnowWhereTheyAre(t *testing.T) {
	r, err := read("\n#\n"+head+"\n"+strings.Replace(head, ": a", ": b", 1), strings.Replace(head, ": a", ": c", 1))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range r.Packages {
		got = append(got, p.Name+" "+p.Pos.String())
	}
	if want := "a F1:3:1, b F1:7:1, c F2:1:1"; strings.Join(got, ", ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Every error says where, what, and where it helps, what to write instead.
func TestMalformedFiles(t *testing.T) {
	for _, c := range []struct{ name, file, want string }{
		{"no field", "Package\n", "F1:1:1: a line without the name of a field"},
		{"no name", ": x\n", "F1:1:1: a line without the name of a field"},
		{"HTML", "<!DOCTYPE html>\n<p style='a: b'>", "F1:1:1: a line without"},
		{"a field that begins with a hyphen", head + "-X: 1\n", "F1:4:1: a line without"},
		{"a blank in the name", "Package : a\n", "F1:1:8: ' ' cannot be in the name of a field"},
		{"beyond ASCII in the name", "Paquet\u00e9: a\n", "F1:1:7: 'Ã' cannot be"},
		{"nothing to continue", " x\n", "F1:1:1: a line that continues nothing"},
		{"nothing to continue after an empty line", head + "\n x\n", "F1:5:1: a line that continues nothing"},
		{"blanks alone", head + " \t\n", "F1:4:1: a line of blanks alone"},
		{"ends of lines of others", "Package: a\r\nVersion: 1\r\n", "F1:1:11: a carriage return at the end of the line (lines end with a line feed alone: tr -d '\\r')"},
		{"twice", head + "depends: a\nDepends: b\n", "F1:5:1: a second field Depends"},
		{"no package", "Version: 1\n", "F1:1:1: the package that begins here has no field Package"},
		{"no version", "\nPackage: a\nArchitecture: all\n", "F1:2:1: the package that begins here has no field Version"},
		{"no architecture", "Package: a\nVersion: 1\n", "F1:1:1: the package that begins here has no field Architecture"},
		{"no name of a package", "Package: -a\n" + head[11:], `F1:1:10: Package: "-a" is no name`},
		{"a name on two lines", "Package: a\n b\n" + head[11:], `F1:1:10: Package: "a\nb" is no name`},
		{"no version", "Package: a\nVersion: 1 2\nArchitecture: all\n", `F1:2:10: Version: version "1 2": ' ' cannot be`},
		{"any architecture", "Package: a\nVersion: 1\nArchitecture: any\n", `F1:3:15: Architecture: "any" is no architecture of a package`},
		{"multi-arch", head + "Multi-Arch: both\n", `F1:4:13: Multi-Arch: "both" is not known (write no, same, foreign or allowed)`},
		{"essential", head + "Essential: 1\n", `F1:4:12: Essential: "1" is neither (write yes or no)`},
		{"size", head + "Size: -1\n", `F1:4:7: Size: "-1" is no size`},
		{"a size of which a million overflow", head + "Installed-Size: 8796093022208\n", `F1:4:17: Installed-Size: "8796093022208" is no size`},
		{"size that is none", head + "Installed-Size: 99999999999999999999\n", "F1:4:17: Installed-Size:"},
		{"a comma too many", head + "Depends: b,, c\n", "F1:4:12: Depends: a package is missing before a comma"},
		{"a comma alone", head + "Depends: ,\n", "F1:4:10: Depends: a package is missing"},
		{"an alternative too many", head + "Depends: b | | c\n", `F1:4:14: Depends: the name of a package is missing`},
		{"an alternative at the end", head + "Depends: b |\n", `F1:4:13: Depends: the name of a package is missing`},
		{"on the line on which it is", head + "Depends: b,\n c,\n  d (= 1\n", "F1:6:5: Depends: the parenthesis is not closed"},
		{"an operator", head + "Depends: b (== 1)\n", `F1:4:13: Depends: "==" is no way to compare versions (write <<, <=, =, >= or >>)`},
		{"no operator", head + "Depends: b (1)\n", `F1:4:13: Depends: "" is no way to compare`},
		{"no version in a relation", head + "Depends: b (>=)\n", "F1:4:15: Depends: a version is empty"},
		{"two versions", head + "Depends: b (>= 1, << 2)\n", "F1:4:12: Depends: the parenthesis is not closed"},
		{"no architecture after a colon", head + "Depends: b: (>= 1)\n", "F1:4:12: Depends: an architecture is missing after the colon (write any, native, or an architecture such as amd64)"},
		{"words", head + "Depends: b c\n", "F1:4:12: Depends: 'c' is not expected here"},
		{"a substitution that was not made", head + "Depends: ${misc:Depends}\n", "F1:4:10: Depends: '$' where the name of a package is expected"},
		{"build profiles", head + "Depends: b <!nocheck>\n", "F1:4:12: Depends: build profiles are of source packages"},
		{"a list of architectures", head + "Depends: b [i386 !armhf]\n", "F1:4:12: Depends: architectures that are meant, and that are not"},
		{"an empty one", head + "Depends: b []\n", "F1:4:12: Depends: the list of architectures is empty"},
		{"one that is not closed", head + "Depends: b [i386\n", "F1:4:12: Depends: the bracket is not closed"},
		{"no architecture in one", head + "Depends: b [i386 !]\n", `F1:4:12: Depends: "!" is no architecture`},
		{"alternatives of conflicts", head + "Conflicts: b | c\n", "F1:4:12: Conflicts: alternatives cannot be here"},
		{"alternatives of conflicts that were read before", head + "Depends: b | c\nBreaks: x, b | c\n", "F1:5:12: Breaks: alternatives cannot be here"},
		{"several versions provided", head + "Provides: b (>= 1)\n", "F1:4:11: Provides: a package provides one version"},
		{"the same package twice", head + "\n" + head, "F1:5:1: a 1 of amd64 is at line 1 already"},
		{"a very long line", "Package: " + strings.Repeat("a", maxLine), "F1:1:1: a line longer than 1048576 bytes"},
		{"a very long field", head + "Depends: a" + strings.Repeat(",\n a", maxField/3+1), "F1:1398106:1: a field longer than 4194304 bytes"},
	} {
		_, err := read(c.file)
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
		if !errors.As(err, new(*SyntaxError)) {
			t.Errorf("%s: %T", c.name, err)
		}
	}
}

// What is small in a file and large in memory counts as what it is there.
func TestWhatIsKeptIsBounded(t *testing.T) {
	for _, c := range []struct {
		name, file string
		takes      int
	}{
		{"alternatives", head + "Depends: a" + strings.Repeat("|a", 99) + "\n", 100 * relationBytes},
		{"a version", "Package: a\nArchitecture: all\nVersion: 1" + strings.Repeat("0", 999) + "\n", 1000},
		{"a name", "Package: a" + strings.Repeat("a", 999) + "\nArchitecture: all\nVersion: 1\n", 1000},
	} {
		add := func(room int) error {
			r := Repository{kept: maxText - room}
			return r.Add(context.Background(), strings.NewReader(c.file), "F")
		}
		if err := add(c.takes + 400); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := add(c.takes - 1); err == nil || !strings.Contains(err.Error(), "take more than 268435456 bytes in all") {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestPackedFiles(t *testing.T) {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	io.WriteString(w, head)
	w.Close()
	r, err := read(z.String())
	if err != nil || len(r.Packages) != 1 {
		t.Errorf("gzip: %v", err)
	}
	for _, c := range []struct{ file, want string }{
		{z.String()[:20], "F1: unexpected EOF"},
		{z.String()[:5], "F1: unexpected EOF"},
		{"\xfd7zXZ\x00\x00", "F1: compressed by xz, which is not read: xz -dc F1 | lorica solve --debian -"},
		{"BZh91AY", "F1: compressed by bzip2"},
		{"\x28\xb5\x2f\xfd...", "F1: compressed by zstd"},
		{"\x04\x22\x4d\x18...", "F1: compressed by lz4"},
		{"!<arch>\ndebian-binary", "F1: this is a package, not a Packages file"},
	} {
		if _, err := read(c.file); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%q: %v, want %s", c.file[:5], err, c.want)
		}
	}
}

func TestReadingStops(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	var r Repository
	if err := r.Add(ctx, strings.NewReader(head), "F1"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// One package may be in several files, as of a release and of its updates.
func TestSeveralFiles(t *testing.T) {
	r, err := read(head+"\n"+strings.Replace(head, ": a", ": b", 1), head+"Depends: b\n\n"+strings.Replace(head, "1", "2", 1))
	if err != nil || len(r.Packages) != 3 {
		t.Fatalf("%v: %d packages", err, len(r.Packages))
	}
}

// Whatever a file is, it is read or refused with a place in it; what is read can be
// written and read again.
func FuzzRead(f *testing.F) {
	f.Add([]byte(head + "Depends: b:any (>= 1:2~) | c [!i386],\n d\nConflicts: e (<< 3)\nProvides: f (= 1)\n\n" + head))
	f.Add([]byte("#\npackage:x\nVERSION: 0-0\narchitecture:all\nEssential: yes\nInstalled-Size: 7\n .\n"))
	f.Add([]byte("Package: a\n \n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		r, err := read(string(file))
		var s *SyntaxError
		if errors.As(err, &s) {
			lines := bytes.Split(file, []byte("\n"))
			if !bytes.HasPrefix(file, []byte{0x1f, 0x8b}) && (s.Pos.Line < 1 || s.Pos.Line > len(lines) || s.Pos.Column < 1 || s.Pos.Column > len(lines[s.Pos.Line-1])+1) {
				t.Fatalf("%v: there is no such place", s.Pos)
			}
		}
		if err != nil {
			return
		}
		text := r.all()
		again, err := read(text)
		if err != nil {
			t.Fatalf("%v:\n%s", err, text)
		}
		if got := again.all(); got != text {
			t.Fatalf("got\n%s\nwant\n%s", got, text)
		}
		for i := range r.Packages {
			if p := &r.Packages[i]; p.Pos == (api.Pos{}) {
				t.Fatalf("%v is nowhere", p)
			}
		}
		if ix, err := r.Index(context.Background(), "amd64"); err != nil {
			t.Fatal(err)
		} else if _, err := ix.Universe(context.Background()); err != nil {
			t.Fatal(err)
		}
	})
}
