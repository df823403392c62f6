// Package bench is the application of the benchmarks: one kilobyte for every
// request, whose body it reads, or a megabyte for those to /big.
package bench

import (
	"bytes"
	"io"
	"net/http"
)

// New returns the application.
func New() (http.Handler, error) {
	page, big := bytes.Repeat([]byte("0123456789abcdef"), 64), make([]byte, 1<<20)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != http.NoBody {
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if r.URL.Path == "/big" {
			w.Write(big)
			return
		}
		w.Write(page)
	}), nil
}
