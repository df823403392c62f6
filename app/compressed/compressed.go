// Package compressed is the workload kind of a folder of files that are part of the
// image, with a smaller representation of those that compress (RFC 9110, 12.5.3).
//
// They were compressed when the image was built. Nothing is compressed while it
// serves, so that no answer's length can tell a secret that stands in it beside what
// an attacker wrote (CRIME, BREACH), and nobody has work done by asking.
package compressed

import (
	"fmt"
	"io/fs"
	"net/http"
	"strconv"

	"lorica.dev/lorica/app/files"
)

// New returns the constructor of a handler that serves the files under dir, and those
// of them that packed has under the same names in gzip's form to clients that prefer
// it; with an empty name of the folder none compressed. The handler is safe for
// concurrent use.
func New(content fs.FS, dir, packed string) func() (http.Handler, error) {
	return func() (http.Handler, error) {
		s := &site{packed: &files.Site{}}
		var err error
		if s.plain, err = files.Load(content, dir); err != nil {
			return nil, fmt.Errorf("compressed: %w", err)
		}
		if packed == "" {
			return s, nil
		}
		if s.packed, err = files.Load(content, packed); err != nil {
			return nil, fmt.Errorf("compressed: %w", err)
		}
		return s, nil
	}
}

type site struct{ plain, packed *files.Site }

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, ok := s.plain.Find(w, r)
	if !ok {
		return
	}
	small, ok := s.packed.Lookup(r.URL.Path)
	if !ok {
		f.Serve(w, r) // in one representation only: the client's wishes change nothing
		return
	}
	w.Header().Set("Vary", "Accept-Encoding")
	switch wanted(r.Header.Values("Accept-Encoding")) {
	case gzip:
		w.Header().Set("Content-Encoding", "gzip")
		small.Serve(&exact{w, small.Size}, r)
	case identity:
		f.Serve(w, r)
	default:
		http.Error(w, "there is no representation in an acceptable coding", http.StatusNotAcceptable)
	}
}

// exact says how long a whole representation is, which ServeContent leaves out where
// there is a coding: it cannot know that this one is not applied behind it.
type exact struct {
	http.ResponseWriter
	size int64
}

func (e *exact) WriteHeader(status int) {
	switch {
	case status == http.StatusOK:
		e.Header().Set("Content-Length", strconv.FormatInt(e.size, 10))
	case status >= 400: // a condition that failed: there is nothing in any coding
		e.Header().Del("Content-Encoding")
	}
	e.ResponseWriter.WriteHeader(status)
}

// Unwrap implements what http.ResponseController asks for.
func (e *exact) Unwrap() http.ResponseWriter { return e.ResponseWriter }
