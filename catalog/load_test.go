package catalog

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func manifest(id string) *fstest.MapFile {
	return &fstest.MapFile{Data: []byte(strings.Replace(good, "pep/firewall", id, 1))}
}

func TestLoadFindsEveryModule(t *testing.T) {
	c, err := Load(fstest.MapFS{
		"pep/b/module.yaml":            manifest("pep/b"),
		"pep/a/module.yaml":            manifest("pep/a"),
		"unikernel/module.yaml":        manifest("unikernel"),
		"pep/a/testdata/x/module.yaml": {Data: []byte("not a manifest")},
		".git/module.yaml":             {Data: []byte("not a manifest")},
		"pep/a/a.go":                   {Data: []byte("package a")},
	})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, m := range c.Modules {
		ids = append(ids, m.ID)
	}
	if !slices.Equal(ids, []string{"pep/a", "pep/b", "unikernel"}) {
		t.Errorf("got %v", ids)
	}
	if p := c.Providers("firewall"); len(p) != 3 || p[0].ID != "pep/a" {
		t.Errorf("providers %v", p)
	}
	if c.Providers("nothing") != nil || c.Module("pep/c") != nil || c.Module("pep/b") == nil {
		t.Error("lookups by name")
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		tree fstest.MapFS
		want string
	}{
		{"an id that is not the folder", fstest.MapFS{"pep/b/module.yaml": manifest("pep/a")}, `the id is "pep/a"; the folder says "pep/b"`},
		{"a version that is not the folder's", fstest.MapFS{"pep/b@2/module.yaml": manifest("pep/b")}, `the id is "pep/b"; the folder says "pep/b@2"`},
		{"a wrong manifest", fstest.MapFS{"pep/b/module.yaml": {Data: []byte("x: 1")}}, `pep/b/module.yaml:1:1: unknown field "x"`},
		{"two folders for one version", fstest.MapFS{"pep/b/module.yaml": manifest("pep/b"), "pep/b@1/module.yaml": manifest("pep/b")}, "pep/b@1/module.yaml:1:1: version 1 of pep/b is in pep/b/module.yaml as well"},
		{"every wrong manifest", fstest.MapFS{"a/module.yaml": {Data: []byte("x: 1")}, "b/module.yaml": {Data: []byte("y: 1")}}, "a/module.yaml:1:1: unknown field \"x\"\nb/module.yaml:1:1: unknown field \"y\""},
		{"a manifest that is no file", fstest.MapFS{"a/module.yaml": {Mode: fs.ModeNamedPipe}}, "a/module.yaml:1:1: not a regular file"},
		{"a manifest without end", fstest.MapFS{"a/module.yaml": {Data: bytes.Repeat([]byte("# \n"), 1<<20)}}, "a/module.yaml:1:1: longer than"},
		{"a tree without modules", fstest.MapFS{"a.go": {}}, "no module.yaml"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Load(c.tree); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestLoadIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := LoadContext(ctx, os.DirFS("..")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestVersionsOfOneModule(t *testing.T) {
	if _, err := New(&Module{ID: "a", Version: "1"}, &Module{ID: "b"}, &Module{ID: "a", Version: "1"}); err == nil || !strings.Contains(err.Error(), "version 1 of a is there twice") {
		t.Errorf("the same version twice: %v", err)
	}
	c, err := Load(fstest.MapFS{
		"pep/a@1/module.yaml": manifest("pep/a"),
		"pep/a/module.yaml":   {Data: []byte(strings.NewReplacer("pep/firewall", "pep/a", `"1"`, `"10"`).Replace(good))},
		"pep/a@9/module.yaml": {Data: []byte(strings.NewReplacer("pep/firewall", "pep/a", `"1"`, `"9"`).Replace(good))},
	})
	if err != nil {
		t.Fatal(err)
	}
	var versions []string
	for _, m := range c.Modules {
		versions = append(versions, m.Version)
	}
	if !slices.Equal(versions, []string{"10", "9", "1"}) || c.Module("pep/a").Version != "10" {
		t.Errorf("got %v, and %s for the id", versions, c.Module("pep/a").Version)
	}
	if !c.Modules[0].ConflictsWith(c.Modules[1]) {
		t.Error("two versions do not exclude each other")
	}
	if p := c.Providers("pep/a"); len(p) != 3 {
		t.Errorf("the id is provided by %v", p)
	}
}

func TestConflicts(t *testing.T) {
	for _, c := range []struct {
		name string
		a, b Module
		want bool
	}{
		{"strangers", Module{ID: "a"}, Module{ID: "b"}, false},
		{"by id", Module{ID: "a", Conflicts: []string{"b"}}, Module{ID: "b"}, true},
		{"by id, told by the other", Module{ID: "a"}, Module{ID: "b", Conflicts: []string{"a"}}, true},
		{"by capability", Module{ID: "a", Conflicts: []string{"tls"}}, Module{ID: "b", Provides: []string{"tls"}}, true},
		{"another version of itself", Module{ID: "a", Version: "1"}, Module{ID: "a", Version: "2"}, true},
		{"by a capability that it has itself", Module{ID: "a", Provides: []string{"tls"}, Conflicts: []string{"tls"}}, Module{ID: "b", Provides: []string{"tls"}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.a.ConflictsWith(&c.b) != c.want || c.b.ConflictsWith(&c.a) != c.want {
				t.Errorf("want %v from both sides", c.want)
			}
			if c.a.ConflictsWith(&c.a) {
				t.Error("a module excludes itself")
			}
		})
	}
}

// A sealed image must not reach the memory that holds its program, execute what
// it wrote, or open anything new.
func TestNoModuleAsksForACallThatBreaksTheSeal(t *testing.T) {
	c, err := Load(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	never := []string{
		"open", "openat", "openat2", "creat", "socket", "connect", "bind", "execve", "execveat", "fork", "vfork", "clone3", "ptrace",
		"mprotect", "pkey_mprotect", "mremap", "remap_file_pages", "mseal", "process_vm_writev", "process_vm_readv", "process_madvise",
		"io_uring_setup", "io_uring_enter", "bpf", "userfaultfd", "memfd_create", "shmat", "prctl", "seccomp", "ioctl", "sendmsg",
		"pidfd_getfd", "kill", "tkill", "setns", "unshare", "mount", "personality", "modify_ldt", "arch_prctl",
	}
	condition := func(s Syscall, want string) bool {
		return slices.ContainsFunc(s.When, func(c Condition) bool { return c.String() == want })
	}
	seen := map[string]bool{}
	for _, m := range c.Modules {
		for _, s := range m.Syscalls {
			seen[s.Name] = true
			if slices.Contains(never, s.Name) {
				t.Errorf("%s lists %s", m.ID, s.Name)
			}
			switch s.Name {
			case "mmap", "munmap", "madvise":
				if !condition(s, "arg0+arg1 outside program") {
					t.Errorf("%s: %s can reach the program", m.ID, s)
				}
				if s.Name == "mmap" && !condition(s, "arg2 & 0x4 == 0x0") {
					t.Errorf("%s: %s can make memory executable", m.ID, s)
				}
			case "clone":
				if !condition(s, "arg0 == 0xd0f00") {
					t.Errorf("%s: %s can make a process", m.ID, s)
				}
			case "recvmsg":
				// Descriptors come in over the dial socket alone: it is the tender's, and
				// what it passes are connections. Of any other socket a message could
				// bring whatever its other end likes.
				if !condition(s, "arg0 == 0x5") {
					t.Errorf("%s: %s can take descriptors from anybody", m.ID, s)
				}
			case "fcntl":
				if !condition(s, "arg1 == 0x3") {
					t.Errorf("%s: %s can do more than read flags", m.ID, s)
				}
			case "tgkill":
				if !condition(s, "arg0 == self") {
					t.Errorf("%s: %s can signal others", m.ID, s)
				}
			}
		}
	}
	for _, name := range []string{"mmap", "munmap", "madvise", "clone", "tgkill"} {
		if !seen[name] {
			t.Errorf("no module lists %s: the check above saw nothing", name)
		}
	}
}
