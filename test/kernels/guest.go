package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lorica.dev/lorica/test/wire"
)

// somebody is an ordinary user: without a name, and not the one that images get
// where their tender is root.
const somebody = 64321

// An event is what the guest says between the lines that tests write. Of its parts
// one is there.
type event struct {
	Kernel string          `json:"kernel,omitempty"` // the first: release and version
	Run    *run            `json:"run,omitempty"`    // a run begins
	Doctor json.RawMessage `json:"doctor,omitempty"` // what lorica doctor says in it
	Suite  string          `json:"suite,omitempty"`  // a suite begins
	NotRun string          `json:"notRun,omitempty"` // a line of the suite's list
	Ended  string          `json:"ended,omitempty"`  // how the suite ended
	Failed string          `json:"failed,omitempty"` // the guest cannot go on
	Done   bool            `json:"done,omitempty"`   // all was run
}

// A run is one user in one state of the machine.
type run struct {
	UID    int  `json:"uid"`
	Userns bool `json:"userns"`
}

// mark begins the lines of events.
const mark = "@lorica "

// usersOnly, on the kernel's command line, leaves out what root would show.
const usersOnly = "kernels.users-only"

// guest is the life of the first process.
func guest() {
	w, err := prepare()
	if err == nil {
		if err = tests(w); err != nil {
			say(w, event{Failed: err.Error()})
		} else {
			say(w, event{Done: true})
		}
		w.Close()
	} else {
		fmt.Fprintln(os.Stderr, "kernels:", err) // to the console
	}
	time.Sleep(200 * time.Millisecond) // for the last words to leave
	syscall.Sync()
	fmt.Fprintln(os.Stderr, "kernels:", syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)) // which -no-reboot makes the end
}

func say(w io.Writer, e event) {
	b, err := json.Marshal(e)
	if err != nil {
		b, _ = json.Marshal(event{Failed: err.Error()})
	}
	fmt.Fprintf(w, "%s%s\n", mark, b)
}

// prepare makes a machine of the bare kernel: a root that can be left, which the
// first one cannot, and what a distribution mounts. It returns the line to the host.
func prepare() (*os.File, error) {
	if err := os.Mkdir("/new", 0o755); err != nil {
		return nil, err
	}
	if err := syscall.Mount("tmpfs", "/new", "tmpfs", 0, "mode=0755"); err != nil {
		return nil, fmt.Errorf("mounting a root: %w", err)
	}
	syscall.Umask(0)
	if err := os.CopyFS("/new", os.DirFS("/tree")); err != nil {
		return nil, err
	}
	if err := errors.Join(os.RemoveAll("/tree"), os.Chdir("/new"), syscall.Mount(".", "/", "", syscall.MS_MOVE, ""), syscall.Chroot("."), os.Chdir("/")); err != nil {
		return nil, fmt.Errorf("changing the root: %w", err)
	}
	for _, m := range []struct {
		fs, dir string
		mode    os.FileMode
	}{
		{"proc", "/proc", 0o555}, {"sysfs", "/sys", 0o555}, {"cgroup2", "/sys/fs/cgroup", 0o555}, {"devtmpfs", "/dev", 0o755},
		{"tmpfs", "/dev/shm", 0o777 | os.ModeSticky}, {"tmpfs", "/tmp", 0o777 | os.ModeSticky},
	} {
		if err := os.MkdirAll(m.dir, m.mode); err != nil {
			return nil, err
		}
		if err := syscall.Mount(m.fs, m.dir, m.fs, syscall.MS_NOSUID, ""); err != nil {
			return nil, fmt.Errorf("mounting %s: %w", m.fs, err)
		}
	}
	for _, dir := range []string{"/tmp", "/dev/shm"} {
		if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
			return nil, err
		}
	}
	if err := wire.Up("lo"); err != nil {
		return nil, fmt.Errorf("the loopback interface: %w", err)
	}
	syscall.Umask(0o022)
	return os.OpenFile("/dev/ttyS1", os.O_WRONLY|syscall.O_NOCTTY, 0)
}

func tests(w *os.File) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	version := strings.Fields(unix.ByteSliceToString(u.Version[:])) // "... Debian 6.1.192-2 (2026-11-16)"
	say(w, event{Kernel: unix.ByteSliceToString(u.Release[:]) + " (" + version[max(0, len(version)-2)] + ")"})
	group, err := delegate()
	if err != nil {
		return err
	}
	options, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	runs := []run{{somebody, true}, {somebody, false}, {0, true}}
	if strings.Contains(string(options), usersOnly) {
		runs = runs[:2]
	}
	for _, r := range runs {
		most := "0"
		if r.Userns {
			most = "1000"
		}
		if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte(most), 0); err != nil {
			return err
		}
		say(w, event{Run: &r})
		doctor, err := r.command(group, "/", "/bin/lorica", "doctor", "-o", "json").Output()
		if err != nil {
			return fmt.Errorf("lorica doctor: %w", err)
		}
		say(w, event{Doctor: doctor})
		for _, s := range suites() {
			if err := r.suite(w, group, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// delegate makes a cgroup for the ordinary user as a service manager does with
// Delegate= and DelegateSubgroup=, and returns the part that its processes are in.
func delegate() (*os.File, error) {
	const top = "/sys/fs/cgroup"
	if err := os.WriteFile(top+"/cgroup.subtree_control", []byte("+memory +pids"), 0); err != nil {
		return nil, err
	}
	service, main := top+"/service", top+"/service/main"
	if err := os.MkdirAll(main, 0o755); err != nil {
		return nil, err
	}
	for _, dir := range []string{service, main} {
		for _, name := range []string{"", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"} {
			if err := os.Chown(filepath.Join(dir, name), somebody, somebody); err != nil {
				return nil, err
			}
		}
	}
	if err := unix.Setxattr(service, "user.delegate", []byte("1"), 0); err != nil {
		return nil, fmt.Errorf("the mark of a delegated cgroup: %w", err)
	}
	return os.Open(main)
}

// command runs a program as the user of the run. Root's processes stay in the
// group at the top, which is root's.
func (r *run) command(group *os.File, dir, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = dir, []string{"PATH=/bin", "HOME=/tmp", "LORICA_BUILT=/built"}
	if r.UID != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(r.UID), Gid: uint32(r.UID)}, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	}
	return cmd
}

func (r *run) suite(w, group *os.File, s suite) error {
	say(w, event{Suite: s.name})
	list := "/tmp/not-run"
	if err := os.WriteFile(list, nil, 0o666); err != nil {
		return err
	}
	if err := os.Chmod(list, 0o666); err != nil {
		return err
	}
	cmd := r.command(group, "/src/"+s.dir, "/bin/"+s.name+".test", "-test.v", "-test.timeout", "20m", "-test.run", s.tests, "-test.skip", s.skip)
	cmd.Env = append(cmd.Env, "LORICA_NOT_RUN="+list)
	cmd.Stdout, cmd.Stderr = w, w
	ended := "ok"
	if err := cmd.Run(); err != nil {
		ended = err.Error()
	}
	b, err := os.ReadFile(list)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		say(w, event{NotRun: strings.TrimSpace(line)})
	}
	say(w, event{Ended: ended})
	return os.Remove(list)
}
