package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/internal/corpus"
)

// witness is an application that remembers what reached it, and tells at /seen.
// Of /app/large it answers more than any buffer holds.
const witness = `// Package witness remembers the requests that it sees.
package witness

import (
	"encoding/json"
	"io"
	"net/http"
	"sync"
)

type seen struct {
	Method, Path, Decoded, Target string
	Body                          int
	Broken, Done                  bool
	Headers, Trailers             []string
}

// New returns the witness.
func New() (http.Handler, error) {
	var mu sync.Mutex
	var list []*seen
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/seen" {
			mu.Lock()
			defer mu.Unlock()
			json.NewEncoder(w).Encode(list)
			if r.URL.RawQuery == "" {
				list = nil
			}
			return
		}
		s := &seen{Method: r.Method, Path: r.URL.EscapedPath(), Decoded: r.URL.Path, Target: r.RequestURI}
		for k := range r.Header {
			s.Headers = append(s.Headers, k)
		}
		mu.Lock()
		list = append(list, s)
		mu.Unlock()
		n, err := io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/app/large" {
			for block := make([]byte, 1<<20); err == nil && n < 256<<20; n += 1 << 20 {
				_, err = w.Write(block)
			}
		} else {
			io.WriteString(w, "ok\n")
		}
		mu.Lock()
		defer mu.Unlock()
		s.Body, s.Broken, s.Done = int(n), err != nil, true
		for k := range r.Trailer {
			s.Trailers = append(s.Trailers, k)
		}
	}), nil
}
`

const witnessed = `apiVersion: lorica.dev/v1alpha1
kind: Workload
metadata: {name: witness, tenant: acme, labels: {app: witness}}
spec:
  app:
    handler: {module: ./witness, package: ., func: New}
  listen: [{name: web, port: PORT}]
---
apiVersion: lorica.dev/v1alpha1
kind: SecurityPolicy
metadata: {name: witness, tenant: acme}
spec:
  selector: {matchLabels: {app: witness}}
  default: {network: Allow, authorization: Allow}
  routes:
    - {name: seen, match: {method: GET, path: /seen}}
    - {name: app, match: {method: "*", path: "/app/{rest...}"}}
`

// witness writes the documents of the witness, with more in its policy.
func (u *user) witness(port, more string) (dir string) {
	u.t.Helper()
	return u.project(map[string]string{"witness/go.mod": "module example.com/witness\n\ngo 1.26\n", "witness/witness.go": witness,
		"all.yaml": strings.ReplaceAll(witnessed, "PORT", port) + more})
}

// A record of the application: what reached it.
type seen struct {
	Method, Path, Decoded, Target string
	Body                          int
	Broken, Done                  bool // the body, or the answer, was cut short; the handler returned
	Headers, Trailers             []string
}

// send writes an entry, ends its side, and returns the statuses that came back.
func send(t *testing.T, addr string, raw []byte) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	c.Write(raw) // the server may have closed before the last byte
	c.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(c)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		return "open"
	}
	return corpus.Statuses(b)
}

// kept are headers that no client may give to the application.
var kept = regexp.MustCompile(`(?i)^(lorica[-_].*|x-http-method(-override)?|x-method-override|x-original-url|x-rewrite-url|transfer-encoding|host|upgrade)$`)

// Whatever a client sends, the application sees the requests that were allowed and
// no others, with the paths that were judged; and each entry of the corpus ends as
// it says.
func TestNothingIsSmuggled(t *testing.T) {
	list, err := corpus.Entries()
	if err != nil {
		t.Fatal(err)
	}
	u := newUser(t)
	port := freePort(t)
	x, first := u.up(u.witness(port, "  requestFilter: {maxBodyBytes: 1024, maxHeaders: 40}\n"))
	addr := "127.0.0.1:" + port
	refused, answered, wrong := 0, 0, 0
	for _, e := range list {
		status := send(t, addr, e.Raw)
		allowed, saw := x.reached(addr)
		var problems []string
		if status != e.Status {
			problems = append(problems, fmt.Sprintf("answered %s, want %s", status, e.Status))
		}
		problems = append(problems, agree(e, allowed, saw)...)
		for _, p := range problems {
			t.Errorf("%s: %s\n%.300q", e.Name, p, e.Raw)
		}
		if len(problems) > 0 {
			wrong++
		}
		answered += len(saw)
		if len(saw) == 0 {
			refused++
		}
	}
	denials := 0
	for _, e := range list {
		for s := range strings.FieldsSeq(e.Status) {
			if s >= "400" {
				denials++
			}
		}
	}
	eventually(t, "every refusal is recorded", func() bool { return x.count("Deny") >= denials })
	if now := u.ps(); now.PID != first.PID || now.Restarts != 0 {
		t.Errorf("the image did not live through it: %+v", now)
	}
	t.Logf("corpus: %d entries, %d refused, %d requests answered, %d mismatches", len(list), refused, answered, wrong)
}

// reached returns what was allowed, and what the application saw, since it was
// asked last.
func (x *upping) reached(addr string) (allowed []decision, saw []seen) {
	x.t.Helper()
	a := get(x.t, addr, "/seen", "")
	if err := json.Unmarshal([]byte(a.body), &saw); err != nil {
		x.t.Fatal(err)
	}
	x.find(a.decision) // records come in order
	x.mu.Lock()
	defer x.mu.Unlock()
	at := slices.IndexFunc(x.decisions, func(d decision) bool { return d.ID == a.decision })
	from := 0
	for i := range at {
		if x.decisions[i].Route == "seen" {
			from = i + 1
		}
	}
	for _, d := range x.decisions[from:at] {
		if d.Decision == "Allow" {
			allowed = append(allowed, d)
		}
	}
	return allowed, saw
}

// ps is what is known of the one instance that runs.
func (u *user) ps() status {
	u.t.Helper()
	var list []status
	if err := json.Unmarshal([]byte(u.run("ps", "-o", "json")), &list); err != nil || len(list) != 1 {
		u.t.Fatalf("ps: %+v (%v)", list, err)
	}
	return list[0]
}

func (x *upping) count(verdict string) (n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, d := range x.decisions {
		if d.Decision == verdict {
			n++
		}
	}
	return n
}

// agree holds what was recorded, what the application saw and what the corpus
// says to each other.
func agree(e corpus.Entry, allowed []decision, saw []seen) (problems []string) {
	say := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	var got []string
	for _, s := range saw {
		text := fmt.Sprintf("%s %s %d", s.Method, s.Path, s.Body)
		if s.Broken {
			text += "!"
		}
		got = append(got, text)
		if target, _, _ := strings.Cut(s.Target, "?"); target != s.Path {
			say("the application sees two paths: %s and %s", s.Path, target)
		}
		if d, ok := decode(s.Path); !ok || d != s.Decoded {
			say("the application sees %q for %s", s.Decoded, s.Path)
		}
		for _, h := range append(s.Headers, s.Trailers...) {
			if kept.MatchString(h) {
				say("%s reached the application", h)
			}
		}
	}
	if !slices.Equal(got, e.Sees) {
		say("the application saw %q, want %q", got, e.Sees)
	}
	if len(allowed) != len(saw) {
		say("%d requests were allowed, %d reached the application", len(allowed), len(saw))
		return problems
	}
	for i, d := range allowed {
		if d.Method != saw[i].Method || d.Path != saw[i].Path || d.Route != "app" {
			say("judged was %s %s as %s, the application saw %s %s", d.Method, d.Path, d.Route, saw[i].Method, saw[i].Path)
		}
	}
	return problems
}

// decode resolves the escapes of a path, once.
func decode(path string) (string, bool) {
	var b []byte
	for i := 0; i < len(path); i++ {
		if path[i] != '%' {
			b = append(b, path[i])
			continue
		}
		if i+2 >= len(path) {
			return "", false
		}
		c, err := strconv.ParseUint(path[i+1:i+3], 16, 8)
		if err != nil {
			return "", false
		}
		b = append(b, byte(c))
		i += 2
	}
	return string(b), true
}

// What the corpus is held to can fail.
func TestDisagreementIsNoticed(t *testing.T) {
	good := seen{Method: "GET", Path: "/app/%2e", Decoded: "/app/.", Target: "/app/%2e?q", Body: 0, Headers: []string{"X"}}
	judged := decision{Method: "GET", Path: "/app/%2e", Route: "app"}
	e := corpus.Entry{Sees: []string{"GET /app/%2e 0"}}
	if p := agree(e, []decision{judged}, []seen{good}); len(p) > 0 {
		t.Fatalf("control: %q", p)
	}
	for name, change := range map[string]func(e *corpus.Entry, d *[]decision, s *[]seen){
		"another path":   func(_ *corpus.Entry, d *[]decision, _ *[]seen) { (*d)[0].Path = "/app/." },
		"another method": func(_ *corpus.Entry, d *[]decision, _ *[]seen) { (*d)[0].Method = "PUT" },
		"another route":  func(_ *corpus.Entry, d *[]decision, _ *[]seen) { (*d)[0].Route = "seen" },
		"no record":      func(_ *corpus.Entry, d *[]decision, _ *[]seen) { *d = nil },
		"nothing seen":   func(_ *corpus.Entry, _ *[]decision, s *[]seen) { *s = nil },
		"one more seen": func(e *corpus.Entry, _ *[]decision, s *[]seen) {
			*s = append(*s, good)
			e.Sees = append(e.Sees, e.Sees[0])
		},
		"two paths":            func(_ *corpus.Entry, _ *[]decision, s *[]seen) { (*s)[0].Target = "/admin" },
		"decoded twice":        func(_ *corpus.Entry, _ *[]decision, s *[]seen) { (*s)[0].Decoded = "/app" },
		"a header of ours":     func(_ *corpus.Entry, _ *[]decision, s *[]seen) { (*s)[0].Headers = []string{"Lorica_principal"} },
		"a trailer of framing": func(_ *corpus.Entry, _ *[]decision, s *[]seen) { (*s)[0].Trailers = []string{"Transfer-Encoding"} },
		"a broken body":        func(_ *corpus.Entry, _ *[]decision, s *[]seen) { (*s)[0].Broken = true },
	} {
		e, d, s := e, []decision{judged}, []seen{good}
		if change(&e, &d, &s); len(agree(e, d, s)) == 0 {
			t.Errorf("%s is not noticed", name)
		}
	}
}
