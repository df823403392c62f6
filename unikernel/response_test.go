package unikernel

import (
	"net/http"
	"testing"

	"lorica.dev/lorica/pep"
)

// Neither the application nor its failure takes back that a connection ends, or
// the name of the decision.
func TestTheApplicationCannotTakeBackWhatWasDecided(t *testing.T) {
	for name, app := range map[string]http.HandlerFunc{
		"clear": func(w http.ResponseWriter, _ *http.Request) { clear(w.Header()); w.WriteHeader(200) },
		"spell": func(w http.ResponseWriter, _ *http.Request) {
			clear(w.Header())
			w.Header()["lorica-decision"] = []string{"mine"}
		},
		"trail": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", pep.HeaderDecision)
			w.WriteHeader(200)
			w.Header().Set(pep.HeaderDecision, "mine")
			w.Header().Set(http.TrailerPrefix+"lorica-decision", "mine")
		},
		"panic": func(http.ResponseWriter, *http.Request) { panic("app") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testLimits(), app).run()
			resp, _ := r.ask("POST /app/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
			if !resp.Close {
				t.Error("the connection stays open behind an ambiguous body")
			}
			if ids := resp.Header.Values(pep.HeaderDecision); len(ids) != 1 || ids[0] != r.kept(t, 1)[0].ID {
				t.Errorf("decision %q", ids)
			}
			for _, id := range resp.Trailer.Values(pep.HeaderDecision) {
				if id != resp.Header.Get(pep.HeaderDecision) {
					t.Errorf("decision %q in a trailer", id)
				}
			}
		})
	}
}
