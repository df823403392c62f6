package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A Tool is a program of the host that runs as confined as an image, but for
// what it cannot do without: its own files. Its environment is empty. What system
// calls it may make is its own affair: it is to have one filter of its own.
type Tool struct {
	Path    string   // absolute, and below one of Reads
	Args    []string // after the name
	Reads   []string // absolute paths that it may read and execute, and what is below them
	Devices []string // absolute paths that it may read and write
}

// A ToolSpec is one launch of a tool. The files stay the caller's; the tool gets
// duplicates.
type ToolSpec struct {
	Tool
	Files       []*os.File // from descriptor 3 on; the first is a socket whose other end the tender has
	Output      *os.File   // its standard output
	Errors      *os.File   // its standard error
	Data        uint64     // RLIMIT_DATA
	Group       *Group     // nil: RLIMIT_DATA alone limits it
	Groups      []int      // supplementary groups, where the tender is root
	Confinement Confinement
}

// LaunchTool starts a tool and returns once the stage has become it.
func (l *Launcher) LaunchTool(s ToolSpec) (*Process, error) {
	if len(s.Files) == 0 || s.Output == nil || s.Errors == nil {
		return nil, errors.New("process: a descriptor is missing from the launch of a tool")
	}
	for _, p := range append([]string{s.Path}, append(s.Reads, s.Devices...)...) {
		if !filepath.IsAbs(p) || filepath.Clean(p) != p {
			return nil, fmt.Errorf("process: %q is no absolute path", p)
		}
	}
	return l.launch(&launching{order: order{Confinement: s.Confinement, Tool: &s.Tool, Groups: s.Groups, Data: s.Data, ImageFD: 3 + len(s.Files)},
		files: s.Files, output: s.Output, errors: s.Errors, group: s.Group, filters: 1})
}

// ownFiles is where a process finds its descriptors by path. Nothing else of
// /proc is kept.
const ownFiles = "/proc/self/fd"

// keeps lists what of the file system the tool sees.
func (t *Tool) keeps() []string {
	if t == nil {
		return nil
	}
	return append(append([]string{ownFiles}, t.Reads...), t.Devices...)
}

// rights lists what Landlock lets the tool do. Anonymous memory that it reopens
// by ownFiles is below no path and needs none.
func (t *Tool) rights() (list []right) {
	if t == nil {
		return nil
	}
	const file = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE
	for _, p := range t.Reads {
		access := uint64(file)
		if info, err := os.Stat(p); err == nil && info.IsDir() {
			access |= unix.LANDLOCK_ACCESS_FS_READ_DIR
		}
		list = append(list, right{p, access})
	}
	for _, p := range t.Devices {
		list = append(list, right{p, unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV})
	}
	return list
}

// A piece is a part of the file system that is taken along.
type piece struct {
	path string
	link string // where path is a symbolic link
	dir  bool
	tree int // descriptor of the detached mount
}

// takeAlong takes hold of what is at paths, before that is out of reach.
func takeAlong(paths []string) ([]piece, error) {
	var list []piece
	for _, p := range paths {
		info, err := os.Lstat(p)
		if err != nil {
			return nil, fmt.Errorf("stage: %w", err)
		}
		k := piece{path: p, dir: info.IsDir()}
		if info.Mode().Type() == fs.ModeSymlink {
			k.link, err = os.Readlink(p)
		} else {
			k.tree, err = unix.OpenTree(unix.AT_FDCWD, p, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		}
		if err != nil {
			return nil, fmt.Errorf("stage: keeping %s (Linux 5.2 or later): %w", p, err)
		}
		list = append(list, k)
	}
	return list, nil
}

// attach puts the piece at its path below root.
func (k *piece) attach(root string) error {
	at := filepath.Join(root, k.path)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	if k.link != "" {
		return os.Symlink(k.link, at)
	}
	defer unix.Close(k.tree)
	if k.dir {
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
	} else if err := os.WriteFile(at, nil, 0o644); err != nil {
		return err
	}
	// What the user of the tender owns is not the tool's to change. Before Linux 5.12 that
	// is for Landlock alone.
	err := unix.MountSetattr(k.tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	if err != nil && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	return unix.MoveMount(k.tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
}
