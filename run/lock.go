package run

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"lorica.dev/lorica/catalog/lock"
)

// A LockError says how what is there differs from what lorica.lock has, and how that
// is accepted.
type LockError struct {
	File     string
	Problems []string
	Fix      string
}

func (e *LockError) Error() string {
	return fmt.Sprintf("%s: %s (%s)", e.File, strings.Join(e.Problems, "\n"+e.File+": "), e.Fix)
}

// readLock returns the lock of a folder; nil where there is none.
func readLock(dir string) (*lock.File, error) {
	name := filepath.Join(dir, lock.Name)
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe keeps nobody waiting
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, lock.MaxSize+1))
	if err != nil {
		return nil, err
	}
	return lock.Parse(name, data)
}

const (
	accept = "\"lorica plan --update\" accepts it"
	first  = "\"lorica plan\" writes it"
)

// obey reports what is part of a plan and was not accepted. Without modules of the
// user's own there need be no lock; one that is there holds all the same.
func (p *Plan) obey() error {
	dir := p.Deployment.Workload.Dir
	was, err := readLock(dir)
	if err != nil || was == nil && len(p.lock.Modules) == 0 {
		return err
	}
	e := &LockError{File: filepath.Join(dir, lock.Name), Fix: accept}
	d := was.Against(p.lock)
	e.Problems = d.Changed
	for _, m := range d.New {
		e.Problems = append(e.Problems, fmt.Sprintf("module %s (%s) is not in it", m.ID, m.Source))
	}
	switch {
	case len(e.Problems) == 0:
		return nil
	case was == nil:
		e.Problems = []string{fmt.Sprintf("there is no such file, which would pin %s", p.lock.Modules[0].ID)}
		e.Fix = first
	case len(d.Changed) == 0:
		e.Fix = first
	}
	return e
}

// LockOptions say what WriteLocks may do.
type LockOptions struct {
	Update bool // replace what was accepted by what is there
	Whole  bool // the plans are of all workloads in their folders: forget what none of them names
	Locked bool // write nothing: what would have to be written is an error
}

// A Written is a lock that was written.
type Written struct {
	File    string        `json:"file"`
	Changed []string      `json:"changed,omitempty"` // what was accepted, in words
	New     []lock.Module `json:"new,omitempty"`
	Gone    []lock.Module `json:"gone,omitempty"`
}

// WriteLocks brings the locks of the workloads of some plans to what the plans need.
// What is new is added; what differs is an error, but with Update. Its error, if any, is
// a *LockError, a *lock.Error, or the system's.
func WriteLocks(plans []*Plan, o LockOptions) ([]Written, error) {
	now := map[string]*lock.File{}
	var dirs []string
	for _, p := range plans {
		dir := p.Deployment.Workload.Dir
		if now[dir] == nil {
			now[dir] = &lock.File{Catalog: p.lock.Catalog}
			dirs = append(dirs, dir)
		}
		now[dir].Modules = append(now[dir].Modules, now[dir].Against(p.lock).New...)
	}
	var list []Written
	for _, dir := range dirs {
		w, err := writeLock(dir, now[dir], o)
		if err != nil {
			return list, err
		}
		if w != nil {
			list = append(list, *w)
		}
	}
	return list, nil
}

func writeLock(dir string, now *lock.File, o LockOptions) (*Written, error) {
	name := filepath.Join(dir, lock.Name)
	was, err := readLock(dir)
	var malformed *lock.Error
	if errors.As(err, &malformed) && o.Update && !o.Locked {
		was, err = nil, nil
	}
	if err != nil || was == nil && malformed == nil && len(now.Modules) == 0 {
		return nil, err
	}
	d := was.Against(now)
	if o.Update && !o.Whole {
		now.Modules = append(now.Modules, d.Gone...)
		d.Gone = nil
	}
	if !o.Update {
		d.Gone = nil
	}
	switch {
	case len(d.Changed) > 0 && (!o.Update || o.Locked):
		return nil, &LockError{File: name, Problems: d.Changed, Fix: accept}
	case len(d.New)+len(d.Gone) > 0 && o.Locked:
		e := &LockError{File: name, Fix: "without --locked it is written"}
		for _, m := range d.New {
			e.Problems = append(e.Problems, fmt.Sprintf("module %s (%s) is not in it", m.ID, m.Source))
		}
		for _, m := range d.Gone {
			e.Problems = append(e.Problems, fmt.Sprintf("nothing names the module %s (%s)", m.ID, m.Source))
		}
		return nil, e
	case len(d.Changed)+len(d.New)+len(d.Gone) == 0 && malformed == nil:
		return nil, nil
	}
	return &Written{name, d.Changed, d.New, d.Gone}, replaceFile(name, was.Accept(now, o.Update || malformed != nil).Encode())
}

// replaceFile puts a whole file in the place of another, or none.
func replaceFile(name string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".lorica.lock-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
