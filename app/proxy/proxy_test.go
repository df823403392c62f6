package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lorica.dev/lorica/abi/egress"
)

func config() Config {
	return Config{Host: "api.test", Port: 9000, ConnectTimeout: 200 * time.Millisecond, ResponseTimeout: 200 * time.Millisecond, IdleTimeout: time.Second, MaxConnections: 2}
}

// serve returns a proxy whose upstream is whatever dial connects to.
func serve(t *testing.T, c Config, dial Dialer) *httptest.Server {
	t.Helper()
	h, err := New(c, dial)()
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// to dials an upstream that answers every request with the given bytes, and
// counts connections that are open.
func to(t *testing.T, answer string, open *atomic.Int64) Dialer {
	return func(ctx context.Context, host string, port uint16) (net.Conn, error) {
		if host != "api.test" || port != 9000 {
			t.Errorf("dialed %s port %d", host, port)
		}
		ours, theirs := net.Pipe()
		open.Add(1)
		go func() {
			defer open.Add(-1)
			defer theirs.Close()
			in := bufio.NewReader(theirs)
			for {
				r, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				io.Copy(io.Discard, r.Body)
				io.WriteString(theirs, strings.ReplaceAll(answer, "URI", r.RequestURI))
			}
		}()
		return ours, nil
	}
}

func failing(err error) Dialer {
	return func(context.Context, string, uint16) (net.Conn, error) { return nil, err }
}

func TestStatusOfWhatFails(t *testing.T) {
	hanging := Dialer(func(ctx context.Context, _ string, _ uint16) (net.Conn, error) {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	})
	silent := Dialer(func(context.Context, string, uint16) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go io.Copy(io.Discard, theirs)
		return ours, nil
	})
	for name, c := range map[string]struct {
		dial Dialer
		want int
	}{
		"denied":                {failing(egress.Refused{Code: egress.Denied, Reason: "secret"}), 502},
		"unresolved":            {failing(egress.Refused{Code: egress.Unresolved, Reason: "secret"}), 502},
		"unreachable":           {failing(egress.Refused{Code: egress.Unreachable, Reason: "secret"}), 502},
		"not connected in time": {failing(egress.Refused{Code: egress.Late, Reason: "secret"}), 504},
		"too many connections":  {failing(egress.Refused{Code: egress.Busy, Reason: "secret"}), 503},
		"a broken socket":       {failing(errors.New("secret")), 502},
		"no answer to a dial":   {hanging, 504},
		"no answer":             {silent, 504},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := http.Get(serve(t, config(), c.dial).URL)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(r.Body)
			if r.StatusCode != c.want || strings.Contains(string(b), "secret") || !strings.HasPrefix(string(b), "error\n") || (r.Header.Get("Retry-After") != "") != (c.want == 503) {
				t.Errorf("%d %q, Retry-After %q; want %d", r.StatusCode, b, r.Header.Get("Retry-After"), c.want)
			}
		})
	}
}

// A body that does not come is the client's fault, and no status of the upstream.
func TestStatusOfBodiesThatFail(t *testing.T) {
	for want, err := range map[int]error{413: &http.MaxBytesError{Limit: 1}, 408: os.ErrDeadlineExceeded, 400: io.ErrUnexpectedEOF} {
		var open atomic.Int64
		h, err2 := New(config(), to(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &open))()
		if err2 != nil {
			t.Fatal(err2)
		}
		r := httptest.NewRequest("POST", "/", io.MultiReader(strings.NewReader("part"), failed{err}))
		r.ContentLength = 100
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%v: %d", err, w.Code)
		}
	}
}

type failed struct{ err error }

func (f failed) Read([]byte) (int, error) { return 0, f.err }

// The bound holds for connections too, and a place is free again however a request
// ended.
func TestPlacesAreGivenBack(t *testing.T) {
	var open, most atomic.Int64
	dial := to(t, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nURI", &open)
	s := serve(t, config(), func(ctx context.Context, host string, port uint16) (net.Conn, error) {
		c, err := dial(ctx, host, port)
		most.Store(max(most.Load(), open.Load()))
		return c, err
	})
	for i := range 20 {
		switch i % 3 {
		case 0:
			if b := body(t, s.URL+"/ab"); b != "/ab" {
				t.Errorf("%q", b)
			}
		case 1: // the client leaves before the answer
			c, err := net.Dial("tcp", s.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nx")
			c.Close()
		case 2: // the answer is cut short: fewer bytes than announced
			if r, err := http.Get(s.URL + "/a"); err == nil {
				if _, err := io.ReadAll(r.Body); err == nil {
					t.Error("a short answer is whole")
				}
				r.Body.Close()
			}
		}
	}
	if most.Load() > 2 {
		t.Errorf("%d connections at once", most.Load())
	}
}

// A service that sends a body after HEAD must not have it taken for the answer to
// somebody else's request: such a connection is not kept, however well it went.
func TestAConnectionIsNotKeptAfterHead(t *testing.T) {
	var dials, open atomic.Int64
	dial := to(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &open)
	s := serve(t, config(), func(ctx context.Context, host string, port uint16) (net.Conn, error) {
		dials.Add(1)
		return dial(ctx, host, port)
	})
	for i, method := range []string{"GET", "GET", "HEAD", "GET", "HEAD", "HEAD"} {
		r, err := http.NewRequest(method, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		a, err := http.DefaultClient.Do(r)
		if err != nil || a.StatusCode != 200 {
			t.Fatalf("%+v, %v", a, err)
		}
		a.Body.Close()
		if want := []int64{1, 1, 1, 2, 2, 3}[i]; dials.Load() != want {
			t.Errorf("%d connections after %d requests, want %d", dials.Load(), i+1, want)
		}
	}
}

func body(t *testing.T, url string) string {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestForwarded(t *testing.T) {
	for _, c := range [][3]string{
		{"127.0.0.1", "a.test:80", `for=127.0.0.1;host="a.test:80";proto=https`},
		{"2001:db8::1", "[::1]:80", `for="[2001:db8::1]";host="[::1]:80";proto=https`},
		{"unknown", `a";for=evil;x="\`, `for=unknown;host="a\";for=evil;x=\"\\";proto=https`},
	} {
		if got := forwarded(c[0], c[1], "https"); got != c[2] {
			t.Errorf("got %s, want %s", got, c[2])
		}
	}
}

func TestHeadersThatClientsCannotSend(t *testing.T) {
	for name, want := range map[string]bool{
		"Forwarded": true, "X-Forwarded-For": true, "X_Forwarded_For": true, "x-forwarded-": true, "X-Forwarded": true, "X-Real-Ip": true, "X_real-IP": true,
		"X.Forwarded.For": true, "X~real~Ip": true, "Client-Ip": true, "Remote_User": true, "Via": true, "Proxy": true, "X-Original-Url": true, "Authorization": false, "Cookie": false, "X-Request-Id": false, "Proxy-Status": false,
	} {
		if claims(name) != want {
			t.Errorf("%s: %v", name, claims(name))
		}
	}
	if !ours("Lorica-Principal") || !ours("lorica_groups") || !ours("Lorica.principal") || ours("Loricate") {
		t.Error("ours")
	}
}

func TestAuthority(t *testing.T) {
	for want, c := range map[string]Config{
		"127.0.0.1:9000": {Host: "127.0.0.1", Port: 9000}, "[::1]:9000": {Host: "::1", Port: 9000}, "a.test": {Host: "a.test", Port: 80},
		"a.test:80": {Host: "a.test", Port: 80, TLS: true}, "[::1]": {Host: "::1", Port: 443, TLS: true},
	} {
		if got := c.authority(); got != want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no host":        func(c *Config) { c.Host = "" },
		"no port":        func(c *Config) { c.Port = 0 },
		"no connections": func(c *Config) { c.MaxConnections = 0 },
		"no bound":       func(c *Config) { c.ResponseTimeout = 0 },
		"TLS unverified": func(c *Config) { c.TLS = true },
		"TLS garbage":    func(c *Config) { c.TLS, c.Trust = true, "garbage" },
	} {
		c := config()
		change(&c)
		if h, err := New(c, failing(nil))(); err == nil || h != nil {
			t.Errorf("%s: %v", name, h)
		}
	}
}

// Whatever a client says about repeating, a POST that may have arrived is not sent
// again; a GET is, on another connection.
func TestAPostIsNotRepeatedWhateverTheClientSays(t *testing.T) {
	var arrived atomic.Int64
	keyed := ""
	s := serve(t, config(), func(context.Context, string, uint16) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			in := bufio.NewReader(theirs)
			for n := range 2 { // the second request on a connection gets no answer
				r, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				if r.Method == "POST" && keyed != "" && r.Header.Get(keyed) != "1" {
					t.Errorf("%s does not arrive", keyed)
				}
				if arrived.Add(1); n == 0 {
					io.WriteString(theirs, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			}
		}()
		return ours, nil
	})
	ask := func(method, name string) (status int, times int64) {
		t.Helper()
		before := arrived.Load()
		r, err := http.NewRequest(method, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if name != "" {
			r.Header.Set(name, "1")
		}
		a, err := (&http.Transport{}).RoundTrip(r) // this one repeats nothing
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		return a.StatusCode, arrived.Load() - before
	}
	for _, name := range []string{"", "Idempotency-Key", "X-Idempotency-Key"} {
		if status, times := ask("GET", ""); status != 200 || times != 1 {
			t.Fatalf("GET: %d, sent %d times", status, times)
		}
		keyed = name
		if status, times := ask("POST", name); status != 502 || times != 1 {
			t.Errorf("POST with %q: %d, sent %d times", name, status, times)
		}
	}
	ask("GET", "")
	if status, times := ask("GET", ""); status != 200 || times != 2 {
		t.Errorf("GET: %d, sent %d times", status, times)
	}
}

// An upgrade that comes to nothing gives its place back.
func TestUpgradesThatFailGiveTheirPlaceBack(t *testing.T) {
	for name, head := range map[string]string{
		"no Connection":      "Upgrade: websocket\r\n",
		"another Connection": "Connection: keep-alive\r\nUpgrade: websocket\r\n",
		"another letter":     "Connection: Upgrade\r\nUpgrade: websoc\u212aet\r\n",
		"another protocol":   "Connection: Upgrade\r\nUpgrade: h2c\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			var open atomic.Int64
			s := serve(t, config(), to(t, "HTTP/1.1 101 Switching Protocols\r\n"+head+"\r\n", &open))
			for range 5 {
				r, err := http.NewRequest("GET", s.URL, nil)
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Connection", "Upgrade")
				r.Header.Set("Upgrade", "websocket")
				a, err := http.DefaultTransport.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				a.Body.Close()
				if a.StatusCode != 502 {
					t.Fatalf("status %d", a.StatusCode)
				}
			}
		})
	}
	// Nor does it hold one where the connection of the client cannot be had.
	var open atomic.Int64
	h, err := New(config(), to(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", &open))()
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Connection", "Upgrade")
		r.Header.Set("Upgrade", "websocket")
		ctx, cancel := context.WithCancel(context.Background())
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(ctx))
		cancel() // as a server does when a handler returns
		if w.Code != 502 {
			t.Fatalf("status %d", w.Code)
		}
	}
}
