package process

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/internal/notrun"
)

// tried runs a shell as a tool with script, and returns what it wrote.
func tried(t *testing.T, c Confinement, script string, reads ...string) (string, *Process) {
	t.Helper()
	shell, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal(err)
	}
	if shell, err = filepath.EvalSymlinks(shell); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/usr", "/lib", "/lib64"} {
		if _, err := os.Stat(p); err == nil {
			reads = append(reads, p)
		}
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	fd, err := unix.MemfdCreate("shared", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	shared := os.NewFile(uintptr(fd), "shared")
	defer shared.Close()
	out, sink, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	l, err := NewLauncher()
	if err != nil {
		t.Fatal(err)
	}
	p, err := l.LaunchTool(ToolSpec{Tool: Tool{Path: shell, Args: []string{"-c", script}, Reads: reads, Devices: []string{"/dev/zero"}},
		Files: []*os.File{theirs, shared}, Output: sink, Errors: sink, Data: 1 << 30, Confinement: c})
	sink.Close()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	return string(b), p
}

// Each layer is enough against what the others are there for as well.
func TestAToolSeesItsOwnFiles(t *testing.T) {
	dir := t.TempDir()
	kept, other := filepath.Join(dir, "kept"), filepath.Join(dir, "other")
	for _, d := range []string{kept, other} {
		if err := os.Mkdir(d, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, "file"), []byte("#!/usr/bin/true\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{dir, filepath.Dir(dir), kept, other} { // the mode, not the owner, is what lets a tool in
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script := fmt.Sprintf(`
try() { if eval "$2" 2>&-; then echo "$1: yes"; else echo "$1: no"; fi; }
try "reading what is kept" 'read -r x <%[1]s/file'
try "reading what is not" 'read -r x <%[2]s/file'
try "executing what is not" '%[2]s/file'
try "writing what is kept" '{ :; } >>%[1]s/file'
try "adding to what is kept" '{ :; } >%[1]s/new'
try "the users" 'read -r x </etc/passwd'
try "a device" 'read -r -N 0 x </dev/zero'
try "another device" '{ :; } </dev/null'
try "its shared memory" '{ :; } <>/proc/self/fd/4'
try "the tender" 'kill -0 %[3]d'
try "words of the tender" '[ -n "$HOME$USER$PATH_INFO$LORICA_NOT_RUN" ]'
`, kept, other, os.Getpid())
	want := `reading what is kept: yes
reading what is not: no
executing what is not: no
writing what is kept: no
adding to what is kept: no
the users: no
a device: yes
another device: no
its shared memory: yes
the tender: no
words of the tender: no
`
	full := Probe().Confinement
	for name, c := range map[string]Confinement{"all layers": full, "namespaces alone": {Namespaces: true}, "Landlock alone": {Landlock: full.Landlock}, "the first Landlock": {Landlock: 1}} {
		if c.Namespaces && !full.Namespaces || c.Landlock > full.Landlock || c == (Confinement{}) {
			notrun.Say(t, "a tool under "+name, "the kernel does not have them")
			continue
		}
		t.Run(name, func(t *testing.T) {
			want := want
			if os.Geteuid() != 0 && !c.Namespaces && c.Landlock < 6 { // before that signals are not in its rules
				want = strings.ReplaceAll(want, "the tender: no", "the tender: yes")
			}
			if got, _ := tried(t, c, script, kept); got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

func TestAToolIsConfined(t *testing.T) {
	c := Probe().Confinement
	got, p := tried(t, c, `ulimit -c; ulimit -f; ulimit -d; ulimit -n; exit 7`)
	if got != "0\n0\n1048576\n256\n" || p.ExitCode() != 7 || p.Signal() != 0 {
		t.Errorf("it ended with %s: %q", p.Death(), got)
	}
}

func TestAToolThatCannotStart(t *testing.T) {
	l, err := NewLauncher()
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	good := ToolSpec{Tool: Tool{Path: "/usr/bin/env", Reads: []string{"/usr"}}, Files: []*os.File{null}, Output: null, Errors: null,
		Data: 1 << 30, Confinement: Confinement{Namespaces: probeNamespaces().OK}}
	for name, c := range map[string]struct {
		change func(*ToolSpec)
		want   string
	}{
		"no file":         {func(s *ToolSpec) { s.Files = nil }, "missing"},
		"no output":       {func(s *ToolSpec) { s.Output = nil }, "missing"},
		"a relative path": {func(s *ToolSpec) { s.Path = "env" }, "no absolute path"},
		"a path upwards":  {func(s *ToolSpec) { s.Reads = []string{"/usr/../etc"} }, "no absolute path"},
		"not there":       {func(s *ToolSpec) { s.Path = "/usr/bin/lorica-none" }, "no such file"},
		"reads not there": {func(s *ToolSpec) { s.Reads = []string{"/usr/lorica-none"}; s.Confinement.Landlock = 1 }, "no such file"},
	} {
		s := good
		c.change(&s)
		if p, err := l.LaunchTool(s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v", name, p, err)
		}
	}
}
