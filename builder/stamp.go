package builder

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"syscall"
)

// A Stamp tells files from what they were before, without reading them.
type Stamp [sha256.Size]byte

// StampOf looks at everything under the paths, and at what they lead to where they
// are links: a secret is rotated, and a folder replaced, by turning a link. A file
// that is reached by two of them counts once. Links within a folder count as they
// are: what an application is made of does not leave its folder. whole is false
// where something cannot be looked at.
func StampOf(paths ...string) (s Stamp, whole bool) {
	files, whole := map[string]string{}, true
	for _, p := range paths {
		if to, err := filepath.EvalSymlinks(p); err == nil {
			p = to
		}
		_ = filepath.WalkDir(p, func(name string, d fs.DirEntry, err error) error {
			if abs, err := filepath.Abs(name); err == nil {
				name = abs
			}
			var info fs.FileInfo
			if err == nil {
				info, err = d.Info()
			}
			switch {
			case err != nil:
				files[name], whole = "gone", false // a change like any other
			case !d.IsDir():
				files[name] = fileStamp(info)
			}
			return nil
		})
	}
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(h, "%q %s\n", name, files[name])
	}
	return Stamp(h.Sum(nil)), whole
}

// fileStamp has the time of the last change, too, which nobody can set: tools that
// copy files set the time of modification to what it was elsewhere.
func fileStamp(info fs.FileInfo) string {
	s := fmt.Sprintf("%v %d %d", info.Mode(), info.Size(), info.ModTime().UnixNano())
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s += fmt.Sprintf(" %d %d", st.Ino, st.Ctim.Nano())
	}
	return s
}
