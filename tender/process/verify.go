package process

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// status is what /proc says about the confinement of one thread (proc(5)).
type status struct {
	seccomp    string
	filters    int
	noNewPrivs string
	caps       map[string]string
	uid, gid   string
	groups     []string // supplementary ones; nil: no word about them
}

func readStatus(path string) (status, error) {
	f, err := os.Open(path)
	if err != nil {
		return status{}, err
	}
	defer f.Close()
	s, err := parseStatus(f)
	if err != nil {
		return status{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func parseStatus(r io.Reader) (s status, err error) {
	s = status{filters: -1, caps: map[string]string{}}
	in := bufio.NewScanner(r)
	for in.Scan() {
		key, value, _ := strings.Cut(in.Text(), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Seccomp":
			s.seccomp = value
		case "Seccomp_filters":
			if s.filters, err = strconv.Atoi(value); err != nil {
				return status{}, fmt.Errorf("the number of its filters is %q", value)
			}
		case "NoNewPrivs":
			s.noNewPrivs = value
		case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb":
			s.caps[key] = value
		case "Uid":
			s.uid = value
		case "Gid":
			s.gid = value
		case "Groups":
			s.groups = append([]string{}, strings.Fields(value)...)
		}
	}
	return s, in.Err() // half a status would pass for one of an older kernel
}

// none is how /proc writes an empty capability set.
const none = "0000000000000000"

// ErrDying reports an image that a filter has just condemned.
var ErrDying = errors.New("it made a system call that ends it")

// Verify checks from the host what the image claims by being ready: that every
// thread of it runs under the launch filter and exactly one more (a tool: under
// the one that it gave itself), without capabilities and without a way to gain any.
func (p *Process) Verify() error {
	dir := fmt.Sprintf("/proc/%d/task", p.PID())
	threads, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("process: the image's threads: %w", err)
	}
	seen := 0
	for _, t := range threads {
		s, err := readStatus(filepath.Join(dir, t.Name(), "status"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // the thread ended
		}
		if err != nil {
			return fmt.Errorf("process: %w", err)
		}
		if err := p.confined(s); err != nil {
			return fmt.Errorf("process: thread %s of the image: %w", t.Name(), err)
		}
		seen++
	}
	if seen == 0 {
		return errors.New("process: the image has no thread left")
	}
	return nil
}

func (p *Process) confined(s status) error {
	if s.seccomp == "3" { // SECCOMP_MODE_DEAD
		return ErrDying
	}
	if s.seccomp != "2" {
		return fmt.Errorf("no system call filter (Seccomp: %s)", s.seccomp)
	}
	// Linux before 5.10 does not count filters.
	if s.filters >= 0 && s.filters != p.filters {
		return fmt.Errorf("%d system call filters, expected %d: it is not sealed as told", s.filters, p.filters)
	}
	if s.noNewPrivs != "1" {
		return errors.New("no_new_privs is off")
	}
	for _, name := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
		if s.caps[name] != none {
			return fmt.Errorf("capabilities %s: %s", name, s.caps[name])
		}
	}
	if os.Geteuid() == 0 {
		const four = 4 // real, effective, saved, of the file system
		nobody := strings.TrimSpace(strings.Repeat(strconv.Itoa(unprivileged)+"\t", four))
		if s.uid != nobody || s.gid != nobody {
			return fmt.Errorf("it runs as user %q, group %q", s.uid, s.gid)
		}
		if s.groups == nil {
			return errors.New("nothing says which groups it is in")
		}
		for _, g := range s.groups {
			if n, err := strconv.Atoi(g); err != nil || !slices.Contains(p.groups, n) {
				return fmt.Errorf("it is in group %s too", g)
			}
		}
	}
	return nil
}
