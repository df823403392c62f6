// Package records is the application of the example: the records of a ward in memory. It
// knows nothing of the policy; who is calling arrives in a header that only the image can
// set.
package records

import (
	"encoding/json"
	"net/http"
	"slices"
	"sync"
)

// A patient is what the ward knows of one.
type patient struct {
	ID            string         `json:"id"`
	Name          string         `json:"name"`
	Notes         []note         `json:"notes"`
	Prescriptions []prescription `json:"prescriptions"`
}

type note struct {
	By   string `json:"by"`
	Text string `json:"text"`
}

type prescription struct {
	By   string `json:"by"`
	Drug string `json:"drug"`
	Days int64  `json:"days"`
}

type ward struct {
	mu       sync.Mutex
	patients []*patient // by id
}

// New returns the API with a few patients in it.
func New() (http.Handler, error) {
	w := &ward{}
	for i, name := range []string{"A. Turing", "R. Franklin", "J. Snow", "E. Blackwell"} {
		w.patients = append(w.patients, &patient{ID: string(rune('1' + i)), Name: name, Notes: []note{}, Prescriptions: []prescription{}})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /patients", w.list)
	mux.HandleFunc("GET /patients/{id}", w.with(func(p *patient, r *http.Request) (int, any) { return http.StatusOK, p }))
	mux.HandleFunc("POST /patients/{id}/notes", w.with(addNote))
	mux.HandleFunc("POST /patients/{id}/prescriptions", w.with(prescribe))
	mux.HandleFunc("GET /patients/{id}/bill", w.with(bill))
	mux.HandleFunc("GET /export", w.list)
	return mux, nil
}

func (w *ward) list(rw http.ResponseWriter, _ *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	reply(rw, http.StatusOK, w.patients)
}

// with answers for the patient that the path names.
func (w *ward) with(f func(*patient, *http.Request) (int, any)) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		at := slices.IndexFunc(w.patients, func(p *patient) bool { return p.ID == r.PathValue("id") })
		if at < 0 {
			reply(rw, http.StatusNotFound, problem("no such patient"))
			return
		}
		status, v := f(w.patients[at], r)
		reply(rw, status, v)
	}
}

func addNote(p *patient, r *http.Request) (int, any) {
	n := note{By: r.Header.Get("Lorica-Principal")}
	if err := json.NewDecoder(r.Body).Decode(&n); err != nil || n.Text == "" {
		return http.StatusBadRequest, problem(`a note is {"text": TEXT}`)
	}
	n.By = r.Header.Get("Lorica-Principal") // whatever the body says
	p.Notes = append(p.Notes, n)
	return http.StatusCreated, n
}

func prescribe(p *patient, r *http.Request) (int, any) {
	var x prescription
	if err := json.NewDecoder(r.Body).Decode(&x); err != nil || x.Drug == "" || x.Days <= 0 {
		return http.StatusBadRequest, problem(`a prescription is {"drug": NAME, "days": N}`)
	}
	x.By = r.Header.Get("Lorica-Principal")
	p.Prescriptions = append(p.Prescriptions, x)
	return http.StatusCreated, x
}

func bill(p *patient, _ *http.Request) (int, any) {
	return http.StatusOK, map[string]any{"id": p.ID, "items": len(p.Notes) + len(p.Prescriptions)}
}

func problem(s string) map[string]string { return map[string]string{"error": s} }

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
