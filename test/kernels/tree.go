package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// A suite is a test binary that runs in the machines, and the tests of it that do:
// those that show what the kernel does for us. The others show the same anywhere.
type suite struct{ name, dir, tests, skip string }

// The kill tests come last: they take longest. They are those of the attacker: the
// real image would need the Go toolchain, and its filter is the same everywhere.
func suites() []suite {
	return []suite{
		{"process", "tender/process", ".", "^TestATool"}, // a machine has no programs to be tools
		{"tender", "tender", "^(TestConfinement|TestTheMinimumIsKept|TestImagesHaveAGroupWhereThatIsDelegated|TestNoImageIsLeftBehind|TestOrdinaryUser)$", "^$"},
		{"redteam", "test/redteam", "^Test(AnHonest|HostileDialers|AFloodOfDials|ForbiddenCalls|EndsOtherwise|Lies|Silence|Floods|TextOf|SealHolds)", "^$"},
	}
}

// build writes the first file system of the machines: this program as /init, and
// below /tree what becomes the root, test binaries and the images that they launch
// included, since there is no Go toolchain there.
func build(ctx context.Context, dir, initrd string) error {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("run it in the repository: %w", err)
	}
	src := strings.TrimSpace(string(root))
	files := map[string]string{} // path in the machine to file here
	compile := func(to string, args ...string) error {
		files[to] = filepath.Join(dir, path.Base(to))
		cmd := exec.CommandContext(ctx, "go", append([]string{args[0]}, append([]string{"-trimpath", "-o", files[to]}, args[1:]...)...)...)
		cmd.Dir, cmd.Env = src, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", to, err, out)
		}
		return nil
	}
	for to, args := range map[string][]string{
		"init":                {"build", "./test/kernels"},
		"tree/bin/lorica":     {"build", "./cmd/lorica"},
		"tree/built/attacker": {"build", "./test/redteam/attacker"},
		"tree/built/image":    {"build", "./tender/testdata/image"},
	} {
		if err := compile(to, args...); err != nil {
			return err
		}
	}
	for _, s := range suites() {
		if err := compile("tree/bin/"+s.name+".test", "test", "-c", "./"+s.dir); err != nil {
			return err
		}
	}
	// Tests run in their folders, and read the manifests of the modules.
	err = filepath.WalkDir(src, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "module.yaml" {
			rel, err := filepath.Rel(src, name)
			if err != nil {
				return err
			}
			files["tree/src/"+filepath.ToSlash(rel)] = name
		}
		return err
	})
	if err != nil {
		return err
	}
	f, err := os.Create(initrd)
	if err != nil {
		return err
	}
	defer f.Close()
	w := archive{w: bufio.NewWriter(f), dirs: map[string]bool{}}
	for _, s := range suites() {
		w.folder("tree/src/" + s.dir)
	}
	// The Go runtime wants its three descriptors before anything is mounted.
	w.entry("dev/console", 0o020600, 5, 1, nil)
	w.entry("dev/null", 0o020666, 1, 3, nil)
	w.entry("tree/etc/passwd", 0o100644, 0, 0, []byte("root:x:0:0::/:/bin/false\n"))
	for to, from := range files {
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		w.entry(to, 0o100755, 0, 0, b)
	}
	return w.close()
}

// archive writes the "newc" format (the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	w    *bufio.Writer // keeps the first error
	dirs map[string]bool
	n    int
}

func (a *archive) folder(name string) {
	if name == "." || a.dirs[name] {
		return
	}
	a.dirs[name] = true
	a.entry(name, 0o040755, 0, 0, nil)
}

func (a *archive) entry(name string, mode, major, minor int, content []byte) {
	a.folder(path.Dir(name))
	a.n++
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", a.n, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0, name)
	io.WriteString(a.w, head+strings.Repeat("\x00", -len(head)&3))
	a.w.Write(content)
	io.WriteString(a.w, strings.Repeat("\x00", -len(content)&3))
}

func (a *archive) close() error {
	a.entry("TRAILER!!!", 0, 0, 0, nil)
	return a.w.Flush()
}
