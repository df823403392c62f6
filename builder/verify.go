package builder

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// verify compares the modules that are linked, as they lie in the module cache, with
// their checksums: the go command does so only when it downloads them, and a bit may
// have flipped since.
func (b *build) verify(ctx context.Context) error {
	const format = "{{with .Module}}{{with or .Replace .}}{{if .Version}}{{.Path}} {{.Version}}\t{{.Dir}}{{end}}{{end}}{{end}}"
	out, err := b.plan.tools.run(ctx, b.dir, b.plan.tools.environment(b.tmp), "list", "-deps", "-f", format, ".")
	if err != nil {
		return fmt.Errorf("builder: %w", err)
	}
	sums, err := os.ReadFile(filepath.Join(b.dir, "go.sum"))
	if err != nil {
		return fmt.Errorf("builder: %w", err)
	}
	lines := strings.Split(string(out), "\n")
	slices.Sort(lines)
	for _, line := range slices.Compact(lines) {
		module, dir, ok := strings.Cut(line, "\t")
		if !ok {
			continue
		}
		path, version, _ := strings.Cut(module, " ")
		sum, err := hashModule(dir, path+"@"+version)
		if err != nil {
			return fmt.Errorf("builder: %w", err)
		}
		if !slices.Contains(strings.Split(string(sums), "\n"), module+" "+sum) {
			return fmt.Errorf("module %s in the module cache is not what go.sum says: delete %s and build again", module, dir)
		}
	}
	return nil
}

// hashModule returns the checksum of a module as go.sum writes it ("h1:", in the
// reference of Go modules): that of the list of its files with theirs.
func hashModule(dir, prefix string) (string, error) {
	var sums []checksum
	tree := os.DirFS(dir)
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		sums = append(sums, checksum{name, sha256.Sum256(data)})
		return nil
	})
	if err != nil {
		return "", err
	}
	return combine(sums, prefix), nil
}

// hashFiles is hashModule of files that were read.
func hashFiles(files []file, prefix string) string {
	var sums []checksum
	for _, f := range files {
		sums = append(sums, checksum{f.name, sha256.Sum256(f.data)})
	}
	return combine(sums, prefix)
}

type checksum struct {
	name string
	sum  [sha256.Size]byte
}

func combine(sums []checksum, prefix string) string {
	var list []string
	for _, c := range sums {
		list = append(list, fmt.Sprintf("%s\x00%x  %[1]s\n", prefix+"/"+c.name, c.sum))
	}
	slices.Sort(list) // by name
	h := sha256.New()
	for _, line := range list {
		_, line, _ = strings.Cut(line, "\x00")
		h.Write([]byte(line))
	}
	return "h1:" + base64.StdEncoding.EncodeToString(h.Sum(nil))
}
