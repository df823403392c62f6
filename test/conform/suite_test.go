package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheWholeCorpus judges every request of the corpus that the module of cedar-go
// carries, as it says and as cedar-go does.
func TestTheWholeCorpus(t *testing.T) {
	s := suites(must(moduleCorpus()))[0]
	t.Logf("%d requests of %d tests, of which %d are not to validate", s.Requests, s.Tests, s.Invalid)
	if s.failed() || s.Tests < 7000 || s.Requests < 60_000 {
		t.Errorf("%d requests of %d tests; %d mismatches, %d tests refused, unreadable: %s", s.Requests, s.Tests, s.Mismatches, s.Refused, s.Unreadable)
	}
	s.tell(t)
}

func (s *suite) tell(t testing.TB) {
	t.Helper()
	for _, m := range s.Found {
		t.Errorf("%s", m)
	}
	for _, r := range s.Refusals {
		t.Errorf("refused: %s", r)
	}
}

// judgedBy runs the command over paths, and returns its exit code and the suites that it
// tells of.
func judgedBy(t *testing.T, args ...string) (int, []suite) {
	t.Helper()
	var out, errs bytes.Buffer
	code := command(append(args, "-o", "json"), &out, &errs)
	var list []suite
	if err := json.Unmarshal(out.Bytes(), &list); err != nil {
		t.Fatalf("%v: %v\n%s%s", args, err, out.Bytes(), errs.Bytes())
	}
	return code, list
}

const small = "testdata/suite"

// altered returns a copy of the small suite in which a file reads otherwise.
func altered(t *testing.T, file, from, to string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(small)); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, file)
	b := must(os.ReadFile(at))
	if from != "" && bytes.Count(b, []byte(from)) != 1 {
		t.Fatalf("%s has %q %d times", file, from, bytes.Count(b, []byte(from)))
	}
	if err := os.WriteFile(at, bytes.Replace(b, []byte(from), []byte(to), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestASuiteInAFolder(t *testing.T) {
	code, list := judgedBy(t, "-cedar", small)
	if code != 0 || len(list) != 1 || list[0].Tests != 1 || list[0].Requests != 4 {
		t.Errorf("%d: %+v", code, list)
	}
}

// archive packs the small suite under a folder.
func archive(t *testing.T, name string) {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, f := range []string{"tests/1.json", "tests/clinic.cedar", "data/entities.json", "data/clinic.cedarschema"} {
		text := must(os.ReadFile(filepath.Join(small, f)))
		if err := w.WriteHeader(&tar.Header{Name: "./some-suite-1.0/" + f, Mode: 0o600, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		must(w.Write(text))
	}
	w.Close()
	z.Close()
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSuitesInArchives(t *testing.T) {
	dir := t.TempDir()
	archive(t, filepath.Join(dir, "a.tar.gz"))
	archive(t, filepath.Join(dir, "b.tgz"))
	for _, args := range [][]string{{dir}, {filepath.Join(dir, "a.tar.gz"), filepath.Join(dir, "b.tgz")}} {
		code, list := judgedBy(t, append([]string{"-cedar"}, args...)...)
		if code != 0 || len(list) != 2 || list[0].Requests != 4 || list[1].Requests != 4 {
			t.Errorf("%v: %d: %+v", args, code, list)
		}
	}
}

func TestWhatFailsASuite(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "broken.tar.gz")
	archive(t, broken)
	if err := os.Truncate(broken, 200); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path       string
		mismatches int
		unreadable string
	}{
		"a decision":                {altered(t, "tests/1.json", `"allow"`, `"deny"`), 1, ""},
		"reasons":                   {altered(t, "tests/1.json", `["policy1"]`, `["policy0"]`), 1, ""},
		"errors":                    {altered(t, "tests/1.json", `"errors": ["policy0"]`, `"errors": []`), 1, ""},
		"entities that do not fit":  {altered(t, "data/entities.json", `"2026-01-06"`, `"someday"`), 1, ""},
		"nothing":                   {t.TempDir(), 0, "no tests"},
		"no such folder":            {"testdata/none", 0, "no such file"},
		"no such archive":           {"testdata/none.tar.gz", 0, "no such file"},
		"half an archive":           {broken, 0, "unexpected EOF"},
		"policies that do not read": {altered(t, "tests/clinic.cedar", "forbid (", "forbid "), 0, "clinic.cedar"},
		"entities that do not read": {altered(t, "data/entities.json", "[\n", ""), 0, "entities.json"},
		"a schema that does not":    {altered(t, "data/clinic.cedarschema", "entity Nurse", "entity"), 0, "clinic.cedarschema"},
		"a test that does not":      {altered(t, "tests/1.json", "requests", `x" "`), 0, "1.json"},
		"a part that is missing":    {altered(t, "tests/1.json", "data/clinic", "data/other"), 0, "data/other.cedarschema is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			code, list := judgedBy(t, "-cedar", c.path)
			if code != 1 || len(list) != 1 || list[0].Mismatches != c.mismatches || !strings.Contains(list[0].Unreadable, c.unreadable) || c.unreadable == "" && list[0].Unreadable != "" {
				t.Errorf("%d: %+v", code, list)
			}
		})
	}
}

// What does not compile is told apart from what is decided wrongly.
func TestRefusalsFailASuite(t *testing.T) {
	deep := strings.Repeat("(1 + ", 200) + "context.n" + strings.Repeat(")", 200)
	code, list := judgedBy(t, "-cedar", altered(t, "tests/clinic.cedar", "", "permit (principal, action, resource) when { "+deep+" == 1 };\n"))
	if code != 1 || len(list) != 1 || list[0].Refused != 1 || list[0].Mismatches != 0 || len(list[0].Refusals) != 1 || !strings.Contains(list[0].Refusals[0], "nested too deep") {
		t.Errorf("%d: %+v", code, list)
	}
}

func TestFilterSets(t *testing.T) {
	name := filepath.Join(t.TempDir(), "some.rules")
	if err := os.WriteFile(name, []byte("@10.0.0.0/8\t0.0.0.0/0\t0 : 65535\t8443 : 8443\t0x06/0xFF\t0x0/0x0\n@0.0.0.0/0\t0.0.0.0/0\t0 : 65535\t0 : 65535\t0x00/0x00\t0x0/0x0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, list := judgedBy(t, "-packets", "30000", "-classbench", name, name)
	if code != 0 || len(list) != 2 || list[0].Tests != 2 || list[1].Requests != 33_000 {
		t.Errorf("%d: %+v", code, list)
	}
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code, list := judgedBy(t, "-classbench", name); code != 1 || !strings.Contains(list[0].Unreadable, "no rules") {
		t.Errorf("%d: %+v", code, list)
	}
}

func TestTheCommandLine(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, 2, "nothing to judge"}, {[]string{"-h"}, 2, "usage: conform"}, {[]string{small}, 2, "-cedar or -classbench"}, {[]string{"-o", "xml", "-cedar", small}, 2, "json"},
		{[]string{"-cedar", small}, 0, "MISMATCHES"}, {[]string{"-random", "500", "-seed", "7"}, 0, "random"},
	} {
		var out bytes.Buffer
		if code := command(c.args, &out, &out); code != c.code || !strings.Contains(out.String(), c.says) {
			t.Errorf("%v: %d: %s", c.args, code, out.String())
		}
	}
}
