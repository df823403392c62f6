package override

import (
	"net/http/httptest"
	"testing"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/settings"
	"lorica.dev/lorica/pep"
)

func TestOverridesAreRefused(t *testing.T) {
	s := settings.Section{Values: []settings.Value{{Name: "headers", Kind: settings.List, List: []string{"x-original-url"}}, {Name: "status", Kind: settings.Number, Number: 400}}}
	state, err := New().Prepare(&pep.Input{Section: s.Encode()})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/", nil)
	if d := state.Judge(&pep.Exchange{Request: r}); d.Verdict != abi.Allow {
		t.Errorf("an ordinary request: %+v", d)
	}
	r.Header.Set("X-Original-Url", "/admin")
	if d := state.Judge(&pep.Exchange{Request: r}); d.Verdict == abi.Allow || d.Status != 400 {
		t.Errorf("an override: %+v", d)
	}
	s.Values[0] = settings.Value{Name: "parameters", Kind: settings.List, List: []string{"_method"}}
	if state, err = New().Prepare(&pep.Input{Section: s.Encode()}); err != nil {
		t.Fatal(err)
	}
	if d := state.Judge(&pep.Exchange{Request: httptest.NewRequest("POST", "/?_method=DELETE", nil)}); d.Verdict == abi.Allow {
		t.Errorf("an override: %+v", d)
	}
	if _, err := New().Prepare(&pep.Input{}); err == nil {
		t.Error("prepared without a section")
	}
}
