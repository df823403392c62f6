package builder

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	lorica "lorica.dev/lorica"
)

// The image that tests the kernel from inside: its package, and the folder that holds
// all that is linked into it.
const (
	selftestPackage = "./kernel/selftest"
	selftestFolder  = "kernel"
)

// Selftest builds the image that tests package kernel from inside, with the toolchain
// that images are built with, and returns its path and digest. It is left in dir.
func Selftest(ctx context.Context, dir string) (path, digest string, err error) {
	tools, err := findToolchain(ctx)
	if err != nil {
		return "", "", err
	}
	source := lorica.Source()
	goVersion, _, err := pins(source, nil)
	if err != nil {
		return "", "", err
	}
	files := []file{{"go.mod", fmt.Appendf(nil, "module %s\n\ngo %s\n", lorica.ModulePath, goVersion)}}
	err = fs.WalkDir(source, selftestFolder, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(name, "_test.go") {
			return err
		}
		data, err := fs.ReadFile(source, name)
		files = append(files, file{name, data})
		return err
	})
	if err != nil {
		return "", "", fmt.Errorf("builder: embedded source: %w", err)
	}
	b := &build{plan: &Plan{tools: tools}, dir: filepath.Join(dir, "source"), tmp: filepath.Join(dir, "go")}
	if err := b.lay(files); err != nil {
		return "", "", fmt.Errorf("builder: %w", err)
	}
	for _, x := range []struct {
		flags []string
		out   string
	}{{imageFlags, b.image()}, {debugFlags, b.debug()}} {
		args := append(append([]string{"build"}, x.flags...), "-o", x.out, selftestPackage)
		if _, err := tools.run(ctx, b.dir, tools.environment(b.tmp), args...); err != nil {
			return "", "", fmt.Errorf("builder: %w", err)
		}
	}
	if err := bootable(b.image(), b.debug()); err != nil {
		return "", "", fmt.Errorf("builder: %w", err)
	}
	elf, err := os.ReadFile(b.image())
	if err != nil {
		return "", "", fmt.Errorf("builder: %w", err)
	}
	return b.image(), digestOf(elf), nil
}
