package lorica_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
)

// maxSeed bounds an input of a corpus, in bytes: it is read in review.
const maxSeed = 4096

var fuzzTarget = regexp.MustCompile(`(?m)^func (Fuzz\w*)\(`)

// corpora checks that every fuzz target has a corpus that says something, and every
// corpus a target: go test passes over what is empty or named otherwise in silence.
func corpora(tree fs.FS) (list []string, targets int, err error) {
	report := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	wanted := map[string]bool{}
	err = walkGo(tree, func(name string, src []byte) error {
		if !strings.HasSuffix(name, "_test.go") {
			return nil
		}
		for _, m := range fuzzTarget.FindAllSubmatch(src, -1) {
			dir := path.Join(path.Dir(name), "testdata", "fuzz", string(m[1]))
			wanted[dir] = true
			seeds, err := fs.Glob(tree, path.Join(dir, "*"))
			if err != nil {
				return err
			}
			if len(seeds) == 0 {
				report("%s: %s is empty: fuzz it, then run scripts/corpus", name, dir)
			}
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	err = fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		dir := path.Dir(name)
		switch in := path.Dir(dir) + "/"; {
		case d.IsDir() && d.Name() == ".git":
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(in, "testdata/fuzz/"):
			return nil
		case !wanted[dir]:
			report("%s: there is no such fuzz target", name)
			return nil
		}
		b, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		if _, values, _ := bytes.Cut(b, []byte("go test fuzz v1\n")); len(values) == 0 || len(b) > maxSeed {
			report("%s: %d bytes; a seed has a head, values, and at most %d", name, len(b), maxSeed)
		}
		return nil
	})
	return list, len(wanted), err
}

func TestEveryFuzzTargetHasACorpus(t *testing.T) {
	list, targets, err := corpora(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	if targets < 80 {
		t.Errorf("only %d fuzz targets", targets)
	}
	for _, v := range list {
		t.Error(v)
	}
}

func TestMissingCorporaAreFound(t *testing.T) {
	const target, seed = "package x\n\nimport \"testing\"\n\nfunc FuzzX(f *testing.F) {}\n", "go test fuzz v1\n[]byte(\"0\")\n"
	for name, c := range map[string]struct {
		tree map[string]string
		want bool
	}{
		"a corpus":                {map[string]string{"a/x_test.go": target, "a/testdata/fuzz/FuzzX/1": seed}, false},
		"no corpus":               {map[string]string{"a/x_test.go": target}, true},
		"of another target":       {map[string]string{"a/x_test.go": target, "a/testdata/fuzz/FuzzX/1": seed, "a/testdata/fuzz/FuzzY/1": seed}, true},
		"of another package":      {map[string]string{"a/x_test.go": target, "b/testdata/fuzz/FuzzX/1": seed}, true},
		"an empty seed":           {map[string]string{"a/x_test.go": target, "a/testdata/fuzz/FuzzX/1": ""}, true},
		"a head only":             {map[string]string{"a/x_test.go": target, "a/testdata/fuzz/FuzzX/1": "go test fuzz v1\n"}, true},
		"a large seed":            {map[string]string{"a/x_test.go": target, "a/testdata/fuzz/FuzzX/1": seed + strings.Repeat("x", maxSeed)}, true},
		"a target of the product": {map[string]string{"a/x.go": target}, false},
		"in the root":             {map[string]string{"x_test.go": target, "testdata/fuzz/FuzzX/1": seed}, false},
	} {
		t.Run(name, func(t *testing.T) {
			tree := fstest.MapFS{}
			for name, text := range c.tree {
				tree[name] = &fstest.MapFile{Data: []byte(text)}
			}
			list, _, err := corpora(tree)
			if err != nil {
				t.Fatal(err)
			}
			if (len(list) > 0) != c.want {
				t.Errorf("got %q", list)
			}
		})
	}
}
