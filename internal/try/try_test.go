package try

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/audit"
)

func TestLoadRefuses(t *testing.T) {
	for name, x := range map[string]struct{ text, want string }{
		"nothing":         {"", "EOF"},
		"no requests":     {"requests: []", "no requests"},
		"unknown field":   {"requests:\n  - {name: a, sent: GET /}", "field sent not found"},
		"no method":       {"requests:\n  - {name: a, send: /, expect: 200}", "write METHOD /path"},
		"no path":         {"requests:\n  - {name: a, send: GET x, expect: 200}", "write METHOD /path"},
		"no status":       {"requests:\n  - {name: a, send: GET /, expect: fine}", "write a status, closed or handshake"},
		"an unknown user": {"requests:\n  - {name: a, send: GET /, as: ada, expect: 200}", `"ada" is not among the users`},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "requests.yaml")
			if err := os.WriteFile(path, []byte(x.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(path); err == nil || !strings.Contains(err.Error(), x.want) {
				t.Errorf("%v, expected %q", err, x.want)
			}
		})
	}
}

// A result is ok only where the answer, the record and the rule are as expected.
func TestResults(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "ada" || password != "pass:word" || r.RequestURI != "/a/..%2fb" {
			t.Errorf("%s %s as %s:%s", r.Method, r.RequestURI, user, password)
		}
		w.Header().Set("Lorica-Decision", "id-1")
		w.WriteHeader(http.StatusForbidden)
	}))
	defer server.Close()
	addr := strings.TrimPrefix(server.URL, "http://")
	record := audit.Record{ID: "id-1", Rule: abi.Rule{ID: "r", Line: "p:1"}}
	lookup := func(_ context.Context, match func(*audit.Record) bool) (audit.Record, bool) {
		return record, match(&record)
	}
	request := Request{As: "ada", Send: "GET /a/..%2fb", Expect: "403", By: "r"}
	for name, x := range map[string]struct {
		change func(*Request)
		ok     bool
	}{
		"as expected":      {func(*Request) {}, true},
		"any rule":         {func(r *Request) { r.By = "" }, true},
		"another rule":     {func(r *Request) { r.By = "s" }, false},
		"another status":   {func(r *Request) { r.Expect = "200" }, false},
		"not closed":       {func(r *Request) { r.Expect = Closed }, false},
		"own password":     {func(r *Request) { r.Password = "pass:word" }, true},
		"no such address":  {func(r *Request) { r.From = "x" }, false},
		"from the outside": {func(r *Request) { r.From = "127.0.0.3" }, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := request
			x.change(&r)
			f := &File{Users: map[string]User{"ada": {Password: "pass:word"}}, Requests: []Request{r}}
			if got := f.Run(context.Background(), addr, nil, lookup); len(got) != 1 || got[0].OK != x.ok {
				t.Errorf("%+v", got)
			}
		})
	}
	record.ID = "another"
	f := &File{Users: map[string]User{"ada": {Password: "pass:word"}}, Requests: []Request{request}}
	if got := f.Run(context.Background(), addr, nil, lookup); got[0].OK {
		t.Errorf("without a record: %+v", got)
	}
}

// A connection that is closed unread is found by its source.
func TestARefusedConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	f := &File{Requests: []Request{{Send: "GET /", From: "127.0.0.2", Expect: Closed, By: abi.RuleNetwork}}}
	lookup := func(_ context.Context, match func(*audit.Record) bool) (audit.Record, bool) {
		r := audit.Record{Stage: abi.StageFirewall, Source: "127.0.0.2", Time: 1 << 62, Rule: abi.Rule{ID: abi.RuleNetwork}}
		old, other := r, r
		old.Time, other.Source = 1, "127.0.0.9"
		return r, match(&r) && !match(&old) && !match(&other)
	}
	if got := f.Run(context.Background(), l.Addr().String(), nil, lookup); !got[0].OK {
		t.Errorf("%+v", got)
	}
}

// So is one that a firewall of packets never let come about, whether an address to
// come from is written or not.
func TestAConnectionThatIsNotLetIn(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EHOSTUNREACH, syscall.EACCES, syscall.ECONNRESET} {
		if err := (&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", errno)}); !KeptOut(err) {
			t.Errorf("%v counts as something else", err)
		}
	}
	if err := (&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}); KeptOut(err) || KeptOut(nil) {
		t.Error("a port that nobody listens on counts as one that keeps out")
	}
	if a, b := source("127.0.0.1:1", "127.0.0.2"), source("127.0.0.1:1", ""); a != "127.0.0.2" || b != "127.0.0.1" {
		t.Errorf("from %s and %s", a, b)
	}
}

func TestCurl(t *testing.T) {
	f := &File{Users: map[string]User{"ada": {Password: "secret"}}}
	got, _ := f.Curl(Reach{Base: "http://127.0.0.1:1"}, Request{As: "ada", Send: "POST /x", JSON: `{"a":1}`})
	if want := `curl -i -u ada:secret -X POST --json '{"a":1}' http://127.0.0.1:1/x`; got != want {
		t.Errorf("%s\n%s", got, want)
	}
}

// A line that is shown can be pasted: a shell makes of it the words that were
// meant, whatever they hold.
func TestCurlCanBePasted(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"curl", "lo rica"} {
		script := "#!/bin/sh\n[ \"${0##*/}\" = curl ] || { [ $2 = client ] || { printf '%s|' \"$@\"; exit; }; }\nprintf '%s\\n' \"${0##*/}\" \"$@\"\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	by := Reach{Base: "http://127.0.0.1:1", Command: filepath.Join(dir, "lo rica"), Documents: "my documents"}
	f := &File{Users: map[string]User{
		"ada": {Password: "it's $HOME"},
		"bob": {Token: &Token{Groups: []string{"staff", "ops"}, Claims: map[string]any{"amr": []string{"pwd", "mfa"}}, For: -time.Minute}},
		"ops": {Certificate: &Certificate{SPIFFE: "spiffe://a.b/ops"}},
		"eve": {Token: &Token{Audience: "another"}},
	}}
	for _, x := range []struct {
		r    Request
		want string
	}{
		{Request{As: "ada", Send: "GET /a?b=1&c=$d;e"}, "curl -i -u ada:it's $HOME http://127.0.0.1:1/a?b=1&c=$d;e"},
		{Request{As: "bob", Send: "GET /"}, `curl -i -H Authorization: Bearer dev|token|bob|--groups|staff,ops|--claim|amr=["pwd","mfa"]|--for|-1m0s|-f|my documents| http://127.0.0.1:1/`},
		{Request{Token: "a.b.c", Send: "HEAD /[x]"}, "curl -i -H Authorization: Bearer a.b.c -I -g http://127.0.0.1:1/[x]"},
		{Request{As: "ops", Send: "PUT /%2e", JSON: `{"a": "it's"}`}, `lo rica dev client ops --spiffe spiffe://a.b/ops curl -i --cert ops.pem --key ops.key -X PUT --json {"a": "it's"} --path-as-is http://127.0.0.1:1/%2e`},
	} {
		line, ok := f.Curl(by, x.r)
		if !ok {
			t.Errorf("%s: no line", x.r.Send)
		}
		shell := exec.Command("/bin/sh", "-c", line)
		shell.Env = []string{"PATH=" + dir + ":/usr/bin:/bin"}
		out, err := shell.CombinedOutput()
		if got := strings.Join(strings.Fields(string(out)), " "); err != nil || got != x.want {
			t.Errorf("%s:\n%s\ngave %s, want\n     %s (%v)", x.r.Send, line, got, x.want, err)
		}
	}
	for _, r := range []Request{{As: "eve", Send: "GET /"}, {From: "127.0.0.2", Send: "GET /"}} {
		if line, ok := f.Curl(by, r); ok {
			t.Errorf("%+v: %s", r, line)
		}
	}
}
