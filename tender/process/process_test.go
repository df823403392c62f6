package process

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
	"lorica.dev/lorica/internal/notrun"
)

// The test binary is also the stage, and the places where one layer of the
// confinement is tried alone.
func TestMain(m *testing.M) {
	roles := map[string]func() error{StageCommand: Stage, "landlocked": landlocked, "executed": executed, "elsewhere": elsewhere, "nobody": nobody, "grouped": grouped, "roomy": roomy}
	if len(os.Args) == 2 && roles[os.Args[1]] != nil {
		runtime.LockOSThread()
		if err := roles[os.Args[1]](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// role runs this binary in one of them, in namespaces of its own where it needs
// them.
func role(t *testing.T, name string, namespaces bool) {
	t.Helper()
	if f := probeNamespaces(); namespaces && !f.OK {
		notrun.Say(t, "the layer \""+name+"\" alone", f.Detail)
		return
	}
	cmd := stageCommand(namespaces, nil)
	cmd.Args[1] = name
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// landlocked has nothing but the Landlock domain between it and the machine.
func landlocked() error {
	abi, err := landlockABI()
	if err != nil {
		return err
	}
	before, err := os.Open("/etc/passwd")
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := restrict(abi); err != nil {
		return err
	}
	tries := map[string]error{
		"open":    func() error { _, err := os.Open("/etc/passwd"); return err }(),
		"create":  os.WriteFile(filepath.Join(os.TempDir(), "lorica-landlocked"), nil, 0o600),
		"list":    func() error { _, err := os.ReadDir("/"); return err }(),
		"execute": syscall.Exec("/proc/self/exe", []string{"stage", "executed"}, nil),
	}
	if abi >= 4 {
		tries["bind"] = bind()
	}
	for what, err := range tries {
		if !errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("%s: %v", what, err)
		}
	}
	if _, err := before.Read(make([]byte, 1)); err != nil { // not refused: it was opened before
		return fmt.Errorf("reading what was open: %w", err)
	}
	return nil
}

// executed is where a Landlock domain has let an execution through.
func executed() error { return errors.New("a file was executed") }

// bind makes a plain TCP socket: package net makes an MPTCP one, to which the
// rules of Landlock do not extend.
func bind() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet4{})
}

func TestLandlockAloneRefuses(t *testing.T) {
	if _, err := landlockABI(); err != nil {
		notrun.Say(t, "Landlock", err.Error())
		return
	}
	role(t, "landlocked", false)
}

// elsewhere has left the file system and does nothing else.
func elsewhere() error {
	if err := leaveFileSystem(); err != nil {
		return err
	}
	for _, dir := range []string{"/", "..", "."} {
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
			return fmt.Errorf("%s holds %v (%v)", dir, entries, err)
		}
	}
	for _, p := range []string{"/etc/passwd", "/proc/self/mem", "../../../etc/passwd"} {
		if _, err := os.Open(p); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s: %v", p, err)
		}
	}
	if err := os.WriteFile("/x", nil, 0o600); !errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("writing: %v", err)
	}
	return nil
}

func TestTheFileSystemIsLeft(t *testing.T) { role(t, "elsewhere", true) }

// nobody has dropped its privileges, as root of a user namespace.
func nobody() error {
	o := order{DropUser: isMapped(unprivileged)}
	if err := o.dropPrivileges(); err != nil {
		return err
	}
	s, err := readStatus("/proc/thread-self/status")
	if err != nil {
		return err
	}
	for name, set := range s.caps {
		if set != none {
			return fmt.Errorf("%s is %s", name, set)
		}
	}
	if len(s.caps) != 5 || s.noNewPrivs != "1" {
		return fmt.Errorf("status is %+v", s)
	}
	if err := unix.Mount("none", "/proc", "tmpfs", 0, ""); err != unix.EPERM {
		return fmt.Errorf("mount: %v", err)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0); o.DropUser && e != unix.EPERM {
		return fmt.Errorf("becoming root again: %v", e)
	}
	return nil
}

func TestPrivilegesAreDropped(t *testing.T) { role(t, "nobody", true) }

// isMapped reports whether the namespace has a second user to change to.
func isMapped(id int) bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Contains(string(b), fmt.Sprint(id))
}

func TestMeasure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	content := []byte("an image")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("sha256:%x", sha256.Sum256(content))
	f, err := Measure(path, want)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// What was measured is what runs, whatever happens to the file.
	if err := os.WriteFile(path, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 16)
	if n, _ := f.ReadAt(got, 0); !bytes.Equal(got[:n], content) {
		t.Errorf("measured %q", got[:n])
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("what was measured can be changed")
	}
	if err := f.Truncate(0); err == nil {
		t.Error("what was measured can be shortened")
	}
	if _, err := Measure(path, want); err == nil || !strings.Contains(err.Error(), "expected "+want) {
		t.Errorf("another content: %v", err)
	}
	if _, err := Measure(path+"x", want); err == nil {
		t.Error("nothing was measured")
	}
}

func TestProbe(t *testing.T) {
	r := Probe()
	if !r.Supported || r.TierName != r.Tier.String() || r.Tier != r.Confinement.Tier() {
		t.Errorf("report is %+v", r)
	}
	for _, f := range r.Findings {
		t.Logf("%-12s %v  %s", f.Name, f.OK, f.Detail)
		if f.Name == "" || f.Detail == "" || !f.OK && f.Fix == "" {
			t.Errorf("finding is %+v", f)
		}
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
}

func TestTiers(t *testing.T) {
	full := Confinement{Namespaces: true, Landlock: 7}
	for _, c := range []struct {
		have Confinement
		weak api.Tier
		want api.Tier
	}{
		{full, api.TierFull, api.TierFull},
		{full, api.TierNoUserns, api.TierNoUserns},
		{full, api.TierNoLandlock, api.TierNoLandlock},
		{Confinement{Landlock: 1}, api.TierFull, api.TierNoUserns},
		{Confinement{Namespaces: true}, api.TierFull, api.TierNoLandlock},
		{Confinement{}, api.TierFull, api.TierNoLandlock},
	} {
		if got := c.have.Weakened(c.weak).Tier(); got != c.want {
			t.Errorf("%+v weakened to %s is %s, want %s", c.have, c.weak, got, c.want)
		}
	}
}

// A right that the kernel does not know is an error there; one that is not
// asked for is not refused.
func TestLandlockRulesFollowTheABI(t *testing.T) {
	for abi, want := range map[int]ruleset{
		1: {fs: 0x1fff}, 2: {fs: 0x3fff}, 3: {fs: 0x7fff}, 4: {fs: 0x7fff, net: 3}, 5: {fs: 0xffff, net: 3},
		6: {fs: 0xffff, net: 3, scoped: 3}, 99: {fs: 0xffff, net: 3, scoped: 3},
	} {
		if got := landlockRules(abi); got != want {
			t.Errorf("ABI %d: %+v, want %+v", abi, got, want)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	good := func() status {
		return status{seccomp: "2", filters: 3, noNewPrivs: "1", uid: "65534\t65534\t65534\t65534", gid: "65534\t65534\t65534\t65534", groups: []string{"104"},
			caps: map[string]string{"CapInh": none, "CapPrm": none, "CapEff": none, "CapAmb": none, "CapBnd": none}}
	}
	p := &Process{filters: 3, groups: []int{104}}
	if err := p.confined(good()); err != nil {
		t.Fatal(err)
	}
	refused := map[string]func(*status){
		"no filter":         func(s *status) { s.seccomp = "0" },
		"strict mode":       func(s *status) { s.seccomp = "1" },
		"nothing known":     func(s *status) { *s = status{} },
		"one filter less":   func(s *status) { s.filters = 2 },
		"one filter more":   func(s *status) { s.filters = 4 },
		"new privileges":    func(s *status) { s.noNewPrivs = "0" },
		"a capability":      func(s *status) { s.caps["CapEff"] = "0000000000000001" },
		"a permitted one":   func(s *status) { s.caps["CapPrm"] = "0000000000200000" },
		"no word about one": func(s *status) { delete(s.caps, "CapAmb") },
	}
	if os.Geteuid() == 0 { // an ordinary user's image runs as that user
		refused["root"] = func(s *status) { s.uid = "0\t0\t0\t0" }
		refused["root, put away"] = func(s *status) { s.uid = "65534\t65534\t0\t65534" }
		refused["the group of root"] = func(s *status) { s.gid = "0\t0\t0\t0" }
		refused["the group of root beside"] = func(s *status) { s.groups = []string{"0", "104"} }
		refused["no word about groups"] = func(s *status) { s.groups = nil }
	}
	for name, change := range refused {
		s := good()
		change(&s)
		if p.confined(s) == nil {
			t.Errorf("%s: passed", name)
		}
	}
	s := good()
	s.seccomp = "3"
	if err := p.confined(s); !errors.Is(err, ErrDying) {
		t.Errorf("dying: %v", err)
	}
}

func TestLaunchRefuses(t *testing.T) {
	l, err := NewLauncher()
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	ours, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	defer theirs.Close()
	for name, c := range map[string]struct {
		change func(*Spec)
		want   string
	}{
		"no image":              {func(s *Spec) { s.Image = nil }, "missing"},
		"no listener":           {func(s *Spec) { s.Listeners = nil }, "0 listeners"},
		"too much memory":       {func(s *Spec) { s.Memory = 1 << 50 }, "1 TiB"},
		"an unknown call":       {func(s *Spec) { s.Syscalls = []catalog.Syscall{{Name: "sing"}} }, `"sing" is unknown`},
		"not an executable":     {func(s *Spec) {}, "execveat"},
		"a tender that is gone": {func(s *Spec) { s.Control = theirs; ours.Close() }, "the tender is gone"},
	} {
		s := Spec{Image: null, Control: null, Program: null, Output: null, Listeners: []*os.File{null}, Syscalls: []catalog.Syscall{{Name: "read"}},
			Confinement: Confinement{Namespaces: probeNamespaces().OK}}
		c.change(&s)
		if p, err := l.Launch(s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v", name, p, err)
		}
	}
	if out, err := exec.Command("/proc/self/exe", StageCommand).CombinedOutput(); err == nil || !strings.Contains(string(out), "not by hand") {
		t.Errorf("by hand: %v %s", err, out)
	}
}
