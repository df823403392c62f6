package route_test

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi/route"
)

func sample() *route.Section {
	return &route.Section{
		Line: "p.yaml:3",
		Limits: route.Limits{MaxHeaderBytes: 1, MaxBodyBytes: 2, MaxPathBytes: 3, MaxConnections: 4, HeaderTimeout: time.Second,
			BodyTimeout: 2 * time.Second, WriteTimeout: 3 * time.Second, IdleTimeout: 4 * time.Second, RejectEncodedSlash: true},
		Routes: []route.Route{
			{Name: "list", Group: "reads", Line: "p.yaml:4", Method: "GET", Pattern: "/accounts"},
			{Name: "root", Method: "*", Pattern: "/"},
		},
	}
}

func TestWhatIsEncodedIsDecoded(t *testing.T) {
	got, err := route.Decode(sample().Encode())
	if err != nil || !reflect.DeepEqual(&got, sample()) {
		t.Errorf("%v, %+v", err, got)
	}
}

func TestDecodeRefuses(t *testing.T) {
	negative, relative := sample(), sample()
	negative.Limits.IdleTimeout = -1
	relative.Routes[0].Pattern = "accounts"
	full := sample().Encode()
	for name, b := range map[string][]byte{
		"no section": nil, "no bytes": {}, "a negative timeout": negative.Encode(), "a relative pattern": relative.Encode(),
		"a byte more": append(bytes.Clone(full), 0), "a byte less": full[:len(full)-1],
	} {
		if s, err := route.Decode(b); err == nil || s.Open || s.Routes != nil {
			t.Errorf("%s: %v, %+v", name, err, s)
		}
	}
}

func TestZeroBytesLetNothingThrough(t *testing.T) {
	s, err := route.Decode(make([]byte, len((&route.Section{}).Encode())))
	if err != nil || s.Open {
		t.Fatalf("%v, %+v", err, s)
	}
	if r, _ := s.Match("GET", nil); r != nil {
		t.Errorf("a route: %+v", r)
	}
}

func TestMatch(t *testing.T) {
	routes := []string{
		"GET /accounts", "GET /accounts/{id}", "POST /accounts/new", "* /accounts/new", "DELETE /accounts/{id}",
		"GET /files/{path...}", "GET /files/readme", "PUT /files/{name}", "GET /dir/", "GET /a/{x}/c", "GET /a/b/{y}", "HEAD /h", "GET /h", "GET /",
	}
	s := route.Section{}
	for _, r := range routes {
		method, pattern, _ := strings.Cut(r, " ")
		s.Routes = append(s.Routes, route.Route{Name: r, Method: method, Pattern: pattern})
	}
	for request, want := range map[string]string{
		"GET /":                "GET /",
		"GET /accounts":        "GET /accounts",
		"HEAD /accounts":       "GET /accounts",
		"GET /accounts/":       "404",
		"GET /accounts/7":      "GET /accounts/{id}",
		"POST /accounts/new":   "POST /accounts/new",
		"GET /accounts/new":    "* /accounts/new",
		"DELETE /accounts/new": "* /accounts/new",
		"POST /accounts/7":     "405 DELETE,GET",
		"POST /accounts":       "405 GET",
		"GET /accounts/7/8":    "404",
		"GET /files":           "GET /files/{path...}",
		"GET /files/":          "GET /files/{path...}",
		"GET /files/readme":    "GET /files/readme",
		"GET /files/a/b":       "GET /files/{path...}",
		"PUT /files/a":         "PUT /files/{name}",
		"PUT /files/":          "405 GET",
		"DELETE /files/readme": "405 GET,PUT",
		"GET /dir/":            "GET /dir/",
		"GET /dir":             "404",
		"GET /a/b/c":           "GET /a/b/{y}",
		"GET /a/x/c":           "GET /a/{x}/c",
		"HEAD /h":              "HEAD /h",
		"get /accounts":        "405 GET",
		"GET /Accounts":        "404",
		"GET /accounts/{id}":   "GET /accounts/{id}",
		"GET /unknown":         "404",
	} {
		method, path, _ := strings.Cut(request, " ")
		var segments []string
		if path != "/" {
			segments = strings.Split(path[1:], "/")
		}
		for range 2 { // the order of the routes does not matter
			r, allow := s.Match(method, segments)
			got := "404"
			if r != nil {
				got = r.Name
			} else if len(allow) > 0 {
				got = "405 " + strings.Join(allow, ",")
			}
			if got != want {
				t.Errorf("%s: %s, want %s", request, got, want)
			}
			slices.Reverse(s.Routes)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(sample().Encode(), "/accounts/7")
	f.Add((&route.Section{Open: true}).Encode(), "/")
	f.Add([]byte{}, "")
	f.Fuzz(func(t *testing.T, b []byte, path string) {
		s, err := route.Decode(b)
		if err != nil {
			if s.Open || s.Routes != nil {
				t.Fatal("an error and a section")
			}
			return
		}
		if !bytes.Equal(s.Encode(), b) {
			t.Fatal("two encodings of one section")
		}
		s.Match("GET", strings.Split(path, "/"))
	})
}
