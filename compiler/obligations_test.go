package compiler

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"lorica.dev/lorica/abi/limit"
	"lorica.dev/lorica/abi/obligation"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/api"
	"lorica.dev/lorica/catalog"
)

// A level has the obligations of all levels up to it, in one image; they count
// the refusals of limits that belong to a source, and plan says where they stand.
func TestObligationsOfEachLevel(t *testing.T) {
	d := accounts(t)
	p := *d.Policy
	d.Policy = &p
	p.RateLimits = []api.RateLimit{
		{Name: "per-user", Key: limit.ByPrincipal, Requests: 5, Per: time.Minute}, {Name: "per-route", Key: limit.ByRoute, Requests: 5, Per: time.Minute},
		{Name: "per-source", Key: limit.BySource, Requests: 5, Per: time.Minute},
		{Name: "late", Key: limit.BySource | limit.ByPrincipal, Requests: 5, Per: time.Minute, MinLevel: "lockdown"},
	}
	p.Obligations = []api.Obligation{
		{Name: "careful", On: "any.deny", Count: 5, Window: time.Minute, Alert: true, MinLevel: "elevated"},
		{Name: "guessing", On: "authentication.deny", Count: 20, Window: time.Hour, Block: time.Minute, MinLevel: "lockdown"},
	}
	want := [][2][]string{{nil, nil}, {{"careful"}, {"per-source"}}, {{"careful", "guessing"}, {"per-source", "late"}}}
	places := [][]string{nil, {"careful request"}, {"careful request", "guessing accept", "guessing request"}}
	for i, l := range compile(t, d).Levels {
		s, err := obligation.Decode(section(t, &l, obligation.Name))
		if err != nil {
			t.Fatalf("%s: %v", l.Name, err)
		}
		var got, stand []string
		for _, o := range s.Obligations {
			got = append(got, o.Rule.ID)
		}
		for _, e := range l.Enforced {
			if e.Stage == obligation.Name {
				stand = append(stand, e.ID+" "+e.Where)
			}
		}
		if !slices.Equal(got, want[i][0]) || !slices.Equal(s.Limits, want[i][1]) || !slices.Equal(stand, places[i]) {
			t.Errorf("%s: %v of %v, and plan says %v", l.Name, got, s.Limits, stand)
		}
		if i == 2 && (s.Obligations[1].On != obligation.Authentication || s.Obligations[1].Block != time.Minute || s.Obligations[1].Alert) {
			t.Errorf("%+v", s.Obligations[1])
		}
		if !slices.ContainsFunc(l.Requirements, func(r catalog.Requirement) bool { return slices.Contains(r.Any, "obligations") }) {
			t.Errorf("%s does not ask for the module", l.Name)
		}
	}
}

func TestTheFilterSectionHoldsWhatIsWritten(t *testing.T) {
	d := accounts(t)
	p := *d.Policy
	d.Policy = &p
	p.RequestFilter = &api.RequestFilter{MaxHeaders: 7, MaxStreams: 8, HandshakeTimeout: 9 * time.Second, ContentTypes: []string{"application/json", "image/*"}}
	s, err := route.Decode(section(t, &compile(t, d).Levels[0], route.Name))
	if err != nil || s.Limits.MaxHeaders != 7 || s.Limits.MaxStreams != 8 || s.Limits.HandshakeTimeout != 9*time.Second ||
		!reflect.DeepEqual(s.Types, p.RequestFilter.ContentTypes) {
		t.Errorf("%v, %+v", err, s)
	}
}
