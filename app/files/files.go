// Package files holds the files of an application by the paths of their URLs, for the
// modules that serve them.
//
// Everything is looked up in a table made at construction: no path of a request
// ever reaches a file system. There are no directory listings, and what is hidden does
// not exist.
package files

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
	"time"

	"lorica.dev/lorica/abi"
)

// index is the file that stands for its folder.
const index = "index.html"

// A Site maps canonical URL paths to what is there. It does not change and is safe
// for concurrent use.
type Site struct{ files map[string]File }

// A File is a servable file, or, with root nil, a folder that lacks the slash its
// relative links need. Its entity tag is a content hash, so that equal images answer
// alike.
type File struct {
	Size int64

	root  fs.FS
	name  string
	mime  string
	etag  string
	moved string // relative Location
}

// Load reads the files under dir.
func Load(files fs.FS, dir string) (*Site, error) {
	root, err := fs.Sub(files, dir)
	if err != nil {
		return nil, err
	}
	s := &Site{files: make(map[string]File)}
	err = fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case abi.Hidden(name):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return nil
		case !d.Type().IsRegular():
			return fmt.Errorf("%s is not a regular file", name)
		}
		return s.add(root, name)
	})
	if err == nil && len(s.files) == 0 {
		err = errors.New("there are no files to serve")
	}
	if err != nil {
		return nil, fmt.Errorf("folder %q: %w", dir, err)
	}
	return s, nil
}

func (s *Site) add(root fs.FS, name string) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, ok := f.(io.ReadSeeker); !ok {
		return fmt.Errorf("%s cannot be read in parts", name)
	}
	h := sha256.New()
	size, err := io.Copy(h, f)
	if err != nil {
		return err
	}
	entry := File{Size: size, root: root, name: name, mime: contentType(name), etag: `"` + hex.EncodeToString(h.Sum(nil)[:16]) + `"`}
	s.files["/"+name] = entry
	if path.Base(name) != index {
		return nil
	}
	if dir := path.Dir(name); dir == "." {
		s.files["/"] = entry
	} else {
		s.files["/"+dir+"/"] = entry
		s.files["/"+dir] = File{moved: (&url.URL{Path: path.Base(dir) + "/"}).String()}
	}
	return nil
}

// Lookup returns the file at a path.
func (s *Site) Lookup(path string) (File, bool) {
	f, ok := s.files[path]
	return f, ok && f.root != nil
}

// Find returns the file that a request is for; where there is none, it has answered.
func (s *Site) Find(w http.ResponseWriter, r *http.Request) (File, bool) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	f, ok := s.files[r.URL.Path]
	switch {
	case !ok:
		http.Error(w, "not found", http.StatusNotFound)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	case f.root == nil:
		h.Set("Location", f.moved)
		w.WriteHeader(http.StatusMovedPermanently)
	default:
		return f, true
	}
	return File{}, false
}

// Serve answers with the file: whole, in ranges, or not at all where the client has it.
func (f File) Serve(w http.ResponseWriter, r *http.Request) {
	in, err := f.root.Open(f.name)
	if err != nil {
		http.Error(w, "error", http.StatusInternalServerError)
		return
	}
	defer in.Close()
	// With the type set, ServeContent neither guesses nor reads system tables.
	w.Header().Set("Content-Type", f.mime)
	w.Header().Set("ETag", f.etag)
	http.ServeContent(w, r, "", time.Time{}, in.(io.ReadSeeker))
}
