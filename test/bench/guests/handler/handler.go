// Package handler is the application that every guest serves.
package handler

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
)

// Port is where guests listen.
const Port = 1024

// Serving is what a guest writes to its console when it listens.
const Serving = "serving"

// New returns the application: a page of a kilobyte, a body of a megabyte, sums of
// bodies, and what memory the guest has, which memory says.
func New(memory func() (free, total uint64)) http.Handler {
	page, big := []byte(strings.Repeat("0123456789abcdef", 64)), make([]byte, 1<<20)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { w.Write(page) })
	mux.HandleFunc("GET /big", func(w http.ResponseWriter, r *http.Request) { w.Write(big) })
	mux.HandleFunc("POST /sum", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		if _, err := io.Copy(h, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%x", h.Sum(nil))
	})
	mux.HandleFunc("GET /memory", func(w http.ResponseWriter, r *http.Request) {
		runtime.GC()
		debug.FreeOSMemory()
		free, total := memory()
		fmt.Fprintln(w, free, total)
	})
	return mux
}

// Limit has the collector keep the heap within what is free of a guest's memory now.
func Limit(free uint64) { debug.SetMemoryLimit(int64(free - free/4)) }
