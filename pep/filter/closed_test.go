package filter_test

import (
	"net/http"
	"strings"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/pep"
)

// A route that is closed, or everything, is denied with what is missing, and for a while;
// what does not exist does not exist all the same.
func TestWhatIsClosed(t *testing.T) {
	why := abi.Rule{ID: "per-user", Line: "p.yaml:5"}
	one := section("GET /open", "GET /closed")
	one.Routes[1].Closed = why
	all := section("GET /open", "GET /closed")
	all.Closed = why
	for name, c := range map[string]struct {
		target string
		all    bool
		status int // 0: allowed
		rule   string
	}{
		"another route":          {"/open", false, 0, ""},
		"the route":              {"/closed", false, 503, abi.RuleLevel},
		"no route":               {"/none", false, 404, abi.RuleRoute},
		"any route":              {"/open", true, 503, abi.RuleLevel},
		"no route in everything": {"/none", true, 404, abi.RuleRoute},
	} {
		s := one
		if c.all {
			s = all
		}
		st := prepare(t, s)
		r, err := http.NewRequest("GET", "http://a"+c.target, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.RequestURI = c.target
		x := &pep.Exchange{Request: r, Header: http.Header{}}
		d := st.Judge(x)
		if d.Status != c.status || (d.Verdict == abi.Allow) != (c.status == 0) {
			t.Errorf("%s: %+v", name, d)
		}
		if closed := c.status == 503; closed != (x.Header.Get("Retry-After") != "") ||
			closed && (d.Rule != abi.Rule{ID: abi.RuleLevel, Line: why.Line} || !strings.Contains(d.Reason, "per-user")) || c.rule != "" && d.Rule.ID != c.rule {
			t.Errorf("%s: %+v, %v", name, d, x.Header)
		}
	}
	open := section()
	open.Routes, open.Open, open.Closed = nil, true, why
	r, _ := http.NewRequest("GET", "http://a/any", nil)
	r.RequestURI = "/any"
	if d := prepare(t, open).Judge(&pep.Exchange{Request: r, Header: http.Header{}}); d.Status != 503 {
		t.Errorf("where routes are open: %+v", d)
	}
}
