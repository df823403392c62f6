package handler

import (
	"errors"
	"net/http"
	"testing"
)

func TestNew(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		construct func() (http.Handler, error)
		ok        bool
	}{
		"handler":        {func() (http.Handler, error) { return http.NewServeMux(), nil }, true},
		"error":          {func() (http.Handler, error) { return nil, broken }, false},
		"both":           {func() (http.Handler, error) { return http.NewServeMux(), broken }, false},
		"neither":        {func() (http.Handler, error) { return nil, nil }, false},
		"no constructor": {nil, false},
	} {
		if h, err := New(c.construct)(); (err == nil) != c.ok || c.ok && h == nil {
			t.Errorf("%s: %v, %v", name, h, err)
		}
	}
}
