// Package static is the workload kind of a folder of files that are part of the
// image, served as they are.
package static

import (
	"fmt"
	"io/fs"
	"net/http"

	"lorica.dev/lorica/app/files"
)

// New returns the constructor of a handler that serves the files under dir. The
// handler is safe for concurrent use.
func New(content fs.FS, dir string) func() (http.Handler, error) {
	return func() (http.Handler, error) {
		site, err := files.Load(content, dir)
		if err != nil {
			return nil, fmt.Errorf("static: %w", err)
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if f, ok := site.Find(w, r); ok {
				f.Serve(w, r)
			}
		}), nil
	}
}
