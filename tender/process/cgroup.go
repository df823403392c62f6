package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Control groups are those of version 2, as the kernel's
// Documentation/admin-guide/cgroup-v2.rst describes them. A group is used where
// somebody gave it to us: the tender's own, or the one above it where the
// service manager marks that as delegated.

// groupOverhead is what the memory limit of a group has above what the workload
// asked for, which is what the Go runtime aims at: a group is also charged for
// socket buffers, page tables and kernel stacks.
const groupOverhead = 64 << 20

var groupControllers = []string{"memory", "pids"}

// A Group is a cgroup for one image, limited before anything runs in it. It
// serves one launch after another. Not safe for concurrent use.
type Group struct {
	place place
	path  string
	dir   *os.File
	limit uint64
}

// Dir returns the folder of the group.
func (g *Group) Dir() string { return g.path }

// OpenGroup makes a group named after name, and after this process, for an image whose workload asked for
// memory bytes. The error says why there can be none here; images are limited by
// RLIMIT_DATA alone then.
func OpenGroup(name string, memory uint64) (*Group, error) {
	p, err := findPlace()
	if err != nil {
		return nil, err
	}
	if err := p.enable(); err != nil {
		p.leave()
		return nil, err
	}
	p.sweep()
	// Instances of different users and folders can have one name.
	name = fmt.Sprintf("lorica-%s-%d", filepath.Base(name), os.Getpid())
	g := &Group{place: p, path: filepath.Join(p.dir, name), limit: memory + groupOverhead}
	if err := g.open(); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

func (g *Group) open() error {
	if err := os.Mkdir(g.path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { // of a tender that was killed and had our id
		return fmt.Errorf("cgroup: %w", err)
	}
	for _, set := range []struct {
		file, value string
		optional    bool
	}{
		{"memory.max", strconv.FormatUint(g.limit, 10), false},
		{"memory.swap.max", "0", true}, // there only where the kernel accounts swap
		{"memory.oom.group", "1", true},
		{"pids.max", strconv.Itoa(maxThreads), false},
	} {
		if err := writeFile(filepath.Join(g.path, set.file), set.value); err != nil && !(set.optional && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	dir, err := os.Open(g.path)
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	g.dir = dir
	return nil
}

// Close removes the group, which must be empty, and takes back what making it
// changed. What cannot be removed is left to whoever delegated.
func (g *Group) Close() {
	if g.dir != nil {
		g.dir.Close()
	}
	unix.Rmdir(g.path)
	g.place.leave()
}

// kills counts the processes that the kernel killed for want of memory.
func (g *Group) kills() uint64 {
	b, err := os.ReadFile(filepath.Join(g.path, "memory.events"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			kills, _ := strconv.ParseUint(strings.TrimSpace(n), 10, 64)
			return kills
		}
	}
	return 0
}

// A place is where groups can be made.
type place struct {
	dir     string
	enabled bool // the controllers are in force for its children
	move    bool // the tender is in it and has to leave: only leaves hold processes
	refuge  string
}

// sweep removes the groups of tenders that were killed. The image of one that still
// dies keeps its group.
func (p place) sweep() {
	groups, _ := filepath.Glob(filepath.Join(p.dir, "lorica-*-*"))
	for _, g := range groups {
		pid, err := strconv.Atoi(g[strings.LastIndexByte(g, '-')+1:])
		if err == nil && pid > 0 && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			unix.Rmdir(g)
		}
	}
}

// findPlace looks at the cgroup of this process.
func findPlace() (place, error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return place{}, fmt.Errorf("cgroup: %w", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return place{}, fmt.Errorf("cgroup: %w", err)
	}
	dir, top, err := ownGroup(string(own), string(mounts))
	if err != nil {
		return place{}, err
	}
	return choose(dir, top, os.Getpid())
}

// ownGroup returns the folder of the group that /proc/self/cgroup names, and the
// folder where its hierarchy is mounted (proc(5), cgroups(7)).
func ownGroup(own, mounts string) (dir, top string, err error) {
	path := ""
	for line := range strings.Lines(own) {
		if p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			path = p
		}
	}
	if !strings.HasPrefix(path, "/") || slices.Contains(strings.Split(path, "/"), "..") {
		return "", "", fmt.Errorf("cgroup: this process is in no group of version 2 that can be seen from here: %q", path)
	}
	for line := range strings.Lines(mounts) {
		before, after, _ := strings.Cut(line, " - ")
		f := strings.Fields(before)
		if len(f) < 5 || !strings.HasPrefix(after, "cgroup2 ") {
			continue
		}
		root, top := strings.TrimSuffix(f[3], "/"), f[4]
		if rest, ok := strings.CutPrefix(path, root); ok && (rest == "" || rest[0] == '/') {
			return filepath.Join(top, rest), top, nil
		}
	}
	return "", "", errors.New("cgroup: version 2 is not mounted here")
}

// choose decides between the group of this process and the one above it, which
// is better where the process would have to leave its own: that one has the
// controllers as soon as the one above has been divided.
func choose(dir, top string, pid int) (place, error) {
	p, err := usable(dir, pid)
	if err == nil && !p.move || dir == top || !delegated(filepath.Dir(dir)) {
		return p, err
	}
	if above, err := usable(filepath.Dir(dir), pid); err == nil && !above.move {
		return above, nil
	}
	return p, err
}

// usable reports how groups can be made in dir, or why not.
func usable(dir string, pid int) (place, error) {
	p := place{dir: dir}
	for _, name := range []string{"", "cgroup.procs", "cgroup.subtree_control"} {
		if err := unix.Access(filepath.Join(dir, name), unix.W_OK); err != nil {
			return p, fmt.Errorf("cgroup: %s is not delegated: %w", filepath.Join(dir, name), err)
		}
	}
	has, err := words(dir, "cgroup.controllers")
	if err != nil {
		return p, err
	}
	on, err := words(dir, "cgroup.subtree_control")
	if err != nil {
		return p, err
	}
	p.enabled = true
	for _, c := range groupControllers {
		if !slices.Contains(has, c) {
			return p, fmt.Errorf("cgroup: %s is without the %s controller", dir, c)
		}
		p.enabled = p.enabled && slices.Contains(on, c)
	}
	if p.enabled {
		return p, nil
	}
	if _, err := os.Lstat(filepath.Join(dir, "cgroup.type")); errors.Is(err, fs.ErrNotExist) {
		return p, nil // the root of all may hold processes as well
	}
	in, err := words(dir, "cgroup.procs")
	if err != nil {
		return p, err
	}
	p.move = slices.Contains(in, strconv.Itoa(pid))
	if len(in) > 1 || len(in) == 1 && !p.move {
		return p, fmt.Errorf("cgroup: %s holds other processes, and only a group without any can be divided", dir)
	}
	return p, nil
}

// enable puts the controllers in force for the children of the place.
func (p *place) enable() error {
	if p.enabled {
		return nil
	}
	if p.move {
		refuge := filepath.Join(p.dir, "lorica-tender")
		if err := os.Mkdir(refuge, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cgroup: %w", err)
		}
		p.refuge = refuge
		if err := writeFile(filepath.Join(refuge, "cgroup.procs"), strconv.Itoa(os.Getpid())); err != nil {
			return err
		}
	}
	return writeFile(filepath.Join(p.dir, "cgroup.subtree_control"), "+memory +pids")
}

// leave brings the tender back to where it was, where enable moved it.
func (p *place) leave() {
	if p.refuge == "" {
		return
	}
	// In vain where others use the place by now: they go on as they are.
	if writeFile(filepath.Join(p.dir, "cgroup.subtree_control"), "-memory -pids") == nil &&
		writeFile(filepath.Join(p.dir, "cgroup.procs"), strconv.Itoa(os.Getpid())) == nil {
		unix.Rmdir(p.refuge)
	}
}

// delegated reports the mark that systemd puts on groups with Delegate=
// (https://systemd.io/CGROUP_DELEGATION).
func delegated(dir string) bool {
	var b [8]byte
	for _, name := range []string{"user.delegate", "trusted.delegate"} {
		if n, err := unix.Getxattr(dir, name, b[:]); err == nil && string(b[:n]) == "1" {
			return true
		}
	}
	return false
}

func words(dir, file string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	return strings.Fields(string(b)), nil
}

// writeFile sets one file of a group; these are never created by a write.
func writeFile(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("cgroup: %s: %q: %w", path, value, errors.Unwrap(err))
	}
	return nil
}
