// Package app is the application that `lorica selftest` runs in an image: it moves
// bytes, and does what an application should not.
package app

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"unsafe"
)

// New returns the handler.
func New() (http.Handler, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, runtime.Version()) })
	mux.HandleFunc("POST /sum", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		if _, err := io.Copy(h, r.Body); err != nil {
			panic(err)
		}
		fmt.Fprintf(w, "%x", h.Sum(nil))
	})
	mux.HandleFunc("GET /bytes/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.PathValue("n"))
		if err != nil {
			panic(err)
		}
		b := make([]byte, 64<<10)
		for i := range b {
			b[i] = byte(i * 7)
		}
		w.Header().Set("Content-Length", strconv.Itoa(n))
		for ; n > 0; n -= len(b) {
			if _, err := w.Write(b[:min(n, len(b))]); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("GET /panic", func(http.ResponseWriter, *http.Request) { panic("as asked") })
	mux.HandleFunc("GET /wild", func(w http.ResponseWriter, _ *http.Request) {
		debug.SetPanicOnFault(true)
		fmt.Fprint(w, load(0x1234_5678_9000))
	})
	mux.HandleFunc("GET /exit", func(http.ResponseWriter, *http.Request) { os.Exit(7) })
	return mux, nil
}

//go:noinline
func load(address uintptr) byte { return *(*byte)(unsafe.Add(unsafe.Pointer(nil), address)) }
