package unikernel

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
	"lorica.dev/lorica/abi/control"
	"lorica.dev/lorica/pep"
)

func TestTheFirstDenialEndsTheChain(t *testing.T) {
	deny := func(d pep.Decision) pep.Guard { return guardFunc(func(*pep.Exchange) pep.Decision { return d }) }
	never := guardFunc(func(*pep.Exchange) pep.Decision { t.Error("a guard after the denial was asked"); return pep.Decision{} })
	called := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the application was called") })
	for name, c := range map[string]struct {
		guard  pep.Guard
		status int
		rule   string
		reason string
	}{
		"zero decision":      {deny(pep.Decision{}), 403, abi.RuleError, ""},
		"status":             {deny(pep.Decision{Status: 429, Rule: abi.Rule{ID: "slow-down"}, Reason: "too many"}), 429, "slow-down", "too many"},
		"status of an allow": {deny(pep.Decision{Status: 200}), 403, abi.RuleError, ""},
		"unknown verdict":    {deny(pep.Decision{Verdict: 7}), 403, abi.RuleError, ""},
		"panic":              {guardFunc(func(*pep.Exchange) pep.Decision { panic("oops") }), 403, abi.RuleError, "panic: oops"},
		"abort":              {guardFunc(func(*pep.Exchange) pep.Decision { panic(http.ErrAbortHandler) }), 403, abi.RuleError, "panic: net/http: abort Handler"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testLimits(), called, c.guard, never).run()
			resp, body := r.ask(getApp)
			id := resp.Header.Get(pep.HeaderDecision)
			if resp.StatusCode != c.status || body != "denied\n"+id+"\n" || resp.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("got %d %q %v", resp.StatusCode, body, resp.Header)
			}
			k := r.kept(t, 1)
			if k[0].ID != id || k[0].Rule.ID != c.rule || k[0].Reason != c.reason || k[0].Verdict != abi.Deny || int(k[0].Status) != c.status {
				t.Errorf("recorded %+v", k)
			}
		})
	}
}

func TestNoGuardNoEntry(t *testing.T) {
	var g generation
	if d := g.guards.Judge(&pep.Exchange{}); d.Verdict != abi.Deny {
		t.Errorf("decided %+v", d)
	}
}

func TestAnAllowCarriesTheRuleOfTheLastGuardThatNamesOne(t *testing.T) {
	first := guardFunc(func(*pep.Exchange) pep.Decision {
		return pep.Decision{Verdict: abi.Allow, Stage: "first", Rule: abi.Rule{ID: "one"}, Record: true}
	})
	last := guardFunc(func(x *pep.Exchange) pep.Decision {
		x.Principal, x.Groups = "ann", []string{"admin", "staff"}
		return pep.Decision{Verdict: abi.Allow, Stage: "last", Rule: abi.Rule{ID: "two", Line: "p.yaml:9"}}
	})
	nameless := guardFunc(func(*pep.Exchange) pep.Decision {
		return pep.Decision{Verdict: abi.Allow, Stage: "nameless"}
	})
	r := newRig(t, testLimits(), http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		fmt.Fprint(w, q.Header[pep.HeaderPrincipal], q.Header[pep.HeaderGroups])
	}), first, last, nameless)
	p := testProgram(1, testLimits())
	p.Sections[2].Data = (&audit.Section{}).Encode() // keeps no allow but those that ask
	r.life.used[0].Store(false)
	if err := r.life.first(control.Prepare{Length: r.put(0, p)}, 1); err != nil {
		t.Fatal(err)
	}
	r.run()
	if _, body := r.ask(getApp); body != "[ann] [admin,staff]" {
		t.Errorf("the application saw %q", body)
	}
	if k := r.kept(t, 1); k[0].Stage != "last" || k[0].Rule.ID != "two" || k[0].Principal != "ann" {
		t.Errorf("recorded %+v", k)
	}
}

func TestClientsCannotSpeakForTheImage(t *testing.T) {
	r := newRig(t, testLimits(), http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		io.Copy(io.Discard, q.Body)
		for k := range q.Header {
			fmt.Fprintln(w, k)
		}
		for k := range q.Trailer {
			fmt.Fprintln(w, "trailer", k)
		}
	})).run()
	_, body := r.ask("POST /app/x HTTP/1.1\r\nHost: a\r\nLorica-Principal: root\r\nlorica-groups: admin\r\nLORICA_PRINCIPAL: root\r\nLorica.Groups: admin\r\n" +
		"Lorica-Anything: 1\r\nX-Mine: 1\r\nTrailer: Lorica-Principal, X-End\r\nTransfer-Encoding: chunked\r\n\r\n" +
		"1\r\na\r\n0\r\nLorica-Principal: root\r\nX-End: 1\r\n\r\n")
	if strings.Contains(strings.ToLower(body), "lorica") || !strings.Contains(body, "X-Mine") || !strings.Contains(body, "trailer X-End") {
		t.Errorf("the application saw %q", body)
	}
}

func TestTheApplicationCannotReachTheConnection(t *testing.T) {
	r := newRig(t, testLimits(), http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		c := http.NewResponseController(w)
		_, hijacker := w.(http.Hijacker)
		_, from := w.(io.ReaderFrom)
		_, _, hijacked := c.Hijack()
		for what, got := range map[string]bool{
			"hijacker": hijacker, "ReadFrom": from, "hijacked": hijacked == nil,
			"read deadline": c.SetReadDeadline(time.Time{}) == nil, "write deadline": c.SetWriteDeadline(time.Time{}) == nil,
			"full duplex": c.EnableFullDuplex() == nil,
			"server":      q.Context().Value(http.ServerContextKey) != nil, "conn": q.Context().Value(connKey{}) != nil,
		} {
			if got {
				t.Errorf("the application has the %s", what)
			}
		}
		if q.Context().Value(http.LocalAddrContextKey) == nil {
			t.Error("the application does not know its own address")
		}
		if c.Flush() != nil {
			t.Error("the application cannot flush")
		}
	})).run()
	r.ask(getApp)
}

func TestTheApplicationCannotHideTheDecision(t *testing.T) {
	for name, app := range map[string]http.HandlerFunc{
		"deletes it": func(w http.ResponseWriter, _ *http.Request) { w.Header().Del(pep.HeaderDecision) },
		"forges it": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(pep.HeaderDecision, "x")
			w.Write([]byte("a"))
		},
		"early hints": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103); w.WriteHeader(204) },
		"flushes":     func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush() },
	} {
		r := newRig(t, testLimits(), app).run()
		c := r.dial()
		io.WriteString(c, getApp)
		in := bufio.NewReader(c)
		resp, err := http.ReadResponse(in, nil)
		for err == nil && resp.StatusCode < 200 {
			resp, err = http.ReadResponse(in, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		if id := resp.Header.Get(pep.HeaderDecision); id != r.kept(t, 1)[0].ID {
			t.Errorf("%s: the client sees %q", name, id)
		}
	}
}

func TestAPanicOfTheApplicationIsAnError(t *testing.T) {
	r := newRig(t, testLimits(), http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("X-Secret", "1")
		switch q.URL.Path {
		case "/app/late":
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
		case "/app/abort":
			panic(http.ErrAbortHandler)
		}
		panic("secret")
	})).run()
	resp, body := r.ask(getApp)
	if resp.StatusCode != 500 || body != "error\n"+resp.Header.Get(pep.HeaderDecision)+"\n" || resp.Header.Get("X-Secret") != "" {
		t.Errorf("got %d %q %v", resp.StatusCode, body, resp.Header)
	}
	for _, path := range []string{"/app/late", "/app/abort"} {
		c := r.dial()
		io.WriteString(c, strings.Replace(getApp, "/app/x", path, 1))
		if _, body, err := answer(c); err == nil {
			t.Errorf("%s: got a whole response %q", path, body)
		}
	}
	eventually(t, "it is logged", func() bool { return r.logged("panicked: secret") })
}

func TestADeniedBodyIsNotAskedFor(t *testing.T) {
	r := newRig(t, testLimits(), text("ok")).run()
	c := r.dial()
	io.WriteString(c, "POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
	resp, _, err := answer(c)
	if err != nil || resp.StatusCode != 404 {
		t.Errorf("got %+v, %v", resp, err)
	}
}

func TestTheBodyDeadlineEndsWithTheBody(t *testing.T) {
	l := testLimits()
	l.BodyTimeout = 100 * time.Millisecond
	r := newRig(t, l, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		b, err := io.ReadAll(q.Body)
		time.Sleep(300 * time.Millisecond)
		fmt.Fprint(w, string(b), err, q.Context().Err())
	})).run()
	if _, body := r.ask("POST /app/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"); body != "abc<nil> <nil>" {
		t.Errorf("got %q", body)
	}
}

// Whatever a client sends, the application sees only what was judged, every
// request that reached the chain is recorded, and no reason leaks.
func FuzzClient(f *testing.F) {
	f.Add([]byte(getApp))
	f.Add([]byte(getApp + getApp))
	f.Add([]byte("GET /app/x HTTP/1.1\r\nHost: a\r\nLorica-Principal: x\r\nlorica_groups: y\r\n\r\n"))
	f.Add([]byte("GET /nowhere HTTP/1.1\r\nHost: a\r\nLorica-Principal: x\r\n\r\n"))
	f.Add([]byte("POST /app/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nLorica-Groups: a\r\n\r\n"))
	f.Add([]byte("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"))
	f.Add([]byte("GET http://b/app/../app/x HTTP/1.0\r\n\r\n"))
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	l := testLimits()
	l.HeaderTimeout, l.BodyTimeout, l.IdleTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	app := &sightings{}
	r := newRig(f, l, app).run()
	f.Fuzz(func(t *testing.T, data []byte) {
		before := r.life.stats().Requests
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(time.Minute))
		c.Write(data)
		c.(*net.TCPConn).CloseWrite()
		out, _ := io.ReadAll(c)
		c.Close()
		if bytes.Contains(out, []byte("default:")) {
			t.Errorf("a rule leaked: %q", out)
		}
		eventually(t, "all requests are recorded", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return uint64(len(r.records)) >= r.life.server.requests.Load()
		})
		for _, b := range app.outside("/app/") {
			t.Error(b)
		}
		if answered := uint64(bytes.Count(out, []byte(pep.HeaderDecision+":"))); answered > r.life.stats().Requests-before {
			t.Errorf("%d answers", answered)
		}
	})
}
