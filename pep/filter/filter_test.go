package filter_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/pep"
	"lorica.dev/lorica/pep/filter"
)

func section(routes ...string) *route.Section {
	s := &route.Section{Line: "p.yaml:3", Limits: route.Limits{MaxHeaderBytes: 1 << 14, MaxBodyBytes: 10, MaxPathBytes: 64, MaxConnections: 8, MaxHeaders: 8, RejectEncodedSlash: true}}
	for i, r := range routes {
		method, pattern, _ := strings.Cut(r, " ")
		s.Routes = append(s.Routes, route.Route{Name: r, Line: fmt.Sprint("p.yaml:", i+4), Method: method, Pattern: pattern})
	}
	return s
}

func prepare(t testing.TB, s *route.Section) pep.GuardState {
	t.Helper()
	st, err := filter.New().Prepare(&pep.Input{Section: s.Encode()})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

var payments = section("GET /accounts", "GET /accounts/{id}", "POST /accounts/{id}/transfers", "GET /files/{path...}")

// serve runs the filter behind a real net/http server and calls app for what
// passes; denials are answered with their status and the rule's name.
func serve(t testing.TB, s *route.Section, app func(*pep.Exchange, http.ResponseWriter)) string {
	t.Helper()
	st := prepare(t, s)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := &pep.Exchange{ID: "id", Request: r, Header: w.Header(), Now: time.Now()}
		if d := st.Judge(x); d.Verdict != abi.Allow {
			http.Error(w, d.Rule.ID, d.Status)
			return
		}
		app(x, w)
	}))
	srv.Config.DisableGeneralOptionsHandler = true // or net/http would answer "OPTIONS *" without a decision
	srv.Start()
	t.Cleanup(srv.Close)
	return srv.Listener.Addr().String()
}

// send writes raw bytes and returns all that comes back until the server closes
// or is silent for a while.
func send(t testing.TB, addr, raw string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(time.Minute))
	b, _ := io.ReadAll(c)
	return string(b)
}

func get(target string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
}

func TestPrepareRefuses(t *testing.T) {
	open := section("GET /")
	open.Open = true
	for name, s := range map[string]*route.Section{
		"routes in an open section":       open,
		"a parameter twice":               section("GET /{a}/{a}"),
		"a parameter without a name":      section("GET /{}"),
		"the rest without a name":         section("GET /{...}"),
		"a brace left open":               section("GET /{a"),
		"text after a parameter":          section("GET /{a}b"),
		"the rest before the end":         section("GET /{a...}/b"),
		"a literal that is not canonical": section("GET /a%2e"),
		"a literal in small hex":          section("GET /caf%c3%a9"),
		"a literal that needs escapes":    section("GET /a b"),
		"a dot segment":                   section("GET /../a"),
		"an empty segment":                section("GET /a//b"),
		"an empty method":                 section(" /a"),
		"a method in small letters":       section("get /a"),
		"TRACE":                           section("TRACE /a"),
		"CONNECT":                         section("CONNECT /a"),
		"the same route twice":            section("GET /a/{x}", "GET /a/{y}"),
		"the same rest twice":             section("GET /a/{x...}", "GET /a/{y...}"),
	} {
		if st, err := filter.New().Prepare(&pep.Input{Section: s.Encode()}); err == nil || st != nil {
			t.Errorf("%s is accepted", name)
		}
	}
	unbounded := section("GET /")
	unbounded.Limits.MaxHeaders = 0
	for name, b := range map[string][]byte{"no section": nil, "no bytes": {}, "malformed": {1}, "no bound on fields": unbounded.Encode()} {
		if st, err := filter.New().Prepare(&pep.Input{Section: b}); err == nil || st != nil {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
}

func TestRequests(t *testing.T) {
	addr := serve(t, payments, func(x *pep.Exchange, w http.ResponseWriter) {
		fmt.Fprintf(w, "app %s %s %v", x.Route.Name, x.Path, x.Params)
	})
	for name, c := range map[string]struct{ raw, status, has string }{
		"a route":                             {get("/accounts"), "200", "app GET /accounts /accounts []"},
		"a parameter":                         {get("/accounts/7?x=1"), "200", "app GET /accounts/{id} /accounts/7 [{id 7}]"},
		"a parameter is decoded":              {get("/accounts/%61%20%252f"), "200", "/accounts/a%20%252f [{id a %2f}]"},
		"a rest":                              {get("/files/a%20b/c"), "200", "[{path a b/c}]"},
		"an empty rest":                       {get("/files"), "200", "[{path }]"},
		"HEAD of a GET route":                 {"HEAD /accounts HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "200", ""},
		"no such path":                        {get("/admin"), "404", abi.RuleRoute},
		"no such method":                      {"DELETE /accounts/7 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "405", "Allow: GET, HEAD\r\n"},
		"a method in small letters":           {"get /accounts HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "405", abi.RuleMethod},
		"a trailing slash is another path":    {get("/accounts/"), "404", abi.RuleRoute},
		"an escaped slash":                    {get("/accounts/..%2fadmin"), "400", abi.RuleRequest},
		"dots":                                {get("/accounts/../admin"), "400", abi.RuleRequest},
		"two slashes":                         {get("//accounts"), "400", abi.RuleRequest},
		"a path that is too long":             {get("/" + strings.Repeat("a", 64)), "414", abi.RuleRequest},
		"the absolute form":                   {get("http://h/accounts"), "400", abi.RuleRequest},
		"the asterisk form":                   {"OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "400", abi.RuleRequest},
		"the asterisk form of another method": {get("*"), "400", ""},
		"CONNECT":                             {"CONNECT h:443 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "501", abi.RuleRequest},
		"TRACE":                               {"TRACE /accounts HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "501", abi.RuleRequest},
		"a fragment":                          {get("/accounts#x"), "400", abi.RuleRequest},
		"a semicolon in the query":            {get("/accounts?a=1;b=2"), "400", abi.RuleRequest},
		"an invalid escape in the query":      {get("/accounts?a=%zz"), "400", abi.RuleRequest},
		"a raw byte in the query":             {get("/accounts?a=\xff"), "400", abi.RuleRequest},
		"brackets in the query":               {get("/accounts?a[]=1|2"), "200", "app"},
		"an upgrade":                          {"GET /accounts HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "501", abi.RuleRequest},
		"an upgrade without the header":       {"GET /accounts HTTP/1.1\r\nHost: h\r\nConnection: close, Upgrade\r\n\r\n", "501", abi.RuleRequest},
		"an upgrade to nothing":               {"GET /accounts HTTP/1.1\r\nHost: h\r\nUpgrade: \r\n\r\n", "501", abi.RuleRequest},
		"Connection names a header":           {"GET /accounts HTTP/1.1\r\nHost: h\r\nX-Tenant: a\r\nConnection: close, x-tenant\r\n\r\n", "400", abi.RuleRequest},
		"Connection names the length":         {"POST /accounts/7/transfers HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nConnection: close, Content-Length\r\n\r\nx", "400", abi.RuleRequest},
		"Connection names what is not there":  {"GET /accounts HTTP/1.1\r\nHost: h\r\nConnection: close, x-tenant\r\n\r\n", "200", "app"},
		"Connection names what is about it":   {"GET /accounts HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nKeep-Alive: 5\r\nConnection: close, TE, Keep-Alive\r\n\r\n", "200", "app"},
		"an unknown expectation":              {"GET /accounts HTTP/1.1\r\nHost: h\r\nExpect: more\r\nConnection: close\r\n\r\n", "417", ""},
		"two hosts":                           {"GET /accounts HTTP/1.1\r\nHost: h\r\nHost: g\r\nConnection: close\r\n\r\n", "400", ""},
		"HTTP/2 in the clear":                 {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505", ""},
		"two lengths":                         {"GET /accounts HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab", "400", ""},
		"an unknown coding":                   {"GET /accounts HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\nConnection: close\r\n\r\n0\r\n\r\n", "501", ""},
		"a body beyond the limit":             {"POST /accounts/7/transfers HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n0123456789a", "413", abi.RuleRequest},
		"a body at the limit":                 {"POST /accounts/7/transfers HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\nConnection: close\r\n\r\n0123456789", "200", "app"},
	} {
		got := send(t, addr, c.raw)
		if !strings.HasPrefix(got, "HTTP/1.1 "+c.status+" ") && !strings.HasPrefix(got, "HTTP/1.0 "+c.status+" ") || !strings.Contains(got, c.has) || strings.Count(got, "HTTP/1.") != 1 {
			t.Errorf("%s: want %s with %q, got:\n%s", name, c.status, c.has, got)
		}
	}
}

func TestDecisionsNameTheirRule(t *testing.T) {
	st := prepare(t, payments)
	for target, want := range map[string]abi.Rule{
		"GET /accounts/7":  {ID: "GET /accounts/{id}", Line: "p.yaml:5"},
		"GET /admin":       {ID: abi.RuleRoute, Line: "p.yaml:3"},
		"POST /accounts/7": {ID: abi.RuleMethod, Line: "p.yaml:3"},
		"GET /a//b":        {ID: abi.RuleRequest},
	} {
		method, path, _ := strings.Cut(target, " ")
		x := &pep.Exchange{Request: httptest.NewRequest(method, path, nil), Header: http.Header{}}
		d := st.Judge(x)
		if d.Rule != want || d.Stage != abi.StageFilter || (d.Verdict == abi.Deny) != (d.Reason != "") || d.Verdict == abi.Deny && (d.Status < 400 || x.Route != nil) {
			t.Errorf("%s: %+v", target, d)
		}
	}
}

func TestTheApplicationSeesWhatWasJudged(t *testing.T) {
	s := section("GET /accounts/{id}")
	s.Limits.RejectEncodedSlash = false
	addr := serve(t, s, func(x *pep.Exchange, w http.ResponseWriter) {
		r := x.Request
		fmt.Fprintf(w, "%s|%s|%s|%s|%v", r.URL.Path, r.URL.EscapedPath(), r.RequestURI, r.URL.RawQuery, x.Params)
		for k := range r.Header {
			if strings.HasPrefix(k, "X") {
				t.Errorf("header %s reached the application", k)
			}
		}
		mux := http.NewServeMux()
		mux.HandleFunc("GET /accounts/{id}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "|%s", r.PathValue("id")) })
		mux.ServeHTTP(w, r)
	})
	for target, want := range map[string]string{
		"/%61ccounts/7":         "/accounts/7|/accounts/7|/accounts/7||[{id 7}]|7",
		"/accounts/a%2fb?q=%2f": "/accounts/a/b|/accounts/a%2Fb|/accounts/a%2Fb?q=%2f|q=%2f|[{id a/b}]|a/b",
		"/accounts/%28%29?":     "/accounts/()|/accounts/()|/accounts/()?||[{id ()}]|()",
		"/accounts/%252e%252e":  "/accounts/%2e%2e|/accounts/%252e%252e|/accounts/%252e%252e||[{id %2e%2e}]|%2e%2e",
	} {
		got := send(t, addr, "GET "+target+" HTTP/1.1\r\nHost: h\r\nX-HTTP-Method-Override: DELETE\r\nX-Original-URL: /admin\r\nX-Rewrite-Url: /admin\r\nX_Original_URL: /admin\r\nX.Rewrite.Url: /admin\r\nConnection: close\r\n\r\n")
		if !strings.HasSuffix(got, want) {
			t.Errorf("%s: want %s, got:\n%s", target, want, got)
		}
	}
}

// After a request whose length two servers could read differently nothing else
// is served on the connection.
func TestNothingRidesBehindAnAmbiguousBody(t *testing.T) {
	addr := serve(t, payments, func(x *pep.Exchange, w http.ResponseWriter) {
		io.Copy(io.Discard, x.Request.Body)
		io.WriteString(w, "app")
	})
	second := "GET /accounts/666 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
	for name, first := range map[string]string{
		"both length and chunks":      "POST /accounts/7/transfers HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"chunks":                      "POST /accounts/7/transfers HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
		"chunks of an older protocol": "GET /accounts HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n",
		"chunks that are denied":      "POST /admin HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	} {
		got := send(t, addr, first+second)
		if n := strings.Count(got, "HTTP/1."); n != 1 || !strings.Contains(got, "Connection: close\r\n") && !strings.HasPrefix(got, "HTTP/1.0") {
			t.Errorf("%s: %d answers:\n%s", name, n, got)
		}
	}
	if got := send(t, addr, strings.Replace(second, "Connection: close\r\n", "", 1)+second); strings.Count(got, "HTTP/1.") != 2 {
		t.Errorf("control: requests without bodies share a connection:\n%s", got)
	}
}

func TestTheBodyIsBounded(t *testing.T) {
	var got []byte
	var err error
	addr := serve(t, payments, func(x *pep.Exchange, w http.ResponseWriter) {
		got, err = io.ReadAll(x.Request.Body)
	})
	chunked := func(body string) string {
		return "POST /accounts/7/transfers HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	}
	send(t, addr, chunked("0123456789"))
	if err != nil || string(got) != "0123456789" {
		t.Errorf("at the limit: %q, %v", got, err)
	}
	send(t, addr, chunked("0123456789a"))
	var tooLarge *http.MaxBytesError
	if !errors.As(err, &tooLarge) || len(got) > 10 {
		t.Errorf("beyond the limit: %q, %v", got, err)
	}
}

func TestABodyBeyondTheLimitIsRefusedBeforeItArrives(t *testing.T) {
	addr := serve(t, payments, func(*pep.Exchange, http.ResponseWriter) { t.Error("the application was called") })
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST /accounts/7/transfers HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || resp.StatusCode != http.StatusRequestEntityTooLarge || !resp.Close {
		t.Errorf("%+v, %v", resp, err)
	}
}

func TestBodyLimits(t *testing.T) {
	for _, c := range []struct {
		limit uint64
		want  int64
	}{{0, 0}, {1, 1}, {math.MaxUint64, math.MaxInt64 - 1}} {
		s := section("POST /")
		s.Limits.MaxBodyBytes = c.limit
		r := httptest.NewRequest("POST", "/", strings.NewReader("x"))
		x := &pep.Exchange{Request: r, Header: http.Header{}}
		d := prepare(t, s).Judge(x)
		if x.MaxBody != c.want || (d.Verdict == abi.Allow) != (c.want > 0) {
			t.Errorf("limit %d: MaxBody %d, %+v", c.limit, x.MaxBody, d)
		}
	}
}

func TestAnOpenSectionPassesEveryCanonicalPath(t *testing.T) {
	s := section()
	s.Open = true
	addr := serve(t, s, func(x *pep.Exchange, w http.ResponseWriter) { fmt.Fprintf(w, "app %s %v", x.Path, x.Route) })
	if got := send(t, addr, get("/any%2dthing/")); !strings.HasSuffix(got, "app /any-thing/ <nil>") {
		t.Error(got)
	}
	if got := send(t, addr, get("/any/../thing")); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
		t.Error(got)
	}
	closed := serve(t, section(), func(*pep.Exchange, http.ResponseWriter) { t.Error("a section without routes let a request through") })
	send(t, closed, get("/"))
}

func TestLimits(t *testing.T) {
	l, ok := prepare(t, payments).(pep.Limiter)
	if !ok || l.Limits() != payments.Limits {
		t.Errorf("%v", l)
	}
}

// randomRoutes draws from few segments, so that patterns overlap.
func randomRoutes(r *rand.Rand) *route.Section {
	seen := map[string]bool{}
	var routes []string
	for range r.IntN(14) {
		var b, shape strings.Builder
		depth := r.IntN(4)
		for i := range depth {
			switch k := r.IntN(6); {
			case k == 0 && i == depth-1:
				fmt.Fprintf(&b, "/{r%d...}", i)
				shape.WriteString("/**")
			case k < 3:
				fmt.Fprintf(&b, "/{p%d%c}", i, 'a'+rune(r.IntN(2)))
				shape.WriteString("/*")
			case k == 3 && i == depth-1:
				b.WriteString("/")
				shape.WriteString("/")
			default:
				s := string('a' + rune(r.IntN(2)))
				b.WriteString("/" + s)
				shape.WriteString("/" + s)
			}
		}
		method := []string{"GET", "HEAD", "POST", "*"}[r.IntN(4)]
		pattern := b.String()
		if pattern == "" {
			pattern = "/"
		}
		if key := method + " " + shape.String(); !seen[key] && !seen[method+" "+pattern] {
			seen[key], seen[method+" "+pattern] = true, true
			routes = append(routes, method+" "+pattern)
		}
	}
	return section(routes...)
}

func TestTreeEqualsDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	found := 0
	for range 2000 {
		s := randomRoutes(r)
		st, err := filter.New().Prepare(&pep.Input{Section: s.Encode()})
		if err != nil {
			continue // a shape that was drawn twice as "/" and ""
		}
		for range 20 {
			var segments []string
			for range r.IntN(5) {
				segments = append(segments, string('a'+rune(r.IntN(3))))
			}
			if len(segments) > 0 && r.IntN(4) == 0 {
				segments = append(segments, "")
			}
			method := []string{"GET", "HEAD", "POST", "PUT"}[r.IntN(4)]
			x := &pep.Exchange{Request: httptest.NewRequest(method, "/"+strings.Join(segments, "/"), nil), Header: http.Header{}}
			d := st.Judge(x)
			want, allow := s.Match(method, segments)
			switch {
			case want != nil:
				found++
				if x.Route == nil || *x.Route != *want || d.Verdict != abi.Allow {
					t.Fatalf("%s %q of %+v: %+v, want %+v", method, segments, s.Routes, x.Route, want)
				}
			case len(allow) > 0:
				got := strings.Split(x.Header.Get("Allow"), ", ")
				if slices.Contains(allow, "GET") && !slices.Contains(allow, "HEAD") {
					allow = append(allow, "HEAD")
					slices.Sort(allow)
				}
				if d.Rule.ID != abi.RuleMethod || !slices.Equal(got, allow) {
					t.Fatalf("%s %q of %+v: %+v, Allow %q, want %q", method, segments, s.Routes, d, got, allow)
				}
			case d.Rule.ID != abi.RuleRoute || d.Verdict != abi.Deny:
				t.Fatalf("%s %q of %+v: %+v", method, segments, s.Routes, d)
			}
		}
	}
	if found < 1000 {
		t.Errorf("only %d requests matched: the test shows little", found)
	}
}

// Whatever net/http reads is judged without a panic, and what passes has one
// path, which is canonical.
func FuzzJudge(f *testing.F) {
	for _, s := range []string{
		get("/accounts/7?x=1"), get("/accounts/..%2fadmin"), get("/files/a/b/c"), get("http://h/accounts"), get("//accounts"),
		"POST /accounts/7/transfers HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
		"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", "GET * HTTP/1.0\r\n\r\n", "PRI * HTTP/2.0\r\n\r\n", "GET /accounts HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	s := section("GET /accounts", "GET /accounts/{id}", "* /files/{path...}", "POST /accounts/{id}/transfers")
	s.Limits.MaxPathBytes = 1 << 10
	st := prepare(f, s)
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		x := &pep.Exchange{Request: r, Header: http.Header{}}
		d := st.Judge(x)
		if d.Verdict != abi.Allow {
			if d.Rule.ID == "" || d.Reason == "" || d.Status < 400 {
				t.Fatalf("an unexplained denial: %+v", d)
			}
			return
		}
		p, err := route.Normalize(x.Path, true)
		if err != nil || p.Canonical != x.Path || r.URL.Path != p.Decoded || r.URL.EscapedPath() != x.Path || r.URL.Host != "" {
			t.Fatalf("%q: path %q, URL %+v", raw, x.Path, r.URL)
		}
		if u, _, _ := strings.Cut(r.RequestURI, "?"); u != x.Path || r.URL.RequestURI() != r.RequestURI {
			t.Fatalf("%q: path %q, RequestURI %q, URL %q", raw, x.Path, r.RequestURI, r.URL.RequestURI())
		}
		want, _ := s.Match(r.Method, p.Segments(nil))
		if want == nil || *x.Route != *want {
			t.Fatalf("%q: route %+v, want %+v", raw, x.Route, want)
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	st := prepare(b, payments)
	r := httptest.NewRequest("GET", "/accounts/7?x=1", nil)
	uri, u := r.RequestURI, r.URL
	b.ReportAllocs()
	for b.Loop() {
		r.RequestURI, r.URL = uri, u
		x := pep.Exchange{Request: r, Header: http.Header{}}
		if d := st.Judge(&x); d.Verdict != abi.Allow {
			b.Fatal(d)
		}
	}
}

// A body passes when it has exactly one type and the policy lists that.
func TestContentTypes(t *testing.T) {
	s := section("* /")
	s.Types = []string{"application/json", "image/*"}
	st, any := prepare(t, s), prepare(t, section("* /"))
	for _, c := range []struct {
		types  []string
		length int64 // -1: chunked
		status int
	}{
		{nil, 0, 200},
		{[]string{"text/plain"}, 0, 200}, // of no body
		{nil, 1, 415}, {nil, -1, 415}, {[]string{""}, 1, 415},
		{[]string{"application/json"}, 1, 200},
		{[]string{"application/json"}, -1, 200},
		{[]string{"Application/JSON; charset=UTF-8"}, 1, 200},
		{[]string{"image/png"}, 1, 200},
		{[]string{"IMAGE/svg+xml"}, 1, 200},
		{[]string{"image"}, 1, 415}, {[]string{"image/"}, 1, 415}, {[]string{"imagex/png"}, 1, 415},
		{[]string{"application/jsonp"}, 1, 415}, {[]string{"application/*"}, 1, 415}, {[]string{"text/plain"}, -1, 415},
		{[]string{"application/json", "application/json"}, 1, 415},
		{[]string{"application/json, text/html"}, 1, 415}, {[]string{"text/html;a=application/json"}, 1, 415},
		{[]string{"application/json; charset"}, 1, 415}, {[]string{"application/json; a=1; a=2"}, 1, 415},
		{[]string{"application/json\x00"}, 1, 415},
	} {
		r := httptest.NewRequest("POST", "/", strings.NewReader("x"))
		if r.ContentLength = c.length; c.length == 0 {
			r.Body = http.NoBody
		}
		if c.length < 0 {
			r.TransferEncoding = []string{"chunked"}
		}
		if c.types != nil {
			r.Header["Content-Type"] = c.types
		}
		free := &pep.Exchange{Request: r.Clone(t.Context()), Header: http.Header{}}
		if d := any.Judge(free); d.Verdict != abi.Allow {
			t.Errorf("%q, where no type is listed: %+v", c.types, d)
		}
		x := &pep.Exchange{Request: r, Header: http.Header{}}
		d := st.Judge(x)
		if (d.Verdict == abi.Allow) != (c.status == 200) || d.Verdict == abi.Deny && (d.Status != c.status || d.Rule.ID != abi.RuleRequest || x.Header.Get("Connection") != "close") {
			t.Errorf("%q of %d bytes: %+v", c.types, c.length, d)
		}
	}
}

// Every line of a head counts: several of one name, and those that net/http takes
// away.
func TestTheNumberOfFieldsIsBounded(t *testing.T) {
	addr := serve(t, payments, func(_ *pep.Exchange, w http.ResponseWriter) { io.WriteString(w, "app") })
	head := func(n int, fields string) string {
		return "POST /accounts/7/transfers HTTP/1.1\r\nHost: h\r\nConnection: close\r\n" + strings.Repeat(fields, n) + "\r\n"
	}
	for _, c := range []struct{ name, raw, status string }{
		{"at the limit", head(6, "A: 1\r\n"), "200"},
		{"one more of the same name", head(7, "A: 1\r\n"), "431"},
		{"lengths count", head(6, "A: 1\r\n")[:len(head(6, "A: 1\r\n"))-2] + "Content-Length: 0\r\n\r\n", "431"},
		{"codings count", head(6, "A: 1\r\n")[:len(head(6, "A: 1\r\n"))-2] + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "431"},
	} {
		if got := send(t, addr, c.raw); !strings.HasPrefix(got, "HTTP/1.1 "+c.status+" ") {
			t.Errorf("%s: want %s, got:\n%s", c.name, c.status, got)
		}
	}
}
