package filter_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/filter"
)

// A request for no route may go on where the policy is tried: its bounds hold all the same.
func TestARequestWithoutARouteKeepsItsBounds(t *testing.T) {
	s := route.Section{Limits: route.Limits{MaxHeaderBytes: 1 << 10, MaxBodyBytes: 4, MaxPathBytes: 100, MaxConnections: 4, MaxHeaders: 10, MaxStreams: 4,
		HandshakeTimeout: time.Second, HeaderTimeout: time.Second, BodyTimeout: time.Second, WriteTimeout: time.Second, IdleTimeout: time.Second},
		Routes: []route.Route{{Name: "a", Method: "GET", Pattern: "/a"}}}
	st, err := filter.New().Prepare(&pep.Input{Section: s.Encode(), DryRun: &abi.Rule{ID: abi.RuleDryRun}})
	if err != nil {
		t.Fatal(err)
	}
	for body, want := range map[string]string{"": abi.RuleRoute, "1234": abi.RuleRoute, "12345": abi.RuleRequest} {
		r, _ := http.NewRequest("POST", "/nowhere", strings.NewReader(body))
		r.Host, r.RequestURI = "app", "/nowhere"
		x := &pep.Exchange{Request: r, Header: http.Header{}}
		if d := st.Judge(x); d.Verdict != abi.Deny || d.Rule.ID != want || x.MaxBody != 4 {
			t.Errorf("%d bytes: %+v, of %d", len(body), d, x.MaxBody)
		}
	}
}
