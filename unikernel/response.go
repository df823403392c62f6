package unikernel

import (
	"io"
	"net/http"
	"strings"

	"lorica.dev/lorica/pep"
)

// A response is all that the application sees of the connection: it can flush,
// but neither hijack it (see upgradable) nor, as there is no Unwrap, change its
// deadlines.
type response struct {
	to    http.ResponseWriter
	front *front
	id    string
	last  bool // the connection ends with it: a guard said so
	wrote bool
}

func (w *response) Header() http.Header { return w.to.Header() }

func (w *response) WriteHeader(status int) {
	w.stamp()
	if status >= 200 {
		w.wrote = true
	}
	w.to.WriteHeader(status)
}

func (w *response) Write(b []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.to.Write(b)
}

// Flush implements http.Flusher.
func (w *response) Flush() {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	if f, ok := w.to.(http.Flusher); ok {
		f.Flush()
	}
}

// stamp sets what the application cannot take away.
func (w *response) stamp() {
	for k := range w.Header() { // in other spellings, and as a trailer
		if strings.EqualFold(strings.TrimPrefix(k, http.TrailerPrefix), pep.HeaderDecision) {
			delete(w.Header(), k)
		}
	}
	w.Header().Set(pep.HeaderDecision, w.id)
	if w.last || w.front.closing.Load() {
		w.Header().Set("Connection", "close")
	}
}

// finish completes a response that the application left empty, or its trailers.
func (w *response) finish() {
	if !w.wrote || w.trails() {
		w.stamp()
	}
}

// trails reports whether the application has named trailers.
func (w *response) trails() bool {
	for k := range w.Header() {
		if strings.EqualFold(k, "Trailer") || strings.HasPrefix(k, http.TrailerPrefix) {
			return true
		}
	}
	return false
}

func (w *response) fail() {
	clear(w.Header())
	w.answer(http.StatusInternalServerError, "error")
}

const plainText = "text/plain; charset=utf-8"

// answer says no more than a status, a word and the decision's name.
func (w *response) answer(status int, word string) {
	h := w.Header()
	h.Set("Content-Type", plainText)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	io.WriteString(w, word+"\n"+w.id+"\n")
}
