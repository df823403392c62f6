package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/internal/notrun"
)

func TestOwnGroup(t *testing.T) {
	const (
		v1     = "31 23 0:28 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n"
		v2     = "30 23 0:29 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
		nested = "30 23 0:29 /box /sys/fs/cgroup rw - cgroup2 cgroup rw\n"
	)
	for name, c := range map[string]struct{ own, mounts, dir string }{
		"unified":               {"0::/user.slice/a.scope\n", v2, "/sys/fs/cgroup/user.slice/a.scope"},
		"hybrid":                {"4:memory:/x\n0::/a\n", v1 + v2, "/sys/fs/cgroup/a"},
		"the root":              {"0::/\n", v2, "/sys/fs/cgroup"},
		"a mount of a part":     {"0::/box/a\n", nested, "/sys/fs/cgroup/a"},
		"a mount of elsewhere":  {"0::/boxer/a\n", nested, ""},
		"version 1 only":        {"4:memory:/x\n", v1, ""},
		"no mount":              {"0::/a\n", v1, ""},
		"outside the namespace": {"0::/../a\n", v2, ""},
		"nothing":               {"", "", ""},
		"short":                 {"0::/a\n", "1 2 3 - cgroup2 x\n", ""},
	} {
		dir, _, err := ownGroup(c.own, c.mounts)
		if dir != c.dir || (err == nil) != (c.dir != "") {
			t.Errorf("%s: got %q, %v, want %q", name, dir, err, c.dir)
		}
	}
}

// group writes the files of one group.
func group(t *testing.T, dir, controllers, enabled, procs string, root bool) {
	t.Helper()
	files := map[string]string{"cgroup.controllers": controllers, "cgroup.subtree_control": enabled, "cgroup.procs": procs}
	if !root {
		files["cgroup.type"] = "domain\n"
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, s := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestChoose(t *testing.T) {
	for name, c := range map[string]struct {
		controllers, enabled, procs string
		root                        bool
		move                        bool
		err                         string
	}{
		"alone in it":          {"cpu memory pids\n", "", "7\n", false, true, ""},
		"with others":          {"memory pids\n", "", "7\n8\n", false, false, "other processes"},
		"only others":          {"memory pids\n", "", "8\n", false, false, "other processes"},
		"divided already":      {"memory pids\n", "memory pids\n", "", false, false, ""},
		"divided without pids": {"memory pids\n", "memory\n", "7\n", false, true, ""},
		"the root":             {"memory pids\n", "", "1\n7\n8\n", true, false, ""},
		"no memory controller": {"hugetlb pids\n", "", "7\n", false, false, "memory controller"},
		"no controllers":       {"", "", "7\n", false, false, "memory controller"},
	} {
		dir := t.TempDir()
		group(t, dir, c.controllers, c.enabled, c.procs, c.root)
		p, err := choose(dir, dir, 7)
		if c.err == "" && (err != nil || p.dir != dir || p.move != c.move) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%s: got %+v, %v", name, p, err)
		}
	}
	if _, err := choose(filepath.Join(t.TempDir(), "missing"), "/", 7); err == nil || !strings.Contains(err.Error(), "not delegated") {
		t.Errorf("a group that cannot be written: %v", err)
	}
}

// A group above is somebody else's unless it is marked, also for root, who could
// write to any.
func TestTheGroupAboveIsTakenOnlyWhereItIsDelegated(t *testing.T) {
	top := t.TempDir()
	above, own := filepath.Join(top, "service"), filepath.Join(top, "service", "main")
	group(t, above, "memory pids\n", "", "", false)
	group(t, own, "memory pids\n", "", "7\n8\n", false)
	if p, err := choose(own, top, 7); err == nil {
		t.Fatalf("took %+v", p)
	}
	if err := unix.Setxattr(above, "user.delegate", []byte("1"), 0); err != nil {
		notrun.Say(t, "the mark of a delegated cgroup", err.Error())
		return
	}
	if p, err := choose(own, top, 7); err != nil || p.dir != above || p.move {
		t.Fatalf("got %+v, %v", p, err)
	}
	if p, err := choose(own, own, 7); err == nil {
		t.Fatalf("left the mounted hierarchy: %+v", p)
	}
	group(t, own, "memory pids\n", "", "7\n", false)
	group(t, above, "memory pids\n", "memory pids\n", "", false)
	if p, err := choose(own, top, 7); err != nil || p.dir != above || p.move {
		t.Fatalf("alone, and the group above is divided already: got %+v, %v", p, err)
	}
}

// grouped says which group it was born in.
func grouped() error {
	b, err := os.ReadFile("/proc/self/cgroup")
	fmt.Print(string(b))
	return err
}

func TestGroup(t *testing.T) {
	before, err := findPlace()
	if err != nil {
		notrun.Say(t, "a cgroup for each image", err.Error())
		return
	}
	was, _ := os.ReadFile("/proc/self/cgroup")
	g, err := OpenGroup("test-group", 48<<20)
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"memory.max": strconv.Itoa(112 << 20), "pids.max": "1024", "memory.oom.group": "1"} {
		if b, err := os.ReadFile(filepath.Join(g.Dir(), file)); err != nil || strings.TrimSpace(string(b)) != want {
			t.Errorf("%s is %q, %v; want %s", file, b, err, want)
		}
	}
	cmd := stageCommand(false, nil)
	cmd.Args[1] = "grouped"
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(g.dir.Fd())
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), fmt.Sprintf("/lorica-test-group-%d\n", os.Getpid())) {
		t.Errorf("it was born in %q, %v", out, err)
	}
	g.Close()
	if _, err := os.Stat(g.Dir()); !os.IsNotExist(err) {
		t.Errorf("the group is still there: %v", err)
	}
	if is, _ := os.ReadFile("/proc/self/cgroup"); string(is) != string(was) {
		t.Errorf("moved from %q to %q", was, is)
	}
	if after, err := findPlace(); err != nil || after.move != before.move {
		t.Errorf("the place was %+v and is %+v, %v", before, after, err)
	}
}

// roomy has the limits of an image as far as a stage has them.
func roomy() error {
	o := order{Data: 1 << 20}
	if err := o.limits(); err != nil {
		return err
	}
	b := make([]byte, 64<<20)
	for i := range b {
		b[i] = 1
	}
	return nil
}

// The stage of a build with the race detector has more data than any image may:
// held to the image's limit it died now and then, when its runtime grew.
func TestTheStageIsNotHeldToTheLimitOfTheImage(t *testing.T) { role(t, "roomy", false) }

// The group of a tender that was killed goes with the next that starts; those of
// tenders that live, and what else is there, stay.
func TestGroupsOfDeadTendersAreRemoved(t *testing.T) {
	dead := exec.Command(os.Args[0], "-test.run", "^$")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	gone := fmt.Sprintf("lorica-shop-1-%d", dead.Process.Pid)
	full := fmt.Sprintf("lorica-shop-2-%d", dead.Process.Pid) // a group with something in it cannot be removed
	stay := []string{fmt.Sprintf("lorica-shop-3-%d", os.Getpid()), "lorica-shop-x", "other-1-" + fmt.Sprint(dead.Process.Pid), full}
	for _, name := range append(stay, gone, full+"/x") {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	place{dir: dir}.sweep()
	for _, name := range stay {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, gone)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there (%v)", gone, err)
	}
}
