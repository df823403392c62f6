package unikernel

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"lorica.dev/lorica/abi"
	"lorica.dev/lorica/abi/route"
	"lorica.dev/lorica/abi/transport"
	"lorica.dev/lorica/pep"
)

// Whatever a client is told, it is told the id of the record of it: of what the
// application answers, of what guards refuse and of what could not even be read. The one
// exception is a list of headers of HTTP/2 beyond its limit, which net/http refuses
// itself: it is recorded (TestMalformedRequestsOfHTTP2), and the client is not told how.
func TestEveryResponseNamesItsRecord(t *testing.T) {
	limiting := guardFunc(func(x *pep.Exchange) pep.Decision {
		switch x.Path {
		case "/app/limited":
			x.RetryAfter(time.Second)
			return pep.Decision{Status: http.StatusTooManyRequests, Rule: abi.Rule{ID: "often"}}
		case "/app/broken":
			panic("broken")
		}
		return pep.Decision{Verdict: abi.Allow}
	})
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/app/panic":
			panic("the application")
		case "/app/moved":
			http.Redirect(w, r, "/app/x", http.StatusFound)
		case "/app/body":
			io.Copy(w, r.Body)
		}
	})
	long := strings.Repeat("y", 4<<10)
	requests := []struct {
		name, method, path string
		header             string // "Name: value"
		body               int
		status             int
	}{
		{"the application", "GET", "/app/x", "", 0, 200}, {"HEAD", "HEAD", "/app/x", "", 0, 200}, {"a redirect", "GET", "/app/moved", "", 0, 302},
		{"a panic of the application", "GET", "/app/panic", "", 0, 500}, {"a body", "POST", "/app/body", "", 100, 200},
		{"no such route", "GET", "/nowhere", "", 0, 404}, {"dots", "GET", "/app/%2e%2e/x", "", 0, 400}, {"a long path", "GET", "/app/" + long, "", 0, 414},
		{"a limit", "GET", "/app/limited", "", 0, 429}, {"a guard that fails", "GET", "/app/broken", "", 0, 403},
		{"a large body", "POST", "/app/body", "", 2 << 20, 413}, {"a header that is too long", "GET", "/app/x", "X-Y: " + long + long + long, 0, 431},
		{"an upgrade that none serves", "GET", "/app/x", "Upgrade: websocket", 0, 501},
	}
	ask := func(t *testing.T, r *rig, c *http.Client, base string, old bool) {
		for _, q := range requests {
			name, value, _ := strings.Cut(q.header, ": ")
			if !old && (name == "Upgrade" || q.status == 431) {
				continue
			}
			req, err := http.NewRequest(q.method, base+q.path, strings.NewReader(strings.Repeat("x", q.body)))
			if err != nil {
				t.Fatal(err)
			}
			if name != "" {
				req.Header.Set(name, value)
				if name == "Upgrade" {
					req.Header.Set("Connection", "Upgrade")
				}
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatalf("%s: %v", q.name, err)
			}
			resp.Body.Close()
			ids := resp.Header.Values(pep.HeaderDecision)
			if resp.StatusCode != q.status || len(ids) != 1 || len(ids[0]) != 32 {
				t.Errorf("%s: status %d, ids %q", q.name, resp.StatusCode, ids)
				continue
			}
			eventually(t, q.name+": the decision is recorded", func() bool {
				r.mu.Lock()
				defer r.mu.Unlock()
				for _, k := range r.records {
					if k.ID == ids[0] {
						// Of what could not be read there is no status.
						return k.Verdict == abi.Allow && k.Status == 0 || k.Verdict == abi.Deny && (int(k.Status) == resp.StatusCode || k.Status == 0 && k.Method == "")
					}
				}
				return false
			})
		}
	}
	follow := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	t.Run("HTTP/1", func(t *testing.T) {
		r := newRig(t, testLimits(), app, limiting).run()
		ask(t, r, &http.Client{CheckRedirect: follow, Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}, "http://"+r.addr, true)
		for name, text := range map[string]string{"no request": "hello\r\n\r\n", "a version that is none": "GET /app/x HTTP/9.9\r\n\r\n", "a space in a name": "GET /app/x HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n"} {
			c := r.dial()
			io.WriteString(c, text)
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			resp.Body.Close()
			id := resp.Header.Get(pep.HeaderDecision)
			eventually(t, name+" is recorded", func() bool {
				r.mu.Lock()
				defer r.mu.Unlock()
				return len(id) == 32 && r.records[len(r.records)-1].ID == id
			})
		}
	})
	t.Run("HTTP/2", func(t *testing.T) {
		r := newSecureRig(t, transport.Simple, testLimits(), app, limiting)
		r.run()
		c := r.client(nil)
		c.CheckRedirect = follow
		ask(t, r.rig, c, strings.TrimSuffix(r.url("/"), "/"), false)
	})
}

// A boundless is a guard that would have the server without bounds.
type boundless struct{ guardFunc }

func (b boundless) Prepare(*pep.Input) (pep.GuardState, error) { return b, nil }

func (boundless) Limits() route.Limits {
	return route.Limits{MaxHeaderBytes: 1 << 30, MaxConnections: 1 << 30, MaxStreams: 1 << 30, HandshakeTimeout: time.Hour, HeaderTimeout: time.Hour,
		BodyTimeout: time.Hour, WriteTimeout: time.Hour, IdleTimeout: time.Hour}
}

// The limits of the server are those of the request filter, whatever other guards say.
func TestNoOtherGuardLiftsTheLimits(t *testing.T) {
	lax := boundless{guardFunc(func(*pep.Exchange) pep.Decision { return pep.Decision{Verdict: abi.Allow} })}
	r := newRig(t, testLimits(), text("ok"), lax)
	if got := r.life.server.current().limits; got != testLimits() {
		t.Errorf("the server has the limits %+v", got)
	}
}
