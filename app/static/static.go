// Package static is the workload kind of a folder of files that are part of the
// image.
//
// Everything is looked up in a table made at construction: no path of a request
// ever reaches a file system. There are no directory listings, and files whose
// name, or a folder's name above them, starts with a dot do not exist.
package static

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"
)

// index is the file that stands for its folder.
const index = "index.html"

// New returns the constructor of a handler that serves the files under dir.
// Their entity tags are content hashes, so that equal images answer alike; the
// handler is safe for concurrent use.
func New(files fs.FS, dir string) func() (http.Handler, error) {
	return func() (http.Handler, error) {
		root, err := fs.Sub(files, dir)
		if err != nil {
			return nil, fmt.Errorf("static: %w", err)
		}
		s, err := load(root)
		if err != nil {
			return nil, fmt.Errorf("static: folder %q: %w", dir, err)
		}
		return s, nil
	}
}

// A site maps canonical URL paths to what is there.
type site struct {
	root  fs.FS
	files map[string]file
}

// A file is a servable file, or, with name empty, a folder that lacks the slash
// its relative links need.
type file struct {
	name  string // in root
	mime  string
	etag  string
	moved string // relative Location
}

func load(root fs.FS) (*site, error) {
	s := &site{root: root, files: make(map[string]file)}
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name != "." && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return nil
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is not a regular file", name)
		}
		return s.add(name)
	})
	if err != nil {
		return nil, err
	}
	if len(s.files) == 0 {
		return nil, errors.New("there are no files to serve")
	}
	return s, nil
}

func (s *site) add(name string) error {
	f, err := s.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, ok := f.(io.ReadSeeker); !ok {
		return fmt.Errorf("%s cannot be read in parts", name)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	entry := file{name: name, mime: contentType(name), etag: `"` + hex.EncodeToString(h.Sum(nil)[:16]) + `"`}
	s.files["/"+name] = entry
	if path.Base(name) != index {
		return nil
	}
	if dir := path.Dir(name); dir == "." {
		s.files["/"] = entry
	} else {
		s.files["/"+dir+"/"] = entry
		s.files["/"+dir] = file{moved: (&url.URL{Path: path.Base(dir) + "/"}).String()}
	}
	return nil
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	e, ok := s.files[r.URL.Path]
	switch {
	case !ok:
		http.Error(w, "not found", http.StatusNotFound)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	case e.moved != "":
		h.Set("Location", e.moved)
		w.WriteHeader(http.StatusMovedPermanently)
		return
	}
	f, err := s.root.Open(e.name)
	if err != nil {
		http.Error(w, "error", http.StatusInternalServerError)
		return
	}
	defer f.Close()
	// With the type set, ServeContent neither guesses nor reads system tables.
	h.Set("Content-Type", e.mime)
	h.Set("ETag", e.etag)
	http.ServeContent(w, r, "", time.Time{}, f.(io.ReadSeeker))
}
